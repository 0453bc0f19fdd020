"""What a few-shot experiment says: JSON, a Markdown table, and the figure of Dice against the number of cases."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.errors import InputError

from .config import folder_and_grid
from .evaluation.compare import MARGINS, verdict
from .evaluation.measures import described
from .evaluation.report import write_json
from .evaluation.summary import Record, drawn_by, structure_key
from .manifest import Manifest

if TYPE_CHECKING:
    from .fewshot import FewshotConfig


def report(config: FewshotConfig, source: Manifest, run: Path, hardware: str) -> dict[str, Any]:
    """Collect the stages' files of ``run`` and write ``fewshot.json``, ``fewshot.md`` and ``fewshot.png``; returns the values."""
    before = _scores(_records(run / "evaluation" / "base.json"))
    card, base = (json.loads(path.read_text(encoding="utf-8")) for path in (next((run / "adapters").glob("*.json")), run / "base.json"))
    rows = [_row(config, run, count, before) for count in config.cases]
    values = {
        "structure": config.structure, "set": source.name, "licence": source.values.get("licence", ""), "hardware": hardware,
        "seeds": list(config.seeds), "finetune_steps": config.finetune.steps, "baseline": config.baseline, "validation_cases": config.validation_cases,
        "base": base, "trained_share": card["trained"]["share"], "rows": rows,
    }  # fmt: skip
    write_json(run / "fewshot.json", values)
    with write_aside(run / "fewshot.md", overwrite=True) as aside:
        aside.write_text(markdown(values), encoding="utf-8")
    draw(values, run / "fewshot.png")
    return values


def _records(path: Path) -> list[Record]:
    return json.loads(path.read_text(encoding="utf-8"))["records"]


def _scores(records: Sequence[Record]) -> dict[tuple[str, str], float]:
    """Dice by (structure, case)."""
    return {(structure_key(r, n), r["case"]): row["dice"] for r in records for n, row in r.get("structures", {}).items()}


def _over_seeds(runs: Sequence[dict[tuple[str, str], float]]) -> dict[tuple[str, str], float]:
    """Mean over the seeds' Dice by (structure, case)."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for scores in runs:
        for key, value in scores.items():
            found[key].append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _row(config: FewshotConfig, run: Path, count: int, before: dict[tuple[str, str], float]) -> dict[str, Any]:
    names = [name for name, cases, _ in config.names() if cases == count]
    cards = [json.loads((run / "adapters" / f"{n}.json").read_text(encoding="utf-8")) for n in names]
    records = [_records(run / "evaluation" / f"{n}.json") for n in names]
    runs = [_scores(r) for r in records]
    ours = {case: value for (name, case), value in _over_seeds(runs).items() if _is(name, config.structure)}
    patients = {r["case"]: drawn_by(r) for each in records for r in each}
    drawn = [patients[c] for c in sorted(ours)]
    others = [(key, scores[key]) for scores in runs for key in scores if key in before]
    return {
        "cases": count, "ours": described([ours[c] for c in sorted(ours)], drawn), "ours_by_case": [round(ours[c], 4) for c in sorted(ours)],
        "minutes": _mean([c["seconds"] / 60 for c in cards]), "steps": [c["steps"] for c in cards], "adapter_mb": _mean([c["bytes"] / 1e6 for c in cards]),
        "old_structures": {"names": sorted({n for n, _ in before}), "values": len(others), "changed": sum(before[key] != value for key, value in others)},
        **_reference(config, run, names, ours, drawn),
    }  # fmt: skip


def _reference(config: FewshotConfig, run: Path, names: Sequence[str], ours: dict[str, float], drawn: Sequence[str]) -> dict[str, Any]:
    """The DynUNet's side of a row, and the paired difference; nothing where it is not trained yet. ``drawn``: the patient of each case."""
    paths = [run / "dynunet" / n / "baseline_evaluation.json" for n in names]
    if not all(path.is_file() for path in paths):
        return {"dynunet": None, "difference": None}
    scratch = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    theirs = {case: value for (name, case), value in _over_seeds([_scores(r["records"]) for r in scratch]).items() if _is(name, config.structure)}
    if set(theirs) != set(ours):
        raise InputError(f"The DynUNet in '{run}' was scored on {len(theirs)} cases and the adapters on {len(ours)}; remove 'dynunet' to score it again.")
    cases = sorted(ours)
    difference = described([ours[c] - theirs[c] for c in cases], drawn)
    margin = MARGINS.get(folder_and_grid(config.set)[1], 0.01)
    low, high = difference["interval"]  # type: ignore[misc]
    return {
        "dynunet": described([theirs[c] for c in cases], drawn), "dynunet_by_case": [round(theirs[c], 4) for c in cases],
        "difference": {**difference, "margin": margin, "verdict": verdict(low, high, margin)}, "dynunet_minutes": _mean([r["seconds"] / 60 for r in scratch]),
        "dynunet_steps": [r["steps"] for r in scratch], "dynunet_best_steps": [r["step"] for r in scratch],
    }  # fmt: skip


