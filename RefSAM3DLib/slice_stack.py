"""From where each slice of a series lies to one regular grid, or a sentence that says why there is none.

Slices are ordered by position, never by file name or instance number. A gantry tilt shears the grid and is kept: the step from
slice to slice is taken as it is, not along the slice normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .errors import InputError
from .geometry import RAS_LPS, Geometry

#: Slices nearer than this lie at one place (positions have at most a few decimals).
SAME_PLACE_MM = 1e-3
#: A step may differ from the median by this share of it, or by rounding of positions to 0.1 mm; more is an irregular series.
MAX_STEP_ERROR, MAX_ROUNDING_MM = 0.10, 0.11
#: A slice may lie this far from the regular grid without a word: below it no voxel moves by more than 2 % of a step.
SILENT_ERROR, SILENT_MM = 0.02, 0.02
#: Beyond this share of a step from its place in the regular grid, a slice is drawn too near to where its neighbour belongs.
MAX_OFF = 0.3
#: A slice is missing where a step is at least this many times the median.
GAP_RATIO = 1.5
#: Series may hold a few localiser slices of other orientation or size; with more than this share left out, it is no volume.
MAX_LEFT_OUT = 0.2


@dataclass(frozen=True)
class Plane:
    """Where one slice lies, as DICOM states it (LPS, mm).

    Attributes:
        position: centre of the first pixel.
        orientation: direction along a row, then along a column.
        spacing: distance between rows, then between columns.
        size: rows, columns.
        identity: SOP instance UID and frame; equal for two copies of one slice.
        thickness_mm: stands in for the step where there is one slice only.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    size: tuple[int, int]
    identity: str
    thickness_mm: float = 1.0


@dataclass
class Stack:
    """``order[k]`` is the index of the plane that becomes slice k; ``geometry`` is theirs; ``warnings`` are sentences."""

    order: list[int]
    geometry: Geometry
    warnings: list[str] = field(default_factory=list)


def stack_planes(planes: Sequence[Plane], source: str) -> Stack:
    """Order the planes and find their grid.

    Raises:
        InputError: slices are missing, doubled, irregular, of several orientations, or of several time points.
    """
    warnings: list[str] = []
    chosen = _one_orientation(planes, source, warnings)
    row, column = _axes(planes[chosen[0]], source)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    along = {n: float(np.dot(planes[n].position, normal)) for n in chosen}
    chosen.sort(key=lambda n: (along[n], n))
    chosen = _one_slice_per_place(planes, chosen, along, source, warnings)
    step = _step(planes, chosen, along, normal, source, warnings)
    first = planes[chosen[0]]
    matrix = np.eye(4)
    matrix[:3, 0] = row * first.spacing[1]
    matrix[:3, 1] = column * first.spacing[0]
    matrix[:3, 2] = step
    matrix[:3, 3] = first.position
    return Stack(chosen, Geometry((len(chosen), *first.size), RAS_LPS @ matrix), warnings)


def _axes(plane: Plane, source: str) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.array(plane.orientation[:3], dtype=np.float64), np.array(plane.orientation[3:], dtype=np.float64)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.isfinite(lengths).all() or min(lengths) < 0.5 or abs(np.dot(row, column)) > 0.02:
        raise InputError(
            f"The orientation {' '.join(f'{v:g}' for v in plane.orientation)} in '{source}' has no right angle; export the series again."
        )
    return row / lengths[0], column / lengths[1]


def _one_orientation(planes: Sequence[Plane], source: str, warnings: list[str]) -> list[int]:
    """Indices of the largest set of planes with one orientation, size and pixel spacing."""
    groups: list[list[int]] = []
    for n, plane in enumerate(planes):
        alike = next((group for group in groups if _parallel(planes[group[0]], plane)), None)
        if alike is None:
            groups.append([n])
        else:
            alike.append(n)
    largest = max(groups, key=len)
    left_out = len(planes) - len(largest)
    if left_out > MAX_LEFT_OUT * len(planes):
        raise InputError(
            f"'{source}' mixes {len(groups)} orientations or sizes among its {len(planes)} slices; export one stack of parallel slices."
        )
    if left_out:
        warnings.append(f"{left_out} of {len(planes)} slices have another orientation or size (a localiser?) and were left out.")
    return largest


