"""Two segmentations of one volume side by side: two models, two wordings, machine and reviewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError
from .geometry import Geometry
from .image_files import check_name
from .surfaces import dice, surface_distances
from .types import PromptResult, Verdict, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Comparison", "compare_masks", "compare_segmentations", "dice", "difference_results", "read_masks", "to_image"]

#: Tolerances of the surface score, mm.
NSD_TOLERANCES_MM = (2.0, 5.0)
#: 2 GB as bool: beyond this two files hardly show one patient.
MAX_GRID_VOXELS = 2e9
#: Colours of the difference segments: told apart with every common colour vision deficiency (Okabe and Ito).
_COLOURS = {"only first": (213, 94, 0), "only second": (0, 114, 178), "both": (150, 150, 150)}


@dataclass
class Comparison:
    """One structure in both segmentations; ``row`` has plain values for a table."""

    structure: str
    first: np.ndarray
    second: np.ndarray
    row: dict[str, Any]

#: Values of the largest label maps in use (brain parcellations have some two hundred); more are an image's.
MOST_LABELS = 500


def to_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """ITK image of an array (D, H, W) at its place in the patient."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    matrix = geometry.ijk_to_lps
    image.SetOrigin([float(v) for v in matrix[:3, 3]])
    image.SetSpacing(geometry.spacing_xyz_mm)
    image.SetDirection([float(v) for v in (matrix[:3, :3] / np.asarray(geometry.spacing_xyz_mm)).ravel()])
    return image


def geometry_of(image: sitk.Image) -> Geometry:
    """Inverse of :func:`to_image` for the grid."""
    return Geometry.from_lps(image.GetSize()[::-1], image.GetOrigin(), image.GetSpacing(), np.array(image.GetDirection()).reshape(3, 3))


def read_masks(path: Path, labels: Mapping[int, str], geometry: Geometry | None = None) -> dict[str, np.ndarray]:
    """Masks of a ``.seg.nrrd``, a DICOM SEG or a label map, by name.

    Args:
        labels: names of a label map's values; those not named are called "label 3".
        geometry: grid to bring them to (nearest neighbour) where theirs differs.
    """
    return _read(Path(path), labels, geometry)[0]


def _read(path: Path, labels: Mapping[int, str], geometry: Geometry | None) -> tuple[dict[str, np.ndarray], Geometry]:
    check_name(path)
    if not path.exists():
        raise InputError(f"The segmentation '{path}' does not exist; check its name.")
    from .segmentation_io import read_labels, read_segmentation

    if path.name.lower().endswith((".seg.nrrd", ".dcm")):
        segments, grid = read_segmentation(path)
        masks: dict[str, np.ndarray] = {}
        for name, mask, _ in segments:
            unique, number = name, 2
            while unique in masks:
                unique, number = f"{name} ({number})", number + 1
            masks[unique] = np.asarray(mask, dtype=bool)
    else:
        array, grid = read_labels(path)
        if (count := len(np.unique(array))) > MOST_LABELS:
            raise InputError(f"'{path}' holds {count} values, as an image does; give a segmentation or a label map.")
        values = sorted(labels) or [int(v) for v in np.unique(array) if v > 0]
        masks = {labels.get(value, f"label {value}"): array == value for value in values}
    if geometry is not None and grid != geometry:
        masks = {name: _to_grid(mask, grid, geometry) for name, mask in masks.items()}
        grid = geometry
    return masks, grid


def covering_grid(grid: Geometry, other: Geometry) -> Geometry:
    """The voxels of ``grid``, continued until they cover ``other`` too: Slicer crops a segmentation to what is drawn."""
    depth, height, width = (n - 0.5 for n in other.shape_dhw)  # borders of voxels: half a voxel of a coarse one is several of a fine one
    corners = np.array([(i, j, k, 1.0) for i in (-0.5, width) for j in (-0.5, height) for k in (-0.5, depth)]).T
    inside = (np.linalg.inv(grid.ijk_to_ras) @ other.ijk_to_ras @ corners)[:3]
    low = np.minimum(0, np.floor(inside.min(axis=1) + 0.5 + 1e-3)).astype(int)
    high = np.maximum(np.array(grid.shape_dhw[::-1]) - 1, np.ceil(inside.max(axis=1) - 0.5 - 1e-3)).astype(int)
    size = high - low + 1
    if np.prod(size.astype(float)) > MAX_GRID_VOXELS:
        shown = " x ".join(map(str, size))
        raise InputError(f"The two segmentations lie too far apart to be compared ({shown} voxels); check that they belong together.")
    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 3] = (grid.ijk_to_ras @ [*low, 1.0])[:3]
    return Geometry((int(size[2]), int(size[1]), int(size[0])), matrix)


