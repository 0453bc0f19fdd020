"""Tiles cover everything, and blending invents nothing."""

from __future__ import annotations

import doctest
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from RefSAM3DLib.inference import tiling
from RefSAM3DLib.inference.blending import tent
from RefSAM3DLib.inference.tiling import OVERLAP, Layout, axis_starts

SHAPES = st.tuples(*(st.integers(1, 150),) * 3)
TILES = st.tuples(*(st.sampled_from([16, 32, 40, 64]),) * 3)


def test_numbers_of_the_docstrings() -> None:
    assert doctest.testmod(tiling).failed == 0


@settings(deadline=None, max_examples=100)
@given(SHAPES, TILES, st.sampled_from([4, 8]))
def test_every_voxel_lies_in_a_tile_and_no_tile_sticks_out(shape: tuple, tile: tuple, patch: int) -> None:
    layout = Layout.of(shape, tile, patch)
    for axis in range(3):
        starts = sorted({s[axis] for s in layout.starts})
        assert starts[0] == 0
        assert starts[-1] + tile[axis] == layout.shape_dhw[axis]
        assert all(s % patch == 0 for s in starts)
        assert all(b - a <= tile[axis] for a, b in pairwise(starts))
        assert 0 <= layout.pad[axis] <= layout.shape_dhw[axis] - shape[axis] - layout.pad[axis] <= layout.pad[axis] + 1
    assert len(set(layout.starts)) == len(layout.starts)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.sampled_from([24, 32, 48, 64, 128]), st.sampled_from([8, 16]))
def test_neighbours_overlap_by_two_tokens(patches: int, tile: int, patch: int) -> None:
    if tile % patch:
        tile = -(-tile // patch) * patch
    starts = axis_starts(patches * patch, tile, patch) if patches * patch >= tile else [0]
    if (tile - min(OVERLAP, tile // 2)) % patch == 0:
        assert all(a + tile - b >= min(OVERLAP, tile // 2) for a, b in pairwise(starts))
    assert starts == sorted(set(starts))


def test_volume_smaller_than_a_tile_is_one_tile_with_itself_in_the_middle() -> None:
    layout = Layout.of((10, 32, 5), (32, 32, 16), 8)
    assert layout.starts == ((0, 0, 0),)
    assert layout.shape_dhw == (32, 32, 16)
    assert layout.pad == (11, 0, 5)


@pytest.mark.parametrize("count", [1, 4, 8, 24])
def test_weight_is_symmetric_positive_and_largest_in_the_centre(count: int) -> None:
    weight = tent(count)
    assert weight.shape == (count,)
    assert float(weight.min()) > 0
    torch.testing.assert_close(weight, weight.flip(0))
    assert float(weight[count // 2]) == pytest.approx(float(weight.max()))
