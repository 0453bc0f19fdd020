"""The written form of a wording: normalisation, words, and the exchange of left and right. No vocabulary is needed here."""

from __future__ import annotations

import re
import unicodedata

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_APOSTROPHE = re.compile(r"['’‘ʼ`´]")
_SEPARATOR = re.compile(r"[\W_]+")

_OPPOSITE = {"left": "right", "l": "r", "lt": "rt", "lhs": "rhs", "sinister": "dexter", "sinistra": "dextra", "sinistrum": "dextrum"}
_OPPOSITE |= {right: left for left, right in _OPPOSITE.items()}
# A side word stands alone ("Parotid_L", "left-sided", never "L5" or "cell"), or is a capitalised part of CamelCase ("LeftParotid",
# "ParotidL"). Three lower-case letters before a single capital keep "mL" a millilitre.
_LONGEST_FIRST = "|".join(sorted(_OPPOSITE, key=len, reverse=True))
_SIDE = re.compile(
    rf"(?<![^\W_])(?i:{_LONGEST_FIRST})(?![^\W_])"
    r"|(?<![^\W_])(?:Left|Right)(?=[A-Z][a-z])"
    r"|(?<=[a-z])(?:Left|Right)(?![a-z])"
    r"|(?<=[a-z]{3})(?:Lt|Rt|[LR])(?![^\W_])"
)


def normalise(text: str) -> str:
    """Return the form in which two writings of one wording are equal: ``"Parotid_L"`` and ``"parotid - l"`` give ``"parotid l"``.

    NFKC, CamelCase split, lower case, apostrophes dropped ("patient's" is one word), everything but letters and digits a space.
    Accents fall: a Latin or German spelling is found without them.
    """
    text = _CAMEL.sub(" ", unicodedata.normalize("NFKC", text))
    text = unicodedata.normalize("NFKD", _APOSTROPHE.sub("", text).casefold())
    text = "".join(character for character in text if not unicodedata.combining(character))
    return _SEPARATOR.sub(" ", text).strip()


def swap_sides(text: str) -> str:
    """Exchange left and right in a wording, as a left-right flip of the image does in the patient.

    >>> swap_sides("Left parotid, Parotid_R, rt lung")
    'Right parotid, Parotid_L, lt lung'

    An involution for words in lower case, Title case or UPPER case; "lEFT" becomes "right", since the side matters more than the case.
    """
    return _SIDE.sub(_opposite_in_same_case, text)


def _opposite_in_same_case(match: re.Match[str]) -> str:
    word = match.group()
    opposite = _OPPOSITE[word.lower()]
    if len(word) == len(opposite):
        return "".join(new.upper() if old.isupper() else new for old, new in zip(word, opposite, strict=True))
    if word.isupper():
        return opposite.upper()
    return opposite.capitalize() if word.istitle() else opposite
