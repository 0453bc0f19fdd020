"""What a run is said to need before it starts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_checkpoint import tiny_checkpoint

from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.inference.plan import FINE_TILES, FINE_VOXELS, is_read_closely, planned_bytes
from RefSAM3DLib.inference.preprocess import Frame
from RefSAM3DLib.inference.tiling import Layout
from RefSAM3DLib.inference.volume_embedding import LOOK_TILES

CONFIG = tiny_checkpoint().config
#: A grid for a small structure: 1 mm is far too fine for a trunk.
SMALL = dataclasses.replace(CONFIG.grids[0], name="small", spacing_mm=1.0, coarse_spacing_mm=2.0)
BOTH_GRIDS: ModelConfig = dataclasses.replace(CONFIG, grids=(CONFIG.grids[0], SMALL))


def box(*extent_dhw_mm: float) -> Geometry:
    d, h, w = (round(e / 2) for e in extent_dhw_mm)
    return Geometry((d, h, w), np.diag([2.0, 2.0, 2.0, 1.0]))


def tile_bytes(grid: GridConfig, tiles: int) -> float:
    """Encoded tiles of both views and a pair in flight."""
    per_voxel = CONFIG.decoder.pixel_dim / 8 + 4 * (CONFIG.prompt.attention_dim + CONFIG.prompt.fused_dim) / CONFIG.image.patch_size**3
    return np.prod(grid.tile_dhw) * (tiles * 2 * 4 * per_voxel + 2 * 600)


@pytest.mark.parametrize("extent", [(450, 500, 500), (1500, 500, 500)])
def test_a_close_look_that_is_never_taken_needs_nothing(extent: tuple[float, ...]) -> None:
    assert not is_read_closely(SMALL, box(*extent))
    native = np.prod(box(*extent).shape_dhw)
    assert planned_bytes(BOTH_GRIDS, box(*extent), [("small", 8)]) - native < 2 * tile_bytes(SMALL, LOOK_TILES)


def test_a_close_look_takes_no_more_tiles_than_it_may() -> None:
    geometry = box(390, 390, 390)
    assert is_read_closely(SMALL, geometry)
    one, two, many, more = (planned_bytes(BOTH_GRIDS, geometry, [("small", n)]) for n in (1, 2, 10_000, 100_000))
    assert two - one == pytest.approx(tile_bytes(SMALL, FINE_TILES) - tile_bytes(SMALL, 0), rel=1e-6)
    assert two < many == more, "every tile is encoded once"
    assert one > FINE_VOXELS * 8 * 0.95, "working copies of both views"


def test_a_grid_that_two_branches_read_is_counted_twice() -> None:
    geometry = box(200, 200, 200)
    native = np.prod(geometry.shape_dhw)
    once, twice = (planned_bytes(BOTH_GRIDS, geometry, [("head_neck", 1)] * n) - native for n in (1, 2))
    assert twice == pytest.approx(2 * once, rel=1e-6)


@pytest.mark.parametrize("degrees", [20.0, 45.0])
def test_a_tilted_grid_needs_the_box_around_it_and_two_copies_of_its_voxels(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    straight, turn = box(200, 200, 60), np.array([[1.0, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    tilted = Geometry(straight.shape_dhw, turn @ straight.ijk_to_ras)
    grid = CONFIG.grids[0]
    copies = sum(np.prod(Frame.of(tilted, spacing).shape_dhw) * 4 * 2 for spacing in (grid.spacing_mm, grid.coarse_spacing_mm))
    tiles = sum(
        len(Layout.of(Frame.of(tilted, spacing).shape_dhw, size, CONFIG.image.patch_size).starts)
        for spacing, size in ((grid.spacing_mm, grid.tile_dhw), (grid.coarse_spacing_mm, grid.coarse_tile_dhw))
    )
    expected = copies + tile_bytes(grid, tiles) + 9 * np.prod(straight.shape_dhw)
    assert planned_bytes(CONFIG, tilted, [(grid.name, 1)]) == pytest.approx(expected, rel=0.01)
    assert planned_bytes(CONFIG, tilted, [(grid.name, 1)]) > planned_bytes(CONFIG, straight, [(grid.name, 1)]) + 8 * np.prod(straight.shape_dhw)
