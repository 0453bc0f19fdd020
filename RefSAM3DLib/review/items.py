"""Review items from the rows of a batch, and what the audit trail says about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..provenance import model_values
from .queue import ReviewItem
from .status import decisions, last_by_reviewer, status_of
from .subject import Subject


def make_item(folder: Path, row: dict[str, Any], source: dict[str, Any], image_hash: str) -> ReviewItem:
    """Item of one row of ``collect_rows``; ``source`` says where the case's image lies."""
    place = folder / row["folder"]
    r, g, b = row.get("colour", (127, 127, 127))
    return ReviewItem(
        case=row["case"],
        label=int(row["label"]),
        name=row["name"],
        patient=str(row.get("patient") or ""),
        structure=row["structure"],
        prompt=row["prompt"],
        verdict=row["verdict"],
        presence=row.get("presence"),
        confidence=row.get("confidence"),
        volume_ml=row.get("volume_ml"),
        attention=row["attention"],
        reasons=tuple(row["reasons"]),
        centre_ras=_point(row.get("centre_ras")),
        worst_ras=_point(row.get("worst_ras")),
        colour=(r, g, b),
        image=source.get("image", ""),
        series=source.get("series", ""),
        modality=row.get("modality") or "",
        segmentation=folder / row["segmentation"] if row.get("segmentation") else None,
        probability=place / row["probability"] if row.get("probability") else None,
        assisted=bool(row.get("assisted")),
        mask_sha256=row.get("mask_sha256", ""),
        batch=Subject.of_row(row, image_hash),
        model=model_values(row.get("model", {}), {"answered_by": row.get("answered_by")}),
        error=row.get("error", ""),
        warnings=tuple(row.get("warnings", ())),
        case_warnings=tuple(row.get("case_warnings", ())),
    )


def apply_decisions(folder: Path, items: Sequence[ReviewItem], entries: Sequence[dict[str, Any]], reviewer: str) -> None:
    """Bring status, decision, the others' decisions and re-prompted masks of all items up to date for one reviewer."""
    last = last_by_reviewer(entries)
    mine = last.get(reviewer, {})
    prompted = {(e["case"], e["label"]): e for e in decisions(entries) if e["reviewer"] == reviewer and e["verdict"] == "reprompt"}
    for item in items:
        key = (item.case, item.label)
        item.decision = mine.get(key)
        item.others = {name: found[key] for name, found in last.items() if name != reviewer and key in found}
        item.status = status_of(item.batch, item.decision)
        again = prompted.get(key)
        # This reviewer looks at the answer to the new wording from now on, unless the batch has made another mask since, or asked for something else.
        if again and not item.batch.differs(_asked_about(again)):
            item.segmentation, item.mask_sha256 = folder / again["mask_file"], again["edited_mask"]
            item.prompt, item.structure, item.model = again["wording"], again["answer_structure"], again.get("model", item.model)
            answer = again.get("answered") or {}
            item.presence, item.confidence = answer.get("presence"), answer.get("confidence")
            item.verdict = str(again.get("answer") or item.verdict)
            # Measures, places and probabilities of the batch's mask say nothing of this one.
            item.volume_ml = answer.get("volume_ml", (again.get("metrics") or {}).get("volume_ml"))
            item.centre_ras, item.worst_ras = _point(answer.get("centre_ras")), _point(answer.get("worst_ras"))
            item.probability, item.warnings = None, tuple(dict.fromkeys([*answer.get("warnings", ()), *item.case_warnings]))


def _asked_about(again: dict[str, Any]) -> Subject:
    """What a re-prompt was asked about. Where an early one does not tell the batch's mask, its own may be that of a re-prompt before it."""
    return Subject.of_entry(again if "batch_mask" in again else {**again, "batch_mask": ""})


def _point(value: Any) -> tuple[float, float, float] | None:
    return (float(value[0]), float(value[1]), float(value[2])) if value else None
