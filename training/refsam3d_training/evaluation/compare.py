"""The ``compare`` command: the text-prompted network beside specialised ones, and against what was asked of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.errors import InputError

from .measures import described
from .report import write_json
from .summary import CUT_KINDS, Record, drawn_by, grid_mean, structure_key

#: Dice that may be lost against the specialised network and still counts as level, per grid.
MARGINS = {"head_neck": 0.01, "hippocampus": 0.01, "limb": 0.02}
#: Least Dice asked for, whatever the specialised network reaches.
LEAST_DICE = {"anterior hippocampus": 0.86, "posterior hippocampus": 0.85, "hippocampus": 0.89}
GRID_TITLES = {"head_neck": "head and neck, mean of {n}", "hippocampus": "hippocampus, mean of {n}", "limb": "soft tissue sarcoma, mean of {n}"}


def verdict(low: float, high: float, margin: float) -> str:
    """What a 95 % interval of a paired difference says.

    "above": it lies above zero; "within": above ``-margin``; "below": under it; "undecided": it spans the margin.
    """
    return "above" if low > 0 else "within" if low > -margin else "below" if high < -margin else "undecided"


def paired_records(ours: Sequence[Record], references: Sequence[Sequence[Record]]) -> list[Record]:
    """Per case and structure: our Dice ("ours"), the reference's mean over its runs ("reference") and the difference ("dice").

    Raises:
        InputError: not one structure of a case was scored in both.
    """
    theirs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for records in references:
        for record in records:
            for name, row in record["structures"].items():
                theirs[record["case"], name].append(row["dice"])
    pairs = []
    for record in ours:
        rows = {}
        for name, row in record.get("structures", {}).items():
            scores = theirs.get((record["case"], name))
            if scores:
                reference = float(np.mean(scores))
                rows[name] = {"ours": row["dice"], "reference": reference, "dice": row["dice"] - reference}
        if rows:
            pairs.append({**{k: record.get(k, "") for k in ("case", "grid", "modality", "patient")}, "structures": rows})
    if not pairs:
        raise InputError("The two evaluations have no case in common; evaluate both on the same --split and with the same sets.")
    return pairs


def paired_rows(ours: Sequence[Record], references: Sequence[Sequence[Record]], margin: float | None = None) -> list[dict[str, Any]]:
    """One row per structure (and modality), and one per grid with several structures: the mean over them.

    Args:
        references: records of each run of the reference (seeds). margin: instead of ``MARGINS``.
    """
    pairs = paired_records(ours, references)
    grouped: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    patients: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in pairs:
        for name, row in record["structures"].items():
            grouped[record["grid"], structure_key(record, name)].append(row)
            patients[record["grid"], structure_key(record, name)].append(drawn_by(record))
    rows = []
    for (grid, title), group in sorted(grouped.items()):
        means = {k: round(float(np.mean([r[k] for r in group])), 4) for k in ("ours", "reference")}
        rows.append(_row(title, grid, means, described([r["dice"] for r in group], patients[grid, title]), margin))
    for grid in sorted({g for g, _ in grouped}):
        names = {n for r in pairs if r["grid"] == grid for n in r["structures"]}
        if len(names) > 1:
            means = {k: grid_mean(pairs, grid, k)["mean"] for k in ("ours", "reference")}
            rows.append(_row(GRID_TITLES.get(grid, grid + ", mean of {n}").format(n=len(names)), grid, means, grid_mean(pairs, grid), margin))
    return rows


def _row(title: str, grid: str, means: dict[str, float], difference: dict[str, Any], margin: float | None) -> dict[str, Any]:
    allowed = MARGINS.get(grid, 0.01) if margin is None else margin
    low, high = difference["interval"]
    return {"title": title, "grid": grid, **means, "difference": difference["mean"], "interval": [low, high], "n": difference["n"],
            "margin": allowed, "verdict": verdict(low, high, allowed)}  # fmt: skip


def targets(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked of the text-prompted network alone: value, bound, and whether it is met.

    With an interval over cases: "met" or "missed" where it lies on one side of the bound, else "undecided"; without one the value
    itself decides.
    """
    rows: list[dict[str, Any]] = []

    def add(title: str, value: float | None, bound: float, at_least: bool, interval: Sequence[float] | None = None) -> None:
        if value is None:
            rows.append({"title": title, "value": None, "bound": bound, "at_least": at_least, "verdict": "not measured"})
            return
        low, high = interval or (value, value)
        met, missed = (low >= bound, high < bound) if at_least else (high <= bound, low > bound)
        said = "met" if met else "missed" if missed else "undecided"
        rows.append({"title": title, "value": value, "interval": list(interval) if interval else None, "bound": bound, "at_least": at_least, "verdict": said})

    structures, presence, use = summary["structures"], summary["presence"], summary["prompt_use"]
    # An ellipsoid in the middle of the crop knows nothing of the image: to be passed, in each modality.
    blind = {f"soft tissue sarcoma ({m.upper()})": row["dice"]["mean"] for m, row in summary.get("centred_ellipsoid", {}).items()}
    bounds = {**LEAST_DICE, **blind}
    for name, bound in bounds.items():
        row = structures.get(name, {}).get("dice")
        add(f"Dice, {name}", row and row["mean"], bound, True, row and row["interval"])
    for title, row in use["side_confusion"].items():
        add(f"side confusion, {title}", row["mean"], 0.02, False, row["interval"])
    add("prompt use, Dice with other structures of the head and neck", use["off_diagonal_mean"].get("head and neck"), 0.02, False)
    spoken = summary["paraphrases"].get("mean", {})
    for key, title in (("resolver", "through the resolver"), ("raw", "raw text")):
        lost = None if None in (spoken.get("canonical"), spoken.get(key)) else round(spoken["canonical"] - spoken[key], 4)
        add(f"Dice lost by unseen wordings, {title}", lost, 0.01, False)
    add("presence AUROC over all", presence["auroc_all"], 0.98, True)
    add("presence AUROC inside head and neck", presence["auroc_inside_head_and_neck"], 0.95, True)
    inside = " inside head and neck"  # most absent names of the whole belong to another part of the body, which is easy
    add("absent and nothing drawn", presence["absent_and_not_drawn"]["share"], 0.95, True)
    add("absent and nothing drawn," + inside, presence.get("absent_and_not_drawn_inside_head_and_neck", {}).get("share"), 0.95, True)
    cut = presence.get("absent_and_not_drawn_by_kind", {})
    for kind in CUT_KINDS:
        add(f"absent and nothing drawn, cut {kind}", cut.get(kind, {}).get("share"), 0.95, True)
    add("calibration error of presence", presence["ece"], 0.05, False)
    add("calibration error of presence" + inside, presence.get("ece_inside_head_and_neck"), 0.05, False)
    return rows


