"""Signed distances of simple solids in anatomical millimetres: negative inside, about true near the surface."""

from __future__ import annotations

import numpy as np

from .canvas import TABLE_Z, Distance, Local, Paint, Solid

Point = tuple[float, float, float]


def elliptic_distance(*scaled: tuple[np.ndarray, np.ndarray | float]) -> np.ndarray:
    """Distance to the ellipse or ellipsoid of the given ``(coordinate, radius)`` pairs.

    ``k0 (k0 - 1) / k1`` with ``k0 = |p / r|``, ``k1 = |p / r^2|``: exact on the surface with a unit gradient there, so a thin ellipsoid
    gets a border as sharp as a ball's.
    """
    first = [(c / r) ** 2 for c, r in scaled]
    k0 = np.sqrt(sum(first[1:], first[0]))
    second = [f / np.square(r) for f, (_, r) in zip(first, scaled, strict=True)]
    return k0 * (k0 - 1.0) / np.sqrt(sum(second[1:], second[0]) + np.float32(1e-9))


def smooth_min(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Union with a fillet of about ``width`` mm."""
    overlap = np.clip(np.float32(width) - np.abs(a - b), 0.0, None)
    return np.minimum(a, b) - overlap * overlap * np.float32(0.25 / width)


def ellipsoid(centre: Point, radii: Point, hu: Paint) -> Solid:
    """An ellipsoid along the anatomical axes."""
    (cx, cy, cz), (rx, ry, rz) = centre, radii

    def distance(at: Local) -> np.ndarray:
        return elliptic_distance((at.x - cx, rx), (at.y - cy, ry), (at.z - cz, rz))

    return Solid((cx - rx, cx + rx, cy - ry, cy + ry, cz - rz, cz + rz), distance, hu)


def capsule(start: Point, end: Point, radius: float, hu: Paint, flat: float = 1.0, needs: str = "") -> Solid:
    """A rod with round ends from ``start`` to ``end``; ``flat`` > 1 makes it a ribbon, wider along y."""
    a, b = np.array(start, dtype=np.float32), np.array(end, dtype=np.float32)
    along = b - a
    low, high = np.minimum(a, b) - radius * flat, np.maximum(a, b) + radius * flat

    def distance(at: Local) -> np.ndarray:
        px, py, pz = at.x - a[0], at.y - a[1], at.z - a[2]
        t = np.clip((px * along[0] + py * along[1] + pz * along[2]) / np.float32(along @ along), 0.0, 1.0)
        return np.sqrt((px - t * along[0]) ** 2 + ((py - t * along[1]) / flat) ** 2 + (pz - t * along[2]) ** 2) - np.float32(radius)

    return Solid((low[0], high[0], low[1], high[1], low[2], high[2]), distance, hu, 0, needs)


def column(x: np.ndarray, y: np.ndarray, rx: np.ndarray, ry: np.ndarray, z0: float, z1: float) -> Distance:
    """An upright column with an elliptic cross-section; centre and radii are tables along z, ends at z0 and z1."""

    def distance(at: Local) -> np.ndarray:
        d = elliptic_distance((at.x - at.at(x), at.at(rx)), (at.y - at.at(y), at.at(ry)))
        return np.maximum(d, np.maximum(np.float32(z0) - at.z, at.z - np.float32(z1)))

    return distance


def column_box(
    x: np.ndarray, y: np.ndarray, rx: np.ndarray, ry: np.ndarray, z0: float, z1: float
) -> tuple[float, float, float, float, float, float]:
    """Box of :func:`column`."""
    rows = np.abs(TABLE_Z - (z0 + z1) / 2) <= (z1 - z0) / 2 + 1
    x, y, rx, ry = x[rows], y[rows], rx[rows], ry[rows]
    return float((x - rx).min()), float((x + rx).max()), float((y - ry).min()), float((y + ry).max()), z0, z1


def tube(
    x: np.ndarray, y: np.ndarray, rx: np.ndarray, ry: np.ndarray, ends: tuple[float, float], hu: Paint, label: int = 0, needs: str = ""
) -> Solid:
    """A solid :func:`column`."""
    return Solid(column_box(x, y, rx, ry, *ends), column(x, y, rx, ry, *ends), hu, label, needs)
