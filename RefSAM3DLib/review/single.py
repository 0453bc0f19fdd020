"""Review of a segmentation that no batch made: it is given a folder of the same form, so that everything else is the same."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..atomic import make_folder, write_aside
from ..batch.append_log import AppendLog, utc_now
from ..batch.case_work import read_result, set_aside_older
from ..batch.cases import slug
from ..batch.content_hash import hash_file, hash_mask, hash_voxels
from ..batch.folder_state import JOURNAL, case_folder
from ..batch.pictures import draw_structure, grey_window, write_pictures
from ..batch.run_manifest import prepare_folder, read_manifest, start_run
from ..errors import InputError
from ..places import box_of, look_at
from ..provenance import AUTOMATIC, MODEL_TAGS, model_values
from ..types import PromptResult, Verdict

#: Kind of the runs that this module notes in the manifest.
SINGLE = "single"


def check_review_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that may take single segmentations, {} for a new one.

    Raises:
        InputError: it is the output of a batch, whose record would be mixed with another. OutputError: its manifest is damaged.
    """
    content = read_manifest(folder)
    if any(run.get("id") != SINGLE for run in content.get("runs", [])):
        raise InputError(f"The folder '{folder}' is the output of a batch; choose an empty or a new one for the review of a single segmentation.")
    return content


def add_segmentation(folder: Path | str, image: Path | str, segmentation: Path | str, series: str = "", name: str = "") -> str:
    """Make an image and its ``.seg.nrrd`` a case of the review folder ``folder``; verdicts come from its tags where it has them.

    An earlier version of the segmentation is set aside, as a batch does, and its decisions count as made about another mask. The same
    name on another image is a case of its own.

    Returns:
        the case's key in the folder.

    Raises:
        InputError: image or segmentation cannot be read, their grids differ, or the folder is the output of a batch. OutputError: the
            folder cannot be used.
    """
    from ..segmentation_io import read_segmentation, write_segmentation
    from ..volume_io import load_volume

    folder, segmentation = Path(folder), Path(segmentation)
    volume = load_volume(image, series=series or None)
    segments, geometry = read_segmentation(segmentation, volume.geometry)
    prepare_folder(folder)
    manifest = check_review_folder(folder)
    fingerprint, voxels = hash_file(segmentation), hash_voxels(volume.array, volume.geometry)
    key, stored = _place_for(folder, slug(name or segmentation.name.split(".")[0]), voxels)
    place = case_folder(folder, key)
    if stored is not None and stored.get("fingerprint") != fingerprint:
        set_aside_older(folder, place, key, stored)
    make_folder(place)
    window = grey_window(volume)
    rows: list[dict[str, Any]] = []
    results: list[PromptResult] = []
    model = model_values({})
    for number, (title, mask, tags) in enumerate(segments, 1):
        mask = np.asarray(mask, dtype=bool)
        tags = {str(k).rsplit(".", 1)[-1].lower(): v for k, v in dict(tags).items()}
        # A segment without the tag came from another program or from a person: it is not called automatic.
        assisted = tags.get("segmentalgorithmtype") != AUTOMATIC
        own = model_values({key: tags.get(tag.lower(), "") for key, tag in MODEL_TAGS.items()})
        model = model if model.get("sha256") else own
        verdict = str(tags.get("verdict", "present" if mask.any() else "absent")).lower()
        row: dict[str, Any] = {
            "prompt": str(tags.get("prompt", title)),
            "resolved": str(tags.get("resolved", title)),
            "structure": str(title),
            "label": number,
            "verdict": verdict if verdict in {v.value for v in Verdict} else "present",
            "presence": _number(tags.get("presence")),
            "confidence": _number(tags.get("confidence")),
            "volume_ml": round(float(mask.sum()) * geometry.voxel_volume_ml, 5),
            "elapsed_s": None,
            "voxels": int(mask.sum()),
            "colour": [230, 159, 0],
            "suggestions": [],
            "warnings": [],
            "assisted": assisted,
            "model": own,
            "mask_sha256": hash_mask(mask, geometry),
            **look_at(mask, geometry),
        }
        result = PromptResult(
            row["prompt"],
            row["resolved"],
            Verdict(row["verdict"]),
            _nan(row["presence"]),
            _nan(row["confidence"]),
            mask,
            row["volume_ml"],
            box_of(mask),
            0.0,
            colour=(230, 159, 0),
            details={"assisted": assisted, "model": own},
        )
        row["picture"], row["picture_mask"] = write_pictures(place, number, *draw_structure(volume, result, row, window))
        rows.append(row)
        results.append(result)
    copied = f"{key}.seg.nrrd"
    write_segmentation(place / copied, results, volume, model, overwrite=True)
    report = {
        "input": key if volume.dicom_files else str(image),
        "modality": volume.modality.value if volume.modality else None,
        "model": model,
        "device": "",
        "prompts": rows,
        "warnings": [],
        "elapsed_s": {"load": None, "embed": None, "total": None},
        "peak_memory_mb": None,
        "version": __version__,
        "case": key,
        "name": name or key,
        "patient": "",
        "series": "",
        "fingerprint": fingerprint,
        "voxels_sha256": voxels,
        "segmentation": copied,
        "outputs": [copied],
    }
    with write_aside(place / f"{key}.json", overwrite=True) as aside:
        aside.write_text(json.dumps(report, indent=1), encoding="utf-8")
    start_run(folder, manifest, {**model, "version": __version__}, {"id": SINGLE, "command": [], "cases": 1, "options": {}})
    AppendLog(folder / JOURNAL).append(
        {
            "event": "done",
            "case": key,
            "name": name or key,
            "time": utc_now(),
            "image": str(image),
            "series": series,
            "fingerprint": fingerprint,
            "how": SINGLE,
        }
    )
    return key


def _place_for(folder: Path, wanted: str, voxels: str) -> tuple[str, dict[str, Any] | None]:
    """A free key or that of the same image, and what is stored under it."""
    for number in itertools.count(1):
        key = wanted if number == 1 else f"{wanted}-{number}"
        stored = read_result(case_folder(folder, key), key)
        if stored is None or stored.get("voxels_sha256") == voxels:
            return key, stored
    raise AssertionError("there is always another number")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
