"""The signed-off result of one study: a JSON, and for DICOM images a DICOM SEG that names algorithm and reviewer."""

from __future__ import annotations

import json
import unicodedata
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..atomic import check_output, make_folder, write_aside
from ..batch.append_log import utc_now
from ..batch.case_work import read_result
from ..batch.cases import image_stem
from ..batch.folder_state import case_folder
from ..batch.pseudonyms import Identifiers
from ..dicom_seg import UnfitSeriesError
from ..errors import InputError
from ..places import box_of
from ..types import PromptResult, Verdict, Volume
from .queue import ReviewItem
from .session import ReviewSession
from .status import is_assisted, last_overall, status_of, structure_of
from .verdicts import STATUS_WORDS, ReviewVerdict

if TYPE_CHECKING:
    import numpy as np

_NOTICE = "Made with a research tool; not for diagnosis."


def write_structured_result(session: ReviewSession, case: str, folder: Path | str, overwrite: bool = False) -> list[Path]:
    """Write ``<case>.reviewed.json`` and, if the image is DICOM and any structure was accepted, ``<case>.reviewed.dcm``.

    A series that cannot carry a DICOM SEG has none: the JSON and a note of the session say why.

    Args:
        folder: made if it does not exist.

    Raises:
        InputError: no such case, or some of its items are not decided yet. OutputError: the folder cannot be written.
    """
    items = [item for item in session.items if item.case == case]
    if not items:
        raise InputError(f"There is no case '{case}' in '{session.folder}'; 'refsam3d review list' shows them.")
    counting = last_overall(session.trail.read().entries)
    decided = [(item, counting.get((item.case, item.label))) for item in items]
    open_items = [item.structure or "failed case" for item, entry in decided if not _is_decided(item, entry)]
    if open_items:
        raise InputError(f"The case '{case}' is not reviewed completely (open: {', '.join(open_items)}); decide these first.")
    folder = Path(folder)
    path = folder / f"{case}.reviewed.json"
    make_folder(folder)
    check_output(path, overwrite)
    findings, accepted = [], []
    for item, entry in decided:
        assert entry is not None
        volume_ml = item.volume_ml if entry.get("machine_mask") == item.mask_sha256 else None  # of the mask that was rejected
        if entry.get("mask_file") and entry["verdict"] in ("accept", "accept_edited"):
            mask, geometry = session.masks.read(session.folder / entry["mask_file"], structure_of(item, entry), entry["mask"])
            volume_ml = round(float(mask.sum()) * geometry.voxel_volume_ml, 5)
            if mask.any():
                accepted.append((item, entry, mask))
        findings.append(_finding(item, entry, volume_ml))
    written = []
    report: dict[str, Any] = {
        "format": 1,
        "case": case,
        "input": case if _is_private(session, items[0]) else items[0].image,
        "created": utc_now(),
        "version": __version__,
        "algorithm": {"name": "RefSAM3D", "version": __version__, "model": items[0].model},
        "findings": findings,
        "notice": _NOTICE,
        "dicom_seg": None,
    }
    volume = session.volume(items[0]) if accepted and _may_be_dicom(items[0]) else None
    if volume is not None and volume.dicom_files:
        seg_path = folder / f"{case}.reviewed.dcm"
        try:
            _write_seg(seg_path, accepted, volume, overwrite)
            report["dicom_seg"] = seg_path.name
            written.append(seg_path)
        except UnfitSeriesError as error:  # the decisions are worth signing without it
            report["dicom_seg_missing"] = str(error)
            session.notes.append(f"No DICOM SEG was written for '{case}', the JSON alone. {error}")
    with write_aside(path, overwrite=overwrite) as aside:
        aside.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return [path, *written]


def _is_private(session: ReviewSession, item: ReviewItem) -> bool:
    """Whether the image's place may name the person: that of a case with a pseudonym, and of DICOM, whose result names its case alone too."""
    if item.series or item.case in Identifiers(session.folder).cases:
        return True
    stored = read_result(case_folder(session.folder, item.case), item.case)
    return stored is not None and stored.get("input") == item.case


def _may_be_dicom(item: ReviewItem) -> bool:
    """By what is recorded of the image, which need not be there any more for a result without a DICOM SEG."""
    return bool(item.series) or not image_stem(Path(item.image).name) or Path(item.image).is_dir()


