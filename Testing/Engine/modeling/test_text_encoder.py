"""Words, their mask and their mean (Eq. II), and the projector (Eq. III)."""

from __future__ import annotations

import pytest
import torch

from RefSAM3DLib.config import TextEncoderConfig
from RefSAM3DLib.modeling.projector import CrossModalProjector
from RefSAM3DLib.modeling.small_text_tower import SmallTextTower
from RefSAM3DLib.modeling.text_encoder import TextEncoder, pad_tokens

CONFIG = TextEncoderConfig(width=16, heads=2, layers=2, context_length=10, vocab_size=12)


@pytest.fixture
def encoder(stir) -> TextEncoder:
    return stir(TextEncoder(CONFIG))


def test_sentence_is_the_mean_of_the_real_words(encoder: TextEncoder) -> None:
    found = encoder(torch.tensor([[2, 5, 3, 0, 0], [2, 7, 8, 9, 3]]))
    assert found.mask.tolist() == [[True, True, True, False, False], [True] * 5]
    torch.testing.assert_close(found.sentence[0], found.words[0, :3].mean(0))
    torch.testing.assert_close(found.sentence[1], found.words[1].mean(0))


@pytest.mark.parametrize("padding", [0, 1, 7])
def test_padding_changes_neither_words_nor_sentence(encoder: TextEncoder, padding: int) -> None:
    short = encoder(torch.tensor([[2, 5, 3]]))
    found = encoder(torch.tensor([[2, 5, 3] + [0] * padding]))
    torch.testing.assert_close(found.words[:, :3], short.words, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sentence, short.sentence, rtol=1e-5, atol=1e-6)


def test_batch_of_two_is_two_of_one(encoder: TextEncoder) -> None:
    ids = torch.tensor([[2, 5, 3, 0, 0, 0], [2, 7, 8, 9, 3, 0]])
    together = encoder(ids)
    for row in range(2):
        alone = encoder(ids[row : row + 1])
        torch.testing.assert_close(together.words[row, : alone.words.shape[1]], alone.words[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.sentence[row], alone.sentence[0], rtol=1e-5, atol=1e-6)


def test_every_word_reads_the_words_before_and_after_it(encoder: TextEncoder) -> None:
    before, after = encoder(torch.tensor([[2, 5, 6, 3]])).words, encoder(torch.tensor([[2, 5, 7, 3]])).words
    assert (before - after).abs().amax(-1).min() > 1e-5
    assert (before - encoder(torch.tensor([[2, 6, 5, 3]])).words).abs().max() > 1e-5


def test_unknown_token_has_a_row_of_its_own(encoder: TextEncoder) -> None:
    known, unknown = encoder(torch.tensor([[2, 5, 3]])), encoder(torch.tensor([[2, 1, 3]]))
    assert unknown.mask.all()
    assert (known.sentence - unknown.sentence).abs().max() > 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_the_small_tower_is_the_one_of_open_clip(training: bool) -> None:
    """Weights, names and words, so that a checkpoint may be read by either; gradients too."""
    from open_clip.transformer import TextTransformer

    torch.manual_seed(3)
    ours = SmallTextTower(context_length=10, vocab_size=12, width=16, heads=2, layers=2)
    torch.manual_seed(3)
    theirs = TextTransformer(
        context_length=10, vocab_size=12, width=16, heads=2, layers=2, output_dim=16, no_causal_mask=True, use_pad_mask=True, pool_type="first",
        proj_type="none", output_tokens=True,
    )  # fmt: skip
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    ours.train(training), theirs.train(training)
    ids = torch.tensor([[2, 5, 3, 0, 0, 0], [2, 7, 8, 9, 3, 0]])
    real = ids != 0
    with torch.set_grad_enabled(training):
        words, expected = ours(ids)[real], theirs(ids)[1][real]
        losses = words.square().sum(), expected.square().sum()
    assert torch.equal(words, expected)
    if training:
        for loss in losses:
            loss.backward()
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_pad_tokens_keeps_the_end_of_a_long_text() -> None:
    assert pad_tokens([[2, 5, 3], [2, 4, 5, 6, 7, 3]], 5).tolist() == [[2, 5, 3, 0, 0], [2, 4, 5, 6, 3]]


def test_projector_is_one_perceptron_for_words_and_sentences() -> None:
    projector = CrossModalProjector(16, 6)
    first, _, last = projector.layers
    words = torch.randn(2, 5, 16)
    expected = torch.relu(words @ first.weight.T + first.bias) @ last.weight.T + last.bias
    assert first.weight.shape == (8, 16)
    torch.testing.assert_close(projector(words), expected)
    torch.testing.assert_close(projector(words[:, 0]), expected[:, 0])