def _parallel(one: Plane, other: Plane) -> bool:
    return (
        one.size == other.size
        and np.allclose(one.orientation, other.orientation, atol=1e-3)  # stated with few decimals, so copies differ a little
        and np.allclose(one.spacing, other.spacing, rtol=1e-3)
    )


def _one_slice_per_place(
    planes: Sequence[Plane], ordered: list[int], along: dict[int, float], source: str, warnings: list[str]
) -> list[int]:
    places: list[list[int]] = []
    for n in ordered:
        if places and along[n] - along[places[-1][0]] < SAME_PLACE_MM:
            places[-1].append(n)
        else:
            places.append([n])
    kept = []
    copies = 0
    counts = set()
    for place in places:
        distinct = list({planes[n].identity: n for n in reversed(place)}.values())
        copies += len(place) - len(distinct)
        counts.add(len(distinct))
        kept.append(min(distinct))
    if counts == {1}:
        if copies:
            warnings.append(f"{copies} slices of the series are there twice; one copy of each was used.")
        return kept
    if len(counts) == 1:
        raise InputError(
            f"'{source}' has {counts.pop()} images at each of {len(places)} positions (time points, echoes or phases);"
            " export one of them as a series of its own."
        )
    doubled = sum(1 for place in places if len({planes[n].identity for n in place}) > 1)
    raise InputError(f"'{source}' has more than one slice at {doubled} of {len(places)} positions; remove the duplicates and try again.")


def _step(
    planes: Sequence[Plane], chosen: list[int], along: dict[int, float], normal: np.ndarray, source: str, warnings: list[str]
) -> np.ndarray:
    """Vector from one slice to the next (LPS, mm)."""
    if len(chosen) == 1:
        thickness = planes[chosen[0]].thickness_mm
        warnings.append(f"The series has a single slice; its thickness is taken to be {thickness:g} mm.")
        return normal * thickness
    positions = np.array([planes[n].position for n in chosen], dtype=np.float64)
    steps = np.diff(positions @ normal)
    median = float(np.median(steps))
    if steps.max() >= GAP_RATIO * median:
        at = int(np.argmax(steps))
        missing = int(np.sum(np.maximum(np.round(steps / median) - 1, 0)))
        raise InputError(
            f"About {missing} slices are missing in '{source}': between {along[chosen[at]]:.1f} and {along[chosen[at + 1]]:.1f} mm the step"
            f" is {steps[at]:.2f} instead of {median:.2f} mm; fetch the complete series."
        )
    if np.abs(steps - median).max() > max(MAX_STEP_ERROR * median, MAX_ROUNDING_MM):
        raise InputError(
            f"The slices of '{source}' lie {steps.min():.2f} to {steps.max():.2f} mm apart; resample the series to one distance."
        )
    step = (positions[-1] - positions[0]) / (len(chosen) - 1)
    off_mm = float(np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(chosen)), step), axis=1).max())
    limit_mm = max(MAX_OFF * median, MAX_ROUNDING_MM)
    if off_mm > limit_mm:  # small errors of the steps that add up
        raise InputError(
            f"The slices of '{source}' lie {steps.min():.2f} to {steps.max():.2f} mm apart, and in a grid of their mean, {steps.mean():.2f} mm, one would"
            f" be {off_mm:.2f} mm off its place (at most {limit_mm:.2f} mm are kept); resample the series to one distance."
        )
    if off_mm > max(SILENT_ERROR * median, SILENT_MM):
        warnings.append(
            f"The slices lie {steps.min():.2f} to {steps.max():.2f} mm apart; their mean, {steps.mean():.2f} mm, was used, which moves a slice by up to"
            f" {off_mm:.2f} mm."
        )
    return step
