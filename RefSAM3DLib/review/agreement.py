"""How far reviewers agree: Cohen's kappa of their verdicts, Dice of their masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import RefSAM3DError
from .masks import MaskReader
from .status import last_by_reviewer
from .subject import Subject
from .verdicts import ReviewVerdict

#: Row that sums up all structures.
ALL = "all structures"


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement of two raters beyond chance (Cohen, 1960); None without pairs or where chance alone explains everything.

    >>> cohens_kappa([("a", "a"), ("a", "a"), ("b", "b"), ("a", "b")])
    0.5
    """
    if not pairs:
        return None
    n = len(pairs)
    categories = {value for pair in pairs for value in pair}
    observed = sum(a == b for a, b in pairs) / n
    expected = sum((sum(a == c for a, _ in pairs) / n) * (sum(b == c for _, b in pairs) / n) for c in categories)
    return None if expected >= 1.0 - 1e-12 else round((observed - expected) / (1.0 - expected), 5)


def agreement(folder: Path, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per pair of reviewers and structure, and one over all structures.

    Compared are the last decisions that are final (accept, accept with edits, reject) on items that both decided, as long as both looked at
    the same mask of the same structure: ``left_out`` counts the others, between which the batch had made something else.
    Dice is the mean over items of which both kept a mask (the machine's or an edited one).
    """
    final = {
        name: {item: entry for item, entry in items.items() if ReviewVerdict(entry["verdict"]).is_final} for name, items in last_by_reviewer(entries).items()
    }
    reader = MaskReader()
    rows = []
    for first, second in combinations(sorted(final), 2):
        shared = sorted(set(final[first]) & set(final[second]))
        groups: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {ALL: []}
        left_out: Counter[str] = Counter()
        for item in shared:
            pair = final[first][item], final[second][item]
            structure = str(pair[0].get("structure") or "failed case")
            own = groups.setdefault(structure, [])
            if Subject.of_entry(pair[0]).differs(Subject.of_entry(pair[1])):
                left_out.update((ALL, structure))
                continue
            groups[ALL].append(pair)
            own.append(pair)
        for structure, pairs in groups.items():
            overlaps = [value for a, b in pairs if (value := _dice(folder, reader, a, b)) is not None]
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "structure": structure,
                    "items": len(pairs),
                    "left_out": left_out[structure],
                    "same_verdict": sum(a["verdict"] == b["verdict"] for a, b in pairs),
                    "kappa": cohens_kappa([(a["verdict"], b["verdict"]) for a, b in pairs]),
                    "dice": round(mean(overlaps), 5) if overlaps else None,
                    "dice_items": len(overlaps),
                }
            )
    return rows


def _dice(folder: Path, reader: MaskReader, a: dict[str, Any], b: dict[str, Any]) -> float | None:
    if not a.get("mask_file") or not b.get("mask_file"):
        return None
    if a.get("mask") == b.get("mask"):
        return 1.0
    from ..surfaces import dice

    try:
        masks = [reader.read(folder / e["mask_file"], str(e.get("structure", "")), e["mask"])[0] for e in (a, b)]
    except RefSAM3DError:
        return None  # a file that somebody removed: there is nothing to compare
    return dice(*masks)
