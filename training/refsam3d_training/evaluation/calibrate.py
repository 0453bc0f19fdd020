"""The ``calibrate`` command: presence and its threshold, mask threshold and usual confidence of each grid, fitted on the validation split."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RefSAM3DLib.checkpoint import Calibration, load_checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine

from .case_record import SYNONYMS, THRESHOLDS, Extras
from .measures import auroc, described, reliability
from .report import write_json
from .run import DEFAULT_SETS, collect
from .summary import Record, drawn_by

logger = logging.getLogger(__name__)

#: Dice is flat in the threshold, volume is not: of those that are this close to the best one the nearest to one half is taken. With
#: the best itself (0.3, 0.0024 better on validation) brainstem and parotid glands came out 14 to 27 % too large on the test list.
THRESHOLD_TOLERANCE = 0.003

#: An outline is unusual where the log-odds of its confidence lie this many robust standard deviations below the structure's median. Chosen
#: on validation, see training/EXPERIMENTS.md.
UNUSUAL = 3.0
#: Cases of a structure from which its usual confidence can be told, and the log-odds that an empty outline counts with.
LEAST_CASES, EMPTY = 5, -3.0

#: A structure is denied below the largest of these probabilities that denies no larger share of the present validation prompts than
#: ``DENIED_SHARE``: the share that was seen, no bound on the true one. Never above one half: what is likelier there than not is drawn.
#: With fewer present prompts than ``LEAST_PRESENT`` the smallest stands.
DENY_BELOW = (Calibration.absent_below, 0.35, 0.4, 0.45, 0.5)
DENIED_SHARE, LEAST_PRESENT = 0.005, 100

#: While fitting, nothing is held back: a structure that the raw logit denies still shows its mask.
OPEN = Calibration(present_from=0.0, absent_below=0.0)
#: Weight of the prior "scale 1, bias 0", in prompts: separable logits would otherwise want an infinite scale.
PRIOR = 1.0


def fit_presence(logits: np.ndarray, present: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Scale and bias of ``sigmoid(scale * logit + bias)`` by maximum likelihood with Platt's soft targets.

    Platt, Probabilistic outputs for support vector machines, 1999: targets (n+1)/(n+2) instead of 1 keep the fit finite.
    """
    positive, negative = int(present.sum()), int((~present).sum())
    x = torch.tensor(logits, dtype=torch.float64)
    weight = torch.ones_like(x) if weights is None else torch.tensor(weights, dtype=torch.float64)
    target = torch.where(torch.tensor(present), (positive + 1) / (positive + 2), 1 / (negative + 2)).double()
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(parameters[0] * x + parameters[1], target, weight, reduction="sum")
        loss = loss + PRIOR * 0.5 * ((parameters[0] - 1) ** 2 + 0.1 * parameters[1] ** 2)
        loss.backward()
        return loss

    optimizer.step(closure)
    scale, bias = (float(v) for v in parameters.detach())
    # A negative scale would mean that absent structures look more present: keep the order that training gave.
    return max(scale, 1e-3), bias


def fit_absent_below(probability: np.ndarray, present: np.ndarray) -> float:
    """Probability below which nothing is drawn, see ``DENY_BELOW`` [ours].

    To deny what is there costs more than to draw what is not, since an outline is looked at: so the share of denied present prompts is
    bounded, and the absent ones that are drawn follow from it.

    Args:
        probability: calibrated, of canonical prompts. present: whether the structure is in the image.
    """
    if present.sum() < LEAST_PRESENT:
        return DENY_BELOW[0]
    return max([DENY_BELOW[0], *(t for t in DENY_BELOW if (probability[present] < t).mean() <= DENIED_SHARE)])


def fit_threshold(records: list[Record], grid: str) -> tuple[float, dict[str, float]]:
    """Mask probability and the mean over structures of mean Dice at each: the nearest to 0.5 of those within ``THRESHOLD_TOLERANCE``."""
    rows: dict[str, list[dict[str, float]]] = {}
    for record in records:
        if record["grid"] == grid:
            for name, row in record.get("structures", {}).items():
                if "dice_at" in row:
                    rows.setdefault(f"{name} {record['modality']}", []).append(row["dice_at"])
    keys = [f"{t:g}" for t in THRESHOLDS]
    if not rows:
        return 0.5, {}
    curve = {k: float(np.mean([np.mean([d[k] for d in group]) for group in rows.values()])) for k in keys}
    good = [k for k in keys if curve[k] >= max(curve.values()) - THRESHOLD_TOLERANCE]
    return float(min(good, key=lambda k: abs(float(k) - 0.5))), {k: round(v, 4) for k, v in curve.items()}


