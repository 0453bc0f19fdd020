"""Paint solids given by signed distances onto a voxel grid, a slab of slices at a time.

A phantom is a list of :class:`Solid`: each has a box in anatomical millimetres, a function that gives the signed distance to its
surface there (negative inside) and what to paint. Later solids cover earlier ones. Borders are blended over one voxel, as the partial
volume of a scanner does. Slabs bound the memory: a 300 x 512 x 512 grid needs little more than its own int16 and label arrays.

Anatomical coordinates (mm) are those of an average patient: x to the patient's Right, y to Anterior, z to Superior (RAS), the origin
in the centre of the mandible. :class:`Pose` says where a patient's points lie in the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Box = tuple[int, int, int, int, int, int]
#: Heights for which tables are laid out; below and above the nearest row counts.
TABLE_Z = np.arange(-300.0, 260.0, 0.25)
#: Slices painted at once. Also fixes where the noise of one slab ends, so changing it changes every phantom.
SLAB = 16


def table(*rows: tuple[float, float]) -> np.ndarray:
    """Values along z from ``(z, value)`` rows, linear between them: what :meth:`Local.at` looks up.

    >>> float(table((0, 1.0), (10, 2.0))[np.searchsorted(TABLE_Z, 5.0)])
    1.5
    """
    z, value = np.array(sorted(rows), dtype=np.float64).T
    return np.interp(TABLE_Z, z, value).astype(np.float32)


@dataclass(frozen=True)
class Pose:
    """From voxels to anatomical millimetres: an affine part, then a bend of the neck and a turn of the head that depend on height.

    Attributes:
        matrix: (3, 4), maps (i, j, k, 1) to body millimetres.
        bend_x, bend_y: tables, displacement of the body at each height. turn: table of angles (rad) about ``axis_y``.
    """

    matrix: np.ndarray
    bend_x: np.ndarray
    bend_y: np.ndarray
    turn: np.ndarray
    axis_y: float = -73.0

    def to_voxels(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) anatomical points to (N, 3) voxel coordinates (i, j, k): the inverse of what :class:`Local` computes."""
        row = np.clip(np.rint((points[:, 2] - TABLE_Z[0]) * 4), 0, len(TABLE_Z) - 1).astype(int)
        cos, sin = np.cos(self.turn[row]), np.sin(self.turn[row])
        x, y = points[:, 0], points[:, 1] - self.axis_y
        body = np.stack([cos * x + sin * y + self.bend_x[row], cos * y - sin * x + self.axis_y + self.bend_y[row], points[:, 2]], axis=1)
        return np.linalg.solve(self.matrix[:, :3], (body - self.matrix[:, 3]).T).T


class Field:
    """A smooth random field on the grid: standard normal values every ``scale_mm``, linear between them.

    Args:
        rng: source of the values.
        shape_dhw: grid; spacing_xyz_mm: its spacing.
    """

    def __init__(self, rng: np.random.Generator, shape_dhw: Sequence[int], spacing_xyz_mm: Sequence[float], scale_mm: float) -> None:
        self.weights: list[np.ndarray] = []
        counts = []
        for n, spacing in zip(shape_dhw, spacing_xyz_mm[::-1], strict=True):
            position = np.arange(n) * spacing / scale_mm
            nodes = int(np.floor(position[-1])) + 2
            # Hat functions, scaled to unit variance everywhere: plain linear interpolation is calmer between nodes.
            hat = np.clip(1.0 - np.abs(position[:, None] - np.arange(nodes)[None]), 0.0, None)
            self.weights.append((hat / np.linalg.norm(hat, axis=1, keepdims=True)).astype(np.float32))
            counts.append(nodes)
        self.nodes = rng.standard_normal(counts, dtype=np.float32)

    def __call__(self, box: Box) -> np.ndarray:
        """Values in the half-open voxel box (k0, k1, j0, j1, i0, i1)."""
        parts, cuts = [], []
        for axis, weight in enumerate(self.weights):
            rows = weight[box[2 * axis] : box[2 * axis + 1]]
            used = np.flatnonzero(rows.any(axis=0))
            cuts.append(slice(used[0], used[-1] + 1))
            parts.append(rows[:, cuts[-1]])
        values = self.nodes[tuple(cuts)]
        for rows in parts:  # contracts the first axis and appends it: after three steps the order is (k, j, i) again
            values = np.tensordot(values, rows, axes=([0], [1]))
        return values


