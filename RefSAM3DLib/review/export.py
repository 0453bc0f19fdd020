"""Reviewed cases as a training manifest: the ``datalist.json`` that the training package's ``finetune`` takes.

A structure is ``labelled`` in a case if its mask was accepted, as it was or with edits. Everything else (rejected, skipped,
not looked at) is unknown there, not background. An accepted "absent" is labelled too, with no voxel: it is known to be absent.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import holds_nothing, make_folder, remove_empty, rename, write_aside
from ..batch.case_lists import PER_CASE
from ..batch.pseudonyms import Identifiers
from ..errors import InputError, OutputError, RefSAM3DError
from ..image_files import itk_name
from ..provenance import AUTOMATIC, SEMIAUTOMATIC
from .queue import ReviewItem
from .session import ReviewSession
from .status import is_assisted, last_overall, status_of, structure_of
from .verdicts import ReviewVerdict

if TYPE_CHECKING:
    import numpy as np

#: Of the smaller structure: beyond this two structures do not fit into one label map.
MAX_OVERLAP = 0.05
#: Items and the decisions that count for them, by case.
Accepted = dict[str, list[tuple[ReviewItem, dict[str, Any]]]]
_COPIED = (".nii.gz", ".nrrd", ".mha", ".nii")


@dataclass
class ExportOutcome:
    """Manifest's path, number of cases and labelled structures, and sentences about what was left out."""

    manifest: Path
    cases: int = 0
    structures: int = 0
    notes: list[str] = field(default_factory=list)


