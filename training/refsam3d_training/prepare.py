"""The ``prepare`` command: any known layout to one manifest, checked, with a mosaic to look at."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.batch.case_lists import PER_CASE
from RefSAM3DLib.errors import InputError, OutputError, RefSAM3DError
from RefSAM3DLib.geometry import Geometry, reorient
from RefSAM3DLib.image_files import itk_name
from RefSAM3DLib.review.export import MAX_OVERLAP, overlap
from RefSAM3DLib.segmentation_io import read_segmentation
from RefSAM3DLib.types import Modality
from RefSAM3DLib.volume_io import load_volume

from .case_checks import Fault, check, faults_table
from .manifest import SPLITS, Manifest, check_names_apart, patient_of
from .readers import READERS, openkbp_array, recognise

logger = logging.getLogger(__name__)

#: Cases shown in the mosaic, and the edge of each in pixels.
SHOWN, EDGE = 24, 200
#: OpenKBP stores CT from 0; air outside the body is -1024 HU.
OPENKBP_OFFSET = -1024.0


def prepare(
    source: Path, output: Path, kind: str = "", structures: dict[str, str] | None = None, validation: float = 0.1, test: float = 0.1, overwrite: bool = False
) -> tuple[Manifest, list[Fault]]:
    """Write ``datalist.json``, ``faults.csv`` and ``mosaic.png`` into ``output``; images stay where they are.

    Args:
        kind: a reader's name ("": recognised). structures: rename labels ("Parotid_L" to "left parotid gland"); others are kept.
        validation, test: shares of patients drawn from the training list where the source has no such list.

    Raises:
        InputError: nothing readable. OutputError: there is a manifest already.
    """
    source = source.resolve()  # the manifest, which lies elsewhere, names the images by their whole paths
    if not source.is_dir():
        raise InputError(f"'{source}' is no folder; give the folder of the data set.")
    if kind and kind not in READERS:
        raise InputError(f"The format '{kind}' is unknown; use {', '.join(READERS)}.")
    if (output / "datalist.json").exists() and not overwrite:
        raise OutputError(f"'{output / 'datalist.json'}' exists already; choose another folder, or --overwrite.")
    found = READERS[kind or recognise(source)](source)
    if not any(found.entries.values()):
        raise InputError(f"'{source}' holds no pair of image and label for the format '{kind or recognise(source)}'; check the folder.")
    if min(validation, test) < 0 or validation + test >= 1:
        raise InputError(f"The shares {validation:g} for validation and {test:g} for the test must be 0 or more and leave some for training; try 0.1 and 0.1.")
    renames = structures or {}
    if unused := sorted({*renames} - {*found.labels.values()}):
        raise InputError(f"'{source}' has no label {', '.join(unused)} to rename; it has {', '.join(sorted(found.labels.values()))}.")
    labels = {v: renames.get(n, n) for v, n in found.labels.items()}
    check_names_apart(labels, str(source))
    output.mkdir(parents=True, exist_ok=True)
    entries = {split: [_with_patient(found.name, e) for e in listed] for split, listed in found.entries.items()}
    lists = split_by_patient(entries, validation, test)
    for split, share in (("training", 1.0), ("validation", validation), ("test", test)):
        if share and not lists[split]:
            logger.warning("No case fell into the %s list: patients are drawn whole, and there are few; give other shares, or edit the list.", split)
    shared: list[Fault] = []
    lists = {split: [_materialised(e, output, labels, shared) for e in entries] for split, entries in lists.items()}
    values = {
        "name": found.name, "modality": found.modality or PER_CASE, "labels": {str(v): n for v, n in labels.items()},
        "note": "'labelled' lists the values known in a case; a structure not listed is UNKNOWN there, not background.",
        "licence": found.licence, "citation": found.citation, "notes": found.notes, **lists,
    }  # fmt: skip
    values |= {"composites": found.composites} if found.composites else {}
    with write_aside(output / "datalist.json", overwrite=True) as aside:
        aside.write_text(json.dumps(values, indent=1), encoding="utf-8")
    manifest = Manifest.read(output)
    faults = [*check(manifest), *(replace(fault, case=f"{found.name}/{fault.case}") for fault in shared)]
    with write_aside(output / "faults.csv", overwrite=True) as aside, open(aside, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["serious", "kind", "case", "text"])
        writer.writerows([f.serious, f.kind, f.case, f.text] for f in faults)
    with write_aside(output / "faults.txt", overwrite=True) as aside:
        aside.write_text(faults_table(faults) + "\n", encoding="utf-8")
    write_mosaic(output / "mosaic.png", manifest, {f.case for f in faults if f.serious and f.kind in ("file", "geometry")})
    return manifest, faults


def _with_patient(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a set whose file names tell the patient, see ``manifest.patient_of``."""
    patient = entry.get("patient") or patient_of(name, entry.get("case") or Path(entry["image"]).name.split(".")[0])
    return {**entry, "patient": patient} if patient else entry


