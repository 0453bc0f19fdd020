"""A volume and all that was computed from it alone, on every working grid that was asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..config import GridConfig
from ..types import Modality, Volume
from .embed import GridEmbedding
from .preprocess import Frame, intensity_windows, read_at_once
from .scope import extent_warning, modality_warning, stated_warning, units_warning
from .tiling import Layout, tile_count

if TYPE_CHECKING:
    from ..engine import RefSAM3DEngine

#: Up to this many fine tiles, the fine pass reads the whole volume at once and no coarse pass is needed.
DIRECT_TILES = 2
#: Most tiles of the look at the whole volume. A volume far larger than the grid was trained for (a hippocampus asked for in a
#: body CT) is looked at more coarsely instead of for minutes; such an image is out of scope anyway, and the result says so.
LOOK_TILES = 48


class VolumeEmbedding:
    """A volume and all that was computed from it alone: encodings by grid, made on demand and kept.

    Attributes:
        volume, modality: as read. warnings: sentences about the image as a whole.
        grids: encodings by (grid name, coarse, mirrored, branch). ahead: voxels that were read for such a one before it was asked for, by
            (grid name, coarse). key: content hash.
    """

    def __init__(self, engine: RefSAM3DEngine, volume: Volume, key: str) -> None:
        self.engine, self.volume, self.key = engine, volume, key
        self.modality = Modality(volume.modality or Modality.MR)
        self.grids: dict[tuple[str, bool, bool, int], GridEmbedding] = {}
        self.windows: list[tuple[float, float]] | None = None
        self.small_tiles = False
        self.ahead: dict[tuple[str, bool], Tensor] = {}

    @property
    def bytes(self) -> int:
        """Memory in use."""
        return sum(g.bytes for g in self.grids.values()) + sum(values.nbytes for values in self.ahead.values())

    def grid(self, grid: GridConfig, coarse: bool, mirrored: bool = False, branch: int = 0) -> GridEmbedding:
        """Encoding of one grid by one branch of the engine (its tiles may still be missing)."""
        key = (grid.name, coarse, mirrored, branch)
        if key not in self.grids:
            engine = self.engine
            if self.windows is None:
                self.windows = intensity_windows(self.volume, self.modality, engine.checkpoint.config.intensity)
            if branch:
                self.grids[key] = self.grid(grid, coarse, mirrored).read_by(engine.branches[branch].model)
            elif mirrored:
                self.grids[key] = self.grid(grid, coarse).mirror()
            else:
                values = self.ahead.pop((grid.name, coarse), None)
                self.grids[key] = GridEmbedding(
                    engine.model, engine.checkpoint.config, self._tiled(grid, coarse), coarse, self.volume, engine.device, self.windows, values
                )
        return self.grids[key]

    def read_both(self, grid: GridConfig) -> None:
        """Read the voxels for the look and for a closer one in one pass, unless either was read already."""
        keys = [(grid.name, True), (grid.name, False)]
        if any((*key, False, 0) in self.grids or key in self.ahead for key in keys):
            return
        spacings = (self._tiled(grid, coarse=True).coarse_spacing_mm, grid.spacing_mm)
        values = read_at_once(self.volume.array, [Frame.of(self.volume.geometry, spacing) for spacing in spacings])
        self.ahead.update(zip(keys, values, strict=True))

    def _tiled(self, grid: GridConfig, coarse: bool) -> GridConfig:
        """The grid with the tiles and the coarse spacing that this volume and the memory allow."""
        if self.small_tiles:
            grid = halved_tiles(grid, self.engine.checkpoint.config.image.patch_size)
        if coarse:
            geometry = self.volume.geometry
            grid = bounded_look(grid, geometry.permuted(*geometry.to_working_orientation()).extent_xyz_mm)
        return grid

    def use_small_tiles(self, small: bool = True) -> None:
        """Encode again in tiles of half the size: an eighth of the working memory, and less context in each. ``False``: in whole ones again."""
        self.small_tiles = small
        self.grids.clear()
        self.ahead.clear()

    def views(self, grid: GridConfig, coarse: bool, branch: int = 0) -> list[GridEmbedding]:
        """The plain image and, where the model averages both, its left-right mirror."""
        sides = (False, True) if self.engine.checkpoint.config.mirror_views else (False,)
        return [self.grid(grid, coarse, mirrored, branch) for mirrored in sides]

    def is_direct(self, grid: GridConfig) -> bool:
        """Whether the fine pass alone sees the whole volume."""
        spacing = grid.spacing_mm
        extent = self.volume.geometry.extent_xyz_mm
        count = 1
        for e, t in zip(sorted(extent), sorted(grid.tile_dhw), strict=True):
            count *= max(1, int(np.ceil(e / spacing / t)))
        if count > 8:
            return False
        shape = tuple(self.grid(grid, coarse=False).values.shape)
        return len(Layout.of(shape, grid.tile_dhw, self.engine.checkpoint.config.image.patch_size).starts) <= DIRECT_TILES  # type: ignore[arg-type]

    def whole_view(self, grid: GridConfig) -> GridEmbedding:
        """The pass that decides presence: coarse, or fine where that is direct."""
        return self.grid(grid, coarse=not self.is_direct(grid))

    @functools.cached_property
    def units_warning(self) -> str | None:
        """Why the values are not what a CT's are."""
        return units_warning(self.volume.array) if self.modality is Modality.CT else None

    def scope_warnings(self, grid: GridConfig, learnt: GridConfig | None = None) -> tuple[str, ...]:
        """Why this image is not of the kind that the grid was trained on (empty: it is). ``learnt``: the grid as an adapter was tuned on it."""
        learnt = learnt or grid
        kind = stated_warning(self.volume) or modality_warning(learnt, self.modality)
        found = (kind, extent_warning(learnt, self.whole_view(grid).extent_mm), self.units_warning)
        return tuple(w for w in found if w)


def bounded_look(grid: GridConfig, extent_mm: tuple[float, float, float]) -> GridConfig:
    """The grid with its coarse spacing enlarged until the look takes at most ``LOOK_TILES`` tiles."""
    spacing = grid.coarse_spacing_mm
    while math.prod(tile_count(math.ceil(e / spacing), t) for e, t in zip(extent_mm[::-1], grid.coarse_tile_dhw, strict=True)) > LOOK_TILES:
        spacing *= 1.1
    return grid if spacing == grid.coarse_spacing_mm else dataclasses.replace(grid, coarse_spacing_mm=spacing)


def halved_tiles(grid: GridConfig, patch: int) -> GridConfig:
    """The grid with tiles of half the size, in whole patches, at least two of them along an axis."""

    def half(tile: tuple[int, int, int]) -> tuple[int, int, int]:
        d, h, w = (max(2 * patch, -(-n // (2 * patch)) * patch) for n in tile)
        return d, h, w

    return dataclasses.replace(grid, tile_dhw=half(grid.tile_dhw), coarse_tile_dhw=half(grid.coarse_tile_dhw))
