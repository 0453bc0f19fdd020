"""How a text is read, in one list."""

from __future__ import annotations

from RefSAM3DLib.text.prompts import resolve
from RefSAM3DLib.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary.default()
LEFT, RIGHT = "left parotid gland", "right parotid gland"
ANTERIOR, POSTERIOR = "anterior hippocampus", "posterior hippocampus"
WORDINGS = [(s.name, w) for s in VOCABULARY.structures for w in (*VOCABULARY.all_wordings(s.name), *s.held_out)]


def known(text: str, vocabulary: Vocabulary = VOCABULARY) -> list[str]:
    """Canonical wordings, with the status in capitals where something is not known."""
    return [result.resolved or result.status.value.upper() for result in resolve(text, vocabulary)]
