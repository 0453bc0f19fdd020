"""What is known about a text before anything is computed: known, close or unknown. No Qt, no torch; a fraction of a millisecond."""

from __future__ import annotations

import html
from dataclasses import dataclass

from slicer.i18n import tr as _

from RefSAM3DLib.errors import PromptError
from RefSAM3DLib.text.prompts import complete, resolve
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.types import PromptStatus

_COLOURS = {PromptStatus.KNOWN: "#1a7f37", PromptStatus.CLOSE: "#9a6700", PromptStatus.UNKNOWN: "#b42318"}


@dataclass(frozen=True)
class PromptReading:
    """How ``text`` is read. ``structures`` are what it gives; ``suggestions`` may be taken instead."""

    text: str
    status: PromptStatus
    structures: tuple[str, ...]
    suggestions: tuple[str, ...]
    note: str

    def asHtml(self) -> str:
        """For a label; a link's target is the suggestion."""
        if self.status is PromptStatus.KNOWN:
            isSame = [self.text.strip().casefold()] == [name.casefold() for name in self.structures]
            text = "&#10003; " + (_("known") if isSame else html.escape(", ".join(self.structures)))
        else:
            links = " &middot; ".join(f'<a href="{html.escape(s, quote=True)}">{html.escape(s)}</a>' for s in self.suggestions[:3])
            lead = _("close to") + " " if self.status is PromptStatus.CLOSE else _("unknown") + (" &ndash; " if links else "")
            text = lead + links
        known = self.status is PromptStatus.KNOWN  # else the links say it; the sentence is in the tool tip
        note = f' <span style="color:gray">({html.escape(self.note)})</span>' if self.note and known else ""
        return f'<span style="color:{_COLOURS[self.status]}">{text}</span>{note}'


def readPrompt(text: str, vocabulary: Vocabulary) -> PromptReading:
    """The least certain part decides: one unknown word makes the text unknown."""
    try:
        results = resolve(text, vocabulary)
    except PromptError as error:
        return PromptReading(text, PromptStatus.UNKNOWN, (), (), str(error))
    order = (PromptStatus.UNKNOWN, PromptStatus.CLOSE, PromptStatus.KNOWN)
    status = min((r.status for r in results), key=order.index)
    suggestions = tuple(dict.fromkeys(s for r in results if r.status is not PromptStatus.KNOWN for s in r.suggestions))
    notes = " ".join(dict.fromkeys(r.note for r in results if r.note))
    return PromptReading(text, status, tuple(r.resolved for r in results if r.resolved), suggestions, notes)


def completions(vocabulary: Vocabulary) -> list[str]:
    """Every wording, canonical names first: the completer filters them itself."""
    return complete("", vocabulary, limit=100_000)
