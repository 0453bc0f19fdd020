"""Blocks, levels and the scale embedding of the image branch."""

from __future__ import annotations

import pytest
import torch

from RefSAM3DLib.config import ImageEncoderConfig
from RefSAM3DLib.modeling.block import Block3D
from RefSAM3DLib.modeling.image_encoder import ImageEncoder3D


def config(depth: int = 4, stem: int = 2) -> ImageEncoderConfig:
    return ImageEncoderConfig(
        in_channels=2, patch_size=4, dim=12, depth=depth, num_heads=2, window_size=2, position_grid=(2, 2, 2), stem_channels=stem, level_dim=6
    )


@pytest.mark.parametrize(("depth", "taps"), [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (32, [7, 15, 23, 31]), (8, [1, 3, 5, 7]), (4, [0, 1, 2, 3])])
def test_levels_are_quarters_of_the_depth(depth: int, taps: list[int]) -> None:
    assert ImageEncoder3D(config(depth), 1).taps == taps


@pytest.mark.parametrize("depth", range(4, 13))
def test_last_level_is_the_last_block_and_levels_rise(depth: int) -> None:
    taps = ImageEncoder3D(config(depth), 1).taps
    assert taps[-1] == depth - 1
    assert sorted(set(taps)) == taps


def test_every_other_block_is_shifted() -> None:
    assert [block.attn.shifted for block in ImageEncoder3D(config(), 1).blocks] == [False, True, False, True]


def test_block_is_attention_adapter_perceptron_in_this_order(stir) -> None:
    block = stir(Block3D(12, 2, 2.0, 2, False, 6))
    x = torch.randn(1, 24, 12)
    y = block.adapter(x + block.attn(block.norm1(x), (2, 3, 4)), (2, 3, 4))
    hidden = torch.nn.functional.gelu(block.norm2(y) @ block.mlp.lin1.weight.T + block.mlp.lin1.bias)
    torch.testing.assert_close(block(x, (2, 3, 4)), y + hidden @ block.mlp.lin2.weight.T + block.mlp.lin2.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stem", [0, 2])
def test_levels_share_the_token_grid_and_a_batch_of_two_is_two_of_one(stem: int, stir) -> None:
    encoder = stir(ImageEncoder3D(config(stem=stem), 2))
    pair, domain = torch.randn(2, 2, 8, 12, 16), torch.tensor([0, 1])
    together = encoder(pair, domain)
    assert [tuple(level.shape) for level in together.levels] == [(2, 6, 2, 3, 4)] * 4
    assert len(together.skips) == (1 if stem else 0)
    for n in range(2):
        alone = encoder(pair[n : n + 1], domain[n : n + 1])
        for a, b in zip(alone.levels, together.levels, strict=True):
            torch.testing.assert_close(a[0], b[n], rtol=1e-3, atol=1e-4)


def test_working_grid_is_told_to_the_network(stir) -> None:
    encoder = stir(ImageEncoder3D(config(), 2))
    volume = torch.randn(1, 2, 8, 8, 8)
    fine, coarse = (encoder(volume, torch.tensor([d])).levels[3] for d in (0, 1))
    assert not torch.allclose(fine, coarse, atol=1e-4)


def test_new_encoder_does_not_know_scales_yet() -> None:
    encoder = ImageEncoder3D(config(), 2).eval()
    volume = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(encoder(volume, torch.tensor([0])).levels[3], encoder(volume, torch.tensor([1])).levels[3])
