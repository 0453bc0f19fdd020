"""What a user is told of prompts that the model was not trained on, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import PromptError
from ..types import PromptStatus, ResolvedPrompt

#: Prompts that are told of one by one; a list of cases may have one per case.
MOST_TOLD = 20


def unknown_note(answer: ResolvedPrompt, allow_unknown: bool, where: str = "") -> str:
    """A sentence about a prompt that is not known, "" about one that is. ``where``: how many cases ask for it."""
    if answer.status is PromptStatus.KNOWN:
        return ""
    near = f"; did you mean {' or '.join(map(repr, answer.suggestions[:3]))}?" if answer.suggestions else "."
    kind = "close to a known name" if answer.suggestions else "unknown"
    then = "is drawn because of --allow-unknown" if allow_unknown else "is not drawn"
    return f"Prompt '{answer.prompt}'{where and ' ' + where} is {kind} and {then}{near}"


def refuse_unknown(notes: Sequence[str]) -> None:
    """Nothing of what is asked would be drawn.

    Raises:
        PromptError: always, with the notes about the single prompts.
    """
    more = f" (and {len(notes) - MOST_TOLD} more)" if len(notes) > MOST_TOLD else ""
    those = "none of the prompts" if len(notes) > 1 else "no such structure"
    raise PromptError(f"The model knows {those}, so nothing would be drawn: {' '.join(notes[:MOST_TOLD])}{more}")
