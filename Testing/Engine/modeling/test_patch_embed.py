"""The patch embedding is its two convolutions, and the stem loses no voxel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from RefSAM3DLib.modeling.patch_embed import ConvStem, PatchEmbed3D, space_to_depth


@pytest.mark.parametrize("patch", [4, 8])
def test_patch_embedding_is_the_in_plane_and_then_the_depth_wise_convolution(patch: int) -> None:
    embed = PatchEmbed3D(3, 10, patch)
    embed.depth.normal_()
    embed.bias.normal_()
    volume = torch.randn(2, 3, 2 * patch, 3 * patch, 4 * patch)
    planes = F.conv3d(volume, embed.plane, stride=(1, patch, patch))
    expected = F.conv3d(planes, embed.depth[:, None, :, None, None], embed.bias, stride=(patch, 1, 1), groups=10)
    torch.testing.assert_close(embed(volume).unflatten(1, (2, 3, 4)).permute(0, 4, 1, 2, 3), expected, rtol=1e-4, atol=1e-5)


def test_new_embedding_averages_along_depth() -> None:
    embed = PatchEmbed3D(1, 6, 4)
    volume = torch.randn(1, 1, 4, 8, 8)
    torch.testing.assert_close(embed(volume), embed(volume.mean(2, keepdim=True).expand_as(volume).contiguous()), rtol=1e-4, atol=1e-6)


def test_one_voxel_moves_one_token() -> None:
    embed = PatchEmbed3D(1, 6, 4)
    volume = torch.zeros(1, 1, 8, 8, 12)
    volume[0, 0, 5, 2, 11] = 1.0
    changed = (embed(volume) - embed(torch.zeros_like(volume))).abs().amax(-1)[0].nonzero().flatten().tolist()
    assert changed == [1 * 2 * 3 + 0 * 3 + 2]


def test_extent_that_is_no_multiple_of_the_patch_is_refused_by_its_numbers() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8, 9\) is no multiple of the patch size 4"):
        PatchEmbed3D(1, 6, 4)(torch.zeros(1, 1, 8, 8, 9))


def test_space_to_depth_keeps_each_voxel_in_the_order_channel_z_y_x() -> None:
    volume = torch.arange(2 * 4 * 4 * 6).view(1, 2, 4, 4, 6).float()
    out = space_to_depth(volume)
    assert out.shape == (1, 16, 2, 2, 3)
    for channel in range(2):
        for z, y, x in ((0, 0, 0), (0, 1, 1), (1, 0, 1)):
            assert torch.equal(out[0, channel * 8 + z * 4 + y * 2 + x], volume[0, channel, z::2, y::2, x::2])


@pytest.mark.parametrize(("patch", "widths"), [(4, [6]), (8, [6, 12]), (16, [6, 12, 24])])
def test_stem_gives_tokens_of_the_patch_grid_and_skips_of_each_stride(patch: int, widths: list[int]) -> None:
    stem = ConvStem(2, 3, 10, patch).eval()
    extent = (2 * patch, 3 * patch, 2 * patch)
    tokens, skips = stem(torch.randn(2, 2, *extent))
    assert tokens.shape == (2, 12, 10)
    assert stem.widths == widths
    assert [tuple(s.shape[1:]) for s in skips] == [(w, *(n // 2 ** (i + 1) for n in extent)) for i, w in enumerate(widths)]


def test_stem_normalises_each_sample_by_itself() -> None:
    stem = ConvStem(1, 2, 6, 4).eval()
    pair = torch.randn(2, 1, 8, 8, 8)
    pair[1] *= 100
    torch.testing.assert_close(stem(pair)[0][:1], stem(pair[:1])[0], rtol=1e-4, atol=1e-5)