def fit_confidence(records: list[Record], grid: str, threshold: float) -> dict[str, float]:
    """Per structure the least confidence of a usual outline, see ``UNUSUAL``; the spread is the median over the grid's structures.

    Median and median deviation, so that the few failures among the cases do not widen what counts as usual. A structure in fewer than
    ``LEAST_CASES`` cases has none.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        if record["grid"] == grid:
            for name, row in record.get("structures", {}).items():
                if "confidence_at" in row:
                    confidence = row["confidence_at"][f"{threshold:g}"]
                    found.setdefault(name, []).append(max(EMPTY, math.log(confidence / (1 - confidence))) if 0 < confidence < 1 else EMPTY)
    enough = {name: np.array(values) for name, values in found.items() if len(values) >= LEAST_CASES}
    if not enough:
        return {}
    spread = float(np.median([1.4826 * np.median(np.abs(v - np.median(v))) for v in enough.values()]))
    return {name: round(1 / (1 + math.exp(UNUSUAL * spread - float(np.median(v)))), 4) for name, v in sorted(enough.items())}


def _unusual_outlines(records: list[Record], grid: str, threshold: float, least: dict[str, float]) -> dict[str, Any]:
    """How many drawn structures fall below their least confidence, and how good both kinds are."""
    key = f"{threshold:g}"
    sides: dict[str, list[tuple[float, str]]] = {"unusual": [], "usual": []}
    for record in records:
        for name, row in record.get("structures", {}).items() if record["grid"] == grid else ():
            if name in least and "confidence_at" in row:
                sides["unusual" if row["confidence_at"][key] < least[name] else "usual"].append((row["dice_at"][key], drawn_by(record)))
    found = {side: described([v for v, _ in pairs], [p for _, p in pairs]) for side, pairs in sides.items() if pairs}
    return {"outlines": sum(map(len, sides.values())), "unusual": len(sides["unusual"]), "dice": found}


def fit(records: list[Record], grids: list[str]) -> dict[str, Any]:
    """Calibration per grid and how well it fits; a grid without both kinds of prompts keeps the default."""
    out: dict[str, Any] = {"grids": {}, "fit": {}}
    rows = [r for record in records for r in record.get("presence", [])]
    for grid in grids:
        mine = [r for r in rows if r["grid"] == grid and r["kind"] != "distractor"]
        logits, present = np.array([r["logit"] for r in mine]), np.array([r["present"] for r in mine], dtype=bool)
        scale, bias = (1.0, 0.0)
        if present.any() and not present.all():
            # All wordings of a structure count as one prompt together, or the share of present prompts would grow with them.
            weights = np.array([1 / (1 + SYNONYMS) if r["kind"] in ("own", "own synonym") else 1.0 for r in mine])
            scale, bias = fit_presence(logits, present, weights)
        threshold, curve = fit_threshold(records, grid)
        least = fit_confidence(records, grid, threshold)
        asked = np.array([r["kind"] != "own synonym" for r in mine], dtype=bool)  # the fit is judged by canonical names, as `evaluate` does
        logits, present = logits[asked], present[asked]
        probability = 1 / (1 + np.exp(-(scale * logits + bias)))
        deny = fit_absent_below(probability, present)
        calibration = Calibration(scale=scale, bias=bias, absent_below=deny, mask_threshold=threshold, least_confidence=least)
        out["grids"][grid] = dataclasses.asdict(calibration)
        error, _ = reliability(probability, present)
        out["fit"][grid] = {
            "present": int(present.sum()), "absent": int((~present).sum()), "auroc": auroc(logits[present], logits[~present]), "ece": error,
            "present_denied": float((probability[present] < deny).mean()) if present.any() else None,
            "absent_denied": float((probability[~present] < deny).mean()) if (~present).any() else None,
            "dice_by_threshold": curve, "outline_confidence": _unusual_outlines(records, grid, threshold, least),
        }  # fmt: skip
    return out


def calibrate(
    model: Path, data: Path, output: Path, folder: Path, sets: tuple[str, ...] = DEFAULT_SETS, limit: int | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Measure on the validation lists (journal in ``folder``) and write ``output``, the file that ``export --calibration`` takes."""
    checkpoint = load_checkpoint(model)
    checkpoint.calibration = {g.name: OPEN for g in checkpoint.config.grids}
    engine = RefSAM3DEngine(checkpoint, device)
    extras = Extras(thresholds=True, surfaces=False, painted=False, wordings=True, draw_absent=False, composites=False)
    records = collect(engine, data, "validation", sets, folder, extras, limit, pictures=False, purpose="calibrate")
    result = fit(records, [g.name for g in checkpoint.config.grids])
    result["model_sha256"] = checkpoint.sha256
    write_json(output, result)
    for grid, values in result["fit"].items():
        logger.info("%s: %s", grid, values)
    return result


def read_calibration(values: dict[str, Any]) -> dict[str, Calibration]:
    """From the file that :func:`calibrate` writes."""
    return {grid: Calibration(**row) for grid, row in values["grids"].items()}
