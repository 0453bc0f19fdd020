"""Where a voxel lies in the patient: the one place that turns (k, j, i) into millimetres and back.

Arrays are (D, H, W) = (k, j, i); patient space is RAS, millimetres, as in Slicer. The *working orientation* of the
engine is LPS-increasing: W grows to the patient's Left, H to Posterior, D to Superior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import InputError

#: Column signs that turn RAS into LPS and back.
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Beyond this a spacing is a unit mistake, not an image (a whole-body scan has 2 m in all).
MAX_SPACING_MM = 100.0
MIN_SPACING_MM = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Grid of a volume.

    Attributes:
        shape_dhw: voxels along (k, j, i).
        ijk_to_ras: (4, 4) float64, maps (i, j, k, 1) to (R, A, S, 1) in mm.
    """

    shape_dhw: tuple[int, int, int]
    ijk_to_ras: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise InputError(
                f"The direction matrix has shape {matrix.shape} or non-finite values; re-export the image with a valid geometry."
            )
        if len(self.shape_dhw) != 3 or min(self.shape_dhw) < 1:
            raise InputError(
                f"A volume needs three axes of at least one voxel, this one has shape {tuple(self.shape_dhw)}; load a 3D image."
            )
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if spacing.min() < MIN_SPACING_MM or spacing.max() > MAX_SPACING_MM:
            shown = " x ".join(f"{s:g}" for s in spacing)
            raise InputError(
                f"The voxel spacing is {shown} mm, outside {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm; check the unit in the header."
            )
        if abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:
            raise InputError("The direction matrix is singular (two axes point the same way); re-export the image with a valid geometry.")
        matrix.setflags(write=False)
        object.__setattr__(self, "ijk_to_ras", matrix)
        object.__setattr__(self, "shape_dhw", tuple(int(n) for n in self.shape_dhw))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape_dhw == other.shape_dhw and bool(np.allclose(self.ijk_to_ras, other.ijk_to_ras, atol=1e-6))

    def __hash__(self) -> int:
        return hash(self.shape_dhw)  # equal grids must hash alike, and a tolerance cannot be hashed

    @property
    def spacing_xyz_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along i, j, k."""
        x, y, z = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3) unit columns: patient directions (RAS) of i, j, k. Not orthogonal under a shear."""
        return self.ijk_to_ras[:3, :3] / np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres, correct for sheared grids too."""
        return float(abs(np.linalg.det(self.ijk_to_ras[:3, :3]))) / 1000.0

    @property
    def extent_xyz_mm(self) -> tuple[float, float, float]:
        """Length of the field of view along i, j, k, voxel borders included."""
        x, y, z = (n * s for n, s in zip(self.shape_dhw[::-1], self.spacing_xyz_mm, strict=True))
        return x, y, z

    @property
    def ijk_to_lps(self) -> np.ndarray:
        """(4, 4) as in DICOM and ITK."""
        return RAS_LPS @ self.ijk_to_ras

    @classmethod
    def from_lps(
        cls, shape_dhw: tuple[int, int, int], origin_lps: tuple[float, ...], spacing_xyz: tuple[float, ...], direction_rows: np.ndarray
    ) -> Geometry:
        """From ITK's origin, spacing and (3, 3) direction matrix (columns are axes)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(direction_rows, dtype=np.float64).reshape(3, 3) * np.asarray(spacing_xyz, dtype=np.float64)
        matrix[:3, 3] = origin_lps
        return cls(shape_dhw, RAS_LPS @ matrix)

    def to_working_orientation(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """Array axes to permute and flip so that (D, H, W) grow to (S, P, L) as nearly as the grid allows.

        Returns ``(order, flip)`` for :func:`numpy.transpose` and then a flip of each new axis where ``flip`` is True.

        An identity matrix is a grid whose i grows to the Right and j to the Anterior: W and H must be flipped, D is kept.

        >>> Geometry((3, 4, 5), np.eye(4)).to_working_orientation()
        ((0, 1, 2), (False, True, True))

        A sagittal grid (i to the Posterior, j to the Superior, k to the Left) is permuted and needs no flip.

        >>> sagittal = np.array([[0, 0, -1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
        >>> Geometry((3, 4, 5), sagittal).to_working_orientation()
        ((1, 2, 0), (False, False, False))
        """
        lps = RAS_LPS[:3, :3] @ self.directions
        # Assign voxel axes to patient axes so that the summed alignment is greatest: ties cannot pick one axis twice.
        from itertools import permutations

        best = max(permutations(range(3)), key=lambda p: sum(abs(lps[a, p[a]]) for a in range(3)))
        order = tuple(2 - best[2 - axis] for axis in range(3))
        flip = tuple(bool(lps[2 - axis, best[2 - axis]] < 0) for axis in range(3))
        return order, flip  # type: ignore[return-value]

    def permuted(self, order: tuple[int, int, int], flip: tuple[bool, bool, bool]) -> Geometry:
        """Geometry of ``flip(transpose(array, order))``; the voxels stay where they are in the patient."""
        matrix = np.eye(4)
        columns = []
        origin = self.ijk_to_ras[:3, 3].copy()
        shape = tuple(self.shape_dhw[a] for a in order)
        for new_axis in (2, 1, 0):
            column = self.ijk_to_ras[:3, 2 - order[new_axis]]
            if flip[new_axis]:
                origin = origin + column * (shape[new_axis] - 1)
                column = -column
            columns.append(column)
        matrix[:3, :3] = np.stack(columns, axis=1)
        matrix[:3, 3] = origin
        return Geometry(shape, matrix)  # type: ignore[arg-type]


def reorient(array: np.ndarray, order: tuple[int, int, int], flip: tuple[bool, bool, bool]) -> np.ndarray:
    """View of ``array`` with axes permuted, then flipped (no copy)."""
    view = np.transpose(array, order)
    return view[tuple(slice(None, None, -1) if f else slice(None) for f in flip)]


def reorient_back(array: np.ndarray, order: tuple[int, int, int], flip: tuple[bool, bool, bool]) -> np.ndarray:
    """Inverse of :func:`reorient` (no copy)."""
    view = array[tuple(slice(None, None, -1) if f else slice(None) for f in flip)]
    return np.transpose(view, np.argsort(order))
