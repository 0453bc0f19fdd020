"""What a run is said to need before it starts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import tiny_checkpoint
from tiny_engine import blocks, make_engine

from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.inference.plan import FINE_TILES, FINE_VOXELS, TILTED_BYTES, held_bytes, is_read_closely, planned_bytes
from RefSAM3DLib.inference.preprocess import Frame
from RefSAM3DLib.inference.tiling import Layout
from RefSAM3DLib.inference.volume_embedding import LOOK_TILES
from RefSAM3DLib.types import Modality

ROOT = Path(__file__).resolve().parents[3]

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
def test_a_tilted_grid_needs_the_box_around_it_and_copies_of_its_voxels(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    straight, turn = box(200, 200, 60), np.array([[1.0, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    tilted = Geometry(straight.shape_dhw, turn @ straight.ijk_to_ras)
    grid = CONFIG.grids[0]
    copies = sum(np.prod(Frame.of(tilted, spacing).shape_dhw) * 4 * 2 for spacing in (grid.spacing_mm, grid.coarse_spacing_mm))
    tiles = sum(
        len(Layout.of(Frame.of(tilted, spacing).shape_dhw, size, CONFIG.image.patch_size).starts)
        for spacing, size in ((grid.spacing_mm, grid.tile_dhw), (grid.coarse_spacing_mm, grid.coarse_tile_dhw))
    )
    expected = copies + tile_bytes(grid, tiles) + 13 * np.prod(straight.shape_dhw)
    assert planned_bytes(CONFIG, tilted, [(grid.name, 1)]) == pytest.approx(expected, rel=0.01)
    assert planned_bytes(CONFIG, tilted, [(grid.name, 1)]) > planned_bytes(CONFIG, straight, [(grid.name, 1)]) + 12 * np.prod(straight.shape_dhw)


READ_TILTED = """
import sys
import numpy as np
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.inference.preprocess import Frame
from RefSAM3DLib.memory import peak_memory_mb

def read(shape, spacing):
    c, s = np.cos(0.35), np.sin(0.35)
    matrix = np.diag([0.9, 0.9, 1.5, 1.0])
    matrix[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ matrix[:3, :3]
    frame, array = Frame.of(Geometry(shape, matrix), spacing), np.ones(shape, np.int16)
    before = peak_memory_mb()
    frame.read(array)
    return frame, peak_memory_mb() - before

spacing = float(sys.argv[1])
read((20, 20, 20), spacing)  # what torch loads at its first product
frame, grown = read((80, 260, 260), spacing)
print(frame.rotated, np.prod(frame.shape_dhw), grown)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the peak is not of this process alone")
@pytest.mark.parametrize("spacing", [1.0, 3.0, 6.0])
def test_reading_a_tilted_grid_takes_what_is_planned_for_it(spacing: float) -> None:
    out = subprocess.run([sys.executable, "-c", READ_TILTED, str(spacing)], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    planned_mb = (TILTED_BYTES * 80 * 260 * 260 + 4 * int(out[1])) / 2**20
    assert out[0] == "True"
    assert 0.3 * planned_mb < float(out[2]) < 1.05 * planned_mb


@dataclasses.dataclass
class Tile:
    bytes: int = 1000


def test_tiles_of_another_place_excuse_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve tiles one prompt may take two: whoever has looked at four may still look at two more, and with all twelve at none."""
    monkeypatch.setattr("RefSAM3DLib.inference.plan.FINE_TILES", 2)
    engine = make_engine()
    embedding = engine._embedding(dataclasses.replace(blocks(), modality=Modality.CT))
    grid = embedding.grid(engine.checkpoint.config.grids[0], coarse=False)
    assert len(grid.layout.starts) == 12

    def held(tiles: int, structures: int, coarse: bool = False) -> int:
        grid.coarse, grid.tiles = coarse, {n: Tile() for n in range(tiles)}  # type: ignore[misc]
        return held_bytes(embedding, [("head_neck", structures)]) - grid.values.nbytes

    assert [held(n, 1) // 1000 for n in range(13)] == [*[0] * 11, 1, 2]
    assert [held(n, 3) // 1000 for n in range(13)] == [*[0] * 7, 1, 2, 3, 4, 5, 6]
    assert [held(n, 6) // 1000 for n in range(13)] == list(range(13)) == [held(n, 1, coarse=True) // 1000 for n in range(13)]
