"""Where in a structure to look: its centre, and the slice where its border is least certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .geometry import Geometry, reorient

if TYPE_CHECKING:
    import numpy as np


def boundary(mask: np.ndarray) -> np.ndarray:
    """Voxels of a bool mask (D, H, W) with at least one of six neighbours outside; the array's own edge is no outside."""
    import numpy as np

    inner = mask.copy()
    for axis in range(mask.ndim):
        n = mask.shape[axis]
        if n < 2:
            continue
        head, tail = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        head[axis], tail[axis] = slice(0, n - 1), slice(1, n)
        inner[tuple(head)] &= mask[tuple(tail)]
        inner[tuple(tail)] &= mask[tuple(head)]
    border: np.ndarray = mask & ~inner
    return border if border.any() else np.array(mask)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int, int, int] | None:
    """Half-open box (k0, k1, j0, j1, i0, i1) of the True voxels, None if there are none."""
    import numpy as np

    bounds: list[int] = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not line.size:
            return None
        bounds += [int(line[0]), int(line[-1]) + 1]
    return bounds[0], bounds[1], bounds[2], bounds[3], bounds[4], bounds[5]


def to_ras(geometry: Geometry, kji: tuple[float, float, float]) -> tuple[float, float, float]:
    """Patient position (mm) of a voxel index."""
    import numpy as np

    r, a, s = (geometry.ijk_to_ras @ np.array([kji[2], kji[1], kji[0], 1.0]))[:3]
    return round(float(r), 2), round(float(a), 2), round(float(s), 2)


def look_at(mask: np.ndarray, geometry: Geometry, probability: np.ndarray | None = None) -> dict[str, object]:
    """Centre and worst axial slice of a structure.

    Uncertainty is ``1 - |2p - 1|`` averaged over the border voxels of a slice; without probabilities the slice whose
    outline changes most against its neighbour stands in for it, which is where leaks and gaps begin.

    Returns:
        ``centre_kji``, ``worst_kji`` (a voxel inside the structure each), ``centre_ras``, ``worst_ras`` (mm) and
        ``worst_uncertainty`` (0 to 1, None without probabilities); an empty dict for an empty mask.
    """
    import numpy as np

    box = box_of(mask)
    if box is None:
        return {}
    window = tuple(slice(box[n], box[n + 1]) for n in (0, 2, 4))
    order, _ = geometry.to_working_orientation()
    index = np.argwhere(mask[window])
    centre = index[np.argmin(((index - index.mean(axis=0)) ** 2).sum(axis=1))]  # a voxel of the structure: rings have none at the mean
    axial = order[0]  # array axis that runs along the body
    border = boundary(mask[window])
    other_axes = tuple(a for a in range(3) if a != axial)
    if probability is not None:
        uncertainty = 1.0 - np.abs(2.0 * np.asarray(probability[window], dtype=np.float32) - 1.0)
        counts = border.sum(axis=other_axes)
        score = np.where(border, uncertainty, 0.0).sum(axis=other_axes) / np.maximum(counts, 1)
        score = np.where(counts >= max(4, 0.2 * counts.max()), score, 0.0)  # a few voxels at the poles are always uncertain
        value = round(float(score.max()), 4)
    else:
        stack = np.moveaxis(mask[window], axial, 0)
        change = np.count_nonzero(stack[1:] != stack[:-1], axis=(1, 2)) if len(stack) > 3 else np.zeros(0)
        score = np.zeros(len(stack))
        if change.size > 2:
            score[1:-1] = np.maximum(change[:-1], change[1:])  # both end slices change by nature
        value = None
    worst_slice = int(np.argmax(score)) if score.max() > 0 else int(centre[axial])
    on_slice = index[index[:, axial] == worst_slice]
    if not len(on_slice):
        on_slice = index
    worst = on_slice[np.argmin(((on_slice - on_slice.mean(axis=0)) ** 2).sum(axis=1))]
    start = np.array([box[0], box[2], box[4]])
    centre_kji, worst_kji = [tuple(int(v) for v in start + at) for at in (centre, worst)]
    return {
        "centre_kji": list(centre_kji),
        "worst_kji": list(worst_kji),
        "centre_ras": list(to_ras(geometry, centre_kji)),  # type: ignore[arg-type]
        "worst_ras": list(to_ras(geometry, worst_kji)),  # type: ignore[arg-type]
        "worst_uncertainty": value,
        "box": list(box),
    }


def patient_view(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[float, float, float], tuple[int, int, int], tuple[bool, bool, bool]]:
    """The array seen as (to Superior, to Posterior, to Left), spacing along these axes (mm), and the order and flips used."""
    order, flip = geometry.to_working_orientation()
    spacing = geometry.spacing_xyz_mm[::-1]
    return reorient(array, order, flip), (spacing[order[0]], spacing[order[1]], spacing[order[2]]), order, flip


def in_patient_view(kji: tuple[int, int, int], shape: tuple[int, ...], order: tuple[int, int, int], flip: tuple[bool, bool, bool]) -> tuple[int, int, int]:
    """Index of a native voxel in :func:`patient_view`."""
    a, b, c = (shape[axis] - 1 - kji[axis] if f else kji[axis] for axis, f in zip(order, flip, strict=True))
    return a, b, c
