"""The look at the whole volume takes a bounded number of tiles, however large the volume is."""

from __future__ import annotations

import dataclasses
import math

import pytest

from RefSAM3DLib.config import GridConfig
from RefSAM3DLib.inference.tiling import Layout
from RefSAM3DLib.inference.volume_embedding import LOOK_TILES, bounded_look
from RefSAM3DLib.resources import named_config

MODEL = named_config("vit_t")
HEAD_NECK = MODEL.grid("head_neck")


def tiles(grid: GridConfig, extent_xyz_mm: tuple[float, float, float], spacing_mm: float) -> int:
    shape = tuple(math.ceil(e / spacing_mm) for e in extent_xyz_mm[::-1])
    return len(Layout.of(shape, grid.coarse_tile_dhw, MODEL.image.patch_size).starts)  # type: ignore[arg-type]


@pytest.mark.parametrize("extent", [(180.0, 180.0, 150.0), (500.0, 500.0, 500.0), (300.0, 300.0, 1700.0)])
def test_a_volume_that_fits_is_looked_at_as_trained(extent: tuple[float, float, float]) -> None:
    assert tiles(HEAD_NECK, extent, HEAD_NECK.coarse_spacing_mm) <= LOOK_TILES
    assert bounded_look(HEAD_NECK, extent) is HEAD_NECK


@pytest.mark.parametrize("grid", MODEL.grids, ids=lambda g: g.name)
@pytest.mark.parametrize("extent", [(1600.0, 1600.0, 1600.0), (900.0, 900.0, 2000.0), (5000.0, 900.0, 900.0)])
def test_a_larger_one_is_looked_at_no_more_coarsely_than_it_must(grid: GridConfig, extent: tuple[float, float, float]) -> None:
    found = bounded_look(grid, extent)
    assert tiles(found, extent, found.coarse_spacing_mm) <= LOOK_TILES
    assert tiles(found, extent, found.coarse_spacing_mm / 1.1) > LOOK_TILES
    assert dataclasses.replace(found, coarse_spacing_mm=grid.coarse_spacing_mm) == grid


def test_a_long_axis_of_the_volume_is_covered_by_the_tiles_side_along_it() -> None:
    """The extent is given as (x, y, z), the tile as (D, H, W) of which W is the longest."""
    along_x, along_z = (bounded_look(HEAD_NECK, e).coarse_spacing_mm for e in ((6000.0, 900.0, 900.0), (900.0, 900.0, 6000.0)))
    assert along_x < along_z
