"""Radiologist's review of a batch or of one segmentation: queue, decisions, audit trail, agreement, export. No Qt, no Slicer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "ReviewSession": ".session",
    "ReviewItem": ".queue",
    "QueueFilter": ".queue",
    "ReviewVerdict": ".verdicts",
    "DEFAULT_REASONS": ".verdicts",
    "load_reasons": ".verdicts",
    "Draft": ".drafts",
    "agreement": ".agreement",
    "edit_metrics": ".edit_metrics",
    "export_manifest": ".export",
    "write_structured_result": ".structured_result",
    "add_segmentation": ".single",
    "check_review_folder": ".single",
}
__all__ = [
    "DEFAULT_REASONS",
    "Draft",
    "QueueFilter",
    "ReviewItem",
    "ReviewSession",
    "ReviewVerdict",
    "add_segmentation",
    "agreement",
    "check_review_folder",
    "edit_metrics",
    "export_manifest",
    "load_reasons",
    "write_structured_result",
]

if TYPE_CHECKING:
    from .agreement import agreement
    from .drafts import Draft
    from .edit_metrics import edit_metrics
    from .export import export_manifest
    from .queue import QueueFilter, ReviewItem
    from .session import ReviewSession
    from .single import add_segmentation, check_review_folder
    from .structured_result import write_structured_result
    from .verdicts import DEFAULT_REASONS, ReviewVerdict, load_reasons


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
