"""What is unusual about a result, and how urgently somebody should look at it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from statistics import median
from typing import Any

from ..resources import resource_path

#: Below this a batch is too small to say what is usual in it.
MIN_CASES = 5
#: Robust standard deviations from the batch's median that count as unusual (Iglewicz and Hoaglin, 1993).
OUTLIER_Z = 3.5
#: MAD of a normal distribution is 0.6745 standard deviations.
_MAD = 0.6745
#: A batch of near-identical volumes must not turn a 5 % difference into an outlier: floor of the spread of log volume.
_MIN_SPREAD = 0.05
LOW_CONFIDENCE = 0.75

#: Reasons that a page leaves out where the error or the warning itself stands beside them.
FAILED, WARNED = "the case failed", "has a warning"


def volume_scores(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """Modified z-score of each row's volume among the drawn rows of the same structure, on the logarithm; None if undefined."""
    by_structure: dict[str, list[float]] = {}
    for row in rows:
        if row.get("voxels"):
            by_structure.setdefault(row["structure"], []).append(math.log(row["volume_ml"] or 1e-6))
    centres = {}
    for structure, values in by_structure.items():
        if len(values) >= MIN_CASES:
            middle = median(values)
            centres[structure] = (middle, max(median(abs(v - middle) for v in values), _MIN_SPREAD))
    scores: list[float | None] = []
    for row in rows:
        centre = centres.get(row.get("structure", "")) if row.get("voxels") else None
        scores.append(None if centre is None else round(_MAD * (math.log(row["volume_ml"] or 1e-6) - centre[0]) / centre[1], 2))
    return scores


@cache
def known_ranges() -> dict[str, tuple[float, float]]:
    """Lowest and highest usual volume (mL) per structure, from ``Resources/Report/volume_ranges.json``."""
    content = json.loads(resource_path("Report", "volume_ranges.json").read_text(encoding="utf-8"))
    return {name: (float(item["low_ml"]), float(item["high_ml"])) for name, item in content["structures"].items()}


def range_score(structure: str, volume_ml: float | None) -> float | None:
    """Factor by which a volume lies outside its known range: 0 inside, 1 for twice the highest or half the lowest; None if unknown."""
    limits = known_ranges().get(structure)
    if limits is None or not volume_ml:
        return None
    low, high = limits
    return round(max(0.0, math.log2(volume_ml / high), math.log2(low / volume_ml)), 2)


def attention(row: dict[str, Any]) -> tuple[float, list[str]]:
    """How urgently a result needs eyes (0: nothing unusual) and why, in words.

    Failures come first, then uncertain verdicts, outliers and low confidence; the sum orders results with several reasons.
    """
    reasons: list[tuple[float, str]] = []
    verdict = row.get("verdict")
    if verdict == "failed":
        return 100.0, [FAILED]
    if verdict == "uncertain":
        presence = row.get("presence")
        reasons.append((40.0 + (10 * (1 - abs(2 * presence - 1)) if presence is not None else 0), "uncertain whether present"))
    if verdict == "unknown":
        reasons.append((30.0, "the wording is unknown to the model"))
    confidence = row.get("confidence")
    if confidence is not None and confidence < LOW_CONFIDENCE and row.get("voxels"):
        reasons.append((15.0 + 20 * (LOW_CONFIDENCE - confidence) / LOW_CONFIDENCE, f"low confidence ({confidence:.2f})"))
    z = row.get("outlier_batch")
    if z is not None and abs(z) >= OUTLIER_Z:
        reasons.append((15.0 + min(10.0, abs(z) - OUTLIER_Z), f"{'large' if z > 0 else 'small'} for this batch (score {z:+.1f})"))
    outside = row.get("outlier_range")
    if outside:
        reasons.append((15.0 + min(10.0, 5 * outside), "volume outside the known range"))
    if row.get("warnings"):
        reasons.append((10.0, WARNED))
    if row.get("worst_uncertainty") is not None and not reasons:
        reasons.append((5.0 * row["worst_uncertainty"], ""))
    return round(sum(points for points, _ in reasons), 2), [text for _, text in reasons if text]


def add_scores(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with ``outlier_batch``, ``outlier_range``, ``attention`` and ``reasons``."""
    listed = [dict(row) for row in rows]
    for row, score in zip(listed, volume_scores(listed), strict=True):
        row["outlier_batch"] = score
        row["outlier_range"] = range_score(row.get("structure", ""), row.get("volume_ml")) if row.get("voxels") else None
        row["attention"], row["reasons"] = attention(row)
    return listed
