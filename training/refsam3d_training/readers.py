"""Bring what others call a data set into entries of a manifest."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from RefSAM3DLib.batch.case_lists import PER_CASE
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.seg_nrrd import segment_titles

from .manifest import FILE_NAME, named_values

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass
class Found:
    """What a reader found. labels: value to name. entries: per split; ``label`` is a path, or there are structures to merge.

    Paths are absolute; ``masks`` in an entry maps a value to the file of that structure alone, ``segments`` a value to the name
    of the segment in the entry's ``label``, a ``.seg.nrrd``.
    """

    name: str
    labels: dict[int, str]
    entries: dict[str, list[dict[str, Any]]]
    modality: str = ""
    licence: str = ""
    citation: str = ""
    notes: list[str] = field(default_factory=list)
    composites: dict[str, list[int]] = field(default_factory=dict)


def read_decathlon(folder: Path) -> Found:
    """Medical Segmentation Decathlon and nnU-Net v1: ``dataset.json`` with a list of pairs."""
    values = _json(folder / "dataset.json")
    labels = {int(k): v for k, v in values["labels"].items() if int(k) > 0}
    modalities = list(values.get("modality", {}).values())
    pairs = [{"image": str(folder / p["image"]), "label": str(folder / p["label"])} for p in values["training"]]
    found = Found(values.get("name", folder.name), labels, {"training": pairs}, _modality(modalities[:1]), *_origin(values))
    if len(modalities) > 1:
        found.notes.append(f"{len(modalities)} channels per image: split them first, one image each")
    return found


def read_nnunet(folder: Path) -> Found:
    """nnU-Net raw: ``imagesTr/CASE_0000.nii.gz`` and ``labelsTr/CASE.nii.gz``; the first channel is taken."""
    values = _json(folder / "dataset.json")
    channels = values.get("channel_names", values.get("modality", {}))
    raw = dict(values["labels"])
    if regions := [k for k, v in raw.items() if isinstance(v, list)]:
        raise InputError(
            f"'{folder}' names regions of several values ({', '.join(regions)}), which are trained as structures of their own elsewhere; write one value per "
            "structure into the labels of dataset.json."
        )
    ignored = raw.pop("ignore", None)
    labels = {int(v): k for k, v in raw.items() if _is_number(v) and int(v) > 0} if not all(_is_number(k) for k in raw) else \
             {int(k): v for k, v in raw.items() if int(k) > 0}  # fmt: skip
    ending = values.get("file_ending", ".nii.gz")
    entries: dict[str, list[dict[str, Any]]] = {}
    for split, sub in (("training", "Tr"), ("test", "Ts")):
        for label in visible((folder / f"labels{sub}").glob(f"*{ending}")):
            image = folder / f"images{sub}" / label.name.replace(ending, f"_0000{ending}")
            entries.setdefault(split, []).append({"image": str(image), "label": str(label)})
    found = Found(values.get("name", folder.name), labels, entries, _modality(list(channels.values())[:1]), *_origin(values))
    if ignored is not None:
        found.notes.append(f"the value {ignored} means 'ignore', which this form cannot say of single voxels: a label that holds it is reported as a fault")
    if len(channels) > 1:
        found.notes.append(f"only the first of {len(channels)} channels is used: {next(iter(channels.values()))}")
    return found


def visible(paths: Iterable[Path]) -> list[Path]:
    """Sorted, without hidden files: on drives of other systems macOS keeps a "._X" of its own beside every X."""
    return sorted(path for path in paths if not path.name.startswith("."))


def read_totalsegmentator(folder: Path) -> Found:
    """One folder per case with ``ct.nii.gz`` (or ``mri.nii.gz``) and ``segmentations/STRUCTURE.nii.gz``; ``meta.csv`` names the splits."""
    splits: dict[str, str] = {}
    if (folder / "meta.csv").is_file():
        text = (folder / "meta.csv").read_text(encoding="utf-8-sig")
        rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in text.splitlines()[0] else ",")
        splits = {r.get("image_id", ""): {"val": "validation", "train": "training"}.get(r.get("split", ""), r.get("split", "")) for r in rows}
    cases = [(p, next((p / n for n in ("ct.nii.gz", "mri.nii.gz", "mr.nii.gz") if (p / n).is_file()), None)) for p in sorted(folder.iterdir()) if p.is_dir()]
    names = sorted({m.name.split(".")[0] for p, image in cases if image for m in visible((p / "segmentations").glob("*.nii.gz"))})
    labels = {n: name.replace("_", " ") for n, name in enumerate(names, 1)}
    entries: dict[str, list[dict[str, Any]]] = {}
    for case, image in cases:
        if image is None:
            continue
        masks = {v: str(case / "segmentations" / f"{n}.nii.gz") for v, n in enumerate(names, 1) if (case / "segmentations" / f"{n}.nii.gz").is_file()}
        entry = {"image": str(image), "masks": masks, "modality": "CT" if image.name.startswith("ct") else "MR", "patient": case.name, "case": case.name}
        entries.setdefault(splits.get(case.name) or "training", []).append(entry)
    return Found(folder.name, labels, entries, PER_CASE)


def read_openkbp(folder: Path) -> Found:
    """OpenKBP's CSV folders: one per patient with ``ct.csv``, ``voxel_dimensions.csv`` and a CSV per structure (128^3, flat index)."""
    known = {"Brainstem": "brainstem", "SpinalCord": "spinal cord", "RightParotid": "right parotid gland", "LeftParotid": "left parotid gland",
             "Esophagus": "esophagus", "Larynx": "larynx", "Mandible": "mandible"}  # fmt: skip
    labels = dict(enumerate(known.values(), 1))
    entries: dict[str, list[dict[str, Any]]] = {}
    for split, pattern in (("training", "train*"), ("validation", "valid*"), ("test", "test*")):
        for patient in sorted(p.parent for p in folder.glob(f"**/{pattern}/*/ct.csv")):
            masks = {v: str(patient / f"{k}.csv") for v, k in enumerate(known, 1) if (patient / f"{k}.csv").is_file()}
            entries.setdefault(split, []).append(
                {"image": str(patient / "ct.csv"), "masks": masks, "case": patient.name, "patient": patient.name, "modality": "CT", "openkbp": True}
            )
    return Found("openkbp", labels, entries, "CT", "MIT (source repository)", "Babier et al., OpenKBP, Med Phys 48:5549, 2021")


