"""The written form of a wording: normalisation, words, and the exchange of left and right. No vocabulary is needed here."""

from __future__ import annotations

import re
import unicodedata

# "SpinalCord", "ParotidL", "GTVSarcoma" and "LParotid" are split; three lower-case letters before a lone capital keep "mL" a
# millilitre (not "m left"), and two after one keep "OARs" whole.
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[a-z]{3})(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_APOSTROPHES = "'’‘ʼ`´"
_APOSTROPHE = re.compile(f"[{_APOSTROPHES}]")
_SEPARATOR = re.compile(r"[\W_]+")
_RUN = re.compile(rf"[^\W_]+(?:[{_APOSTROPHES}][^\W_]+)*")
# Zero-width space separates words; the other format characters (soft hyphens and joiners of pasted text) are inside words.
_ZERO_WIDTH_SPACE = "\u200b"

_OPPOSITE = {"left": "right", "l": "r", "lt": "rt", "lhs": "rhs", "sinister": "dexter", "sinistra": "dextra", "sinistrum": "dextrum"}
# The side words of the languages whose organ names are close enough to Latin and English to be understood ("parotide droite", "Parotis rechts").
_OPPOSITE |= {"gauche": "droite", "links": "rechts", "linke": "rechte", "linker": "rechter", "linken": "rechten", "izquierda": "derecha"}
#: Every word that names the patient's left or right, and which of the two.
SIDE_WORDS = dict.fromkeys(_OPPOSITE, "left") | dict.fromkeys(_OPPOSITE.values(), "right")
_OPPOSITE |= {right: left for left, right in _OPPOSITE.items()}


def split_camel(text: str) -> str:
    """Put a space at each CamelCase border: ``"SpinalCord"`` gives ``"Spinal Cord"``."""
    return _CAMEL.sub(" ", text)


def fold(text: str) -> str:
    """NFKC, lower case, without accents, apostrophes ("patient's" is one word) and invisible format characters."""
    text = unicodedata.normalize("NFKC", text).replace(_ZERO_WIDTH_SPACE, " ")
    text = unicodedata.normalize("NFKD", _APOSTROPHE.sub("", split_camel(text)).casefold())
    return "".join(character for character in text if unicodedata.category(character) not in ("Mn", "Cf"))


def normalise(text: str) -> str:
    """Return the form in which two writings of one wording are equal, with nothing but letters, digits and single spaces.

    >>> normalise("Parotid_L"), normalise(" the  patient's brain-stem. ")
    ('parotid l', 'the patients brain stem')
    """
    return _SEPARATOR.sub(" ", fold(text)).strip()


def swap_sides(text: str) -> str:
    """Exchange left and right in a wording, as a left-right flip of the image does in the patient.

    >>> swap_sides("Left parotid, Parotid_R, rt lung, L5")
    'Right parotid, Parotid_L, lt lung, L5'

    Words are found as :func:`normalise` finds them. An involution for words in lower case, Title case or UPPER case; "lEFT"
    becomes "right", since the side matters more than the case.
    """
    return _RUN.sub(lambda run: "".join(_swapped(piece) for piece in _CAMEL.split(run.group())), text)


def _swapped(word: str) -> str:
    opposite = _OPPOSITE.get(normalise(word))
    if opposite is None:
        return word
    if len(word) == len(opposite):
        return "".join(new.upper() if old.isupper() else new for old, new in zip(word, opposite, strict=True))
    if word.isupper():
        return opposite.upper()
    return opposite.capitalize() if word.istitle() else opposite
