"""Words that the model does not know, put into what training asks [ours].

A user writes more words than any training speaks ("the whole brainstem, please"). Every word without a row of its own is read as the one unknown
word (``UNKNOWN`` of the tokenizer), which training meets here: beside a structure it changes nothing, in place of its name nothing is asked for.
"""

from __future__ import annotations

import numpy as np

from RefSAM3DLib.text.tokenizer import UNKNOWN, PromptTokenizer, clip_tokenizer

#: Words to draw from, and the most that a text gets.
WORDS, MOST = 2000, 3


def unread_words(tokenizer: PromptTokenizer) -> tuple[str, ...]:
    """Whole words of CLIP's vocabulary that the tower has no row for, evenly taken from all of them; none for a published tower, which knows all."""
    if tokenizer.kept is None:
        return ()
    whole = [text.removesuffix("</w>") for text in clip_tokenizer().decoder.values() if text.endswith("</w>")]
    plain = sorted(word for word in whole if word.isascii() and word.isalpha() and len(word) > 3)
    chosen = plain[:: max(1, len(plain) // (2 * WORDS))]
    return tuple(word for word in chosen if tokenizer.encode(word)[1:-1] == [UNKNOWN])[:WORDS]


def with_unread(rng: np.random.Generator, text: str, words: tuple[str, ...]) -> str:
    """The text with one to ``MOST`` of the words between its own."""
    parts = text.split(" ")
    for _ in range(int(rng.integers(1, MOST + 1))):
        parts.insert(int(rng.integers(len(parts) + 1)), words[rng.integers(len(words))])
    return " ".join(parts)


def without_its_name(rng: np.random.Generator, name: str, words: tuple[str, ...]) -> str:
    """A structure's name whose longest word, which names it, is replaced: nothing that the model knows. Sides and the like stay.

    >>> without_its_name(np.random.default_rng(0), "left parotid gland", ("bridge",))
    'left bridge gland'
    """
    parts = name.split(" ")
    parts[max(range(len(parts)), key=lambda i: len(parts[i]))] = words[rng.integers(len(words))]
    return " ".join(parts)
