"""What a run will need, before it starts: refusing with advice beats being killed half-way."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..config import GridConfig, ModelConfig
from ..errors import MemoryRefusalError
from ..geometry import Geometry
from ..memory import available_memory_mb
from .embed import GridEmbedding
from .preprocess import Frame
from .tiling import Layout
from .volume_embedding import VolumeEmbedding, bounded_look

#: Bytes per voxel of a pair of tiles for activations that live at once (measured: 130 MB for two 48^3 tiles of the small model).
ACTIVATION_BYTES = 600
#: Bytes per native voxel while a tilted grid is read: it is smoothed as a whole, from one copy of floats into another, with a band of it in a third.
TILTED_BYTES = 12
#: Share of the free memory that a run may plan for.
USABLE = 0.9
#: Most fine tiles (per view) for one structure. The trained fields of view need 20 at most; beyond this the coarse look is drawn
#: instead and the result says so.
FINE_TILES = 48
#: Largest working copy for a close look, voxels (240 MB, and as much for its mirror image).
FINE_VOXELS = 60_000_000


def is_read_closely(grid: GridConfig, geometry: Geometry) -> bool:
    """Whether a working copy for a close look is small enough to be made."""
    return math.prod(e / grid.spacing_mm for e in geometry.extent_xyz_mm) <= FINE_VOXELS


def planned_bytes(config: ModelConfig, geometry: Geometry, readings: Iterable[tuple[str, int]]) -> int:
    """Upper estimate for the working copies, every tile that may be encoded, one pair of tiles in flight, and one native mask.

    ``readings``: names of the working grids and how many structures are asked of each; a grid that two branches read is named twice.
    """
    views = 2 if config.mirror_views else 1
    pixels = config.decoder.pixel_dim / 8 if config.decoder.kind == "cached" else config.image.in_channels
    tokens = 4 * (config.prompt.attention_dim + config.prompt.fused_dim) / config.image.patch_size**3
    extent = geometry.permuted(*geometry.to_working_orientation()).extent_xyz_mm
    working = working_extent(geometry)
    total = 0.0
    for name, structures in readings:
        grid = config.grid(name)
        tile = math.prod(grid.tile_dhw)
        spacing = bounded_look(grid, extent).coarse_spacing_mm
        held = math.prod(working) / spacing**3
        encoded = tile_count(working, spacing, grid.coarse_tile_dhw, config.image.patch_size) * math.prod(grid.coarse_tile_dhw)
        if is_read_closely(grid, geometry):
            held += math.prod(working) / grid.spacing_mm**3
            encoded += min(tile_count(working, grid.spacing_mm, grid.tile_dhw, config.image.patch_size), FINE_TILES * structures) * tile
        total += 4 * views * (held + encoded * (pixels + tokens)) + 2 * max(tile, math.prod(grid.coarse_tile_dhw)) * ACTIVATION_BYTES
    native = 1 + (TILTED_BYTES if Frame.of(geometry, 1.0).rotated else 0)
    return int(total + native * math.prod(geometry.shape_dhw))


def working_extent(geometry: Geometry) -> tuple[float, float, float]:
    """Size of the working grids, mm: the volume's own, or the box around a tilted volume, which can be several times as large."""
    frame = Frame.of(geometry, 1.0)
    if not frame.rotated:
        return frame.oriented.extent_xyz_mm
    x, y, z = (float(v) for v in abs(frame.oriented.ijk_to_lps[:3, :3]) @ frame.oriented.shape_dhw[::-1])
    return x, y, z


def tile_count(extent_xyz_mm: tuple[float, float, float], spacing_mm: float, tile_dhw: tuple[int, int, int], patch: int) -> int:
    """Tiles that cover a field of view, overlaps included."""
    shape = tuple(max(1, round(e / spacing_mm)) for e in extent_xyz_mm[::-1])
    return len(Layout.of(shape, tile_dhw, patch).starts)  # type: ignore[arg-type]


def held_bytes(embedding: VolumeEmbedding, readings: Iterable[tuple[str, int]]) -> int:
    """What an embedding has in memory already of what :func:`planned_bytes` counts for these readings."""
    structures = _structures(readings)
    encoded = sum(grid.bytes - _spare_bytes(grid, structures[name]) for (name, *_), grid in embedding.grids.items() if name in structures)
    return encoded + sum(values.nbytes for (name, _), values in embedding.ahead.items() if name in structures)


def drop_unplanned(embedding: VolumeEmbedding, readings: Iterable[tuple[str, int]]) -> None:
    """Give up what an embedding has in memory and these readings do not count: a run that was allowed once is then never refused for what others left."""
    structures = _structures(readings)
    embedding.grids = {key: grid for key, grid in embedding.grids.items() if key[0] in structures}
    embedding.ahead = {key: values for key, values in embedding.ahead.items() if key[0] in structures}
    for (name, *_), grid in embedding.grids.items():
        if _spare_bytes(grid, structures[name]):
            grid.tiles.clear()


def _structures(readings: Iterable[tuple[str, int]]) -> dict[str, int]:
    """How many are asked of each grid; of one that two branches read, the smaller number."""
    asked: dict[str, int] = {}
    for name, count in readings:
        asked[name] = min(count, asked.get(name, count))
    return asked


def _spare_bytes(grid: GridEmbedding, structures: int) -> int:
    """What the fine tiles take that save a run no other: it may look at as many new ones as without them, elsewhere."""
    if grid.coarse or not grid.tiles:
        return 0
    count, encoded, limit = len(grid.layout.starts), len(grid.tiles), FINE_TILES * structures
    saved = min(count, limit) - min(count - encoded, limit)
    return sum(tile.bytes for tile in grid.tiles.values()) * (encoded - saved) // encoded


def check_memory(config: ModelConfig, geometry: Geometry, readings: Iterable[tuple[str, int]], held: int = 0) -> None:
    """Refuse a run that cannot fit; ``readings`` as for :func:`planned_bytes`, ``held``: bytes of it that are no longer free because they are there.

    Raises:
        MemoryRefusalError: with what it needs, what is free, and what to do.
    """
    available = available_memory_mb()
    need = (planned_bytes(config, geometry, readings) - held) / (1 << 20)
    if available is not None and need > USABLE * available:
        raise MemoryRefusalError(
            f"This volume needs about {need / 1024:.1f} GB of memory and {available / 1024:.1f} GB are free; close other programs, or crop the volume first."
        )
