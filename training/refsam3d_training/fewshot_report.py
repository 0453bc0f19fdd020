"""What a few-shot experiment says: JSON, a Markdown table, and the figure of Dice against the number of cases."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.checkpoint import load_checkpoint

from .config import folder_and_grid
from .evaluation.compare import MARGINS, verdict
from .evaluation.measures import described
from .evaluation.report import write_json
from .evaluation.summary import Record, structure_key
from .manifest import Manifest

if TYPE_CHECKING:
    from .fewshot import FewshotConfig


def report(config: FewshotConfig, source: Manifest, run: Path, hardware: str) -> dict[str, Any]:
    """Collect the stages' files of ``run`` and write ``fewshot.json``, ``fewshot.md`` and ``fewshot.png``; returns the values."""
    before = _scores(_records(run / "evaluation" / "base.json"))
    base = next((run / "adapters").glob("*.json"))
    rows = [_row(config, run, count, before) for count in config.cases]
    values = {
        "structure": config.structure, "set": source.name, "licence": source.values.get("licence", ""), "hardware": hardware,
        "seeds": list(config.seeds), "finetune_steps": config.finetune.steps, "baseline": config.baseline, "validation_cases": config.validation_cases,
        "base": _base_values(config, run), "trained_share": json.loads(base.read_text(encoding="utf-8"))["trained"]["share"], "rows": rows,
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


def _over_seeds(runs: Sequence[Sequence[Record]]) -> dict[tuple[str, str], float]:
    """Mean over the seeds' Dice by (structure, case)."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for records in runs:
        for key, value in _scores(records).items():
            found[key].append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _row(config: FewshotConfig, run: Path, count: int, before: dict[tuple[str, str], float]) -> dict[str, Any]:
    names = [name for name, cases, _ in config.names() if cases == count]
    cards = [json.loads((run / "adapters" / f"{n}.json").read_text(encoding="utf-8")) for n in names]
    tuned = _over_seeds([_records(run / "evaluation" / f"{n}.json") for n in names])
    scratch = [json.loads((run / "dynunet" / n / "baseline_evaluation.json").read_text(encoding="utf-8")) for n in names]
    reference = _over_seeds([r["records"] for r in scratch])
    ours = {case: value for (name, case), value in tuned.items() if _is(name, config.structure)}
    theirs = {case: value for (name, case), value in reference.items() if _is(name, config.structure)}
    shared = sorted(set(ours) & set(theirs))
    difference = described([ours[c] - theirs[c] for c in shared])
    margin = MARGINS.get(folder_and_grid(config.set)[1], 0.01)
    low, high = difference["interval"]  # type: ignore[misc]
    old = {}
    for name in sorted({n for n, _ in before}):
        pairs = [(before[key], tuned[key]) for key in sorted(before) if key[0] == name and key in tuned]
        old[name] = {"before": described([a for a, _ in pairs]), "after": described([b for _, b in pairs]), "change": described([b - a for a, b in pairs])}
    return {
        "cases": count, "ours": described([ours[c] for c in shared]), "dynunet": described([theirs[c] for c in shared]),
        "difference": {**difference, "margin": margin, "verdict": verdict(low, high, margin)},
        "minutes": _mean([c["seconds"] / 60 for c in cards]), "dynunet_minutes": _mean([r["seconds"] / 60 for r in scratch]),
        "dynunet_steps": [r["steps"] for r in scratch], "dynunet_best_steps": [r["step"] for r in scratch], "steps": [c["steps"] for c in cards],
        "adapter_mb": _mean([c["bytes"] / 1e6 for c in cards]), "old_structures": old,
    }  # fmt: skip


def _is(title: str, structure: str) -> bool:
    return title == structure or title.startswith(f"{structure} (")


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _base_values(config: FewshotConfig, run: Path) -> dict[str, Any]:
    path = Path(config.folder) / config.base if config.base else run / "base.safetensors"
    card = load_checkpoint(path).card
    training = {k: card["training"].get(k) for k in ("step", "hours", "hardware", "excluded_structures")}
    return {"megabytes": round(path.stat().st_size / 1e6, 2), "tensors_sha256": card.get("tensors_sha256", ""), **training}


def markdown(values: dict[str, Any]) -> str:
    """The new structure, what became of the old ones, and under which conditions."""
    return "\n".join([*new_structure_lines(values), "", *old_structure_lines(values), "", *condition_lines(values)]) + "\n"


def new_structure_lines(values: dict[str, Any]) -> list[str]:
    """Table of Dice by number of cases."""
    lines = [
        f"| cases of the {values['structure']} | adapter | DynUNet from scratch | difference | verdict | minutes: adapter, DynUNet | adapter MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in values["rows"]:
        cells = [str(row["cases"]), _cell(row["ours"]), _cell(row["dynunet"]), _signed(row["difference"]), row["difference"]["verdict"]]
        cells += [f"{row['minutes']:.1f}, {row['dynunet_minutes']:.1f}", f"{row['adapter_mb']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def old_structure_lines(values: dict[str, Any]) -> list[str]:
    """Table of the old structures' Dice before, and its change after each fine-tuning."""
    rows = values["rows"]
    lines = ["| old structure, n | before | " + " | ".join(f"change by {r['cases']} cases" for r in rows) + " |", "|---|---|" + "---|" * len(rows)]
    for name, first in rows[0]["old_structures"].items():
        cells = [_signed(row["old_structures"][name]["change"]) for row in rows]
        lines.append(f"| {name}, {first['before']['n']} | {first['before']['mean']:.3f} | {' | '.join(cells)} |")
    return lines


def condition_lines(values: dict[str, Any]) -> list[str]:
    """How it was measured, in a paragraph."""
    base = values["base"]
    return [
        f"Dice on the test list of {values['set']} (n = {values['rows'][0]['ours']['n']}), 95 % intervals by bootstrap over cases. "
        f"Seeds: {', '.join(map(str, values['seeds']))}; on {values['hardware']}. "
        f"The base ({base['step']} steps, {base['hours']} hours) never met the {values['structure']}: neither its name nor its contour. "
        f"An adapter takes {values['finetune_steps']} steps and holds {100 * values['trained_share']:.0f} % of the parameters. "
        f"The DynUNet's best weights are chosen on {values['validation_cases']} further cases, which the adapter does without; "
        f"{_still_rising(values['rows'])}",
    ]


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
    """Dice against the number of cases, with intervals; beside it the old structures' mean before and after."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = values["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=(3, 2))
    x = np.arange(len(rows), dtype=float)
    for key, label, colour, shift in (("ours", "adapter on our base", "#1c6ea4", -0.04), ("dynunet", "DynUNet from scratch", "#c2571a", 0.04)):
        mean = np.array([r[key]["mean"] for r in rows])
        low, high = (np.array([r[key]["interval"][n] for r in rows]) for n in (0, 1))
        left.errorbar(x + shift, mean, yerr=[mean - low, high - mean], fmt="o-", color=colour, capsize=3, label=label)
    left.set_xticks(x, [str(r["cases"]) for r in rows])
    left.set(xlabel=f"labelled cases of the {values['structure']}", ylabel=f"Dice, {rows[0]['ours']['n']} test cases", ylim=(0, 1))
    left.set_title("a structure that the base never met")
    left.legend(loc="lower right")
    names = list(rows[0]["old_structures"])
    y = np.arange(len(names), dtype=float)
    right.plot([rows[0]["old_structures"][n]["before"]["mean"] for n in names], y, "o", color="#777777", label="before")
    for row, marker in zip(rows, ("^", "s", "D", "v", "P", "X"), strict=False):
        right.plot([row["old_structures"][n]["after"]["mean"] for n in names], y, marker, color="#1c6ea4", mfc="none", label=f"after {row['cases']} cases")
    right.set_yticks(y, names, fontsize=7)
    right.set(xlabel="Dice", xlim=(0, 1), title="old structures")
    right.legend(fontsize=7, loc="upper left")
    figure.tight_layout()
    with write_aside(path, overwrite=True) as aside:
        figure.savefig(aside, dpi=130, format="png")
    plt.close(figure)