def read_bids(folder: Path) -> Found:
    """BIDS-like: ``sub-X[/ses-Y]/anat/*_T1w.nii.gz``, masks under ``derivatives/**/sub-X*_dseg.nii.gz`` and a ``*dseg.tsv`` of names."""
    tables = visible(folder.glob("**/*dseg.tsv"))
    if not tables:
        raise InputError(f"'{folder}' holds no *_dseg.tsv with the columns index and name; add one that names the label values.")
    rows = csv.DictReader(tables[0].read_text(encoding="utf-8-sig").splitlines(), delimiter="\t")
    if missing := {"index", "name"} - {*(rows.fieldnames or ())}:
        raise InputError(f"'{tables[0]}' has no column {' or '.join(sorted(missing))}; a BIDS table of labels has index and name, parted by tabs.")
    labels = {int(r["index"]): r["name"] for r in rows if int(r["index"]) > 0}
    entries = []
    for label in visible(folder.glob("derivatives/**/sub-*_dseg.nii.gz")):
        subject = label.name.split("_")[0]
        stem = re.sub(r"(_(space|label|desc|res)-[^_]+)*_dseg\.nii\.gz$", "", label.name)
        images = [p for p in visible(folder.glob(f"{subject}/**/{stem}*.nii.gz")) if "derivatives" not in p.parts and not p.name.endswith("_dseg.nii.gz")]
        image = _drawn_on(label, stem, images) if images else folder / subject / f"{stem}.nii.gz"
        suffix = image.name.split(".")[0].rsplit("_", 1)[-1].lower()
        modality = "PET" if suffix == "pet" else "CT" if suffix == "ct" else "MR"
        entries.append({"image": str(image), "label": str(label), "patient": subject, "modality": modality})
    return Found(folder.name, labels, {"training": entries}, PER_CASE)


def _drawn_on(label: Path, stem: str, images: list[Path]) -> Path:
    """The image that a BIDS label belongs to: the one that it is named after (``stem``), else of the contrast that its ``space`` names, else the
    only one, else the T1.

    Raises:
        InputError: several images, and nothing says which.
    """
    space = re.search(r"_space-([^_]+)", label.name)
    of_contrast = {w: [p for p in images if p.name.split(".")[0].endswith(f"_{w}")] for w in (*([space.group(1)] if space else []), "T1w")}
    named = [p for p in images if p.name == f"{stem}.nii.gz"]
    choices = (named, of_contrast[space.group(1)] if space else [], images if len(images) == 1 else [], of_contrast["T1w"])
    found = next((c for c in choices if c), images)
    if len(found) > 1:
        raise InputError(f"'{label}' may be drawn on any of {', '.join(p.name for p in found)}; name the label after one of them, as "
                         f"{found[0].name.split('.')[0]}_dseg.nii.gz.")  # fmt: skip
    return found[0]


def read_datalist(folder: Path) -> Found:
    """Our own form, as a review export writes it."""
    values = _json(folder / "datalist.json")
    entries = {
        split: [{**e, "image": str(folder / e["image"]), "label": str(folder / e["label"])} for e in values.get(split, [])]
        for split in ("training", "validation", "test")
    }
    return Found(values.get("name", folder.name), named_values(values["labels"], str(folder / FILE_NAME)), entries, values.get("modality", ""),
                 values.get("licence", ""), values.get("citation", ""), composites=values.get("composites", {}))  # fmt: skip


