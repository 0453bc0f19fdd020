"""The Review section: opens a review, walks through its queue, records decisions. All of the work is in ``RefSAM3DLib.review``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import RefSAM3DError

from ..pythonqt import TickTimer
from ..waiting import waiting
from .decisions import Decisions
from .item_view import ItemView
from .opening import batchFolder, folderOfCurrent, offerDrafts
from .presence_watch import PresenceWatch
from .queue_table import QueueTable
from .reprompt import Reprompting
from .review_keys import addShortcuts, removeShortcuts
from .review_output import ReviewOutput
from .review_scene import ReviewScene, jumpTo
from .review_widgets import ReviewWidgets
from .scene_arrays import readProbability
from .wiring import connectWidgets
from .work_clock import IDLE_S

REVIEWER_KEY, FOLDER_KEY, IDLE_KEY = "RefSAM3D/Reviewer", "RefSAM3D/ReviewFolder", "RefSAM3D/ReviewIdleSeconds"
#: An edit that is lost to a crash is at most this old.
DRAFT_MS = 15_000


class ReviewSection:
    """``getParameters`` gives the panel's parameter node, or None while a scene closes."""

    def __init__(self, container: Any, messages: Any, getParameters: Callable[[], Any]) -> None:
        self.ui, self.messages, self.parameters = ReviewWidgets(container), messages, getParameters
        self.session: Any = None
        self.view: ItemView | None = None
        self.scene = ReviewScene()
        self.reprompt = Reprompting(self)
        self.decisions = Decisions(self)
        self.output = ReviewOutput(self)
        self.presence = PresenceWatch(self._onSign, lambda: (self.ui.commentEdit.text, self.scene.stamp()))
        self.queue = QueueTable(self.ui.table, self.go)
        self._drafts = TickTimer(lambda: self.saveDraft(), DRAFT_MS)
        settings = slicer.app.userSettings()
        self.ui.reviewerEdit.text = str(settings.value(REVIEWER_KEY, "") or "")
        self.ui.folderEdit.currentPath = str(settings.value(FOLDER_KEY, "") or "")
        self.ui.idleSpinBox.setValue(int(float(settings.value(IDLE_KEY, IDLE_S) or 0)))
        self._container: Any = container
        self._shortcuts: list[Any] = []
        connectWidgets(self)
        closing = slicer.mrmlScene.StartCloseEvent
        self._observer = slicer.mrmlScene.AddObserver(closing, lambda *_a: self._sceneCloses())
        self.ui.setOpen(False)

    def attempt(self, action: Callable[[], Any]) -> bool:
        """Do it; what a user can understand is shown in the panel."""
        try:
            action()
        except (RefSAM3DError, OSError) as error:
            self.messages.show("error", str(error))
            return False
        except ModuleNotFoundError as error:
            self.messages.show("error", _("The package '{name}' is missing; press Segment once to install what is needed.").format(name=error.name))
            return False
        finally:
            self.sayKept()
        return True

    def sayKept(self) -> None:
        """The reviewer's own segments beside the mask under review were left in the scene."""
        names, self.scene.kept = self.scene.kept, []
        if names:
            text = _(
                "Segments that you added beside the mask are not part of its decision. They stay in the scene, in '{names}': save them there, "
                "or join them with the mask (Logical operators) and decide again."
            )
            self.addMessage("warning", text.format(names="', '".join(names)))

    # ---- opening and closing

    def open(self, folder: str) -> None:
        """Review a folder; it begins where this reviewer left off.

        Raises:
            RefSAM3DError: no batch is there, or the reviewer's name is empty.
        """
        self._start(batchFolder(folder))

    def _start(self, folder: Any) -> None:
        from RefSAM3DLib.review import ReviewSession

        with waiting(_("Reading the results in {folder} ...").format(folder=folder)):
            session = ReviewSession(folder, self.ui.reviewerEdit.text)
        settings = slicer.app.userSettings()
        settings.setValue(REVIEWER_KEY, session.reviewer)
        settings.setValue(FOLDER_KEY, str(folder))
        self.session, self.view = session, ItemView(session, self.scene)
        self.view.clock.idleS = float(self.ui.idleSpinBox.value)
        self.presence.start()
        self.ui.targetEdit.currentPath = f"{folder}-reviewed"
        self.ui.agreementTable.setVisible(False)
        self.ui.reasonCombo.clear()
        self.ui.reasonCombo.addItems(list(session.reasons))
        self.ui.reasonCombo.setCurrentIndex(-1)
        self.ui.reasonCombo.setEditText("")
        self.ui.setOpen(True)
        self.messages.clear()
        self.fill()
        self._drafts.start()
        removeShortcuts(self._shortcuts)
        self._shortcuts = addShortcuts(self._container, self)
        self.go(session.resume(self.filter()))
        if session.notes:
            self.addMessage("warning", "\n".join(session.notes))
        offerDrafts(self)

    def addMessage(self, kind: str, text: str, actions: dict[str, Callable[[], Any]] | None = None) -> None:
        """Below what is shown already; the more serious kind counts."""
        before = self.messages.text
        if before:
            kind = next(k for k in ("error", "warning", "info") if k in (kind, self.messages.kind))
        self.messages.show(kind, f"{text}\n{before}" if before else text, actions)

    def openCurrent(self) -> None:
        """Review the segmentation that is chosen as the panel's output.

        Raises:
            RefSAM3DError: nothing is chosen, or the folder cannot be used.
        """
        p = self.parameters()
        with waiting(_("Writing the image and its segmentation for the review ...")):
            folder, case = folderOfCurrent(p, self.ui.reviewerEdit.text, self.ui.folderEdit.currentPath)
        self.scene.useVolume(case, p.inputVolume)
        self._start(folder)

    def close(self) -> None:
        """End the review; what is not decided is kept."""
        self.reprompt.cancel()
        if self.session is None or not self.leave():
            return
        self.scene.clear()
        self._drafts.stop()
        self.presence.stop()
        removeShortcuts(self._shortcuts)
        self.session = self.view = None
        self.queue.fill([])
        self.ui.setOpen(False)

    def cleanup(self) -> None:
        """The panel goes away or Slicer quits: keep what is not decided."""
        self.saveDraft()
        self._drafts.stop()
        self.presence.stop()
        removeShortcuts(self._shortcuts)
        slicer.mrmlScene.RemoveObserver(self._observer)

    def _sceneCloses(self) -> None:
        """The nodes are still there."""
        if self.view is None:
            return
        if self.view.item is not None and self.saveDraft():
            self.messages.show("info", _("The scene was closed; the review goes on: choose an item."))
        self.view.item = None
        self.scene.sceneClosed()
        self.queue.choose(None)
        self.update()

    # ---- queue

    def filter(self) -> Any:
        """What the table shows."""
        from RefSAM3DLib.review import QueueFilter

        show, verdict, sort = (combo.itemData(combo.currentIndex) or "" for combo in (self.ui.showCombo, self.ui.verdictCombo, self.ui.sortCombo))
        return QueueFilter(
            status=(show,) if show else (), verdicts=(verdict,) if verdict else (), text=self.ui.searchEdit.text.strip(), sort=sort or "attention"
        )

    def fill(self) -> None:
        """Table and progress from the session."""
        if self.session is None:
            return
        done, total = self.session.progress()
        self.ui.progressBar.setMaximum(max(total, 1))
        self.ui.progressBar.setValue(done)
        self.queue.fill(self.session.queue(self.filter()), self.view.item)
        self.update()

    def refresh(self) -> None:
        """Read results and the others' decisions again; the item that is open stays open."""
        current = self.view.item
        if not self.leave():
            return
        with waiting(_("Reading the results again ...")):
            self.session.refresh()
        self.fill()
        if current is not None:
            self.go(self.session.find(current.id))

    def go(self, item: Any) -> None:
        """Open an item; the edits of the one before are stored first, and it stays if they cannot be.

        The item that is open already is shown anew if its nodes were removed.
        """
        if self.session is None or item is None:
            return
        if self.view.item is item:
            if self.scene.isLost:
                comment = self.ui.commentEdit.text
                self.show(item)
                self.ui.commentEdit.text = comment
            return
        if not self.leave():
            self.queue.choose(self.view.item)
            return
        self.show(item)

    def show(self, item: Any) -> None:
        p = self.parameters()
        with waiting(_("Opening {case} ...").format(case=item.name or item.case)):
            problem = self.view.open(item, p.inputVolume if p is not None else None)
        with contextlib.suppress(OSError):  # where the reviewer stood is a convenience; a read-only folder may be looked at
            self.session.set_position(item)
        self.ui.commentEdit.text = self.view.comment
        self.ui.wordingEdit.text = ""
        self.ui.reasonCombo.setCurrentIndex(-1)
        self.ui.reasonCombo.setEditText("")
        self.queue.choose(item)
        self.update()
        if problem:
            self.messages.show("error", problem)
        elif self.view.draft is not None:
            text = _("Your edit of {time}, which was not decided, is shown.").format(time=self.view.draft.time)
            self.messages.show("info", text, {_("Back to the machine's mask"): lambda: self.attempt(self.decisions.dropEdits)})
        elif self.messages.kind in ("info", "error"):
            self.messages.clear()
        jumpTo(item.worst_ras or item.centre_ras)
        self.attempt(self.showProbability)  # says what was kept, too

    def step(self, step: int) -> None:
        """The neighbour in the queue."""
        if self.session is None:
            return
        current = self.view.item
        following = self.session.next_item(current, self.filter(), step) if current is not None else next(iter(self.queue.items), None)
        if following is None:
            self.messages.show("info", _("This is the end of the list.") if step > 0 else _("This is the beginning of the list."))
        else:
            self.go(following)

    def jump(self, where: str) -> None:
        """``centre_ras`` or ``worst_ras``."""
        if self.view is not None and self.view.item is not None and not jumpTo(getattr(self.view.item, where)):
            self.messages.show("info", _("There is nothing drawn to go to."))

    def showProbability(self) -> None:
        """As the check box says, if the item has one."""
        item = self.view.item if self.view is not None else None
        self.scene.hideProbability()
        if item is not None and self.ui.probabilityCheckBox.checked and item.probability and self.scene.volumeNode is not None:
            array = readProbability(item.probability)
            if array.shape == self.session.machine_mask(item)[1].shape_dhw:
                self.scene.showProbability(array, item)

    def edit(self) -> None:
        """Go to the Segment Editor."""
        self.scene.edit()

    # ---- drafts

    def saveDraft(self) -> bool:
        """Store edit and comment under way; False, with a message, if that failed."""
        return self.view is None or self.attempt(lambda: self.view.save(self.ui.commentEdit.text))

    def leave(self) -> bool:
        """Store what is not decided; False, with a message, if that failed: then the item stays open."""
        if self.view is None or self.view.item is None or self.attempt(lambda: self.view.leave(self.ui.commentEdit.text)):
            return True
        text = self.messages.text
        self.messages.show("error", text, {_("Leave the edit in the scene and go on"): self._abandon})
        return False

    def _abandon(self) -> None:
        """The edit cannot be stored: its segmentation becomes the user's own, to be saved with the scene."""
        self.scene.forgetItem()
        self.view.item = None
        self.messages.clear()
        self.fill()

    # ---- the clock

    def _onSign(self) -> None:
        if self.view is not None:
            self.view.clock.touch()

    def setIdle(self, seconds: int) -> None:
        """So long without a sign of the reviewer, and the clock stands still."""
        slicer.app.userSettings().setValue(IDLE_KEY, seconds)
        if self.view is not None:
            self.view.clock.idleS = float(seconds)

    # ---- texts and buttons

    def update(self) -> None:
        """Enable what can be done now."""
        self.ui.update(self.view.item if self.view is not None else None, self.reprompt.isRunning, self.output.isRunning)
