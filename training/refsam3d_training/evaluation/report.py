"""An evaluation for people: CSV, reliability curve and one HTML page."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path
from typing import Any

from RefSAM3DLib.atomic import write_aside

from .summary import Record, structure_key

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .6em;text-align:right}td:first-child,th:first-child{text-align:left}
img{max-width:100%}h2{margin-top:2em}.note{color:#666}"""


def write_csv(path: Path, records: list[Record]) -> None:
    """One line per case and structure."""
    with write_aside(path, overwrite=True) as aside, open(aside, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["case", "modality", "structure", "dice", "nsd_2mm", "nsd_5mm", "volume_ml", "truth_ml", "verdict", "presence"])
        for record in records:
            presence = {r["name"]: r["probability"] for r in record.get("presence", []) if r["kind"] == "own"}
            for name, row in record.get("structures", {}).items():
                nsd = row.get("nsd", {})
                numbers = [row["dice"], nsd.get("2", ""), nsd.get("5", ""), row["volume_ml"], row["truth_ml"]]
                shown = [f"{v:.4f}" if isinstance(v, float) else v for v in numbers]
                writer.writerow([record["case"], record["modality"], name, *shown, row["verdict"], f"{presence.get(name, float('nan')):.4f}"])


def write_reliability(path: Path, presence: dict[str, Any]) -> None:
    """Predicted probability against how often the structure was there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 4.6))
    axes.plot([0, 1], [0, 1], color="#999", linewidth=1)
    bins = presence["reliability"]
    axes.plot([b["probability"] for b in bins], [b["share"] for b in bins], "o-", color="#1c6ea4")
    for b in bins:
        axes.annotate(str(b["count"]), (b["probability"], b["share"]), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set(xlabel="probability that it is present", ylabel="share that is present", title=f"Presence, ECE {presence['ece']:.3f}", xlim=(0, 1), ylim=(0, 1))
    figure.tight_layout()
    with write_aside(path, overwrite=True) as aside:
        figure.savefig(aside, dpi=130)
    plt.close(figure)


def write_page(path: Path, summary: dict[str, Any], records: list[Record], worst: int = 3) -> None:
    """Tables, the reliability curve, and the worst cases of each structure (pictures only where they were written beside)."""
    body = [f"<h1>{_text(summary['model']['name'])} on the {_text(summary['split'])} lists</h1>", _paragraph(summary)]
    body += ["<h2>Structures</h2>", _structure_table(summary["structures"])]
    for title, key in (("Mean Dice per grid", "mean_dice_by_grid"), ("Centred ellipsoid, sarcoma", "centred_ellipsoid")):
        if summary.get(key):
            rows = [[g, _interval(v.get("dice", v))] for g, v in summary[key].items()]
            body += [f"<h2>{title}</h2>", _table(["", "Dice"], rows)]
    body += ["<h2>Presence</h2>", "<img src='reliability.png' width='460' alt='reliability curve'>", _presence_table(summary["presence"])]
    use = summary["prompt_use"]
    body += ["<h2>Prompt use</h2>", _table(["off-diagonal Dice", "mean"], [[k, f"{v:.4f}"] for k, v in use["off_diagonal_mean"].items()])]
    body += [_table(["asked -> truth of the other side", "Dice"], [[k, _interval(v)] for k, v in use["side_confusion"].items()])]
    if summary["composites"]:
        body += ["<h2>Prompts of several structures</h2>", _table(["", "Dice of the union"], [[k, _interval(v)] for k, v in summary["composites"].items()])]
    if summary["paraphrases"]:
        rows = [[k, str(v["texts"]), *(f"{v[c]:.4f}" for c in ("canonical", "resolver", "raw"))] for k, v in summary["paraphrases"]["structures"].items()]
        body += ["<h2>Wordings that were never trained</h2>", _table(["", "texts", "canonical", "through the resolver", "raw text"], rows)]
    body += ["<h2>Seconds per case (median)</h2>", _table(["grid", "load", "first view", "all structures", "prompts"],
             [[g, *(f"{v[k]:.2f}" for k in ("load", "embed", "segment")), str(v["prompts"])] for g, v in summary["seconds_per_case"].items()])]  # fmt: skip
    body += ["<h2>Worst cases</h2>", *_worst(path.parent, records, worst)]
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Evaluation</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>"
    with write_aside(path, overwrite=True) as aside:
        aside.write_text(page, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Indented JSON; NaN becomes null."""
    with write_aside(path, overwrite=True) as aside:
        aside.write_text(json.dumps(without_nan(values), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def without_nan(values: Any) -> Any:
    """The same values with None for NaN."""
    if isinstance(values, dict):
        return {k: without_nan(v) for k, v in values.items()}
    if isinstance(values, list):
        return [without_nan(v) for v in values]
    return None if isinstance(values, float) and values != values else values


def _text(value: object) -> str:
    return html.escape(str(value))


def _interval(value: dict[str, Any]) -> str:
    low, high = value["interval"]
    return f"{value['mean']:.3f} [{low:.3f}, {high:.3f}] n={value['n']}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(h)}</th>" for h in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _paragraph(summary: dict[str, Any]) -> str:
    cases = ", ".join(f"{k}: {v}" for k, v in summary["cases"].items())
    adapter = f", adapter {_text(name)}" if (name := summary["model"].get("adapter")) else ""
    return (
        f"<p class='note'>weights {_text(summary['model']['sha256'][:12])}{adapter}, {_text(summary['device'])}; cases {_text(cases)}. Intervals are 95 % over "
        "patients (bootstrap). Not for diagnosis.</p>"
    )


def _structure_table(structures: dict[str, Any]) -> str:
    rows = []
    for name, row in structures.items():
        scores = [_interval(row[k]) if k in row else "" for k in ("dice", "nsd_2mm", "nsd_5mm")]
        rows.append([name, *scores, f"{row['volume_error_percent']['mean']:+.1f} %", f"{row['absolute_volume_error_percent']['mean']:.1f} %"])
    return _table(["", "Dice", "NSD 2 mm", "NSD 5 mm", "volume error", "absolute"], rows)


def _presence_table(presence: dict[str, Any]) -> str:
    gone = presence["painted_over"]["verdicts"]
    rows = [
        ["AUROC, trained names over all", _number(presence["auroc_all"])],
        ["AUROC inside head-and-neck CTs", _number(presence["auroc_inside_head_and_neck"])],
        ["AUROC where a structure was painted over", _number(presence["auroc_painted_over"])],
        *([f"called {verdict} where painted over", _number(gone[verdict])] for verdict in ("present", "uncertain", "absent")),
        ["expected calibration error", _number(presence["ece"])],
        ["absent and nothing drawn", _number(presence["absent_and_not_drawn"]["share"])],
        ["present but nothing drawn", _number(presence["present_but_not_drawn"]["share"])],
        ["names trained as absent, as raw text: nothing drawn", _number(presence["trained_absent_names_raw_text"]["not_drawn"])],
        ["untrained names as raw text: nothing drawn", _number(presence["untrained_names_raw_text"]["not_drawn"])],
    ]
    return _table(["", ""], rows)


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _worst(folder: Path, records: list[Record], count: int) -> list[str]:
    scored = sorted((row["dice"], structure_key(r, n), r["case"]) for r in records for n, row in r.get("structures", {}).items())
    seen: dict[str, int] = {}
    parts: list[str] = []
    shown: set[str] = set()
    for value, structure, case in scored:
        seen[structure] = seen.get(structure, 0) + 1
        if seen[structure] > count:
            continue
        parts.append(f"<p>{_text(structure)}: {_text(case)}, Dice {value:.3f}</p>")
        picture = f"pictures/{case.replace('/', '_')}.png"
        if case not in shown and (folder / picture).is_file():
            parts.append(f"<img src='{_text(picture)}' alt='truth green, answer red'>")
            shown.add(case)
    return parts