def export_manifest(session: ReviewSession, target: Path | str, reviewer: str = "", validation: float = 0.0, name: str = "reviewed cases") -> ExportOutcome:
    """Write images, label maps and ``datalist.json`` into the new folder ``target``.

    Args:
        reviewer: take the decisions of this one alone; default: the last final decision of anybody.
        validation: share of cases (whole patients) for the validation list.

    Raises:
        InputError: nothing was accepted yet. OutputError: the folder exists and is not empty, or cannot be written.
    """
    target = Path(target).absolute()
    if not 0 <= validation < 1:
        raise InputError(f"The share of validation cases is {validation:g}; give a number from 0 to below 1.")
    if target.exists() and not target.is_dir():
        raise OutputError(f"The export '{target}' is a file; give a new folder.")
    if target.exists() and not holds_nothing(target):
        raise OutputError(f"The folder '{target}' is not empty; choose a new one for the export.")
    accepted = _accepted_by_case(session, reviewer)
    if not accepted:
        raise InputError(f"No result of '{session.folder}' was accepted{f' by {reviewer}' if reviewer else ''} yet; there is nothing to export.")
    make_folder(target.parent)
    aside = target.with_name(f".{uuid.uuid4().hex[:8]}.part.{target.name}")
    try:
        outcome = _write(session, aside, accepted, validation, name)
        if target.exists():
            remove_empty(target)  # what somebody has put there meanwhile stops this
        rename(aside, target)
    except OSError as error:
        raise OutputError(f"The export '{target}' could not be written: {error.strerror or error}; choose another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    outcome.manifest = target / "datalist.json"
    return outcome


def _write(session: ReviewSession, folder: Path, accepted: Accepted, validation: float, name: str) -> ExportOutcome:
    """All files of the export, the manifest last."""
    for place in (folder / "images", folder / "labels"):
        make_folder(place)
    values = {structure: number for number, structure in enumerate(sorted({structure_of(i, e) for items in accepted.values() for i, e in items}), 1)}
    outcome = ExportOutcome(folder / "datalist.json")
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for case, items in sorted(accepted.items()):
        try:
            record = _export_case(session, folder, case, items, values, outcome.notes)
        except RefSAM3DError as error:
            outcome.notes.append(f"The case '{case}' was left out: {error}")
            continue
        patient = record["patient"] or case
        share = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
        lists["validation" if share < validation else "training"].append(record)
        outcome.cases += 1
        outcome.structures += len(record["labelled"])
    if not outcome.cases:
        raise InputError(f"None of the accepted cases could be exported: {outcome.notes[-1]}")
    content = {
        "name": name,
        "modality": PER_CASE,
        "labels": {str(value): structure for structure, value in values.items()},
        "note": "'labelled' lists the values that a reviewer accepted in a case; a structure not listed is UNKNOWN there, not background.",
        "licence": "not stated; the site that reviewed the cases decides",
        "citation": "",
        **lists,
    }
    with write_aside(outcome.manifest, overwrite=True) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return outcome


def _accepted_by_case(session: ReviewSession, reviewer: str) -> Accepted:
    items = {(item.case, item.label): item for item in session.items}
    accepted: Accepted = {}
    for key, entry in last_overall(session.trail.read().entries, reviewer).items():
        if key in items and status_of(items[key].batch, entry) == "changed":
            continue  # the decision was about something that the batch has replaced since
        if key in items and entry["verdict"] in (ReviewVerdict.ACCEPT.value, ReviewVerdict.ACCEPT_EDITED.value) and entry.get("mask_file"):
            item = items[key]
            if entry["verdict"] == "accept" and _machine_verdict(item, entry) == "unknown":
                continue  # "the wording means nothing" was accepted: that says nothing about the image
            accepted.setdefault(key[0], []).append((item, entry))
    return accepted


def _machine_verdict(item: ReviewItem, entry: dict[str, Any]) -> str:
    """What the machine had said of the mask that was accepted; older entries do not tell it for the answer to another wording."""
    machine = entry.get("machine")
    if isinstance(machine, dict):
        return str(machine.get("verdict") or "")
    return item.verdict if entry["mask_file"].startswith("cases/") else ""


def _export_case(
    session: ReviewSession,
    target: Path,
    case: str,
    items: Iterable[tuple[ReviewItem, dict[str, Any]]],
    values: dict[str, int],
    notes: list[str],
) -> dict[str, Any]:
    import numpy as np
    import SimpleITK as sitk

    from ..compare import to_image
    from ..segmentation_io import is_sheared

    masks: dict[str, np.ndarray] = {}
    rank: dict[str, tuple[bool, int]] = {}
    geometry = None
    first = next(iter(items))[0]
    decided = []
    for item, entry in items:
        structure = structure_of(item, entry)
        mask, geometry = session.masks.read(session.folder / entry["mask_file"], structure, entry["mask"])
        if structure in masks and rank[structure][0] >= (entry["verdict"] == "accept_edited"):
            continue  # asked for twice in this case: an edited mask goes before an accepted one
        masks[structure], rank[structure] = np.array(mask), (entry["verdict"] == "accept_edited", -int(mask.sum()))
        kind = SEMIAUTOMATIC if is_assisted(item, entry) else AUTOMATIC
        decided.append({"structure": structure, "verdict": entry["verdict"], "algorithm_type": kind, "reviewer": entry["reviewer"], "decision": entry["id"]})
    assert geometry is not None
    labelled = _without_overlaps(case, masks, rank, notes)
    array = np.zeros(geometry.shape_dhw, dtype=np.uint8 if len(values) < 256 else np.uint16)
    # Edited masks and small structures are painted last and win the few voxels that two structures share.
    for structure in sorted(labelled, key=lambda s: rank[s]):
        array[masks[structure]] = values[structure]
    image_name = _copy_image(session, first, target)
    label_name = f"labels/{case}{'.nrrd' if is_sheared(geometry) else '.nii.gz'}"
    with write_aside(target / label_name) as aside:
        sitk.WriteImage(to_image(array, geometry), itk_name(aside))
    volume = session.volume(first)
    if volume.geometry != geometry:
        raise InputError(f"The image '{first.image}' has another grid than its segmentation; it was changed after the batch.")
    return {
        "image": image_name,
        "label": label_name,
        "labelled": sorted(values[structure] for structure in labelled),
        "modality": volume.modality.value.upper() if volume.modality else "",
        "patient": first.patient or (first.case.rsplit("-S", 1)[0] if first.series else ""),
        "review": decided,
    }


def _without_overlaps(case: str, masks: dict[str, np.ndarray], rank: dict[str, tuple[bool, int]], notes: list[str]) -> list[str]:
    """Structures that fit into one label map; of two that overlap much the one painted first (unedited, larger) is left out."""
    kept: list[str] = []
    for structure in sorted(masks, key=lambda s: rank[s], reverse=True):
        rival = next((k for k in kept if overlap(masks[structure], masks[k]) > MAX_OVERLAP), None)
        if rival is None:
            kept.append(structure)
        else:
            notes.append(f"'{structure}' of '{case}' was left out: it overlaps '{rival}', and a label map holds one value per voxel.")
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the smaller mask that lies in the other one."""
    smaller = min(int(a.sum()), int(b.sum()))
    return float((a & b).sum()) / smaller if smaller else 0.0


def _copy_image(session: ReviewSession, item: ReviewItem, target: Path) -> str:
    """A file is copied as it is. That of a pseudonymous case is written anew, without what its header says; so is a DICOM series, as NIfTI, or as
    NRRD where its gantry was tilted: NIfTI keeps no shear."""
    source = Path(item.image)
    ending = next((e for e in _COPIED if source.name.lower().endswith(e)), "")
    if ending and source.is_file() and item.case not in Identifiers(session.folder).cases:
        relative = f"images/{item.case}{ending}"
        with write_aside(target / relative) as aside:
            shutil.copyfile(source, aside)
        return relative
    import SimpleITK as sitk

    from ..compare import to_image
    from ..segmentation_io import is_sheared

    volume = session.volume(item)
    relative = f"images/{item.case}{'.nrrd' if is_sheared(volume.geometry) else ending or '.nii.gz'}"
    with write_aside(target / relative) as aside:
        sitk.WriteImage(to_image(volume.array, volume.geometry), itk_name(aside))
    return relative