class Local:
    """Coordinates and textures inside one voxel box; what a solid's functions are given.

    Attributes:
        x, y, z: (d, h, w) float32 anatomical millimetres.
    """

    def __init__(self, pose: Pose, box: Box, fine: Field, coarse: Field) -> None:
        self._box, self._fine, self._coarse = box, fine, coarse
        k, j, i = (np.arange(box[2 * a], box[2 * a + 1], dtype=np.float64) for a in range(3))
        m = pose.matrix
        bx, by, z = (
            ((m[r, 2] * k + m[r, 3])[:, None, None] + (m[r, 1] * j)[None, :, None]).astype(np.float32) + (m[r, 0] * i).astype(np.float32)
            for r in range(3)
        )
        self.z = z
        self._row = np.clip((z - TABLE_Z[0]) * 4 + 0.5, 0, len(TABLE_Z) - 1).astype(np.int32)
        bx -= self.at(pose.bend_x)
        by -= self.at(pose.bend_y + np.float32(pose.axis_y))
        cos, sin = self.at(np.cos(pose.turn)), self.at(np.sin(pose.turn))
        self.x = cos * bx - sin * by
        self.y = sin * bx + cos * by + np.float32(pose.axis_y)

    def at(self, values: np.ndarray) -> np.ndarray:
        """Look up a :func:`table` at each voxel's height."""
        return values.astype(np.float32, copy=False)[self._row]

    @cached_property
    def fine(self) -> np.ndarray:
        """Texture of a few millimetres, standard normal."""
        return self._fine(self._box)

    @cached_property
    def coarse(self) -> np.ndarray:
        """Texture of about a centimetre, standard normal."""
        return self._coarse(self._box)


Distance = Callable[[Local], np.ndarray]
Paint = float | Callable[[Local, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Solid:
    """One thing to paint.

    Attributes:
        box: (x0, x1, y0, y1, z0, z1) anatomical mm that holds it, borders included.
        distance: signed distance in mm (approximate away from the surface, negative inside).
        hu: value or ``f(local, distance)``.
        label: number in the truth, 0 to leave the truth as it is.
        needs: structure that must be part of the phantom for this solid to be painted ("" always).
    """

    box: tuple[float, float, float, float, float, float]
    distance: Distance
    hu: Paint
    label: int = 0
    needs: str = ""


def _voxel_box(solid: Solid, pose: Pose, shape_dhw: Sequence[int]) -> Box | None:
    """Smallest voxel box that holds the solid's anatomical box, or None outside the grid."""
    b = solid.box
    if not np.isfinite(b).all():
        return (0, shape_dhw[0], 0, shape_dhw[1], 0, shape_dhw[2])
    grid = np.meshgrid(*(np.linspace(b[2 * a] - 1.0, b[2 * a + 1] + 1.0, n) for a, n in ((0, 2), (1, 2), (2, 9))), indexing="ij")
    voxels = pose.to_voxels(np.stack([g.ravel() for g in grid], axis=1))
    low = np.maximum(np.floor(voxels.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(voxels.max(axis=0)).astype(int) + 2, shape_dhw[::-1])
    if (low >= high).any():
        return None
    return int(low[2]), int(high[2]), int(low[1]), int(high[1]), int(low[0]), int(high[0])


def paint_solids(solids: Sequence[Solid], pose: Pose, hu: np.ndarray, labels: np.ndarray, k0: int, boxes: Sequence[Box | None],
                 fields: tuple[Field, Field], edge_mm: float) -> None:  # fmt: skip
    """Paint one slab in place.

    Args:
        hu: (d, H, W) float32, slices ``k0 .. k0 + d`` of the grid. labels: (d, H, W) uint8.
        boxes: voxel box of each solid in the whole grid, from :func:`solid_boxes`.
        edge_mm: width of the blended border.
    """
    for solid, box in zip(solids, boxes, strict=True):
        if box is None or box[1] <= k0 or box[0] >= k0 + hu.shape[0]:
            continue
        part: Box = (max(box[0], k0), min(box[1], k0 + hu.shape[0]), *box[2:])
        local = Local(pose, part, *fields)
        distance = solid.distance(local)
        cut = (slice(part[0] - k0, part[1] - k0), slice(part[2], part[3]), slice(part[4], part[5]))
        alpha = np.clip(0.5 - distance / np.float32(edge_mm), 0.0, 1.0)
        value = solid.hu(local, distance) if callable(solid.hu) else np.float32(solid.hu)
        hu[cut] += alpha * (value - hu[cut])
        if solid.label:
            labels[cut][distance < 0] = solid.label


def solid_boxes(solids: Sequence[Solid], pose: Pose, shape_dhw: Sequence[int]) -> list[Box | None]:
    """Voxel box of every solid on the grid."""
    return [_voxel_box(solid, pose, shape_dhw) for solid in solids]
