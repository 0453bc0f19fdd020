"""Many cases in one go: from a folder, a list or a training manifest to segmentations, tables and a report.

``run_batch(source, output, BatchOptions(prompts=("left parotid gland",)))`` is all of it; importing this loads no numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "BatchOptions": ".options",
    "BatchOutcome": ".runner",
    "run_batch": ".runner",
    "refresh_tables": ".runner",
    "Case": ".cases",
    "find_cases": ".cases",
    "LiveTable": ".live_table",
    "collect_rows": ".summary",
}
__all__ = ["BatchOptions", "BatchOutcome", "Case", "LiveTable", "collect_rows", "find_cases", "refresh_tables", "run_batch"]

if TYPE_CHECKING:
    from .cases import Case, find_cases
    from .live_table import LiveTable
    from .options import BatchOptions
    from .runner import BatchOutcome, refresh_tables, run_batch
    from .summary import collect_rows


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
