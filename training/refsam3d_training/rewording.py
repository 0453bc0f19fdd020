"""Trained wordings with their words in another order and neutral words among them [ours].

A user says "stem of the patient's brain" where training said "stem of the brain", and "organ" of more than the larynx. A tower that has met each
word only in its few wordings takes word order and such neighbours for meaning; here both change, and what is asked for does not.
"""

from __future__ import annotations

import numpy as np

from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.text.wording import normalise

#: Words that say nothing of which structure is meant. Each has a row, from a template or from the wordings of a few structures.
NEUTRAL = ("region", "structure", "organ", "whole", "entire", "patient", "scan", "image", "of", "the", "in", "this")
#: The most of them that a wording gets.
MOST_NEUTRAL = 3


class Rewording:
    """Other orders of trained wordings, never one that is held out to measure robustness.

    Args:
        vocabulary: whose held-out wordings are avoided: as they stand, and in any order of their words.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        held = [normalise(wording).split(" ") for structure in vocabulary.structures for wording in structure.held_out]
        self.held_out = {" ".join(words) for words in held}
        self.held_out_words = {tuple(sorted(words)) for words in held}

    def __call__(self, rng: np.random.Generator, wording: str, template: str) -> str:
        """The template with the wording's words shuffled among up to ``MOST_NEUTRAL`` neutral ones; as they stood where that is held out."""
        words = normalise(wording).split(" ")
        words += [NEUTRAL[rng.integers(len(NEUTRAL))] for _ in range(int(rng.integers(MOST_NEUTRAL + 1)))]
        words = [words[n] for n in rng.permutation(len(words))]
        text = template.format(" ".join(words))
        return template.format(wording) if self.is_held_out(words, text) else text

    def is_held_out(self, words: list[str], text: str) -> bool:
        """Whether the words are those of a held-out wording, or the text holds one."""
        spoken = f" {normalise(text)} "
        return tuple(sorted(words)) in self.held_out_words or any(f" {wording} " in spoken for wording in self.held_out)
