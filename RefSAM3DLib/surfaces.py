"""How far the surfaces of two masks are apart, in millimetres.

Distances come from ITK's signed Maurer distance map on the box that both masks share: exact on anisotropic grids. A sheared
grid (gantry tilt) is measured with its spacings as if it were not sheared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .places import boundary, box_of

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances of the border voxels of each mask to the surface of the other one, mm."""

    a_to_b: np.ndarray
    b_to_a: np.ndarray

    @property
    def mean(self) -> float:
        """Average symmetric surface distance."""
        return float((self.a_to_b.sum() + self.b_to_a.sum()) / (self.a_to_b.size + self.b_to_a.size))

    @property
    def hd95(self) -> float:
        """Larger of both 95th percentiles (robust Hausdorff distance)."""
        import numpy as np

        return float(max(np.percentile(self.a_to_b, 95), np.percentile(self.b_to_a, 95)))

    @property
    def maximum(self) -> float:
        """Hausdorff distance."""
        return float(max(self.a_to_b.max(), self.b_to_a.max()))

    def nsd(self, tolerance_mm: float) -> float:
        """Share of both surfaces within a tolerance of each other (Nikolov et al., 2018), by border voxels."""
        near = (self.a_to_b <= tolerance_mm).sum() + (self.b_to_a <= tolerance_mm).sum()
        return float(near / (self.a_to_b.size + self.b_to_a.size))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two bool masks, 2 |a and b| / (|a| + |b|); 1 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def surface_distances(a: np.ndarray, b: np.ndarray, spacing_xyz_mm: tuple[float, float, float]) -> SurfaceDistances | None:
    """Distances between the surfaces of two bool masks (D, H, W); None if one of them is empty."""
    import numpy as np

    box = box_of(a | b)
    if box is None or not a.any() or not b.any():
        return None
    window = tuple(slice(box[n], box[n + 1]) for n in (0, 2, 4))
    a, b = (np.pad(mask[window], 1) for mask in (a, b))  # the frame makes the image's edge a surface
    border_a, border_b = boundary(a), boundary(b)
    to_b, to_a = _distance_to(border_b, spacing_xyz_mm), _distance_to(border_a, spacing_xyz_mm)
    return SurfaceDistances(to_b[border_a], to_a[border_b])


def _distance_to(border: np.ndarray, spacing_xyz_mm: tuple[float, float, float]) -> np.ndarray:
    """Distance of each voxel to the nearest True voxel of ``border``."""
    import numpy as np
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(border.astype(np.uint8))
    image.SetSpacing([float(s) for s in spacing_xyz_mm])
    field = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    distances: np.ndarray = np.maximum(sitk.GetArrayFromImage(field), 0.0)
    distances[border] = 0.0
    return distances
