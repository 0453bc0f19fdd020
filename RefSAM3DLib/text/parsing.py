"""From a typed text to groups of terms: which structures are asked for, apart, united or subtracted. Nothing is looked up yet.

``,`` ``;`` ``/`` ``&`` ``+`` "and", "or", "as well as" give SEVERAL results. "A plus B", "A together with B", "union of A and B" give ONE.
"minus", "without", "except" subtract, and an "and" behind them continues the subtraction; a comma ends it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from . import lexicon
from .wording import SIDE_WORDS, fold

_TOKEN = re.compile(r"[^\W_]+|[,;|/&+−]|(?<=\s)[-–—](?=\s)")
_SYMBOLS = {",": lexicon.LIST, ";": lexicon.STOP, "|": lexicon.STOP, "/": lexicon.AND, "&": lexicon.AND, "+": lexicon.AND}
_SYMBOLS |= {"-": lexicon.DASH, "–": lexicon.DASH, "—": lexicon.DASH}
_VIEWERS_SIDE = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\bSIDE (?:(?:hand )?(?:side|half) )?of (?:(?:the|this|my|your) )?(?:{'|'.join(lexicon.IMAGE_WORDS)})\b",
        rf"\b(?:{'|'.join(lexicon.VIEWERS)}) SIDE\b",
        rf"\bSIDE (?:{'|'.join(lexicon.IMAGE_WORDS)}) \w",  # "left image parotid", but not "left parotid image"
        rf"\b(?:{'|'.join(lexicon.SEEN_WORDS)}) (?:it )?(?:here )?(?:on|at|to|in) (?:the )?SIDE\b",
    )
)
#: Alike for both sides: a text and its mirror image mean the same of opposite sides.
_FILLER_SIDE = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:left|right) (?:now|away)\b",
        r"\b(?:left|right)\s*\?\s*$",  # "the left parotid, right?", but "parotid, right" is the right one
        r"\b(?:that|which|what|whatever) (?:is|was|are) (?:left|right)\b",
        r"\bwhats (?:left|right)\b",
    )
)
#: Clinical shorthand with a slash, which would otherwise part it ("c" and "left"). The other and the same side of what nobody said: a question.
_SHORTHAND = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\bw\s*/\s*o\b", "without"),
        (r"\bb\s*/\s*l\b", "bilateral"),
        (r"\bc\s*/\s*l\b", "contralateral"),
        (r"\bi\s*/\s*l\b", "ipsilateral"),
    )
)


@dataclass
class RawTerm:
    """The words of one structure as typed, in lower case. A lone dash stays among them: its meaning depends on its neighbours.

    ``required`` marks a term behind "plus" or "minus": without any word it makes the prompt incomplete.
    """

    words: list[str] = field(default_factory=list)
    subtract: bool = False
    required: bool = False


@dataclass
class RawGroup:
    """The terms of one result, in order. ``united`` is set by a union word, which may govern a single term ("both parotids combined")."""

    terms: list[RawTerm]
    united: bool = False

    @property
    def is_composite(self) -> bool:
        """Whether sides that are not told apart belong into one result."""
        return self.united or len(self.terms) > 1


def tokenise(text: str) -> list[str]:
    """Return words in lower case and operators in the order of the text.

    >>> tokenise("Left & right ParotidGlands, w/o the mandible")
    ['left', '&', 'right', 'parotid', 'glands', ',', '-', 'the', 'mandible']
    """
    raw = [_SYMBOLS.get(token, token) for token in _TOKEN.findall(without_shorthand(text))]
    tokens: list[str] = []
    position = 0
    while position < len(raw):
        for phrase, operator in lexicon.OPERATOR_PHRASES:
            if tuple(raw[position : position + len(phrase)]) == phrase:
                tokens.append(operator)
                position += len(phrase)
                break
        else:
            tokens.append(raw[position])
            position += 1
    return tokens


def without_shorthand(text: str) -> str:
    """The folded text with clinical shorthand that has a slash written out.

    >>> without_shorthand("B/L parotids w/o C/L larynx")
    'bilateral parotids without contralateral larynx'
    """
    text = fold(text)
    for pattern, word in _SHORTHAND:
        text = pattern.sub(word, text)
    return text


def words_only(tokens: Collection[str]) -> list[str]:
    """Return the words without the operators."""
    return [token for token in tokens if token not in lexicon.OPERATORS]


def viewers_side(words: Sequence[str]) -> bool:
    """Whether a side may be that of the displayed image ("image left", "on the left side of the scan", "on my left", "I see on the left").

    >>> [viewers_side(text.split()) for text in ("left side of the image", "i see it on the left", "show the left parotid in the image")]
    [True, True, False]
    """
    text = " ".join("SIDE" if word in SIDE_WORDS else word for word in words)
    return any(pattern.search(text) for pattern in _VIEWERS_SIDE)


def filler_side(text: str) -> bool:
    """Whether "right" or "left" may be no side at all ("right now", "the left parotid, right?", "what is left of the gland").

    >>> [filler_side(text) for text in ("both parotids right now", "left parotid, right?", "Parotid, right", "the parotid that is left")]
    [True, True, False, True]
    """
    text = fold(text)
    return any(pattern.search(text) for pattern in _FILLER_SIDE)


def abbreviated_side(words: Sequence[str], names: Collection[str]) -> str:
    """"rt" or "lt" if it may be none ("rt" is radiotherapy, too), else "": it is one beside a word of a name in the singular ("rt parotid").

    Args:
        words: normalised. names: words of the vocabulary's names, in the singular.

    >>> [abbreviated_side(text.split(), {"parotid", "gland"}) for text in ("rt parotid gland", "parotid for rt", "parotid glands rt", "lt and rt parotids")]
    ['', 'rt', 'rt', '']
    """
    found = [word for word in words if word in ("rt", "lt")]
    if len({*found}) != 1:
        return ""
    place = list(words).index(found[0])
    before, after = (words[n] if 0 <= n < len(words) else "" for n in (place - 1, place + 1))
    beside = before in names or after in names
    several = any(word in lexicon.BOTH_SIDES or (word not in names and word.removesuffix("s") in names) for word in words)
    return found[0] if not beside or several or before in ("ct", "for") or len(found) > 1 else ""


def join_pairs(tokens: list[str], pairs: Collection[frozenset[str]]) -> list[str]:
    """Make a word of the "and" inside names that contain one ("body and tail of the hippocampus"), so that they are not split."""
    return [
        "and" if token == lexicon.AND and frozenset(tokens[max(position - 1, 0) : position + 2]) - {lexicon.AND} in pairs else token
        for position, token in enumerate(tokens)
    ]


def parse(tokens: list[str], names: Collection[str] = ()) -> list[RawGroup]:
    """Split tokens into one group per result. Those without any content word are dropped ("find and label the larynx").

    Args:
        tokens: of :func:`tokenise`.
        names: words of the vocabulary; a relation among them ("surrounding edema") is part of a name.
    """
    tokens = _subtraction_last(tokens)
    if any(token in lexicon.RELATIONS and token not in names for token in tokens):
        return [RawGroup([RawTerm(words_only(tokens))])]
    all_united = False
    for ending in lexicon.UNITING_ENDINGS:
        if len(tokens) > len(ending) and tuple(tokens[-len(ending) :]) == ending:
            tokens, all_united = tokens[: -len(ending)], True
            break
    groups = [RawGroup([RawTerm()], united=all_united)]
    for token in tokens:
        _take(token, groups, all_united)
    for group in groups:
        if len(group.terms) > 1 and group.united and not has_content(group.terms[-1].words) and not group.terms[-1].required:
            group.terms.pop()  # "union of A and B," ends with a comma, not with a third structure
    return [group for group in groups if len(group.terms) > 1 or has_content(group.terms[0].words)]


def has_content(words: Collection[str]) -> bool:
    """Whether any word is more than a command, a filler or an article."""
    return any(lexicon.canonical_word(word) not in lexicon.NEUTRAL for word in words)


def _take(token: str, groups: list[RawGroup], all_united: bool) -> None:
    group = groups[-1]
    term = group.terms[-1]
    if token in lexicon.UNION_WORDS and len(group.terms) == 1 and not has_content(term.words):
        group.united = True
        term.words.clear()
    elif token in (lexicon.PLUS, lexicon.MINUS):
        if len(groups) > 1 and len(group.terms) == 1 and not has_content(term.words):
            groups.pop()  # "both parotids, excluding the left": punctuation before the operator ends nothing
            group = groups[-1]
        group.terms.append(RawTerm(subtract=token == lexicon.MINUS, required=True))
    elif (token == lexicon.AND and (term.subtract or group.united)) or (token == lexicon.LIST and group.united and not term.subtract):
        if has_content(term.words):
            group.terms.append(RawTerm(subtract=term.subtract))
    elif token in (lexicon.AND, lexicon.LIST, lexicon.STOP):
        groups.append(RawGroup([RawTerm()], united=all_united))
    else:
        term.words.append(token)


def _subtraction_last(tokens: list[str]) -> list[str]:
    """Turn "subtract B from A" into "A minus B"; anything else is returned as it is."""
    start = next((i for i, token in enumerate(tokens) if has_content([token])), len(tokens))
    if start == len(tokens) or tokens[start] not in lexicon.SUBTRACTING_VERBS or tokens.count("from") != 1:
        return tokens
    middle = tokens.index("from")
    return [*tokens[:start], *tokens[middle + 1 :], lexicon.MINUS, *tokens[start + 1 : middle]]