def _is_decided(item: ReviewItem, entry: dict[str, Any] | None) -> bool:
    """Whether a decision is final and about what the folder has now: a later batch may have made something else."""
    if entry is None or not ReviewVerdict(entry["verdict"]).is_final:
        return False
    return status_of(item.batch, entry) != "changed"


def _finding(item: ReviewItem, entry: dict[str, Any], volume_ml: float | None) -> dict[str, Any]:
    names = ("verdict", "reason", "comment", "reviewer", "time", "seconds", "metrics", "machine_mask", "edited_mask")
    return {
        "structure": structure_of(item, entry),
        "prompt": entry.get("prompt") or item.prompt,
        "machine": {**_machine_of(item, entry), "model": _model_of(item, entry)},
        "volume_ml": volume_ml,
        "review": {name: entry.get(name) for name in names} | {"decision": entry["id"]},
    }


def _write_seg(path: Path, accepted: list[tuple[ReviewItem, dict[str, Any], np.ndarray]], volume: Volume, overwrite: bool) -> None:
    """The engine's SEG with what the review adds: segments are SEMIAUTOMATIC where a person edited, reviewers are the content creators."""
    from ..dicom_seg import check_highdicom, write_dicom_seg

    check_highdicom(path)
    import pydicom

    results = [_as_result(item, entry, mask, volume) for item, entry, mask in accepted]
    reviewers = list(dict.fromkeys(str(entry["reviewer"]) for _, entry, _ in accepted))
    with write_aside(path, overwrite=overwrite) as aside, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on a value would print it
        write_dicom_seg(aside, results, volume, {**_model_of(*accepted[0][:2]), "version": __version__})
        dataset = pydicom.dcmread(aside)
        dataset.ContentLabel, dataset.SeriesDescription = "REVIEWED", "RefSAM3D, reviewed"
        dataset.ContentCreatorName = _person_name(reviewers[0])
        dataset.ContentDescription = _ascii(f"Reviewed by {', '.join(reviewers)}")[:64]
        for segment, (_, entry, _) in zip(dataset.SegmentSequence, accepted, strict=True):
            words = STATUS_WORDS[entry["verdict"]]
            segment.SegmentDescription = _ascii(f"{segment.get('SegmentDescription', '')}; {words} by {entry['reviewer']}")[:1024]
        dataset.save_as(aside)


def _as_result(item: ReviewItem, entry: dict[str, Any], mask: np.ndarray, volume: Volume) -> PromptResult:
    nan, machine = float("nan"), _machine_of(item, entry)
    return PromptResult(
        prompt=str(entry.get("prompt") or item.prompt),
        resolved=structure_of(item, entry),
        verdict=Verdict.PRESENT,
        presence=nan if machine["presence"] is None else machine["presence"],
        confidence=nan if machine["confidence"] is None else machine["confidence"],
        mask=mask,
        volume_ml=float(mask.sum()) * volume.geometry.voxel_volume_ml,
        box=box_of(mask),
        elapsed_s=0.0,
        colour=item.colour,
        details={"assisted": is_assisted(item, entry), "reviewer": str(entry["reviewer"]), "model": _model_of(item, entry)},
    )


def _machine_of(item: ReviewItem, entry: dict[str, Any]) -> dict[str, Any]:
    """What the machine said of the mask that was decided about; nothing where an older entry does not tell which mask that was."""
    if "machine" in entry:
        return dict(entry["machine"])
    if entry.get("machine_mask") == entry.get("batch_mask") == item.mask_sha256:
        return {"verdict": item.verdict, "presence": item.presence, "confidence": item.confidence}
    return {"verdict": None, "presence": None, "confidence": None}


def _model_of(item: ReviewItem, entry: dict[str, Any]) -> dict[str, str]:
    """The weights whose mask was decided about: a reviewer may have asked again with others."""
    return dict(entry.get("model") or item.model)


def _person_name(reviewer: str) -> str:
    """ "Dr. A. Muster" as DICOM's family^given; what DICOM uses as a separator is replaced."""
    words = _ascii(reviewer).replace("^", " ").replace("=", " ").split()
    return f"{words[-1]}^{' '.join(words[:-1])}"[:64] if len(words) > 1 else (words or ["Reviewer"])[0][:64]


def _ascii(text: str) -> str:
    """Text that needs no other character set than the source series has; accents are dropped, not letters."""
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode().replace("\\", "/")