def _to_grid(mask: np.ndarray, grid: Geometry, target: Geometry) -> np.ndarray:
    if grid == target:
        return mask
    import SimpleITK as sitk

    reference = to_image(np.zeros(target.shape_dhw, dtype=np.uint8), target)
    moved = sitk.Resample(to_image(mask.astype(np.uint8), grid), reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(moved).astype(bool)


def compare_masks(first: np.ndarray, second: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    """Dice, surface scores and volumes of two bool masks on one grid; ``None`` where a number does not exist."""
    ml = geometry.voxel_volume_ml
    distances = surface_distances(first, second, geometry.spacing_xyz_mm)
    row: dict[str, Any] = {
        "dice": round(dice(first, second), 5),
        "first_ml": round(float(first.sum()) * ml, 5),
        "second_ml": round(float(second.sum()) * ml, 5),
        "added_ml": round(float((second & ~first).sum()) * ml, 5),
        "removed_ml": round(float((first & ~second).sum()) * ml, 5),
        "mean_surface_mm": None if distances is None else round(distances.mean, 4),
        "hd95_mm": None if distances is None else round(distances.hd95, 4),
    }
    both_empty = not first.any() and not second.any()
    for tolerance in NSD_TOLERANCES_MM:
        value = distances.nsd(tolerance) if distances else (1.0 if both_empty else 0.0)
        row[f"nsd_{tolerance:g}mm"] = round(value, 5)
    return row


def compare_segmentations(first: Path, second: Path, labels: Mapping[int, str] | None = None) -> tuple[list[Comparison], Geometry]:
    """Structures of both files by name (case does not matter), on the voxels of the first one continued to cover the second.

    A structure that only one file has is compared with an empty mask.

    Raises:
        InputError: a file cannot be read, or the two have no structure in common.
    """
    masks_a, grid = _read(Path(first), labels or {}, None)
    masks_b, other = _read(Path(second), labels or {}, None)
    geometry = covering_grid(grid, other)
    masks_a, masks_b = ({name: _to_grid(mask, own, geometry) for name, mask in masks.items()} for masks, own in ((masks_a, grid), (masks_b, other)))
    names_b = {name.lower(): name for name in masks_b}
    names = list(masks_a) + [name for low, name in names_b.items() if low not in {n.lower() for n in masks_a}]
    if not any(name.lower() in names_b for name in masks_a):
        raise InputError(
            f"'{first}' ({', '.join(masks_a) or 'no segments'}) and '{second}' ({', '.join(masks_b) or 'no segments'})"
            " have no structure of the same name; rename the segments, or give the label maps' names with --labels."
        )
    empty = np.zeros(geometry.shape_dhw, dtype=bool)
    found = []
    for name in names:
        a, b = masks_a.get(name, empty), masks_b.get(names_b.get(name.lower(), ""), empty)
        row = {"structure": name, "in_first": name in masks_a, "in_second": name.lower() in names_b, **compare_masks(a, b, geometry)}
        found.append(Comparison(name, a, b, row))
    return found, geometry


def difference_results(comparison: Comparison, geometry: Geometry) -> list[PromptResult]:
    """Three segments (only first, only second, both) that show where two masks differ, ready for ``write_segmentation``."""
    a, b = comparison.first, comparison.second
    parts = {"only first": a & ~b, "only second": b & ~a, "both": a & b}
    from .places import box_of

    return [
        PromptResult(
            prompt=f"{comparison.structure}, {part}",
            resolved=f"{comparison.structure}, {part}",
            verdict=Verdict.PRESENT,
            presence=1.0,
            confidence=1.0,
            mask=mask,
            volume_ml=float(mask.sum()) * geometry.voxel_volume_ml,
            box=box_of(mask),
            elapsed_s=0.0,
            colour=_COLOURS[part],
        )
        for part, mask in parts.items()
        if mask.any()
    ]


def write_differences(path: Path, comparisons: list[Comparison], geometry: Geometry, overwrite: bool = False) -> None:
    """Difference segments of all structures as one segmentation file."""
    from .segmentation_io import write_segmentation

    results = [result for comparison in comparisons for result in difference_results(comparison, geometry)]
    volume = Volume(np.zeros(geometry.shape_dhw, dtype=np.uint8), geometry, source="comparison")
    write_segmentation(path, results, volume, {"name": "comparison", "sha256": "", "device": "", "version": ""}, overwrite=overwrite)
