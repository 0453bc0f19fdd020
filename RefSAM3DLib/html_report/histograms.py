"""Volumes of each structure as a small SVG histogram; every bar is also said in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..batch.outliers import known_ranges

BINS = 12
WIDTH, HEIGHT = 240, 72


@dataclass(frozen=True)
class Bar:
    """One bar in SVG units, and its words."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Histogram:
    """Volumes of one structure. ``range_x`` are the limits of the known range in SVG units, None if unknown or out of the picture."""

    structure: str
    bars: tuple[Bar, ...]
    low_ml: float
    high_ml: float
    median_ml: float
    count: int
    range_ml: tuple[float, float] | None
    range_x: tuple[float, float] | None


def histogram(structure: str, volumes: Sequence[float]) -> Histogram:
    """Equal bins from the smallest to the largest volume, or one bar if they are all alike."""
    low, high = min(volumes), max(volumes)
    bins = BINS if high > low * 1.001 else 1
    step = (high - low) / bins or 1.0
    counts = [0] * bins
    for volume in volumes:
        counts[min(bins - 1, int((volume - low) / step))] += 1
    tallest, width = max(counts), WIDTH / bins
    bars = tuple(
        Bar(
            n * width,
            HEIGHT - HEIGHT * count / tallest,
            max(1.0, width - 2),
            HEIGHT * count / tallest,
            f"{count} of {low + n * step:.2f} to {low + (n + 1) * step:.2f} mL",
        )
        for n, count in enumerate(counts)
        if count
    )
    known = known_ranges().get(structure)
    place = None
    if known and high > low:
        left, right = ((limit - low) / (high - low) * WIDTH for limit in known)
        place = (min(max(left, 0.0), WIDTH), min(max(right, 0.0), WIDTH))
    return Histogram(structure, bars, low, high, median(volumes), len(volumes), known, place)


def histograms(rows: Sequence[dict[str, Any]]) -> list[Histogram]:
    """One per structure that was drawn at least twice, in alphabetical order."""
    volumes: dict[str, list[float]] = {}
    for row in rows:
        if row.get("voxels") and row.get("volume_ml"):
            volumes.setdefault(row["structure"], []).append(row["volume_ml"])
    return [histogram(structure, found) for structure, found in sorted(volumes.items()) if len(found) > 1]
