"""What a segment carries about its origin: tags that survive ``.seg.nrrd``, DICOM SEG and Slicer's own saving."""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from . import __version__
from .types import PromptResult, Verdict

PREFIX = "RefSAM3D."
#: Which tag (without the prefix) names what of the weights that made a segment, see :func:`model_values`.
MODEL_TAGS: Mapping[str, str] = {"name": "Model", "sha256": "ModelSHA256", "adapter": "Adapter", "adapter_sha256": "AdapterSHA256"}
#: Made from a text alone; with a person's share in the voxels it is half automatic (DICOM's Segment Algorithm Type).
AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"
#: Terminology context of Slicer that has laterality for paired organs and most types.
TERMINOLOGY_CONTEXT = "Segmentation category and type - DICOM master list"
ANATOMY_CONTEXT = "Anatomic codes - DICOM master list"
#: DICOM's code for what has no code of its own; Slicer's default too.
DEFAULT_TERMINOLOGY: Mapping[str, tuple[str, str, str]] = {
    "category": ("SCT", "85756007", "Tissue"),
    "type": ("SCT", "85756007", "Tissue"),
}


def is_drawn(result: PromptResult) -> bool:
    """True for results that become a segment: absent and unknown ones never do."""
    return result.verdict in (Verdict.PRESENT, Verdict.UNCERTAIN) and bool(result.mask.any())


def engine_values(engine: Any) -> dict[str, str]:
    """What records say about an engine: ``name`` and ``sha256`` of its model, ``adapter`` (its file's name) and ``adapter_sha256``, ``device``
    and ``version``; empty where an engine has no such thing."""
    return {
        "name": str(getattr(engine, "model_name", "")),
        "sha256": str(getattr(engine, "model_sha256", "")),
        "adapter": file_name(getattr(engine, "adapter", "")),
        "adapter_sha256": str(getattr(engine, "adapter_sha256", "")),
        "device": str(getattr(engine, "device_name", "")),
        "version": __version__,
    }


def model_values(engine_info: Mapping[str, Any], details: Mapping[str, Any] = {}) -> dict[str, str]:
    """Which weights made a result: ``name``, ``sha256``, and ``adapter`` and ``adapter_sha256`` unless the base answered.

    >>> model_values({"name": "m", "sha256": "0a", "adapter": "/home/site.safetensors", "adapter_sha256": "0b", "device": "cpu"})
    {'name': 'm', 'sha256': '0a', 'adapter': 'site.safetensors', 'adapter_sha256': '0b'}
    >>> model_values({"name": "m", "sha256": "0a", "adapter": "site.safetensors", "adapter_sha256": "0b"}, {"answered_by": "base"})
    {'name': 'm', 'sha256': '0a'}
    """
    info = answering(engine_info, details)
    values = {"name": str(info.get("name") or ""), "sha256": str(info.get("sha256") or "")}
    if info.get("adapter"):
        values |= {"adapter": file_name(info["adapter"]), "adapter_sha256": str(info.get("adapter_sha256") or "")}
    return values


def file_name(path: object) -> str:
    """The last part of a path of any system: a folder may hold a person's name.

    >>> file_name("C:\\\\x\\\\site.safetensors"), file_name("site"), file_name(None)
    ('site.safetensors', 'site', '')
    """
    return str(path or "").replace("\\", "/").rpartition("/")[2]


def segment_tags(result: PromptResult, label: int, engine_info: Mapping[str, Any]) -> dict[str, str]:
    """Tags of one result that is written to a file.

    Args:
        result: ``details`` may hold ``assisted`` (a person changed the mask), ``reviewer`` (who looked at it), ``answered_by``, and ``model``
            (as :func:`model_values`) where other weights than the engine's made it.
        label: number of the result, from 1.
        engine_info: ``name``, ``sha256``, ``device``, ``version`` and ``adapter`` as far as they are known.
    """
    tags = provenance_tags(
        prompt=result.prompt, resolved=result.resolved, verdict=Verdict(result.verdict).value, presence=result.presence, confidence=result.confidence,
        engine_info=answering(engine_info, result.details), assisted=bool(result.details.get("assisted")), reviewer=str(result.details.get("reviewer") or ""),
    )  # fmt: skip
    return {**tags, PREFIX + "Label": str(label)}


