"""Typing errors: how far two words are apart, and when a word may be a misspelling. Corrections are only ever suggested, never applied."""

from __future__ import annotations

from collections.abc import Mapping

_SHORT = 5  # up to this length another real word is one letter away ("cold", "card", "cord")
_LONG = 8  # from this length two slips still leave the word recognisable ("esophogous")


def edit_distance(first: str, second: str) -> int:
    """Return the number of insertions, deletions, replacements and exchanges of neighbours between two words.

    Damerau, "A technique for computer detection and correction of spelling errors", in its restricted form (optimal string alignment).

    >>> edit_distance("larynx", "larnyx"), edit_distance("lung", "tongue")
    (1, 4)
    """
    before: list[int] = []
    previous = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        current = [i]
        for j, b in enumerate(second, 1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]


def corrected(word: str, targets: Mapping[str, bool]) -> str | None:
    """Return the nearest target that ``word`` may be a misspelling of, or None.

    The first letter must be right (or exchanged with the second): slips rarely fall there, other words differ there. One edit is
    allowed, two from eight letters on. Short words are corrected only where the target's value is True: its context asks for it.
    """
    best: tuple[int, str] | None = None
    for target, in_context in targets.items():
        length = max(len(word), len(target))
        allowed = 2 if length >= _LONG else 1
        if min(len(word), len(target)) < 3 or abs(len(word) - len(target)) > allowed or not _same_start(word, target):
            continue
        if length <= _SHORT and not in_context:
            continue
        distance = edit_distance(word, target)
        if 0 < distance <= allowed and (best is None or (distance, target) < best):
            best = (distance, target)
    return best[1] if best else None


def corrected_side(word: str) -> str:
    """Return "left" or "right" if ``word`` misspells exactly that one, else "".

    >>> corrected_side("rigth"), corrected_side("letf"), corrected_side("light")
    ('right', 'left', '')
    """
    near = [side for side in ("left", "right") if _same_start(word, side) and edit_distance(word, side) == 1]
    return near[0] if len(near) == 1 and len(word) > 2 else ""


def _same_start(word: str, target: str) -> bool:
    return word[:1] == target[:1] or word[:2] == target[1::-1]
