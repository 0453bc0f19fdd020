"""How much a reviewer changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..geometry import Geometry

if TYPE_CHECKING:
    import numpy as np


def edit_metrics(machine: np.ndarray, edited: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    """Distance of an edited mask from the machine's: Dice, surfaces (mm), mL added and removed.

    ``None`` stands for a surface distance that does not exist because one mask is empty.
    """
    from ..surfaces import dice, surface_distances

    added, removed = edited & ~machine, machine & ~edited
    changed = bool(added.any() or removed.any())
    distances = surface_distances(machine, edited, geometry.spacing_xyz_mm) if changed else None
    ml = geometry.voxel_volume_ml
    nothing_moved = 0.0 if not changed else None
    return {
        "dice": round(dice(machine, edited), 5),
        "mean_surface_mm": round(distances.mean, 4) if distances else nothing_moved,
        "hd95_mm": round(distances.hd95, 4) if distances else nothing_moved,
        "max_surface_mm": round(distances.maximum, 4) if distances else nothing_moved,
        "added_ml": round(float(added.sum()) * ml, 5),
        "removed_ml": round(float(removed.sum()) * ml, 5),
        "volume_ml": round(float(edited.sum()) * ml, 5),
    }
