"""The prompt-free pixel path and the mask embedding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from RefSAM3DLib.modeling.image_encoder import ImageFeatures
from RefSAM3DLib.modeling.mask_decoder import MaskEmbedding, PixelPath, multiply_mask, upsample_linear, upsampling_matrix


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_upsampling_matrix_is_linear_interpolation(count: int, factor: int) -> None:
    line = torch.randn(count)
    expected = F.interpolate(line[None, None], scale_factor=factor, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(upsampling_matrix(count, factor) @ line, expected)


def test_upsample_linear_is_trilinear_interpolation() -> None:
    maps = torch.randn(2, 2, 3, 4)
    expected = F.interpolate(maps[None], scale_factor=4, mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(upsample_linear(maps, 4), expected, rtol=1e-4, atol=1e-5)


def test_multiplied_mask_puts_each_sub_voxel_at_its_place() -> None:
    embedding, bias, pixels = torch.randn(2, 8, 5), torch.randn(2), torch.randn(5, 2, 3, 4)
    found = multiply_mask(embedding, bias, pixels)
    assert found.shape == (2, 4, 6, 8)
    for p in range(2):
        for z in range(4):
            for y in range(6):
                for x in range(8):
                    sub = (z % 2) * 4 + (y % 2) * 2 + x % 2
                    expected = embedding[p, sub] @ pixels[:, z // 2, y // 2, x // 2] + bias[p]
                    torch.testing.assert_close(found[p, z, y, x], expected, rtol=1e-4, atol=1e-5)


def test_sub_voxels_of_the_mask_are_those_of_space_to_depth() -> None:
    """The mask's order and the order in which raw voxels reach the pixels are one, or sharp edges would be shuffled."""
    from RefSAM3DLib.modeling.patch_embed import space_to_depth

    volume = torch.randn(1, 1, 4, 4, 4)
    assert torch.equal(multiply_mask(torch.eye(8)[None], torch.zeros(1), space_to_depth(volume)[0]), volume[0])


@pytest.mark.parametrize("patch", [4, 8, 16])
@pytest.mark.parametrize("with_stem", [False, True])
def test_pixel_path_ends_at_stride_two(patch: int, with_stem: bool) -> None:
    grid = (2, 3, 2)
    extent = tuple(n * patch for n in grid)
    steps = patch.bit_length() - 2
    widths = [4 * 2**i for i in range(steps)] if with_stem else []
    path = PixelPath(6, patch, 2, 5, widths, 3).eval()
    skips = [torch.randn(2, w, *(n // 2 ** (i + 1) for n in extent)) for i, w in enumerate(widths)]
    levels = [torch.randn(2, 6, *grid) for _ in range(4)]
    volume = torch.randn(2, 3, *extent)
    found = path(ImageFeatures(levels, skips, volume))
    assert found.shape == (2, 5, *(n // 2 for n in extent))
    changed = path(ImageFeatures(levels, [s + torch.randn_like(s) for s in skips], volume + torch.randn_like(volume)))
    assert not torch.equal(found, changed)
    for n in range(4):
        other = [level + torch.randn_like(level) if i == n else level for i, level in enumerate(levels)]
        assert not torch.equal(path(ImageFeatures(other, skips, volume)), found)


def test_new_mask_begins_near_the_rarity_of_foreground() -> None:
    embedding, bias = MaskEmbedding(6, 4, 5)(torch.zeros(3, 6), torch.zeros(3, 4))
    assert embedding.shape == (3, 8, 5)
    assert bias.shape == (3,)
    assert float(bias.sigmoid().max()) < 0.05
