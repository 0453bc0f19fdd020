"""Words that the model does not know: beside a structure they change nothing, in place of its name nothing is there."""

import dataclasses

import numpy as np
import pytest
import torch
from refsam3d_training.config import DomainShare
from refsam3d_training.setup_run import make_trainer, tokens_of
from refsam3d_training.unread import MOST, unread_words, with_unread, without_its_name
from refsam3d_training.widen import spoken_words_alone

from RefSAM3DLib.checkpoint import TOKEN_TABLE, load_checkpoint
from RefSAM3DLib.modeling.text_encoder import pad_tokens
from RefSAM3DLib.text.tokenizer import RESERVED, UNKNOWN, PromptTokenizer, clip_ids
from RefSAM3DLib.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return PromptTokenizer(tokens_of(Vocabulary.default()))


@pytest.fixture(scope="module")
def words(tokenizer):
    return unread_words(tokenizer)


def test_each_word_is_read_as_the_unknown_one(tokenizer, words):
    assert len(words) > 500
    assert all(tokenizer.encode(word)[1:-1] == [UNKNOWN] for word in words[::100])
    assert unread_words(PromptTokenizer(None)) == ()
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = tokenizer.encode(with_unread(rng, "segment the left parotid gland", words))
        assert 1 <= ids.count(UNKNOWN) <= MOST
        assert [i for i in ids if i != UNKNOWN] == tokenizer.encode("segment the left parotid gland")


def test_what_is_left_of_a_name_is_no_structure(words):
    rng = np.random.default_rng(0)
    assert without_its_name(rng, "left parotid gland", words).split(" ")[::2] == ["left", "gland"]
    assert without_its_name(rng, "larynx", words) in words


def test_words_that_are_only_held_out_have_no_row(tokenizer):
    """So that a wording which training never spoke is read by rows that it did reach."""
    spoken = {t for s in Vocabulary.default().structures for w in (s.name, *s.synonyms) for t in clip_ids(w)}
    assert spoken <= set(tokenizer.kept)
    assert UNKNOWN in tokenizer.encode("complete brainstem")
    assert UNKNOWN not in tokenizer.encode("segmentation of the brain stem")


def test_a_share_of_what_is_asked_has_unknown_words(tiny_data, make_tiny_config, tmp_path, words):
    made = make_trainer(make_tiny_config(unread_words=0.5, shares=(DomainShare("head_neck", 0.7, 0.3),)), tiny_data, tmp_path / "run").sampler
    plain = make_trainer(make_tiny_config(shares=(DomainShare("head_neck", 0.7, 0.3),)), tiny_data, tmp_path / "plain").sampler
    assert made.unread == words
    known = {*words}
    asked, absent, without = [], [], []
    for step in range(40):
        for tile in made.batch(step):
            asked += [bool(known & {*p.split(" ")}) for p in tile.prompts[: tile.asked]]
            absent += [bool(known & {*p.split(" ")}) for p in tile.prompts[tile.asked :]]
            assert not tile.targets[tile.asked :].any()
        without += [p for tile in plain.batch(step) for p in tile.prompts if known & {*p.split(" ")}]
    assert 0.2 < np.mean(asked) < 0.55
    assert 0.35 < np.mean(absent) < 0.65
    assert without == []


def test_a_checkpoint_gives_up_the_rows_of_words_that_no_training_speaks(tiny_model):
    base = load_checkpoint(tiny_model)
    extra = next(t for t in clip_ids("complete")[1:-1] if t not in base.tokens)
    tokens = tuple(sorted({*base.tokens, extra}))
    rows = [base.tokens.index(t) + RESERVED if t in base.tokens else 0 for t in tokens]
    table = base.state[TOKEN_TABLE]
    wide = torch.cat([table[:RESERVED], table[rows]])
    text = dataclasses.replace(base.config.text, vocab_size=len(wide))
    more = dataclasses.replace(
        base, tokens=tokens, state={**base.state, TOKEN_TABLE: wide}, config=dataclasses.replace(base.config, text=text)
    )
    fewer = spoken_words_alone(more)
    assert fewer.tokens == base.tokens
    assert torch.equal(fewer.state[TOKEN_TABLE], table)

    def read(checkpoint):
        ids = pad_tokens([PromptTokenizer(checkpoint.tokens).encode("the left parotid gland")], 24)
        return checkpoint.build().encode_text(ids).sentence

    torch.testing.assert_close(read(fewer), read(more), rtol=0, atol=0)
