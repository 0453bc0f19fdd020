"""The prompt-conditioned decoder."""

from __future__ import annotations

import pytest
import torch

from RefSAM3DLib.modeling.paper_decoder import FourierPosition, PaperDecoder

FUSED, PROMPT, CHANNELS = 16, 12, 2
GRID = (2, 3, 2)


def sample(prompts: int, patch: int) -> tuple:
    torch.manual_seed(3)
    fused = [torch.randn(prompts, FUSED, *GRID) for _ in range(4)]
    mask = torch.ones(prompts, 5, dtype=torch.bool)
    mask[-1, 3:] = False
    return fused, torch.randn(prompts, PROMPT), torch.randn(prompts, 5, PROMPT), mask, torch.randn(3, *(n * patch for n in GRID))


@pytest.fixture(params=[4, 8, 16])
def patch(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def decoder(patch: int, stir) -> PaperDecoder:
    return stir(PaperDecoder(FUSED, PROMPT, patch, CHANNELS, 3, 2))


def test_logits_have_the_resolution_of_the_tile(decoder: PaperDecoder, patch: int) -> None:
    assert decoder(*sample(2, patch)).shape == (2, *(n * patch for n in GRID))
    assert len(decoder.ups) == patch.bit_length() - 1


def test_batch_of_prompts_is_one_by_one(decoder: PaperDecoder, patch: int) -> None:
    fused, sentence, words, mask, volume = sample(3, patch)
    together = decoder(fused, sentence, words, mask, volume)
    for p in range(3):
        one = slice(p, p + 1)
        torch.testing.assert_close(decoder([f[one] for f in fused], sentence[one], words[one], mask[one], volume), together[one], rtol=1e-4, atol=1e-5)


def test_every_level_the_words_the_sentence_and_the_image_reach_the_mask(decoder: PaperDecoder, patch: int) -> None:
    fused, sentence, words, mask, volume = sample(1, patch)
    before = decoder(fused, sentence, words, mask, volume)
    used = range(4) if len(decoder.ups) > 2 else range(1, 4)  # two steps up join two of the three lower levels
    for level in used:
        other = [f + torch.randn_like(f) if n == level else f for n, f in enumerate(fused)]
        assert not torch.equal(decoder(other, sentence, words, mask, volume), before)
    assert not torch.equal(decoder(fused, sentence + 1, words, mask, volume), before)
    assert not torch.equal(decoder(fused, sentence, words + torch.randn_like(words), mask, volume), before)
    assert not torch.equal(decoder(fused, sentence, words, mask, volume + torch.randn_like(volume)), before)


def test_padded_words_do_not_change_the_mask(stir) -> None:
    """Tokens of padding are keys for nobody: neither for other tokens nor, in the way back, for the image."""
    decoder = stir(PaperDecoder(FUSED, PROMPT, 4, CHANNELS, 3, 2))
    fused, sentence, words, mask, volume = sample(1, 4)
    noisy = torch.where(mask[..., None], words, words + 5)
    torch.testing.assert_close(decoder(fused, sentence, noisy, mask, volume), decoder(fused, sentence, words, mask, volume), rtol=1e-5, atol=1e-6)
    shorter = decoder(fused, sentence, words[:, :3], mask[:, :3], volume)
    torch.testing.assert_close(shorter, decoder(fused, sentence, words, mask, volume), rtol=1e-4, atol=1e-5)


def test_position_is_of_cell_centres_and_tells_all_axes_apart() -> None:
    position = FourierPosition(8)
    found = position((2, 3, 4)).view(2, 3, 4, 8)
    assert len({tuple(round(float(v), 4) for v in row) for row in found.flatten(0, 2)}) == 24
    matrix = position.positional_encoding_gaussian_matrix
    angle = 2 * torch.pi * (torch.tensor([2 * 3.5 / 4 - 1, 2 * 0.5 / 3 - 1, 2 * 1.5 / 2 - 1]) @ matrix)
    torch.testing.assert_close(found[1, 0, 3], torch.cat([angle.sin(), angle.cos()]), rtol=1e-4, atol=1e-5)
