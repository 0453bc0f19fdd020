"""The work on one case, in whatever process it runs: load, segment, draw, write, and only then say that it is done."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import is_full, make_folder, rename, write_aside
from ..errors import Cancelled, InputError, OutputError, RefSAM3DError
from ..memory import peak_memory_mb
from ..places import look_at
from ..provenance import engine_values, model_values
from ..report import number_or_none, result_values
from ..types import PromptResult, Volume
from .cases import Case
from .content_hash import hash_files, hash_mask
from .folder_state import case_folder
from .inputs import case_files
from .options import BatchOptions
from .pictures import draw_structure, grey_window, write_pictures, write_thumbnail
from .pseudonyms import hide_identity
from .repeats import repeat_note

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

#: Masks that an earlier run made and that decisions may refer to are moved here, never deleted.
SUPERSEDED = "superseded"
#: Without these a row of a result can be neither listed nor reviewed.
_ROW_FIELDS = {"label", "structure", "prompt", "verdict", "voxels", "mask_sha256"}


def work_on(engine: Any, engine_info: dict[str, Any], case: Case, options: BatchOptions, output: Path, known: dict[str, str]) -> dict[str, Any]:
    """Do one case and tell what became of it; never raises for a fault of the case.

    Args:
        known: fingerprints of the journal: ``done`` and ``failed`` of this case, "" if it has none.

    Returns:
        plain values: ``status`` (done, recovered, unchanged, failed, failed_before), ``fingerprint``, ``input_sha256``,
        ``elapsed_s``, and ``results`` and ``outputs``, or ``error``.
    """
    started = time.monotonic()
    outcome: dict[str, Any] = {"case": case.key, "status": "failed", "fingerprint": "", "input_sha256": ""}
    try:
        outcome["input_sha256"] = digest = hash_files(case_files(case))
        prompts = case.prompts or options.prompts
        if not prompts:
            raise InputError(f"The case '{case.name}' has no prompts; give some with -p or in the list.")
        outcome["fingerprint"] = fingerprint = options.fingerprint(digest, prompts, case, engine_info)
        folder = case_folder(output, case.key)
        beside = folder.with_name(f".{case.key}.part")
        if not folder.exists() and read_result(beside, case.key) is not None:
            rename(beside, folder)  # killed between the last two renames of _compute_beside
        stored = read_result(folder, case.key)
        whole = stored is not None and stored.get("fingerprint") == fingerprint and _outputs_exist(folder, stored)
        if whole and stored is not None:
            # Killed between the last rename and the journal's line: everything is there, so only the line is missing.
            outcome.update(
                status="unchanged" if known.get("done") == fingerprint else "recovered",
                results=stored["prompts"],
                outputs=stored["outputs"],
            )
        elif known.get("failed") == fingerprint and not options.retry_failed:
            outcome.update(status="failed_before")
        else:
            _refuse_several_series(case)
            work = (engine, engine_info, case, prompts, options)
            # an unfinished result (no JSON) is simply written over
            outcome.update(status="done", **(_compute(*work, folder, outcome) if stored is None else _compute_beside(*work, output, outcome, stored, beside)))
    except Cancelled:
        raise
    except RefSAM3DError as error:
        outcome["error"] = str(error)
    except MemoryError:
        outcome["error"] = "The memory was not enough for this case; use fewer workers or a machine with more memory, and --retry-failed."
    except Exception as error:  # the border of a case: one bad case never stops the others
        log.exception("case %s", case.key)
        outcome["error"] = f"An unexpected error ended this case ({type(error).__name__}: {error}); please report it with the journal's line."
        outcome["traceback"] = traceback.format_exc(limit=8)
    finally:
        with contextlib.suppress(AttributeError):
            engine.release()  # cached images of a case are of no use to the next one
    for field in ("error", "traceback"):
        if field in outcome:
            outcome[field] = hide_identity(outcome[field], case)
    outcome["elapsed_s"] = round(time.monotonic() - started, 3)
    return outcome


def _refuse_several_series(case: Case) -> None:
    """In words of its own: the reader's would list the descriptions, which may name the patient."""
    from ..volume_io import list_series

    if not case.series and Path(case.image).is_dir() and (count := len(list_series(case.image))) > 1:
        raise InputError(f"The folder of this case holds {count} DICOM series, and the list does not say which one; fill in the column 'series' with its UID.")