def _is(title: str, structure: str) -> bool:
    return title == structure or title.startswith(f"{structure} (")


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def markdown(values: dict[str, Any]) -> str:
    """The new structure, what became of the old ones, and under which conditions."""
    return "\n".join([*new_structure_lines(values), "", *condition_lines(values)]) + "\n"


def new_structure_lines(values: dict[str, Any]) -> list[str]:
    """Table of Dice by number of cases."""
    lines = [
        f"| cases of the {values['structure']} | adapter | DynUNet from scratch | difference | verdict | minutes: adapter, DynUNet | adapter MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in values["rows"]:
        there = row["dynunet"] is not None
        cells = [str(row["cases"]), _cell(row["ours"]), _cell(row["dynunet"]) if there else "not measured yet"]
        cells += [_signed(row["difference"]), row["difference"]["verdict"]] if there else ["-", "-"]
        cells += [f"{row['minutes']:.1f}, {row['dynunet_minutes']:.1f}" if there else f"{row['minutes']:.1f}, -", f"{row['adapter_mb']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def condition_lines(values: dict[str, Any]) -> list[str]:
    """How it was measured, in a paragraph, and what became of the old structures."""
    base, rows = values["base"], values["rows"]
    old = [row["old_structures"] for row in rows]
    lines = [
        f"Dice on the test list of {values['set']} (n = {rows[0]['ours']['n']}), 95 % intervals over patients. "
        f"Seeds: {', '.join(map(str, values['seeds']))}; on {values['hardware']}. "
        f"The base ({base['step']} steps, {base['hours']} hours) never met the {values['structure']}: neither its name nor its contour. "
        f"An adapter takes {values['finetune_steps']} steps and holds {100 * values['trained_share']:.0f} % of the parameters. "
        f"Of {sum(o['values'] for o in old)} Dice values of the {len(old[0]['names'])} other structures of these images, "
        f"{sum(o['changed'] for o in old)} changed by an adapter.",
    ]
    if all(row["dynunet"] is not None for row in rows):
        chosen_on = values["validation_cases"]
        lines[0] += f" The DynUNet's best weights are chosen on {chosen_on} further cases, which the adapter does without; {_still_rising(rows)}"
    return lines


def _still_rising(rows: list[dict[str, Any]]) -> str:
    """Whether longer training would help the reference, which a reader must know."""
    runs = [(best, last) for row in rows for best, last in zip(row["dynunet_best_steps"], row["dynunet_steps"], strict=True)]
    rising = sum(best == last for best, last in runs)
    return f"in {rising} of {len(runs)} runs its validation score was still rising at the last step ({max(last for _, last in runs)} at most)."


def _signed(value: dict[str, Any]) -> str:
    return f"{value['mean']:+.3f} ({value['interval'][0]:+.3f} to {value['interval'][1]:+.3f})"


def _cell(value: dict[str, Any]) -> str:
    return f"{value['mean']:.3f} ({value['interval'][0]:.3f} to {value['interval'][1]:.3f})"


def draw(values: dict[str, Any], path: Path) -> None:
    """Dice against the number of cases, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.0, 3.8))
    for key, label, colour, shift in (("ours", "adapter on our base", "#1c6ea4", -0.04), ("dynunet", "DynUNet from scratch", "#c2571a", 0.04)):
        rows = [(x, row[key]) for x, row in enumerate(values["rows"]) if row[key] is not None]
        if rows:
            mean = np.array([r["mean"] for _, r in rows])
            low, high = (np.array([r["interval"][n] for _, r in rows]) for n in (0, 1))
            axes.errorbar([x + shift for x, _ in rows], mean, yerr=[mean - low, high - mean], fmt="o-", color=colour, capsize=3, label=label)
    axes.set_xticks(range(len(values["rows"])), [str(r["cases"]) for r in values["rows"]])
    axes.set(xlabel=f"labelled cases of the {values['structure']}", ylabel=f"Dice, {values['rows'][0]['ours']['n']} test cases", ylim=(0, 1))
    axes.set_title("a structure that the base never met")
    axes.legend(loc="lower right")
    figure.tight_layout()
    with write_aside(path, overwrite=True) as aside:
        figure.savefig(aside, dpi=130, format="png")
    plt.close(figure)