def split_by_patient(entries: dict[str, list[dict[str, Any]]], validation: float, test: float) -> dict[str, list[dict[str, Any]]]:
    """Fill missing lists from the training list, whole patients at a time, by a hash: adding cases moves no patient."""
    lists = {split: list(entries.get(split, [])) for split in SPLITS}
    wanted = {"validation": 0.0 if lists["validation"] else validation, "test": 0.0 if lists["test"] else test}
    training, lists["training"] = lists["training"], []
    for entry in training:
        patient = entry.get("patient") or entry.get("case") or Path(entry["image"]).name
        share = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
        target = "validation" if share < wanted["validation"] else "test" if share < wanted["validation"] + wanted["test"] else "training"
        lists[target].append(entry)
    return lists


def _materialised(entry: dict[str, Any], output: Path, names: dict[int, str], faults: list[Fault]) -> dict[str, Any]:
    """An entry whose image and label are files: masks and segments are merged into a label map, CSV arrays written as NIfTI.

    Of two structures that overlap much the larger one is left out, which makes it unknown in that case: painted over it would look like
    contoured and absent. ``faults`` gets a line for each.
    """
    import SimpleITK as sitk

    from RefSAM3DLib.compare import geometry_of, to_image

    entry = dict(entry)
    masks, segments = entry.pop("masks", None), entry.pop("segments", None)
    if masks is None and segments is None:
        return entry
    name = entry["case"]
    for folder in ("images", "labels"):
        (output / folder).mkdir(exist_ok=True)
    if entry.pop("openkbp", False):
        image = Path(entry["image"])
        spacing = [float(v) for v in (image.parent / "voxel_dimensions.csv").read_text().split()]
        geometry = Geometry((128, 128, 128), np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
        array = np.moveaxis(openkbp_array(image), 2, 0)  # stored (row, column, slice)
        array = array + OPENKBP_OFFSET if array.min() >= 0 else array
        entry["image"] = f"images/{name}.nii.gz"
        sitk.WriteImage(to_image(array.astype(np.int16), geometry), itk_name(output / entry["image"]))
        parts = {v: np.moveaxis(openkbp_array(Path(p)), 2, 0) > 0 for v, p in masks.items()}
    elif segments is not None:
        try:
            geometry = load_volume(entry["image"]).geometry
            drawn = [(title, mask) for title, mask, _ in read_segmentation(entry["label"], geometry)[0]]
        except RefSAM3DError:
            return entry  # the check of all cases says what is wrong with it
        # An empty segment is one that nobody drew, not a structure that is known to be absent.
        parts = {value: np.any([m for t, m in drawn if t == title], axis=0) for value, title in segments.items()}
        parts = {value: mask for value, mask in parts.items() if mask.any()}
    else:
        parts = {}
        try:
            geometry = load_volume(entry["image"]).geometry
        except RefSAM3DError:
            return {**entry, "label": str(next(iter(masks.values()), entry["image"]))}  # the check of all cases says what is wrong with the image
        for value, path in masks.items():
            try:
                mask = sitk.ReadImage(itk_name(path))
            except RuntimeError:
                return {**entry, "label": str(path)}  # or with this mask
            if geometry_of(mask).shape_dhw != geometry.shape_dhw:
                return {**entry, "label": str(path)}
            parts[value] = sitk.GetArrayFromImage(mask) > 0
            geometry = geometry_of(mask)
    assert geometry is not None
    parts, rivals = _that_fit(parts)
    for value, rival in rivals.items():
        said = f"'{names[value]}' overlaps '{names[rival]}', and a label map holds one value per voxel, so it is unknown here"
        faults.append(Fault(name, "overlap", f"{said}; if it is a union of others, name it under 'composites' in datalist.json", serious=False))
    labels = np.zeros(geometry.shape_dhw, np.uint8 if max(parts, default=0) < 256 else np.uint16)
    for value in sorted(parts, key=lambda v: -int(parts[v].sum())):  # small structures win the voxels that two share
        labels[parts[value]] = value
    entry["label"] = f"labels/{name}.nii.gz"
    entry["labelled"] = sorted(parts)
    sitk.WriteImage(to_image(labels, geometry), itk_name(output / entry["label"]))
    return entry


def _that_fit(parts: dict[int, np.ndarray]) -> tuple[dict[int, np.ndarray], dict[int, int]]:
    """Masks that fit into one label map, the smaller ones first, and of each other one the mask that it overlaps."""
    kept: dict[int, np.ndarray] = {}
    rivals: dict[int, int] = {}
    for value in sorted(parts, key=lambda v: (int(parts[v].sum()), v)):
        rival = next((k for k in kept if overlap(parts[value], kept[k]) > MAX_OVERLAP), None)
        if rival is None:
            kept[value] = parts[value]
        else:
            rivals[value] = rival
    return kept, rivals


def write_mosaic(path: Path, manifest: Manifest, left_out: set[str]) -> None:
    """The fullest axial slice of up to ``SHOWN`` cases, labels in colour, the patient's right and left marked."""
    from PIL import Image, ImageDraw

    import SimpleITK as sitk  # isort: skip

    cases = [c for split in SPLITS for c in manifest.cases[split] if c.name not in left_out]
    cases = cases[:: max(1, -(-len(cases) // SHOWN))]
    columns = min(6, max(1, len(cases)))
    rows = max(1, -(-len(cases) // columns))
    sheet = Image.new("RGB", (columns * EDGE, rows * (EDGE + 14)))
    pen = ImageDraw.Draw(sheet)
    colours = np.random.default_rng(7).integers(60, 256, (256, 3))
    for number, case in enumerate(cases):
        volume = case.volume()
        order, flip = volume.geometry.to_working_orientation()
        labels = reorient(sitk.GetArrayFromImage(sitk.ReadImage(itk_name(case.label))).astype(int), order, flip)
        grey = reorient(volume.array, order, flip)
        index = int((labels > 0).sum((1, 2)).argmax())
        low, high = (-160.0, 240.0) if volume.modality is Modality.CT else np.percentile(grey[index], [1, 99])
        plane = np.clip((grey[index].astype(float) - low) / max(high - low, 1e-6), 0, 1) * 255
        rgb = np.repeat(plane[..., None], 3, 2)
        inside = labels[index] > 0
        rgb[inside] = 0.5 * rgb[inside] + 0.5 * colours[labels[index][inside] % 256]
        at = (number % columns * EDGE, number // columns * (EDGE + 14))
        sheet.paste(Image.fromarray(rgb.astype(np.uint8)).resize((EDGE, EDGE), Image.Resampling.NEAREST), (at[0], at[1] + 14))
        pen.text((at[0] + 2, at[1]), case.name.split("/")[-1][:30], fill=(255, 255, 255))
        for letter, x in (("R", 2), ("L", EDGE - 9)):  # as in the working orientation: a wrong header or exchanged sides are seen by them
            pen.text((at[0] + x, at[1] + 14 + EDGE // 2 - 6), letter, fill=(255, 255, 0))
    with write_aside(path, overwrite=True) as aside:
        sheet.save(aside)
