"""How many tiles each peer's own sliding window takes for a volume: their rules, without their packages."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Spacing that the networks without text read, mm.
SPACING = 1.5
#: Patch of nnU-Net's and MONAI's networks, and of VoxTell and nnInteractive.
PATCH = (128, 128, 128)
LARGE_PATCH = (192, 192, 192)


def working_shape(shape_dhw: Sequence[int], spacing_xyz: Sequence[float]) -> tuple[int, ...]:
    """Voxels after resampling to ``SPACING``."""
    return tuple(max(1, round(n * s / SPACING)) for n, s in zip(shape_dhw, spacing_xyz[::-1], strict=True))


def window_tiles(shape: Sequence[int], patch: Sequence[int], step: float) -> int:
    """Tiles of a window that moves by ``step`` of a patch; smaller volumes are padded to one patch."""
    return math.prod(math.ceil(max(0, n - p) / (p * step)) + 1 for n, p in zip(shape, patch, strict=True))


def tiles_of(contestant: str, shape_dhw: Sequence[int], spacing_xyz: Sequence[float]) -> int:
    """Tiles of one prompt of a peer."""
    if contestant == "nninteractive":
        return 1
    if contestant == "voxtell":  # half steps, native spacing
        return window_tiles(shape_dhw, LARGE_PATCH, 0.5)
    return window_tiles(working_shape(shape_dhw, spacing_xyz), PATCH, 0.5 if contestant == "nnunet" else 0.75)
