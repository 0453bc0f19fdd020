"""Whether the only segment of a file may be the edit of an item, or is plainly that of something else."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import PromptError
from ..types import PromptStatus
from .queue import ReviewItem


def other_structure(name: str, item: ReviewItem, items: Iterable[ReviewItem]) -> str:
    """The other structure that the only segment of a file is named after, "" if its name tells nothing ("Segment_1", "label 1") or is the item's.

    Args:
        items: of the review; a name, or a value above 1 of a label map, may be that of another item of the case.
    """
    if name.casefold() == item.structure.casefold():
        return ""
    for other in items:
        if other.case != item.case or other.label == item.label:
            continue
        # A mask saved alone has the value 1, whatever its label is here.
        value = f"label {other.label}" if other.label > 1 else ""
        if name.casefold() in {other.structure.casefold(), other.batch.structure.casefold(), value} - {""}:
            return other.structure
    known = _known_structure(name)
    return "" if known.casefold() == item.structure.casefold() else known


def _known_structure(name: str) -> str:
    """The structure of the vocabulary that a segment's name stands for, "" if it stands for none or for several."""
    from ..text.prompts import resolve
    from ..text.vocabulary import Vocabulary

    try:
        found = resolve(name.replace("_", " "), Vocabulary.default())
    except PromptError:
        return ""
    return found[0].resolved if len(found) == 1 and found[0].status is PromptStatus.KNOWN else ""
