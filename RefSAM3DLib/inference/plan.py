"""What a run will need, before it starts: refusing with advice beats being killed half-way."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import ModelConfig
from ..errors import MemoryRefusalError
from ..geometry import Geometry
from ..memory import available_memory_mb

#: Bytes per voxel of a pair of tiles for activations that live at once (measured: 130 MB for two 48^3 tiles of the small model).
ACTIVATION_BYTES = 600
#: Share of the free memory that a run may plan for.
USABLE = 0.9


def planned_bytes(config: ModelConfig, geometry: Geometry, grids: Sequence[str]) -> int:
    """Upper estimate for the working copies, every tile of every grid encoded, one pair of tiles in flight, and one native mask.

    ``grids``: names of the working grids; one that two branches read is named twice.
    """
    views = 2 if config.mirror_views else 1
    volume_mm3 = 1.0
    for extent in geometry.extent_xyz_mm:
        volume_mm3 *= extent
    total = 0.0
    for grid in map(config.grid, grids):
        for spacing in (grid.spacing_mm, grid.coarse_spacing_mm):
            voxels = volume_mm3 / spacing**3
            pixels = config.decoder.pixel_dim / 8 if config.decoder.kind == "cached" else config.image.in_channels
            tokens = 4 * (config.prompt.attention_dim + config.prompt.fused_dim) / config.image.patch_size**3
            total += voxels * 4 * views * (1 + 2 * (pixels + tokens))  # 2: tiles overlap
        tile = max(grid.tile_dhw[0] * grid.tile_dhw[1] * grid.tile_dhw[2], grid.coarse_tile_dhw[0] * grid.coarse_tile_dhw[1] * grid.coarse_tile_dhw[2])
        total += 2 * tile * ACTIVATION_BYTES
    native = geometry.shape_dhw[0] * geometry.shape_dhw[1] * geometry.shape_dhw[2]
    return int(total + native)


def check_memory(config: ModelConfig, geometry: Geometry, grids: Sequence[str]) -> None:
    """Refuse a run that cannot fit.

    Raises:
        MemoryRefusalError: with what it needs, what is free, and what to do.
    """
    available = available_memory_mb()
    need = planned_bytes(config, geometry, grids) / (1 << 20)
    if available is not None and need > USABLE * available:
        raise MemoryRefusalError(
            f"This volume needs about {need / 1024:.1f} GB of memory and {available / 1024:.1f} GB are free; close other programs, or crop the volume first."
        )
