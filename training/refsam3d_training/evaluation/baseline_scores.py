"""Score a reference network by the same measures as the text-prompted one, case by case."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..manifest import Manifest
from .case_record import TOLERANCES_MM
from .measures import dice, surface_dice
from .report import write_json
from .summary import Record, by_structure, grid_mean

if TYPE_CHECKING:
    from ..baseline import Baseline


def score_baseline(baseline: Baseline, manifest: Manifest, split: str, output: Path, limit: int | None = None) -> dict[str, Any]:
    """Records and tables of a reference network with its best weights; writes ``baseline_evaluation.json``.

    Cases in which nothing is known that the network draws are left out.
    """
    records: list[Record] = []
    network = baseline.best_network()
    drawn = set(baseline.grid.structures)
    for case in [c for c in manifest.cases[split] if drawn & {*c.known.values(), *c.composites}][: limit or None]:
        volume = case.volume()
        truth = {n: m for n, m in case.truth(volume).items() if m.any()}
        started = time.perf_counter()
        found = baseline.segment(volume, network)
        elapsed = time.perf_counter() - started
        for name, values in case.composites.items():  # a union of outputs where the network has no such output
            if name not in found and all(case.known[v] in found for v in values):
                found[name] = np.logical_or.reduce([found[case.known[v]] for v in values])
        spacing, unit = volume.geometry.spacing_xyz_mm[::-1], volume.geometry.voxel_volume_ml
        rows = {}
        for name, mask in truth.items():
            if name in found:
                nsd = surface_dice(found[name], mask, spacing, TOLERANCES_MM)
                rows[name] = {"dice": dice(found[name], mask), "nsd": {f"{t:g}": v for t, v in zip(TOLERANCES_MM, nsd, strict=True)},
                              "volume_ml": float(found[name].sum()) * unit, "truth_ml": float(mask.sum()) * unit}  # fmt: skip
        assert volume.modality is not None
        told = {"case": case.name, "grid": baseline.grid.name, "modality": volume.modality.value, "patient": case.patient}
        records.append({**told, "structures": rows, "elapsed_s": elapsed})
    result = {
        "grid": baseline.grid.name, "split": split, "step": baseline.best_step, "steps": baseline.step, "filters": baseline.config.filters,
        "seed": baseline.config.seed, "validation_dice": round(baseline.best_score, 4) if baseline.best_score >= 0 else None,
        "seconds": round(baseline.seconds, 1),
        "parameters": sum(p.numel() for p in baseline.network.parameters()), "structures": by_structure(records),
        "mean_dice": grid_mean(records, baseline.grid.name), "records": records,
    }  # fmt: skip
    write_json(output / "baseline_evaluation.json", result)
    return result
