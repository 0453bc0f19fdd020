"""What a segment of the scene carries about its origin: the tags of the engine's files, in what MRML can store."""

from __future__ import annotations

from RefSAM3DLib.provenance import answering, provenance_tags

from .runs import EngineInfo, RunResult

#: Longest text of a tag.
LIMIT = 500


def clean(text: object) -> str:
    """Without what separates tags in a .seg.nrrd header: Slicer writes tags as they are."""
    return " ".join(str(text).replace("|", "/").split())[:LIMIT]


def engineValues(engine: EngineInfo, adapter: str = "") -> dict[str, str]:
    """The engine that answered, as the engine's own files name it."""
    return {
        "name": engine.modelName,
        "sha256": engine.modelSha256,
        "adapter": adapter,
        "adapter_sha256": engine.adapterSha256,
        "device": engine.device,
    }


def provenanceTags(result: RunResult, engine: EngineInfo, adapter: str = "", assisted: bool = False) -> dict[str, str]:
    """Tags of one result. ``assisted``: with the user's own voxels, masks or combinations it is half automatic."""
    tags = provenance_tags(
        prompt=result.prompt,
        resolved=result.resolved,
        verdict=result.verdict,
        presence=result.presence,
        confidence=result.confidence,
        engine_info=answering(engineValues(engine, adapter), result.details),
        assisted=assisted,
    )
    return {key: clean(value) for key, value in tags.items()}
