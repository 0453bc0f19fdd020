"""The verdict on one phrase before anything is computed: known, close to something, or unknown, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..types import PromptStatus
from . import lexicon
from .lexicon import canonical_word
from .matching import Bag, Concept, Index, Phrase
from .wording import SIDE_WORDS

_MOST_SUGGESTIONS = 5
_ALL_DROPPABLE = lexicon.COMMANDS | lexicon.STOP_WORDS | lexicon.FILLERS


@dataclass(frozen=True)
class Finding:
    """What one phrase means.

    Attributes:
        status: known, close or unknown.
        names: canonical names if known; two of them for a paired structure without a side.
        suggestions: canonical names if close. note: one sentence, or "".
        text: the user's own wording, reduced to this structure.
    """

    status: PromptStatus
    text: str
    names: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    note: str = ""


def look_up(phrase: Phrase, index: Index, alone: bool = True) -> Finding:
    """Compare one phrase with the vocabulary.

    Args:
        phrase: the words of one term.
        index: of the vocabulary.
        alone: whether the prompt has no other term; else "both" may be the conjunction ("both the larynx and the mandible").
    """
    found = index.find(phrase.content)
    text = own_wording(phrase, found, index)
    if len(found) == 1:
        return _known(found[0], phrase, text, alone)
    if found:
        return _close(found, phrase.sides, text, "This wording is shared by several structures; choose one.")
    correction = index.correct(phrase)
    if correction:
        content, side = correction
        sides = phrase.sides or frozenset({side} - {""})
        near = index.find(content) or index.near(content)
        finding = _close(near, sides, text, "")
        if finding.suggestions:
            # Both of a pair: one alone would read as the answer to a side that was not understood.
            meant = [name for name in finding.suggestions if name in near[0].names.values()] or finding.suggestions[:1]
            quoted = "' or '".join(meant)
            note = f"'{text}' is not in the vocabulary; did you mean '{quoted}'?"
            return _close(near, sides, text, _side_note(near[0], sides) or note)
    near = index.near(phrase.content)
    return _close(near, phrase.sides, text, _near_note(phrase, near, index))


def own_wording(phrase: Phrase, found: Sequence[Concept], index: Index) -> str:
    """Return the trained wording that the phrase equals, else its words without commands and fillers at both ends."""
    own = found[0].own(phrase.content) if len(found) == 1 else frozenset()
    words = [word for word in phrase.words if word not in lexicon.BOTH_SIDES]
    return trained_wording(words, index, own) or " ".join(_trimmed(words, _ALL_DROPPABLE, own))


def trained_wording(words: Sequence[str], index: Index, own: Bag = frozenset()) -> str | None:
    """Return the trained wording that the words equal, with or without commands and fillers at both ends, or None.

    A trained wording is understood whatever words it is made of, operators and negations included ("non-enhancing tumour core").
    """
    for droppable in (frozenset[str](), lexicon.COMMANDS | lexicon.STOP_WORDS, _ALL_DROPPABLE):
        key = " ".join(_trimmed(words, droppable, own))
        if key in index.wordings:
            return index.wordings[key]
    return None


def _trimmed(words: Sequence[str], droppable: frozenset[str], own: Bag) -> list[str]:
    kept = [i for i, word in enumerate(words) if word not in droppable or canonical_word(word) in own]
    return list(words[kept[0] : kept[-1] + 1]) if kept else list(words)


def _known(concept: Concept, phrase: Phrase, text: str, alone: bool) -> Finding:
    sides = phrase.sides
    if not concept.is_paired:
        if sides or (phrase.both and alone):
            return _close([concept], sides, text, _side_note(concept, sides or frozenset(("left", "right"))))
        note = "'Both' was read as joining the list; this structure has no sides here." if phrase.both else ""
        return Finding(PromptStatus.KNOWN, text, (concept.names[""],), note=note)
    if len(sides) == 2:
        return _close([concept], frozenset(), text, "The text names left and right at once; write 'left and right' or choose one.")
    if sides and phrase.both and alone:
        return _close([concept], frozenset(), text, "The text says 'both' and names one side; choose what you want.")
    if sides:
        (side,) = sides
        if side in concept.names:
            return Finding(PromptStatus.KNOWN, text, (concept.names[side],))
        return Finding(PromptStatus.UNKNOWN, text, note=f"This model was trained for '{next(iter(concept.names.values()))}' only.")
    if len(concept.names) == 1:
        return _close([concept], sides, text, "This model was trained for one side only.")
    note = "" if phrase.both else "No side was given, so both sides are segmented."
    return Finding(PromptStatus.KNOWN, text, (concept.names["left"], concept.names["right"]), note=note)


def _close(concepts: Iterable[Concept], sides: frozenset[str], text: str, note: str) -> Finding:
    """A question back to the user; unknown if nothing may be suggested. A side that was asked for is never answered by the other."""
    names = []
    for concept in concepts:
        for side in ("", "left", "right"):
            if side in concept.names and (not side or not sides or side in sides):
                names.append(concept.names[side])
    if not names:
        return Finding(PromptStatus.UNKNOWN, text, note=note)
    return Finding(PromptStatus.CLOSE, text, suggestions=tuple(names[:_MOST_SUGGESTIONS]), note=note)


def _side_note(concept: Concept, sides: frozenset[str]) -> str:
    if concept.is_paired or not sides:
        return ""
    name = concept.names[""]
    if concept.base & lexicon.PAIRED_IN_THE_BODY:
        return f"The side of the {name} is not recorded in the training data; choose '{name}' to segment it without a side."
    return f"The {name} has no left and right here; choose '{name}' to segment the whole of it."


def _near_note(phrase: Phrase, near: Sequence[Concept], index: Index) -> str:
    if not phrase.content - lexicon.NEUTRAL:
        return "A side alone names no structure." if phrase.sides else "The text names no structure."
    foreign = [
        word
        for word in phrase.words
        if canonical_word(word) not in index.words | lexicon.NEUTRAL and word not in SIDE_WORDS and word not in lexicon.BOTH_SIDES
    ]
    if not near:
        return f"'{_shown(' '.join(phrase.words))}' is not in this model's vocabulary. It has {_offered(index)}."
    if foreign:
        return f"The word '{_shown(foreign[0])}' is not understood here, so nothing is segmented until you choose a structure."
    return "The text does not name exactly one structure; choose one, or separate several with commas."


def _offered(index: Index, most: int = 12) -> str:
    """The structures that may be asked for, a pair once."""
    titles = []
    for concept in index.concepts:
        names = list(concept.names.values())
        titles.append(names[0] if len(names) == 1 else f"left and right {concept.names['left'].removeprefix('left ')}")
    return ", ".join(titles[:most]) + (f" and {len(titles) - most} more" if len(titles) > most else "")


def _shown(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
