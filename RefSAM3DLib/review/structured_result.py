"""The signed-off result of one study: a JSON, and for DICOM images a DICOM SEG that names algorithm and reviewer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..atomic import check_output, write_aside
from ..batch.append_log import utc_now
from ..errors import ConfigError, InputError
from .queue import ReviewItem
from .session import ReviewSession
from .status import last_overall
from .verdicts import ReviewVerdict

if TYPE_CHECKING:
    import numpy as np

_NOTICE = "Made with a research tool; not for diagnosis."


def write_structured_result(session: ReviewSession, case: str, folder: Path | str, overwrite: bool = False) -> list[Path]:
    """Write ``<case>.reviewed.json`` and, if the image is DICOM and any structure was accepted, ``<case>.reviewed.dcm``.

    Raises:
        InputError: no such case, or some of its items are not decided yet.
    """
    items = [item for item in session.items if item.case == case]
    if not items:
        raise InputError(f"There is no case '{case}' in '{session.folder}'; 'refsam3d review list' shows them.")
    counting = last_overall(session.trail.read().entries)
    decided = [(item, counting.get((item.case, item.label))) for item in items]
    open_items = [
        item.structure or "failed case" for item, entry in decided if entry is None or not ReviewVerdict(entry["verdict"]).is_final
    ]
    if open_items:
        raise InputError(f"The case '{case}' is not reviewed completely (open: {', '.join(open_items)}); decide these first.")
    folder = Path(folder)
    path = folder / f"{case}.reviewed.json"
    check_output(path, overwrite)
    findings, accepted = [], []
    for item, entry in decided:
        assert entry is not None
        findings.append(_finding(item, entry))
        if entry.get("mask_file") and entry["verdict"] in ("accept", "accept_edited"):
            mask, _ = session.masks.read(session.folder / entry["mask_file"], item.structure, entry["mask"])
            if mask.any():
                accepted.append((item, entry, mask))
    written = []
    report: dict[str, Any] = {
        "format": 1,
        "case": case,
        "input": items[0].case if items[0].series else items[0].image,
        "created": utc_now(),
        "version": __version__,
        "algorithm": {"name": "RefSAM3D", "version": __version__, "model": items[0].model},
        "findings": findings,
        "notice": _NOTICE,
        "dicom_seg": None,
    }
    volume = session.volume(items[0]) if accepted else None
    if volume is not None and volume.dicom_files:
        seg_path = folder / f"{case}.reviewed.dcm"
        _write_seg(seg_path, accepted, list(volume.dicom_files), overwrite)
        report["dicom_seg"] = seg_path.name
        written.append(seg_path)
    with write_aside(path, overwrite=overwrite) as aside:
        aside.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return [path, *written]


def _finding(item: ReviewItem, entry: dict[str, Any]) -> dict[str, Any]:
    names = ("verdict", "reason", "comment", "reviewer", "time", "seconds", "metrics", "machine_mask", "edited_mask")
    return {
        "structure": item.structure,
        "prompt": item.prompt,
        "machine": {"verdict": item.verdict, "presence": item.presence, "confidence": item.confidence},
        "volume_ml": (entry.get("metrics") or {}).get("volume_ml", item.volume_ml),
        "review": {name: entry.get(name) for name in names} | {"decision": entry["id"]},
    }


def _write_seg(path: Path, accepted: list[tuple[ReviewItem, dict[str, Any], np.ndarray]], files: list[str], overwrite: bool) -> None:
    """Segments are AUTOMATIC as accepted and SEMIAUTOMATIC where a person edited; reviewers are the content creators.

    ``mask`` k grows in the order of ``files``: that is the promise of ``Volume.dicom_files``.
    """
    try:
        import highdicom as hd
        import pydicom
        from pydicom.sr.codedict import codes
        from pydicom.uid import ExplicitVRLittleEndian
    except ImportError as error:
        raise ConfigError('DICOM SEG needs highdicom and pydicom; install them with: pip install "refsam3d[dicom]".') from error
    import numpy as np

    sources = [pydicom.dcmread(name) for name in files]
    algorithm = hd.AlgorithmIdentificationSequence(
        name="RefSAM3D",
        version=__version__,
        family=codes.cid7162.ArtificialIntelligence,
        source="RefSAM3D",
        parameters={"model": str(accepted[0][0].model.get("name", "")), "sha256": str(accepted[0][0].model.get("sha256", ""))},
    )
    reviewers = list(dict.fromkeys(str(entry["reviewer"]) for _, entry, _ in accepted))
    segments = []
    for number, (item, entry, _) in enumerate(accepted, 1):
        edited = entry["verdict"] == "accept_edited"
        category, kind = _codes(item.structure)
        segments.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=item.structure[:64],
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC if edited else hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                tracking_uid=hd.UID(),
                tracking_id=f"{item.case} {item.structure}"[:64],
            )
        )
    pixels = np.stack([mask for _, _, mask in accepted], axis=-1).astype(np.uint8)
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=900,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="RefSAM3D",
        manufacturer_model_name="RefSAM3D",
        software_versions=__version__,
        device_serial_number="1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_description="Reviewed segmentation",
        content_label="REVIEWED",
        series_description="RefSAM3D, reviewed",
        content_creator_name=_person_name(reviewers[0]),
    )
    if len(reviewers) > 1:
        segmentation.ContentDescription = f"Reviewed segmentation, by {', '.join(reviewers)}"[:64]
    with write_aside(path, overwrite=overwrite) as aside:
        segmentation.save_as(aside)


def _person_name(reviewer: str) -> str:
    """ "Dr. A. Muster" as DICOM's family^given; what DICOM uses as a separator is replaced."""
    words = reviewer.replace("^", " ").replace("=", " ").replace("\\", " ").split()
    return f"{words[-1]}^{' '.join(words[:-1])}" if len(words) > 1 else words[0]


def _codes(structure: str) -> tuple[Any, Any]:
    """SNOMED codes of the vocabulary; "Anatomical structure" for what it does not know."""
    from highdicom.sr.coding import CodedConcept

    category, kind = ("SCT", "123037004", "Anatomical Structure"), ("SCT", "123037004", "Anatomical Structure")
    try:
        from ..resources import resource_path

        vocabulary = json.loads(resource_path("Text", "vocabulary.json").read_text(encoding="utf-8"))
        found = next(s for s in vocabulary["structures"] if s["name"] == structure)
        category, kind = tuple(found["terminology"]["category"]), tuple(found["terminology"]["type"])
    except (StopIteration, KeyError, OSError, ValueError):
        pass
    return tuple(CodedConcept(value=value, scheme_designator=scheme, meaning=meaning[:64]) for scheme, value, meaning in (category, kind))  # type: ignore[return-value]
