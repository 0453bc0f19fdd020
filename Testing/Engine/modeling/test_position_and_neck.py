"""Position tables and necks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from RefSAM3DLib.modeling.neck import ChannelNorm3D, Neck3D
from RefSAM3DLib.modeling.position import PositionEmbed3D


def test_position_is_the_plane_in_every_slab_plus_the_depth_of_the_slab() -> None:
    position = PositionEmbed3D(5, (2, 3, 4))
    position.depth.normal_()
    found = position((2, 3, 4)).view(2, 3, 4, 5)
    for d in range(2):
        for h in range(3):
            for w in range(4):
                torch.testing.assert_close(found[d, h, w], position.plane[:, h, w] + position.depth[:, d])


def test_new_position_has_no_depth() -> None:
    found = PositionEmbed3D(5, (2, 3, 4))((6, 3, 4)).view(6, 3, 4, 5)
    assert torch.equal(found[0], found[5])
    assert found.std() > 0


def test_other_grids_interpolate_both_tables() -> None:
    position = PositionEmbed3D(5, (2, 3, 4))
    position.depth.normal_()
    plane = F.interpolate(position.plane[None], size=(6, 5), mode="bilinear", align_corners=False)[0]
    depth = F.interpolate(position.depth[None], size=7, mode="linear", align_corners=False)[0]
    expected = (plane[:, None] + depth[:, :, None, None]).permute(1, 2, 3, 0).reshape(1, 210, 5)
    torch.testing.assert_close(position((7, 6, 5)), expected)


def test_channel_norm_is_layer_norm_over_channels() -> None:
    norm = ChannelNorm3D(6)
    norm.weight.normal_()
    norm.bias.normal_()
    x = torch.randn(2, 6, 2, 3, 4)
    expected = F.layer_norm(x.permute(0, 2, 3, 4, 1), (6,), norm.weight, norm.bias, 1e-6).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)


def test_neck_keeps_the_grid_and_sees_27_neighbours() -> None:
    neck = Neck3D(6, 4)
    x = torch.randn(1, 6, 5, 5, 5)
    moved = x.clone()
    moved[0, :, 2, 2, 2] += torch.randn(6)
    out = neck(x)
    assert out.shape == (1, 4, 5, 5, 5)
    assert int(((neck(moved) - out).abs().amax(1) > 1e-6).sum()) == 27
