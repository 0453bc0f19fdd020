"""Preprocess labelled volumes once: each case at the spacings of its grid, exactly as the engine would read it."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.config import GridConfig, IntensityConfig, ModelConfig
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.image_files import itk_name
from RefSAM3DLib.inference.preprocess import Frame, body_box, intensity_windows
from RefSAM3DLib.types import Modality, Volume
from RefSAM3DLib.volume_io import load_volume

logger = logging.getLogger(__name__)

#: Matrices of two grids that differ by no more are one grid: some formats store coarse numbers.
SAME_GRID_MM = 1e-2


@dataclass
class GridImage:
    """A case at one spacing: values (d, h, w) in units of the first window ([-1, 1] inside), labels uint8."""

    values: torch.Tensor
    labels: torch.Tensor


@dataclass
class Case:
    """One labelled volume, preprocessed.

    known: label value to structure name, of what was contoured here; a structure not in it is unknown, not background.
    windows: (low, high) per channel in the units of ``values``. extent_mm: field of view (D, H, W) read. composites: further structure to those
    that it unites.
    """

    name: str
    grid: str
    modality: str
    known: dict[int, str]
    windows: list[tuple[float, float]]
    extent_mm: tuple[float, float, float]
    fine: GridImage
    coarse: GridImage
    composites: dict[str, tuple[str, ...]] = field(default_factory=dict)


def preprocess(name: str, volume: Volume, labels: np.ndarray, known: dict[int, str], grid: GridConfig, intensity: IntensityConfig) -> Case:
    """Read a case onto its grid, fine and coarse. Labels are stored in a byte: values beyond it are numbered anew."""
    modality = Modality(volume.modality or Modality.MR)
    windows = intensity_windows(volume, modality, intensity)
    low, high = windows[0]

    def unit(value: float) -> float:
        return (value - low) / (high - low) * 2 - 1

    stored_as = {v: v for v in known} if max(known) <= 255 else {v: n for n, v in enumerate(sorted(known), 1)}
    images = []
    for spacing in (grid.spacing_mm, grid.coarse_spacing_mm):
        frame = Frame.of(volume.geometry, spacing)
        values = frame.read(volume.array)
        shares = torch.stack([frame.read((labels == v).astype(np.float32), fill=0.0) for v in sorted(known)])
        best, index = shares.max(0)
        # Background is what no structure fills by more than half; a thin cord keeps its voxels at the coarse spacing.
        winner = torch.tensor([stored_as[v] for v in sorted(known)])[index] * ((best >= 0.5) | ((best > 0.25) & (shares.sum(0) > 0.5)))
        box = body_box(values, modality) if grid.crop_body else (0, values.shape[0], 0, values.shape[1], 0, values.shape[2])
        cut = tuple(slice(box[2 * a], box[2 * a + 1]) for a in range(3))
        stored = ((values[cut] - low) / (high - low) * 2 - 1).clamp(-60000, 60000).half()
        images.append(GridImage(stored, winner[cut].byte()))
    extent = tuple(n * grid.spacing_mm for n in images[0].values.shape)
    known = {stored_as[v]: name for v, name in known.items()}
    return Case(name, grid.name, modality.value, known, [(unit(a), unit(b)) for a, b in windows], extent, images[0], images[1])  # type: ignore[arg-type]


def load_cases(folder: Path, split: str, model: ModelConfig, grid_name: str, cache: Path, limit: int | None = None) -> list[Case]:
    """All cases of a split, from the cache where it is current."""
    from .manifest import Manifest

    grid = model.grid(grid_name)
    cases = []
    for listed in Manifest.read(folder).cases[split][:limit]:
        image, label, known = listed.image, listed.label, listed.known
        if not known:
            logger.warning("%s is left out: none of its structures is known ('labelled' is empty).", listed.name)
            continue
        key = hashlib.sha256(json.dumps([listed.name, image.stat().st_size, image.stat().st_mtime_ns, label.stat().st_mtime_ns, listed.modality,
                                         sorted(known.items()), str(grid), str(model.intensity), 3]).encode()).hexdigest()[:20]  # fmt: skip
        path = cache / f"{key}.npz"
        if path.is_file():
            case = _read(path)
        else:
            volume = load_volume(image, modality=listed.modality or None)
            case = preprocess(listed.name, volume, load_label(label, volume), known, grid, model.intensity)
            _write(case, path)
        case.composites = listed.unions
        cases.append(case)
    return cases


def load_label(path: Path, volume: Volume) -> np.ndarray:
    """Label array on the volume's grid.

    Raises:
        InputError: the grids differ.
    """
    import SimpleITK as sitk

    image = sitk.ReadImage(itk_name(path))
    array = sitk.GetArrayFromImage(image)
    if array.shape != tuple(volume.geometry.shape_dhw):
        raise InputError(f"Label '{path}' has shape {array.shape}, its image {volume.geometry.shape_dhw}; resample one of them.")
    apart = grids_apart_mm(image, volume)
    if apart > SAME_GRID_MM:
        raise InputError(f"Label '{path}' and its image lie {apart:.2f} mm apart or turned against each other; save the label on the image's grid.")
    if odd := fractions(array):
        raise InputError(f"Label '{path}' {odd}; resample it with nearest neighbours, or round it, and save whole numbers.")
    return array


def fractions(labels: np.ndarray) -> str:
    """What is wrong with a label map that holds other than whole numbers: such voxels have no name, and would count as background."""
    odd = labels[labels != np.round(labels)] if labels.dtype.kind == "f" else labels[:0]
    return f"has {odd.size} voxels that are no whole number (as {float(odd.flat[0]):g}), so nothing tells what they are" if odd.size else ""


def grids_apart_mm(label: Any, volume: Volume) -> float:
    """Greatest difference between the matrices of a label's (SimpleITK image) and an image's grid of the same shape."""
    from RefSAM3DLib.compare import geometry_of

    return float(np.abs(geometry_of(label).ijk_to_ras - volume.geometry.ijk_to_ras).max())


def phantom_cases(count: int, model: ModelConfig, grid_name: str, cache: Path) -> list[Case]:
    """Generated head-and-neck CTs. Of the first twelve every third lacks one structure, which is then known to be absent; each further one
    lacks one to three: in real images presence follows from the field of view alone, here it does not."""
    from RefSAM3DLib.phantoms import head_and_neck_ct

    grid = model.grid(grid_name)
    names = list(grid.structures)
    cases = []
    for seed in range(1000, 1000 + count):
        path = cache / f"phantom_{seed}_{hashlib.sha256(str((grid, model.intensity, 2)).encode()).hexdigest()[:12]}.npz"
        if not path.is_file():
            volume, truth = head_and_neck_ct(seed, structures=[n for n in names if n not in _lacking(seed, names)])
            labels = np.zeros(volume.array.shape, np.uint8)
            for value, name in enumerate(names, 1):
                if name in truth:
                    labels[truth[name]] = value
            volume.modality = Modality.CT
            _write(preprocess(f"phantom/{seed}", volume, labels, dict(enumerate(names, 1)), grid, model.intensity), path)
        cases.append(_read(path))
    return cases


def _lacking(seed: int, names: list[str]) -> list[str]:
    if seed < 1012:
        return [names[seed % len(names)]] if seed % 3 == 0 else []
    rng = np.random.default_rng(seed)
    return list(rng.choice(names, int(rng.integers(1, 4)), replace=False))


def _write(case: Case, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"name": case.name, "grid": case.grid, "modality": case.modality, "known": case.known, "windows": case.windows, "extent_mm": case.extent_mm}
    with write_aside(path, overwrite=True) as aside:
        np.savez_compressed(
            aside, meta=json.dumps(meta), fine_values=case.fine.values.numpy(), fine_labels=case.fine.labels.numpy(),
            coarse_values=case.coarse.values.numpy(), coarse_labels=case.coarse.labels.numpy(),
        )  # fmt: skip


def _read(path: Path) -> Case:
    with np.load(path, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        images = [GridImage(torch.from_numpy(file[f"{k}_values"]), torch.from_numpy(file[f"{k}_labels"])) for k in ("fine", "coarse")]
    return Case(
        meta["name"], meta["grid"], meta["modality"], {int(k): v for k, v in meta["known"].items()},
        [(a, b) for a, b in meta["windows"]], tuple(meta["extent_mm"]), images[0], images[1],
    )  # fmt: skip