def read_result(folder: Path, key: str) -> dict[str, Any] | None:
    """The stored result of a case, None if it has none that can be read and is whole."""
    try:
        content = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"prompts": list, "segmentation": str, "model": dict, "warnings": list, "outputs": list}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in kinds.items()):
        return None
    return content if all(isinstance(row, dict) and row.keys() >= _ROW_FIELDS for row in content["prompts"]) else None


def _outputs_exist(folder: Path, stored: dict[str, Any]) -> bool:
    return all((folder / name).is_file() for name in stored.get("outputs", [None] if "outputs" not in stored else []))


def set_aside_older(output: Path, folder: Path, key: str, stored: dict[str, Any] | None) -> None:
    """Move a result of another input, prompt or model away; an unfinished one (no JSON) stays."""
    if stored is None or not folder.exists():
        return
    target = output / SUPERSEDED / f"{key}-{str(stored.get('fingerprint', ''))[:8]}"
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        shutil.rmtree(target)  # the very same work, set aside before
    rename(folder, target)


def _compute_beside(
    engine: Any, engine_info: dict[str, Any], case: Case, prompts: Sequence[str], options: BatchOptions, output: Path, outcome: dict[str, Any],
    stored: dict[str, Any], beside: Path,
) -> dict[str, Any]:  # fmt: skip
    """Make the new result beside the old one, and put it in its place when it is whole: what stops on the way costs no result that was reviewed."""
    folder = case_folder(output, case.key)
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    try:
        made = _compute(engine, engine_info, case, prompts, options, beside, outcome)
        set_aside_older(output, folder, case.key, stored)
        rename(beside, folder)
    except OSError as error:
        raise OutputError(f"The new result of '{case.name}' cannot be put in its place: {error.strerror or error}; check the folder '{folder}'.") from error
    finally:
        if folder.exists():  # else only the last rename failed, and the next run does it
            shutil.rmtree(beside, ignore_errors=True)
    return made


def _compute(
    engine: Any,
    engine_info: dict[str, Any],
    case: Case,
    prompts: Sequence[str],
    options: BatchOptions,
    folder: Path,
    outcome: dict[str, Any],
) -> dict[str, Any]:
    from ..segmentation_io import write_segmentation
    from ..volume_io import load_volume

    clock = time.monotonic()
    told_before = len(getattr(engine, "warnings", ()))
    volume = load_volume(case.image, series=case.series or None, modality=options.modality or case.modality or None)
    loaded = time.monotonic() - clock
    embedding = engine.embed(volume)
    embedded = time.monotonic() - clock - loaded
    make_folder(folder)
    window = grey_window(volume)
    results: list[PromptResult] = []
    rows: list[dict[str, Any]] = []
    drawings = []
    outputs = []
    repeats = []
    for prompt in dict.fromkeys(prompts):  # one at a time: a probability volume is needed for the worst slice and freed at once
        for result in engine.segment(embedding, [prompt], probability=True, allow_unknown=options.allow_unknown):
            if note := repeat_note(result, results):
                repeats.append(note)
                continue
            number = len(results) + 1
            row = _row(number, result, volume)
            if options.probability and result.probability is not None and row["voxels"]:
                row["probability"] = _write_probability(folder, number, result, volume)
                outputs.append(row["probability"])
            greys, masks = draw_structure(volume, result, row, window)
            row["picture"], row["picture_mask"] = write_pictures(folder, number, greys, masks)
            outputs += [row["picture"], row["picture_mask"]]
            drawings.append((f"{row['structure']} - {row['verdict']}", greys, masks))
            result.probability = None
            results.append(result)
            rows.append(row)
    # an engine that ran out of memory goes on with smaller tiles or on the CPU, and says so among its warnings
    engine_info = {**engine_info, "device": engine_values(engine)["device"] or engine_info["device"]}
    told = [*engine_info["warnings"], *(str(w) for w in getattr(engine, "warnings", ())[told_before:])]
    about_image = [str(volume.metadata.get("warning", "")), *getattr(embedding, "warnings", ())]
    found = [*told, *about_image, *repeats, _compare_with_reference(case, rows, results, volume)]
    warnings = [hide_identity(text, case) for text in dict.fromkeys(found) if text]
    names = [f"{case.key}.seg.nrrd"]
    if volume.dicom_files and importlib.util.find_spec("highdicom") is not None:
        names.append(f"{case.key}.dcm")
    elif volume.dicom_files:
        from ..dicom_seg import HIGHDICOM_ADVICE

        warnings.append(f"No DICOM SEG was written: it needs the package highdicom; {HIGHDICOM_ADVICE}.")
    for name in names:
        if name.endswith(".dcm") and not any(row["voxels"] for row in rows):
            continue  # DICOM knows no SEG without a single voxel
        try:
            write_segmentation(folder / name, results, volume, engine_info, overwrite=True)
        except RefSAM3DError as error:  # the DICOM SEG comes on top: the result is whole without it
            if not name.endswith(".dcm") or is_full(error.__cause__):
                raise
            warnings.append(f"No DICOM SEG was written beside the .seg.nrrd: {hide_identity(str(error), case)}")
            continue
        outputs.append(name)
    write_thumbnail(folder / f"{case.key}.png", drawings)
    outputs.append(f"{case.key}.png")
    report = {
        "input": case.key if case.private else case.image,
        "modality": volume.modality.value if volume.modality else None,
        "model": model_values(engine_info),
        "device": engine_info["device"],
        "prompts": rows,
        "warnings": warnings,
        "elapsed_s": {"load": round(loaded, 3), "embed": round(embedded, 3), "total": round(time.monotonic() - clock, 3)},
        "peak_memory_mb": peak_memory_mb(),
        "version": engine_info["version"],
        "case": case.key,
        "name": case.name,
        "patient": case.patient,
        "series": "" if case.private else case.series,
        "fingerprint": outcome["fingerprint"],
        "input_sha256": outcome["input_sha256"],
        "segmentation": names[0],
        "outputs": outputs,
    }
    with write_aside(folder / f"{case.key}.json", overwrite=True) as aside:  # last: its presence means that all is there
        aside.write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
    return {"results": rows, "outputs": outputs, "warnings": report["warnings"]}