def answering(engine_info: Mapping[str, Any], details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The engine's values as far as they concern a result: without the adapter where the base answered, other weights where they did.

    >>> answering({"name": "m", "adapter": "site"}, {"answered_by": "base"}), answering({"adapter": "site"}, {"answered_by": "adapter"})
    ({'name': 'm', 'adapter': ''}, {'adapter': 'site'})
    """
    if "model" in details:
        return {**engine_info, "adapter": "", **details["model"]}
    return {**engine_info, "adapter": ""} if details.get("answered_by") == "base" else engine_info


def provenance_tags(
    *, prompt: str, resolved: str, verdict: str, presence: float | None, confidence: float | None, engine_info: Mapping[str, Any],
    assisted: bool = False, reviewer: str = "",
) -> dict[str, str]:  # fmt: skip
    """What every segment says about its origin. Numbers have a decimal point in every locale; those that do not exist are empty.

    Args:
        engine_info: ``name``, ``sha256``, ``device``, ``version`` and ``adapter`` as far as they are known.
        assisted: a person had a share in the voxels (edits, masks, combinations), so the segment is no longer automatic.
        reviewer: who accepted it; without one the tag is left out.
    """
    tags = {
        "Prompt": prompt,
        "Resolved": resolved,
        "Verdict": verdict,
        "Presence": _number(presence),
        "Confidence": _number(confidence),
        "Model": str(engine_info.get("name") or ""),
        "ModelSHA256": str(engine_info.get("sha256") or ""),
        "Adapter": file_name(engine_info.get("adapter")),
        "AdapterSHA256": str(engine_info.get("adapter_sha256") or "") if engine_info.get("adapter") else "",
        "Device": str(engine_info.get("device") or ""),
        "Version": str(engine_info.get("version") or __version__),
        "Date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if reviewer:
        tags["Reviewer"] = reviewer
    named = {PREFIX + key: text for key, text in tags.items()}
    named["DICOM.SegmentAlgorithmType"] = SEMIAUTOMATIC if assisted else AUTOMATIC
    named["DICOM.SegmentAlgorithmName"] = f"RefSAM3D {tags['Model']}".strip()[:64]  # DICOM LO: 64 characters
    return named


def segment_names(results: list[PromptResult]) -> list[str]:
    """A name for each result, unique and in ASCII, which is all that NRRD headers hold; the prompt tag has the exact text.

    >>> from types import SimpleNamespace as R
    >>> segment_names([R(resolved="brainstem", prompt=""), R(resolved="", prompt="moëlle"), R(resolved="brainstem", prompt="")])
    ['brainstem', 'moelle', 'brainstem (2)']
    """
    names: list[str] = []
    for number, result in enumerate(results, 1):
        text = unicodedata.normalize("NFKD", result.resolved or result.prompt).encode("ascii", "ignore").decode()
        text = " ".join(re.sub(r"[\x00-\x1f\x7f|]", " ", text).split())[:200]
        base = name = text or f"result {number}"
        copy = 2
        while name in names:
            name, copy = f"{base} ({copy})", copy + 1
        names.append(name)
    return names


def terminology_of(result: PromptResult, engine_info: Mapping[str, Any]) -> Mapping[str, tuple[str, str, str]]:
    """Codes under "category", "type" and perhaps "modifier": the result's own, else those of the vocabulary by name.

    ``engine_info["vocabulary"]`` is the checkpoint's vocabulary; without it the one that ships is asked.
    """
    own = result.details.get("terminology")
    if own:
        return dict(own)
    vocabulary = engine_info.get("vocabulary")
    if vocabulary is None:
        from .text.vocabulary import Vocabulary

        vocabulary = Vocabulary.default()
    for structure in vocabulary.structures:
        if structure.name == result.resolved:
            return dict(structure.terminology)
    return DEFAULT_TERMINOLOGY


def encode_tag(text: str) -> str:
    """Text in which "|", which parts tags, and all that a NRRD header cannot hold are written as %XX; the rest stays readable.

    >>> encode_tag("left|right 50% moëlle")
    'left%7Cright 50% mo%C3%ABlle'
    >>> decode_tag(encode_tag("100%7C\\n"))
    '100%7C\\n'
    """
    safe = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", text)
    coded = ["".join(f"%{byte:02X}" for byte in c.encode()) if c in "|\\" or not " " <= c <= "~" else c for c in safe]
    for end in (0, -1):  # headers lose blanks at both ends
        if coded and coded[end] == " ":
            coded[end] = "%20"
    return "".join(coded)


def decode_tag(text: str) -> str:
    """Inverse of :func:`encode_tag`."""
    return re.sub(
        r"(?:%[0-9A-Fa-f]{2})+", lambda found: bytes.fromhex(found.group().replace("%", "")).decode("utf-8", errors="replace"), text
    )


def _number(value: float | None) -> str:
    return f"{value:.4f}" if value is not None and math.isfinite(value) else ""