def read_slicer(folder: Path) -> Found:
    """What a person saved from Slicer: ``X.seg.nrrd`` beside the image ``X.nrrd``, or beside the only image of its folder."""
    found = Found(folder.name, {}, {"training": []}, PER_CASE)  # the files must tell
    values: dict[str, int] = {}
    alone: list[str] = []
    labels = visible(folder.glob("**/*.seg.nrrd"))
    place = Path(os.path.commonpath([label.parent for label in labels])) if labels else folder
    for label in labels:
        images = [p for p in visible(label.parent.iterdir()) if p.name.endswith(ENDINGS) and not p.name.endswith(".seg.nrrd")]
        stem = label.name.removesuffix(".seg.nrrd")
        image = next((p for p in images if p.name in {stem + e for e in ENDINGS}), images[0] if len(images) == 1 else None)
        if image is None:
            alone.append(str(label.relative_to(folder)))
            continue
        titles = segment_titles(label)
        segments = {values.setdefault(title, len(values) + 1): title for title in titles}
        case = "_".join(label.relative_to(folder).parts).removesuffix(".seg.nrrd")
        # A folder beside others is taken for one patient, however many visits and scans it holds; one that holds everything for a place.
        inside = label.relative_to(place).parts
        patient = inside[0] if len(inside) > 1 else case
        found.entries["training"].append({"image": str(image), "label": str(label), "segments": segments, "case": case, "patient": patient})
    if alone:
        raise InputError(f"{len(alone)} segmentations have no image of the same name beside them and are not alone with one: {', '.join(alone[:5])}"
                         f"{' ...' if len(alone) > 5 else ''}; put each beside its image.")  # fmt: skip
    found.labels.update({value: title for title, value in values.items()})
    return found


READERS: dict[str, Callable[[Path], Found]] = {
    "datalist": read_datalist, "decathlon": read_decathlon, "nnunet": read_nnunet, "totalsegmentator": read_totalsegmentator,
    "openkbp": read_openkbp, "bids": read_bids, "slicer": read_slicer,
}  # fmt: skip


def recognise(folder: Path) -> str:
    """Name of the reader that a folder looks made for.

    Raises:
        InputError: none.
    """
    if (folder / "datalist.json").is_file():
        return "datalist"
    if (folder / "dataset.json").is_file():
        return "nnunet" if any((folder / "imagesTr").glob("*_0000.*")) else "decathlon"
    if any(folder.glob("*/segmentations")):
        return "totalsegmentator"
    if any(folder.glob("**/ct.csv")):
        return "openkbp"
    if any(folder.glob("sub-*")):
        return "bids"
    if any(folder.glob("**/*.seg.nrrd")):
        return "slicer"
    raise InputError(f"'{folder}' looks like none of {', '.join(READERS)}; name one with --format.")


def openkbp_array(path: Path, fill: float = 0.0) -> np.ndarray:
    """A flat-index CSV as a (128, 128, 128) array; a mask file has indices without values."""
    array = np.full(128**3, fill, np.float32)
    for row in list(csv.reader(path.read_text().splitlines()))[1:]:
        array[int(row[0])] = float(row[1]) if len(row) > 1 and row[1] not in ("", "nan") else 1.0
    return array.reshape(128, 128, 128)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"'{path}' does not exist; give the folder that holds it, or another --format.")
    return json.loads(path.read_text(encoding="utf-8"))


def _origin(values: dict[str, Any]) -> tuple[str, str]:
    return values.get("licence", values.get("license", "")), values.get("reference", "")


def _is_number(value: object) -> bool:
    return str(value).isdigit()


#: Words by which sets name a channel, and what they mean. A word that is not here says nothing: the file must tell.
_CHANNEL_WORDS = {
    **dict.fromkeys(("CT", "CBCT", "CTA", "CECT", "NCCT", "HRCT"), "CT"),
    **dict.fromkeys(("PET", "PT", "FDG", "SUV"), "PET"),
    **dict.fromkeys(("MR", "MRI", "T1", "T1W", "T1CE", "T1GD", "T1C", "T2", "T2W", "FLAIR", "DWI", "ADC", "PD", "SWI", "MPRAGE"), "MR"),
}


def _modality(names: list[str]) -> str:
    """Modality of the first channel, by the words of its name ("CT_venous", "FDG-PET")."""
    words = re.split(r"[^A-Z0-9]+", (names[0] if names else "").upper())
    return next((_CHANNEL_WORDS[w] for w in words if w in _CHANNEL_WORDS), "")