def _row(number: int, result: PromptResult, volume: Volume) -> dict[str, Any]:
    """One line of the result JSON: the contract's fields, and what review and report need."""
    voxels = int(result.mask.sum())
    return {
        **result_values(number, result),
        "structure": result.resolved or result.prompt,
        "voxels": voxels,
        "colour": list(result.colour),
        "suggestions": list(result.suggestions),
        "warnings": list(result.warnings),
        "mask_sha256": hash_mask(result.mask, volume.geometry),
        **(look_at(result.mask, volume.geometry, result.probability) if voxels else {}),
    }


def _compare_with_reference(case: Case, rows: list[dict[str, Any]], results: list[PromptResult], volume: Volume) -> str:
    """Add ``reference_dice`` where the list names a segmentation that has the structure; returns why nothing was compared, or ""."""
    if not case.segmentation:
        return ""
    from ..compare import dice, read_masks

    path = Path(case.segmentation)
    try:
        masks = read_masks(path, dict(case.labels), volume.geometry)
    except RefSAM3DError as error:  # the result is worth keeping without it
        return f"Nothing was compared with the reference: {error}".replace(f"{path.parent}{os.sep}", "")  # folders have people's names too
    by_name = {name.lower(): mask for name, mask in masks.items()}
    for row, result in zip(rows, results, strict=True):
        if (reference := by_name.get(row["structure"].lower())) is not None:
            row["reference_dice"] = number_or_none(dice(result.mask, reference))
    if any("reference_dice" in row for row in rows):
        return ""
    if not case.labels and not path.name.lower().endswith((".seg.nrrd", ".dcm")):
        return (
            "Nothing was compared with the reference: it is a label map, and this list does not name its values; give a .seg.nrrd file with named"
            " segments, or a datalist.json with 'labels'."
        )
    asked = ", ".join(f"'{row['structure']}'" for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
    return f"Nothing was compared with the reference: none of its structures is called {asked}; rename them, or ask for them by their names."


def _write_probability(folder: Path, number: int, result: PromptResult, volume: Volume) -> str:
    """0 to 255 in a byte: a viewer's overlay needs no more, and a float16 volume would not compress."""
    import numpy as np
    import SimpleITK as sitk

    from ..compare import to_image
    from ..image_files import itk_name

    assert result.probability is not None
    name = f"pictures/{number:02d}.probability.nrrd"
    (folder / "pictures").mkdir(exist_ok=True)
    levels = np.round(np.asarray(result.probability, dtype=np.float32) * 255).astype(np.uint8)
    with write_aside(folder / name, overwrite=True) as aside:
        sitk.WriteImage(to_image(levels, volume.geometry), itk_name(aside), useCompression=True)
    return name
