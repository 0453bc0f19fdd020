"""What a segment carries about its origin: tags that survive .seg.nrrd, .mrb and DICOM SEG."""

from __future__ import annotations

import datetime

from RefSAM3DLib import __version__

from .runs import EngineInfo, RunResult

PREFIX = "RefSAM3D."
#: Machine-made from a text alone; with the user's own voxels, masks or combinations it is half automatic.
AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"


def clean(text: object, limit: int = 500) -> str:
    """Without what separates tags in a .seg.nrrd header."""
    return " ".join(str(text).replace("|", "/").split())[:limit]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def provenanceTags(result: RunResult, engine: EngineInfo, adapter: str = "", assisted: bool = False) -> dict[str, str]:
    """Tags of one result. Numbers have a decimal point in every locale; those that do not exist are empty."""
    adapterName = adapter.replace("\\", "/").rpartition("/")[2]  # the file's name, never a folder: it may hold a person's name
    tags = {
        "Prompt": result.prompt,
        "Resolved": result.resolved,
        "Verdict": result.verdict,
        "Presence": _number(result.presence),
        "Confidence": _number(result.confidence),
        "Model": engine.modelName,
        "ModelSHA256": engine.modelSha256,
        "Adapter": adapterName,
        "Device": engine.device,
        "Version": __version__,
        "Date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    named = {PREFIX + key: clean(value) for key, value in tags.items()}
    named["DICOM.SegmentAlgorithmType"] = SEMIAUTOMATIC if assisted else AUTOMATIC
    named["DICOM.SegmentAlgorithmName"] = clean(f"RefSAM3D {engine.modelName}", 64)  # DICOM LO: 64 characters
    return named
