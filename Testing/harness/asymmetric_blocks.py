"""A small volume in which no error of geometry can cancel."""

from __future__ import annotations

import numpy as np
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.types import Modality, Volume

#: Name, intensity, centre and half size as fractions of (D, H, W), and whether it is a box (else an ellipsoid).
_BLOCKS = (
    ("large box", 300, (0.30, 0.32, 0.34), (0.20, 0.17, 0.24), True),
    ("tall ellipsoid", 700, (0.62, 0.70, 0.27), (0.30, 0.16, 0.13), False),
    ("small box", 1100, (0.78, 0.24, 0.80), (0.10, 0.12, 0.08), True),
)


def asymmetric_blocks(
    shape: tuple[int, int, int] = (24, 30, 36), spacing_xyz_mm: tuple[float, float, float] = (1.0, 1.5, 2.0)
) -> tuple[Volume, dict[str, np.ndarray]]:
    """Three unequal solids that no flip, rotation or permutation of axes maps onto themselves, so that errors of geometry cannot cancel.

    Returns:
        The volume (int16, CT, i to Left, j to Posterior, k to Superior, origin off centre) and a bool (D, H, W) mask per solid. A faint
        ramp along the axes (1, 2, 3 per voxel) makes every voxel's surrounding different too.
    """
    k, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    array = (-900 + k + 2 * j + 3 * i).astype(np.int16)
    masks: dict[str, np.ndarray] = {}
    for name, value, centre, half, is_box in _BLOCKS:
        parts = [((axis + 0.5) / n - c) / h for axis, n, c, h in zip((k, j, i), shape, centre, half, strict=True)]
        if is_box:
            mask = (np.abs(parts[0]) <= 1) & (np.abs(parts[1]) <= 1) & (np.abs(parts[2]) <= 1)
        else:
            mask = parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2 <= 1
        array[mask] += np.int16(900 + value)
        masks[name] = mask
    matrix = np.diag([-spacing_xyz_mm[0], -spacing_xyz_mm[1], spacing_xyz_mm[2], 1.0])
    matrix[:3, 3] = (17.0, 29.0, -11.0)
    return Volume(array, Geometry(shape, matrix), Modality.CT, "file", "generated blocks"), masks
