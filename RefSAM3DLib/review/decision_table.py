"""The audit trail as a flat table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..batch.summary import write_csv
from .status import decisions

COLUMNS = (
    "time", "reviewer", "case", "label", "structure", "prompt", "verdict", "reason", "comment", "wording", "seconds", "dice",
    "mean_surface_mm", "hd95_mm", "max_surface_mm", "added_ml", "removed_ml", "volume_ml", "machine_mask", "edited_mask", "mask_file",
    "model_name", "model_sha256", "adapter", "adapter_sha256", "version", "id", "corrects",
)  # fmt: skip


def decision_rows(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Decisions as flat rows, in the order in which they were made."""
    rows = []
    for entry in decisions(entries):
        model = entry.get("model") or {}
        columns = {"model_name": "name", "model_sha256": "sha256", "adapter": "adapter", "adapter_sha256": "adapter_sha256"}
        rows.append({**entry, **(entry.get("metrics") or {}), **{column: model.get(key) for column, key in columns.items()}})
    return rows


def write_decisions(path: Path, entries: Sequence[dict[str, Any]], overwrite: bool = False) -> None:
    """All decisions of all reviewers as CSV."""
    write_csv(path, COLUMNS, decision_rows(entries), overwrite=overwrite)