def markdown(rows: list[dict[str, Any]], wanted: list[dict[str, Any]], taught: Sequence[str] = (), reference: str = "DynUNet") -> str:
    """Both tables; ``taught``: grids whose reference taught ours."""
    text = [f"| Dice on the same cases | ours | {reference} | difference (95 % interval) | n | margin | verdict |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row["interval"]
        difference = f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        text.append(f"| {row['title']} | {row['ours']:.3f} | {row['reference']:.3f} | {difference} | {row['n']} | {row['margin']:g} | {row['verdict']} |")
    if taught:
        grids = " and ".join(grid.replace("_", " ") for grid in taught)
        text += ["", f"The {reference} of {grids} also taught ours (its soft masks were additional targets): the two are no independent trainings."]
    if wanted:
        text += ["", "| asked of ours | measured (95 % interval) | bound | verdict |", "|---|---|---|---|"]
    number: Callable[[float], str] = "{:.3f}".format
    for row in wanted:
        value = "" if row["value"] is None else number(row["value"])
        if row.get("interval"):
            value += f" ({' to '.join(number(v) for v in row['interval'])})"
        text.append(f"| {row['title']} | {value} | {'at least' if row['at_least'] else 'at most'} {row['bound']:g} | {row['verdict']} |")
    return "\n".join(text) + "\n"


def taught_by(training: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> list[str]:
    """Grids whose reference was a teacher of this model or of one that it began with: then the two are no independent trainings."""
    teachers: set[tuple[Any, ...]] = set()
    while training:
        teachers |= {(t["grid"], t["filters"], t["step"], t["seed"], t["hours"]) for t in training.get("teachers", ())}
        training = training.get("started_from", {}).get("training", {})
    found = {r["grid"] for r in references if (r["grid"], r["filters"], r["step"], r["seed"], round((r["seconds"] or 0) / 3600, 2)) in teachers}
    return sorted(found)


def _kept(earlier: dict[str, Any], measured: set[str]) -> list[dict[str, Any]]:
    """References of an earlier comparison, of the grids that are not measured anew; they are paired with any weights, case by case."""
    kept = [reference for reference in earlier["references"] if reference["grid"] not in measured]
    for reference in kept:
        if "records" not in reference:
            raise InputError(
                f"The earlier comparison does not hold the single cases of the reference of '{reference['grid']}', so they cannot be paired; "
                "leave --keep out, and give every reference to --baseline."
            )
    return kept


def _as_kept(reference: dict[str, Any], split: str) -> dict[str, Any]:
    """What a comparison keeps of a reference: how it was made, and the Dice of each case, so that later weights need no second training."""
    settings = ("grid", "seed", "filters", "step", "steps", "parameters", "seconds", "validation_dice")
    records = [{"case": r["case"], "structures": {n: {"dice": round(row["dice"], 4)} for n, row in r["structures"].items()}} for r in reference["records"]]
    return {**{k: reference.get(k) for k in settings}, "split": reference.get("split", split), "records": records}


def compare(
    ours: dict[str, Any], references: list[dict[str, Any]], output: Path, margin: float | None = None, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:  # fmt: skip
    """Write ``output`` (JSON) and the same as Markdown beside it; returns the values.

    Args:
        ours: ``evaluation.json``. references: ``baseline_evaluation.json`` of each network; several of a grid are seeds of one.
        earlier: a comparison of these weights or others, whose references are paired again where none of their grid is given here.

    Raises:
        InputError: another split, no case in common, or an earlier comparison without the single cases of its references.
    """
    references = [*references, *(_kept(earlier, {r["grid"] for r in references}) if earlier else ())]
    if not references:
        raise InputError("There is nothing to compare with; give --baseline, or --keep with an earlier comparison.")
    for reference in references:
        if reference["split"] != ours["split"]:
            raise InputError(f"Ours was evaluated on the {ours['split']} lists, the reference on {reference['split']}; use the same --split.")
    rows = []
    kept = [_as_kept(r, ours["split"]) for r in references]
    for grid in sorted({r["grid"] for r in kept}):
        # As they are kept, so that a later comparison with them gives the same rows to the last digit.
        rows += paired_rows(ours["records"], [r["records"] for r in kept if r["grid"] == grid], margin)
    result = {
        "split": ours["split"], "model": ours["model"], "rows": rows, "targets": targets(ours),
        "taught_by": taught_by(ours["model"].get("training", {}), kept), "references": kept,
    }  # fmt: skip
    write_json(output, result)
    with write_aside(output.with_suffix(".md"), overwrite=True) as aside:
        aside.write_text(markdown(result["rows"], result["targets"], result["taught_by"]), encoding="utf-8")
    return result
