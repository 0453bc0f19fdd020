"""Decisions about the item that is open: recorded at once, edits never dropped without asking, then on to the next."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError


class Decisions:
    """Works for the item that is open in a :class:`~.review_section.ReviewSection`."""

    def __init__(self, section: Any) -> None:
        self._section = section

    def decide(self, verdict: str, evenWithEdits: bool = False) -> None:
        """Record a decision and go to the next item.

        Raises:
            RefSAM3DError: it is incomplete, or not recorded; the item stays open.
        """
        section, ui = self._section, self._section.ui
        item = section.view.item if section.view is not None else None
        if item is None:
            raise InputError(_("No item is open; choose one in the table."))
        if verdict in ("accept", "reject") and not evenWithEdits and section.view.editedMask() is not None:
            self._askAboutEdits(verdict)
            return
        wanted = section.filter()
        section.reprompt.cancelFor(item)
        try:
            section.view.decide(verdict, ui.reasonCombo.currentText if verdict == "reject" else "", ui.commentEdit.text)
        finally:
            section.fill()  # a decision that was kept aside counts too
        section.messages.clear()
        self._goOn(item, wanted)

    def dropEdits(self) -> None:
        """The machine's mask again."""
        self._section.view.dropEdits()
        self._section.ui.commentEdit.text = ""
        self._section.messages.clear()

    def _askAboutEdits(self, verdict: str) -> None:
        attempt = self._section.attempt
        anyway = {_("Drop the edits"): lambda: attempt(lambda: self._dropAndDecide(verdict))}
        if verdict == "accept":
            anyway = {_("Accept with edits"): lambda: attempt(lambda: self.decide("accept_edited")), **anyway}
        self._section.messages.show("warning", _("The mask was changed, and this decision would not keep that."), anyway)

    def _dropAndDecide(self, verdict: str) -> None:
        comment = self._section.ui.commentEdit.text
        self.dropEdits()
        self._section.ui.commentEdit.text = comment
        self.decide(verdict, evenWithEdits=True)

    def _goOn(self, item: Any, wanted: Any) -> None:
        section = self._section
        following = section.session.next_item(item, wanted)
        if following is None:
            following = next((other for other in section.queue.items if other is not item and other.status != "skip"), None)
        if following is not None:
            section.go(following)
            return
        section.leave()
        section.scene.clearItem()
        section.fill()
        section.addMessage("info", _("This was the last item of the list."))
