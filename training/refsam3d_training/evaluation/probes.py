"""Questions to an engine that its users cannot ask: raw presence logits, text past the resolver, fields of view cut short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from RefSAM3DLib.config import GridConfig, IntensityConfig
from RefSAM3DLib.engine import RefSAM3DEngine, VolumeEmbedding
from RefSAM3DLib.geometry import Geometry, reorient
from RefSAM3DLib.inference.preprocess import intensity_windows
from RefSAM3DLib.inference.session import PromptSession
from RefSAM3DLib.text.wording import swap_sides
from RefSAM3DLib.types import Modality, PromptResult, PromptStatus, ResolvedPrompt, Term, Volume

from ..painting import cover, empty_place
from ..visible import MAY_BE_VISIBLE

#: Names without a row in any label map that no head, temporal lobe or thigh holds.
FAR_AWAY = ("liver", "spleen", "left kidney", "right kidney", "pancreas", "stomach", "gallbladder", "duodenum", "heart")
#: The same of names that no training has met, not even as absent ones.
STRANGERS = ("appendix", "ovary", "ureter", "common bile duct", "jejunum", "ileum", "cecum", "pylorus", "pulmonary artery", "mitral valve")
#: In a cut field of view, of more than this a structure is present, of nothing it is absent, and between them not counted.
PRESENT_ML = 1.0
#: Kind of an altered view in which structures are missing although their place is in view.
PAINTED = "painted over"
#: How far beyond its contour a structure is painted over, mm (contours are drawn to about a voxel).
PAINTED_RIM_MM = 3.0
#: Voxels around a structure that its filling is taken from.
SURROUNDINGS = 40
#: Thinnest cut view worth asking about.
LEAST_VIEW_MM = 40.0
ABOVE_THE_CHIN = ("brainstem", "right parotid gland", "left parotid gland", "mandible")
BELOW_THE_CHIN = ("larynx", "esophagus")


def presence_logits(engine: RefSAM3DEngine, embedding: VolumeEmbedding, grid: GridConfig, asked: Sequence[tuple[str, str]]) -> list[float]:
    """Raw presence logits of (structure, text) pairs on the views that decide presence; uncalibrated.

    The structure only chooses the weights. The mean over the image and its mirror image, which is asked for the other side, as the
    engine does it.
    """
    total = torch.zeros(len(asked))
    owners = [engine.branch_of(name) for name, _ in asked]
    for owner in sorted(set(owners)):
        rows = [n for n, other in enumerate(owners) if other == owner]
        branch, views = engine.branches[owner], embedding.views(grid, not embedding.is_direct(grid), owner)
        for view in views:
            indices = list(range(len(view.layout.starts)))
            view.encode(indices)
            texts = [swap_sides(asked[n][1]) if view.mirrored else asked[n][1] for n in rows]
            with torch.inference_mode():
                reading = branch.model.read_joined(view.joined_levels(indices), branch.text_features(texts))
            total[rows] += reading.presence.float().cpu() / len(views)
    return [float(v) for v in total]


def answer_texts(engine: RefSAM3DEngine, embedding: VolumeEmbedding, asked: Sequence[tuple[str, str]]) -> list[PromptResult]:
    """Answers to (structure, text) pairs: the text goes straight into the text tower, the structure only chooses the grid."""
    prompts = [ResolvedPrompt(text, name, PromptStatus.KNOWN, (Term(name),), text=text) for name, text in asked]
    return PromptSession(engine, embedding, None, None, False, None).run(prompts, allow_unknown=False)


def absent_names(engine: RefSAM3DEngine, region: str) -> list[str]:
    """Trained names of other grids that an image of ``region`` (a grid's name, or "abdomen") cannot show.

    Of the base alone: where an adapter's new names can be seen nobody has said.
    """
    base, hidden = engine.branches[0].checkpoint, MAY_BE_VISIBLE.get(region, set())
    return [n for g in base.config.grids if g.name != region for n in g.structures if n in base.vocabulary.names and n not in hidden]


def is_familiar(engine: RefSAM3DEngine, names: Iterable[str]) -> bool:
    """Whether a set that labels these names shows the parts of the body that the base was trained on, so that what its images cannot show is
    known. A set with other names may be of any part: its images may well hold a liver, or a brainstem, that nobody contoured there."""
    base = engine.branches[0].checkpoint
    return {*names} <= {*base.vocabulary.names, *base.card.get("training", {}).get("excluded_structures", ())}


@dataclass(frozen=True)
class AlteredView:
    """A volume of which something was taken away. present, absent: trained structures known to be in it or not."""

    kind: str
    volume: Volume
    present: tuple[str, ...]
    absent: tuple[str, ...]


def cut_views(volume: Volume, truth: dict[str, np.ndarray]) -> list[AlteredView]:
    """A head CT below the chin (no brainstem, parotids, mandible) and above the larynx (no larynx, esophagus)."""
    order, flip = volume.geometry.to_working_orientation()
    spans = {}
    for name, mask in truth.items():
        planes = np.flatnonzero(reorient(mask, order, flip).any((1, 2)))
        if len(planes):
            spans[name] = (int(planes[0]), int(planes[-1]) + 1)
    views = []
    length = volume.geometry.shape_dhw[order[0]]
    upper = [spans[n][0] for n in ABOVE_THE_CHIN if n in spans]
    lower = [spans[n][1] for n in BELOW_THE_CHIN if n in spans]
    if upper:
        views.append(("below the chin", 0, min(upper)))
    if lower:
        views.append(("above the larynx", max(lower), length))
    spacing = volume.geometry.spacing_xyz_mm[2 - order[0]]
    out = []
    for kind, low, high in views:
        if (high - low) * spacing < LEAST_VIEW_MM:
            continue
        axis = order[0]
        native = (length - high, length - low) if flip[0] else (low, high)
        cut = tuple(slice(*native) if a == axis else slice(None) for a in range(3))
        amount = {n: float(m[cut].sum()) * volume.geometry.voxel_volume_ml for n, m in truth.items()}
        present = tuple(n for n, ml in amount.items() if ml > PRESENT_ML)
        absent = tuple(n for n, ml in amount.items() if ml == 0)
        if absent:
            out.append(AlteredView(kind, cut_volume(volume, axis, *native), present, absent))
    return out


def painted_view(volume: Volume, truth: dict[str, np.ndarray], config: IntensityConfig, seed: int) -> AlteredView | None:
    """The volume with one structure painted over, and a place painted where none is known; None where nothing can be removed.

    The same routine as in training: what it says about real operations is limited.
    """
    names = sorted(n for n, m in truth.items() if float(m.sum()) * volume.geometry.voxel_volume_ml > PRESENT_ML)
    if not names:
        return None
    rng = np.random.default_rng(seed)
    gone = names[rng.integers(len(names))]
    array = volume.array.astype(np.float32)
    low, high = intensity_windows(volume, volume.modality or Modality.CT, config)[0]
    rim = [int(-(-PAINTED_RIM_MM // mm)) for mm in volume.geometry.spacing_xyz_mm[::-1]]
    labels = np.zeros(array.shape, np.uint8)
    for mask in truth.values():
        labels[mask] = 1
    place = empty_place(rng, torch.from_numpy(truth[names[rng.integers(len(names))]]), torch.from_numpy(array), torch.from_numpy(labels))
    others = torch.from_numpy(labels > 0) & ~torch.from_numpy(truth[gone])
    for mask in (torch.from_numpy(truth[gone]), place):
        if mask is None:
            continue
        grown = F.max_pool3d(mask.float()[None], [2 * n + 1 for n in rim], 1, rim)[0] > 0
        index = grown.nonzero()
        box = [slice(max(0, int(a) - SURROUNDINGS), int(b) + SURROUNDINGS + 1) for a, b in zip(index.min(0).values, index.max(0).values, strict=True)]
        part = (torch.from_numpy(array[tuple(box)]) - low) / (high - low) * 2 - 1
        cover(rng, part, (grown & ~others)[tuple(box)], others[tuple(box)])
        array[tuple(box)] = ((part + 1) / 2 * (high - low) + low).numpy()
    whole = np.issubdtype(volume.array.dtype, np.integer)
    altered = replace(volume, array=(np.round(array) if whole else array).astype(volume.array.dtype), dicom_files=())
    return AlteredView(PAINTED, altered, tuple(n for n in names if n != gone), (gone,))


def cut_volume(volume: Volume, axis: int, low: int, high: int) -> Volume:
    """Slices [low, high) along an array axis; every voxel stays where it is in the patient."""
    cut = tuple(slice(low, high) if a == axis else slice(None) for a in range(3))
    matrix = volume.geometry.ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, 2 - axis] * low
    array = np.ascontiguousarray(volume.array[cut])
    return replace(volume, array=array, geometry=Geometry(array.shape, matrix), dicom_files=())
