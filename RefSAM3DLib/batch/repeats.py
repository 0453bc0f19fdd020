"""Two wordings of one structure: a second result would be the first one's double, and a label map could not hold both."""

from __future__ import annotations

from collections.abc import Iterable

from ..types import PromptResult


def repeat_note(result: PromptResult, earlier: Iterable[PromptResult]) -> str:
    """A sentence if an earlier result is of the same structure, "" if none is."""
    same = next((other for other in earlier if result.resolved and other.resolved == result.resolved), None)
    return "" if same is None else f"'{result.prompt}' asks for '{result.resolved}', as '{same.prompt}' does; it is drawn once."
