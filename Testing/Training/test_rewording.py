"""Wordings in another order: the same words, some neutral ones, and never what is held out."""

from collections import Counter

import numpy as np
import pytest
from refsam3d_training.config import DomainShare
from refsam3d_training.rewording import MOST_NEUTRAL, NEUTRAL, Rewording
from refsam3d_training.setup_run import make_trainer, tokens_of

from RefSAM3DLib.text.tokenizer import UNKNOWN, PromptTokenizer
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.text.wording import normalise


@pytest.fixture(scope="module")
def rewording():
    return Rewording(Vocabulary.default())


def test_the_words_stay_and_neutral_ones_are_added(rewording):
    rng = np.random.default_rng(0)
    texts = [rewording(rng, "stem of the brain", "show {}") for _ in range(50)]
    assert len({*texts}) > 30
    for text in texts:
        more = Counter(text.split(" ")) - Counter(["show", "stem", "of", "the", "brain"])
        assert sum(more.values()) <= MOST_NEUTRAL
        assert {*more} <= {*NEUTRAL}
    assert all(text.startswith("show ") for text in texts)


def test_neutral_words_have_rows():
    ids = PromptTokenizer(tokens_of(Vocabulary.default())).encode(" ".join(NEUTRAL))
    assert UNKNOWN not in ids


def test_neutral_words_and_fillers_name_no_structure():
    names = {normalise(w) for s in Vocabulary.default().structures for w in (s.name, *s.synonyms)}
    assert not names & {*NEUTRAL}


def test_no_held_out_wording_is_ever_spoken(rewording):
    vocabulary = Vocabulary.default()
    held = {normalise(w) for s in vocabulary.structures for w in s.held_out}
    rng = np.random.default_rng(1)
    for structure in vocabulary.structures:
        for wording in (structure.name, *structure.synonyms):
            for template in vocabulary.templates[:8]:
                text = f" {normalise(rewording(rng, wording, template))} "
                if text != f" {normalise(template.format(wording))} ":
                    assert not [w for w in held if f" {w} " in text]


@pytest.mark.parametrize("wording", ["the whole brainstem", "whole brainstem the", "cord, spinal"])
def test_what_is_held_out_is_recognised(rewording, wording):
    words = normalise(wording).split(" ")
    assert rewording.is_held_out(words, " ".join(words))
    assert not rewording.is_held_out(["brainstem", "region"], "segment the brainstem region")


def test_what_a_template_completes_to_a_held_out_wording_is_recognised(rewording):
    assert rewording.is_held_out(["whole", "brainstem"], "outline the whole brainstem")


def test_a_share_of_what_is_asked_comes_in_another_order(tiny_data, make_tiny_config, tmp_path):
    shares = (DomainShare("head_neck", 0.7, 0.3),)
    vocabulary = Vocabulary.default()
    trained = {normalise(t.format(w)) for s in vocabulary.structures for w in (s.name, *s.synonyms) for t in vocabulary.templates}

    def share_of_others(**changes):
        sampler = make_trainer(make_tiny_config(shares=shares, **changes), tiny_data, tmp_path / str(len(changes))).sampler
        asked = [p for step in range(40) for tile in sampler.batch(step) for p in tile.prompts[: tile.asked]]
        return np.mean([normalise(p) not in trained for p in asked])

    assert share_of_others() == 0
    assert 0.15 < share_of_others(reworded=0.5) < 0.5
