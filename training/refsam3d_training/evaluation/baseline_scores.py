"""Score a reference network by the same measures, and pair it with the text-prompted one case by case."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..manifest import Manifest
from .case_record import TOLERANCES_MM
from .measures import described, dice, surface_dice
from .report import write_json
from .summary import Record, by_structure, grid_mean, structure_key

if TYPE_CHECKING:
    from ..baseline import Baseline


def score_baseline(baseline: Baseline, manifest: Manifest, split: str, output: Path, limit: int | None = None) -> dict[str, Any]:
    """Records and tables of a reference network; writes ``baseline_evaluation.json``."""
    records: list[Record] = []
    for case in manifest.cases[split][: limit or None]:
        volume = case.volume()
        truth = {n: m for n, m in case.truth(volume).items() if m.any()}
        started = time.perf_counter()
        found = baseline.segment(volume)
        elapsed = time.perf_counter() - started
        for name, values in case.composites.items():  # a union of outputs where the network has no such output
            if name not in found:
                parts = [found[case.known[v]] for v in values if case.known[v] in found]
                if parts:
                    found[name] = parts[0] | parts[1] if len(parts) == 2 else parts[0]
        spacing, unit = volume.geometry.spacing_xyz_mm[::-1], volume.geometry.voxel_volume_ml
        rows = {}
        for name, mask in truth.items():
            if name in found:
                nsd = surface_dice(found[name], mask, spacing, TOLERANCES_MM)
                rows[name] = {"dice": dice(found[name], mask), "nsd": {f"{t:g}": v for t, v in zip(TOLERANCES_MM, nsd, strict=True)},
                              "volume_ml": float(found[name].sum()) * unit, "truth_ml": float(mask.sum()) * unit}  # fmt: skip
        assert volume.modality is not None
        records.append({"case": case.name, "grid": baseline.grid.name, "modality": volume.modality.value, "structures": rows, "elapsed_s": elapsed})
    result = {
        "grid": baseline.grid.name, "split": split, "step": baseline.best_step, "seconds": round(baseline.seconds, 1),
        "parameters": sum(p.numel() for p in baseline.network.parameters()), "structures": by_structure(records),
        "mean_dice": grid_mean(records, baseline.grid.name), "records": records,
    }  # fmt: skip
    write_json(output / "baseline_evaluation.json", result)
    return result


def paired_differences(ours: list[Record], theirs: list[Record], margin: float) -> dict[str, Any]:
    """Dice of the text-prompted network minus the reference's on the same cases, and what its interval says about ``-margin``.

    "above": the interval lies above zero; "within": above ``-margin``; "below": under it; "undecided": it spans the margin.
    """
    other = {(r["case"], n): row["dice"] for r in theirs for n, row in r["structures"].items()}
    pairs: dict[str, list[float]] = defaultdict(list)
    for record in ours:
        for name, row in record.get("structures", {}).items():
            if (record["case"], name) in other:
                pairs[structure_key(record, name)].append(row["dice"] - other[record["case"], name])
    out = {}
    for key, values in sorted(pairs.items()):
        row = described(values)
        low, high = row["interval"]  # type: ignore[misc]
        verdict = "above" if low > 0 else "within" if low > -margin else "below" if high < -margin else "undecided"
        out[key] = {**row, "margin": margin, "verdict": verdict}
    return out
