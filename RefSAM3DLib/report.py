"""The result JSON of ``--report``: a contract that other tools read, see Docs/design.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .atomic import write_aside
from .memory import peak_memory_mb
from .provenance import model_values
from .types import PromptResult, Verdict, Volume


def build_report(
    volume: Volume,
    results: Sequence[PromptResult],
    engine_info: Mapping[str, Any],
    elapsed_s: Mapping[str, float],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The report as plain values; numbers that do not exist are None.

    Args:
        engine_info: ``name``, ``sha256``, ``device``, and ``adapter`` and ``adapter_sha256`` where an adapter was used.
        elapsed_s: seconds for ``load``, ``embed`` and ``total``.
        warnings: about the whole run; those of a prompt are added with its name.
    """
    return {
        "input": volume.source,
        "modality": volume.modality.value if volume.modality else None,
        "model": model_values(engine_info),
        "device": engine_info.get("device", ""),
        "prompts": [result_values(label, result) for label, result in enumerate(results, 1)],
        "warnings": list(warnings) + [f"{result.prompt}: {text}" for result in results for text in result.warnings],
        "elapsed_s": {name: number_or_none(elapsed_s.get(name), 3) for name in ("load", "embed", "total")},
        "peak_memory_mb": peak_memory_mb(),
        "version": __version__,
    }


def write_report(path: str | Path, report: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write it as JSON in one step.

    Raises:
        OutputError: the file cannot be written, or exists.
    """
    with write_aside(path, overwrite) as aside:
        aside.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def number_or_none(value: float | None, digits: int = 5) -> float | None:
    """A finite number, rounded, or None: JSON knows no NaN.

    >>> number_or_none(0.123456789), number_or_none(float("nan"))
    (0.12346, None)
    """
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def result_values(label: int, result: PromptResult) -> dict[str, Any]:
    """The row of one result. ``answered_by`` is there where an adapter is loaded."""
    return {
        "prompt": result.prompt,
        "resolved": result.resolved,
        "label": label,
        "verdict": Verdict(result.verdict).value,
        "presence": number_or_none(result.presence),
        "confidence": number_or_none(result.confidence),
        "volume_ml": number_or_none(result.volume_ml),
        **{key: result.details[key] for key in ("answered_by",) if key in result.details},
        "elapsed_s": number_or_none(result.elapsed_s),
    }
