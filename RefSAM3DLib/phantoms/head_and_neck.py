"""A generated head-and-neck CT with known truth: composition, field of view, noise and streaks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..errors import ConfigError
from ..geometry import Geometry
from ..types import Modality, Volume
from . import head, neck
from .canvas import SLAB, Field, Local, Pose, Solid, paint_solids, solid_boxes
from .patient import STRUCTURES, Patient, draw_pose

#: Anatomy that a full field of view shows, along z (mm from the centre of the mandible).
_BOTTOM_MM, _TOP_MM = -190.0, 196.0


def _shape_for(rng: np.random.Generator, spacing_xyz_mm: Sequence[float]) -> tuple[int, int, int]:
    """Voxels of a planning CT: about 480 mm in plane, 280 to 350 mm long."""
    extent = (rng.uniform(285.0, 350.0), *([rng.uniform(460.0, 505.0)] * 2))
    d, h, w = (max(1, round(e / s)) for e, s in zip(extent, spacing_xyz_mm[::-1], strict=True))
    return d, h, w


def _centre(rng: np.random.Generator, extent_xyz_mm: Sequence[float]) -> np.ndarray:
    """Anatomical point in the middle of the grid; a long grid is filled with anatomy, a short one is set around the jaw."""
    half = extent_xyz_mm[2] / 2.0
    room = max((_TOP_MM - _BOTTOM_MM) / 2.0 - half, 0.0)
    middle = (_TOP_MM + _BOTTOM_MM) / 2.0
    z = np.clip(middle - 26.0 + rng.normal(0.0, 14.0), middle - room, middle + room)
    wide = extent_xyz_mm[1] > 320.0
    return np.array([rng.normal(0.0, 8.0), (-78.0 if wide else -52.0) + rng.normal(0.0, 6.0), z])


def _couch(at: Local) -> np.ndarray:
    """A flat table top behind the patient: foam in a carbon shell."""
    return np.maximum(np.abs(at.y + 207.0) - 6.0, np.abs(at.x) - 250.0)


def _solids(patient: Patient, couch: bool) -> tuple[list[Solid], np.ndarray]:
    """Everything to paint in order, and where metal is."""
    solids = [head.body(patient)]
    solids += neck.chest(patient) + neck.muscles_and_vessels(patient) + head.skull_and_brain(patient) + head.face(patient)
    solids += neck.spine(patient) + neck.esophagus(patient) + neck.larynx(patient)
    solids += [head.parotid(patient, sign, size) for sign, size in patient.sides()]
    solids.append(head.mandible(patient))
    crowns, metal = head.teeth(patient)
    if couch:
        solids.append(Solid((-260.0, 260.0, -225.0, -195.0, -300.0, 260.0), _couch, lambda at, d: np.where(d > -2.0, -150.0, -930.0)))
    # Everything of the truth was placed with its own draws, so leaving one structure out moves nothing else.
    return [s for s in solids + crowns if patient.has(s.needs)], metal


def _add_streaks(hu: np.ndarray, k0: int, metal_ijk: np.ndarray, spacing: Sequence[float], angles: np.ndarray, strength: float) -> None:
    """Bright and dark rays from metal in the slices it lies in, fading over some centimetres."""
    for (i, j, k), pattern in zip(metal_ijk, angles, strict=True):
        for row in range(hu.shape[0]):
            near = 1.0 - abs((k0 + row - k) * spacing[2]) / 7.0
            if near <= 0.0:
                continue
            x = (np.arange(hu.shape[2], dtype=np.float32) - np.float32(i)) * np.float32(spacing[0])
            y = (np.arange(hu.shape[1], dtype=np.float32) - np.float32(j)) * np.float32(spacing[1])
            radius = np.sqrt(x[None] ** 2 + y[:, None] ** 2)
            ray = np.interp(np.arctan2(y[:, None], x[None]), np.linspace(-np.pi, np.pi, len(pattern)), pattern)
            # Nothing outside the body: there the reconstruction clips what it adds to air.
            body = np.clip((hu[row] + 400.0) / 400.0, 0.0, 1.0)
            hu[row] += (np.float32(strength * near) * ray * np.exp(-radius / 38.0) * np.clip(radius / 4.0, 0.0, 1.0) * body).astype(
                np.float32
            )


class _Noise:
    """Gaussian noise, smoothed in the plane and correlated from slice to slice, one standard deviation of 1."""

    def __init__(self, rng: np.random.Generator, blur: float, memory: float) -> None:
        self._rng, self._memory, self._last = rng, memory, None
        taps = np.array([blur, 1.0, blur], dtype=np.float32)
        self._taps = taps / np.float32(np.sqrt((taps**2).sum()))

    def slab(self, shape: tuple[int, int, int]) -> np.ndarray:
        d, h, w = shape
        raw = self._rng.standard_normal((d, h + 2, w + 2), dtype=np.float32)
        a, b, c = self._taps
        raw = a * raw[:, :-2] + b * raw[:, 1:-1] + c * raw[:, 2:]
        raw = a * raw[:, :, :-2] + b * raw[:, :, 1:-1] + c * raw[:, :, 2:]
        for row in range(d):
            if self._last is not None:
                raw[row] = self._memory * self._last + np.float32(np.sqrt(1 - self._memory**2)) * raw[row]
            self._last = raw[row]
        return raw


def head_and_neck_ct(
    seed: int,
    spacing_xyz_mm: tuple[float, float, float] = (2.0, 2.0, 2.5),
    shape: tuple[int, int, int] | None = None,
    structures: Collection[str] = STRUCTURES,
    noise_hu: float | None = None,
    streaks: bool = True,
    couch: bool = False,
) -> tuple[Volume, dict[str, np.ndarray]]:
    """Make a CT of a head and neck that nobody has, with the exact masks of its structures.

    No side of it mirrors the other: parotids, jaw, muscles and vessels differ in size and place, the head is turned and tilted.
    The grid lies as a scanner's: i grows to the patient's Left, j to Posterior, k to Superior (ijk_to_ras = diag(-x, -y, z)).

    Args:
        seed: the same seed and arguments give the same voxels; a structure left out changes no other structure.
        spacing_xyz_mm: voxel size. shape: (D, H, W); None: a planning CT's field of view, varied by seed. A smaller one is set around
            the jaw and may cut structures or lose them.
        structures: which of :data:`STRUCTURES` the patient has. What is left out is painted as what surrounds it (muscle and fat,
            brain, fluid in the canal); without the mandible there are no lower teeth either.
        noise_hu: standard deviation of the noise inside the body; None: 6 to 18 by seed, more at the shoulders.
        streaks: rays from metal in teeth (about four phantoms in five have some).
        couch: a table under the patient.

    Returns:
        The volume (int16 HU, -1024 to 3071) and a bool (D, H, W) mask per structure that has at least one voxel in the grid.

    Raises:
        ConfigError: an unknown structure name.
    """
    for name in structures:
        if name not in STRUCTURES:
            raise ConfigError(f"The phantom has no structure '{name}'; choose from: {', '.join(STRUCTURES)}.")
    # Separate streams: the patient is the same at any resolution, with or without noise, streaks or a structure.
    view, anatomy, scan = (np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(3))
    drawn = _shape_for(view, spacing_xyz_mm)
    shape = shape or drawn
    extent = [n * s for n, s in zip(shape[::-1], spacing_xyz_mm, strict=True)]
    patient = Patient.draw(anatomy, tuple(structures))
    pose = draw_pose(patient, shape, spacing_xyz_mm, _centre(view, extent))
    solids, metal = _solids(patient, couch)
    sigma = view.uniform(6.0, 18.0)
    array, labels = _render(
        scan, shape, spacing_xyz_mm, pose, solids, metal if streaks else metal[:0], sigma if noise_hu is None else noise_hu
    )
    matrix = np.diag([-spacing_xyz_mm[0], -spacing_xyz_mm[1], spacing_xyz_mm[2], 1.0])
    matrix[:3, 3] = [-matrix[0, 0] * (shape[2] - 1) / 2, -matrix[1, 1] * (shape[1] - 1) / 2, -matrix[2, 2] * (shape[0] - 1) / 2]
    volume = Volume(array, Geometry(shape, matrix), Modality.CT, "file", f"generated head-and-neck CT, seed {seed}")
    masks = {name: labels == number for number, name in enumerate(STRUCTURES, start=1) if name in structures}
    return volume, {name: mask for name, mask in masks.items() if mask.any()}


def _render(rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float], pose: Pose, solids: list[Solid],
            metal: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Paint, then noise and streaks, slab by slab: int16 HU and uint8 labels."""
    fields = Field(rng, shape, spacing, 5.0), Field(rng, shape, spacing, 13.0)
    boxes = solid_boxes(solids, pose, shape)
    metal_ijk = pose.to_voxels(metal) if len(metal) else metal
    angles = rng.standard_normal((len(metal), 120)) + rng.standard_normal((len(metal), 1, 24)).repeat(5, axis=1).reshape(len(metal), 120)
    strength = rng.uniform(100.0, 340.0)
    noise = _Noise(rng, blur=0.45, memory=min(0.5, 0.6 / spacing[2]))
    heights = pose.matrix[2, 2] * np.arange(shape[0]) + pose.matrix[2] @ np.array([shape[2] / 2, shape[1] / 2, 0.0, 1.0])
    loud = sigma * (1.0 + 0.8 * np.interp(heights, (-130.0, -90.0), (1.0, 0.0)))
    array, labels = np.empty(shape, dtype=np.int16), np.zeros(shape, dtype=np.uint8)
    for k0 in range(0, shape[0], SLAB):
        k1 = min(k0 + SLAB, shape[0])
        hu = np.full((k1 - k0, *shape[1:]), -1000.0, dtype=np.float32)
        paint_solids(solids, pose, hu, labels[k0:k1], k0, boxes, fields, float(np.prod(spacing)) ** (1 / 3))
        _add_streaks(hu, k0, metal_ijk, spacing, angles, strength)
        hu += noise.slab(hu.shape) * loud[k0:k1, None, None].astype(np.float32)
        array[k0:k1] = np.rint(np.clip(hu, -1024.0, 3071.0))
    return array, labels
