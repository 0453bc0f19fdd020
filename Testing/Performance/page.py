"""``Docs/performance.md`` and its pictures from ``Docs/figures/performance.json`` alone.

``python Testing/Performance/page.py [--check]``
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from metrics import ONE_PASS, cell, next_seconds, peer_seconds, seconds, table  # noqa: E402

FIGURES = ROOT / "Docs" / "figures"
SOURCE = FIGURES / "performance.json"
TRAINING = FIGURES / "training_speed.json"
#: Runs on other devices, kept beside the CPU's: ``performance-cuda.json`` and the like.
OTHERS = "performance-*.json"
PAGE = ROOT / "Docs" / "performance.md"
IMAGES = ROOT / "Docs" / "images"
SAME_PASS = "in the same pass"
Values = dict[str, Any]


def page(values: Values, training: Values | None, others: list[Values]) -> str:
    """The whole page as Markdown."""
    parts = [
        "# Speed and memory", "",
        "Written by `Testing/Performance/page.py` from `Docs/figures/performance.json`; nothing on this page is typed by hand.",
        "`make bench` (some minutes) or `make bench-full` (hours, goes on where it was stopped) measures anew; "
        "`make bench-full BENCH=\"--minutes 60\"` measures a part.", "",
        *_machine(values), "", "## Targets", "", *_targets(values), "", "## Side by side", "", *_pictures(), *_contestants(values), "",
        "## Growth", "", "![First prompt and memory over voxels](images/performance_voxels.png)", "",
        "![Seconds until k prompts are answered](images/performance_prompts.png)", "", *_growth(values), "",
        "## What each optimisation gains", "", *_optimisations(values), "", "## Where the time goes", "", *stage_table(values), "",
        *_training(training), *(line for other in others for line in _other(other)), "## How it is measured", "", *_method(values), "",
    ]  # fmt: skip
    return "\n".join(parts)


def _machine(values: Values) -> list[str]:
    m = values["machine"]
    loads = [c["load"] for c in values["cells"] if c.get("load") is not None]
    calibration = [c["calibration_gflops"] for c in values["cells"] if "error" not in c]
    card = f", {m['card']}" if m["card"] else ""
    part = f" ({values['left_out']} of its rounds are still to be measured)" if values["left_out"] else ""
    return [
        f"{values['mode'].capitalize()} run of {values['date']}{part}: {m['cpu']}{card}, {m['cores']} cores, {m['threads']} threads, torch {m['torch']}, "
        f"Python {m['python']}, {'with' if m['bf16'] else 'without'} bf16 instructions. A 1024 x 1024 matrix product around each measurement reached "
        f"{min(c['min'] for c in calibration):.0f} to {max(c['max'] for c in calibration):.0f} GFLOP/s; the load before a measurement was at most "
        f"{max(loads, default=float('nan')):.1f}.",
    ]


def _targets(values: Values) -> list[str]:
    mark = {True: "yes", False: "**no**", None: "-"}
    lines = ["| # | metric | target | measured | met |", "|---|---|---|---|---|"]
    return lines + [f"| {m.key} | {m.name} | {m.target} | {m.measured} | {mark[m.met]} |" for m in table(values)]


def _pictures() -> list[str]:
    return ["![First and next prompt of every contestant](images/performance_latency.png)", "", "![Memory](images/performance_memory.png)", ""]


def _contestants(values: Values) -> list[str]:
    lines = ["Median (minimum) of wall seconds, CPU seconds in brackets. `~`: extrapolated, tiles of the volume times seconds per tile, resampling and "
             "export not counted.", "",
             "| contestant | volume | rounds | first prompt | CPU | next prompt | next, tiles missing | memory above the volume |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, row in values["contestants"].items():
        for volume, facts in values["volumes"].items():
            found = cell(values, name, volume)
            if found is not None:
                lines.append(f"| {row['title']} | {facts['title']} | {found['rounds']} | {_measured(found)} |")
            elif not name.startswith("own") and (peer := peer_seconds(values, name, volume)) is not None:
                following = SAME_PASS if name in ONE_PASS else f"~ {peer[0]:,.0f} s"
                lines.append(f"| {row['title']} | {facts['title']} | ~ | ~ {peer[0]:,.0f} s |  | {following} |  |  |")
    failed = [c for c in values["cells"] if "error" in c]
    lines += [f"| {c['contestant']} | {c['volume']} | failed: {c['error']} |  |  |  |  |  |" for c in failed]
    lines += ["", "What was granted to each:", ""]
    return lines + [f"- {row['title']}: {' '.join(row['concessions'])}" for row in values["contestants"].values() if row["concessions"]]


def _measured(found: Values) -> str:
    first = found["times"]["first"]
    if found["contestant"].startswith("own"):
        kept, new = (next_seconds(found, tiles) for tiles in ("cached", "missing"))
        following = "-" if not kept else f"{sum(kept.values()) / len(kept):.2f} s"
        missing = "-" if not new else f"{sum(new.values()) / len(new):.1f} s"
    elif found["contestant"] in ONE_PASS:
        following, missing = SAME_PASS, "-"
    else:
        following, missing = f"{seconds(found, 'next' if 'next' in found['times'] else 'first'):,.1f} s", "-"
    text = f"{first['wall_median_s']:,.1f} s ({first['wall_min_s']:,.1f})"
    return f"{text} | {first['cpu_median_s']:,.1f} s | {following} | {missing} | {found['facts']['memory']['above_mb']:,.0f} MB"


def _growth(values: Values) -> list[str]:
    found = [cell(values, "own", name) for name in values["volumes"]]
    lines = ["| ours, default checkpoint | first prompt | tiles of the first prompt | 8 prompts, fresh image | image kept |", "|---|---|---|---|---|"]
    for c in (c for c in found if c is not None):
        eight = f"{seconds(c, 'eight_missing'):.1f} s" if "eight_missing" in c["times"] else "-"
        title = values["volumes"][c["volume"]]["title"]
        lines.append(f"| {title} | {seconds(c, 'first'):.1f} s | {c['facts']['first_tiles']} | {eight} | {c['facts']['cache_mb']:.0f} MB |")
    return lines


def _optimisations(values: Values) -> list[str]:
    study = values["studies"].get("optimisations", {})
    if "rows" not in study:
        return [f"Not measured in this run{': ' + study['error'] if 'error' in study else ''}."]
    lines = ["Each line undoes one thing and measures the same call; the guard compares the two outputs.", "",
             "| optimisation | without | with | gain | guard | value | limit | met |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in study["rows"]:
        value, limit = ("-", "-") if r["value"] is None else (f"{r['value']:.2g}", f"{'>=' if r['least'] else '<='} {r['limit']:g}")
        met = {True: "yes", False: "**no**", None: "-"}[r["met"]]
        lines.append(f"| {r['name']} | {_ms(r['slow_s'])} | {_ms(r['fast_s'])} | {r['gain']:.1f}x | {r['guard']} | {value} | {limit} | {met} |")
    return lines


def _ms(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.2g} ms" if value < 0.1 else f"{value * 1000:.0f} ms"


def stage_table(values: Values) -> list[str]:
    """Seconds per stage of the first and the next prompt, each second once."""
    study = values["studies"].get("stages", {})
    if "volumes" not in study:
        return [f"Not measured in this run{': ' + study['error'] if 'error' in study else ''}."]
    lines = []
    for volume, rows in study["volumes"].items():
        stages = list(dict.fromkeys(stage for row in rows.values() for stage in row))
        lines += [f"| {values['volumes'][volume]['title']} | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
        for stage in sorted(stages, key=lambda s: -rows["first prompt"].get(s, 0.0)):
            lines.append(f"| {stage} | " + " | ".join(f"{row[stage]:.3f} s" if row.get(stage, 0.0) >= 0.0005 else "-" for row in rows.values()) + " |")
        lines += ["| **all** | " + " | ".join(f"**{sum(row.values()):.2f} s**" for row in rows.values()) + " |", ""]
    return [*lines, "One run with a clock at every stage, in a process of its own: its sums are not the medians of the other table."]


def _training(values: Values | None) -> list[str]:
    if values is None:
        return []
    share = values["share_of_step"]
    return [
        "## Training", "",
        f"Default configuration on {values['machine']['cpu']}, {values['machine']['threads']} threads: {values['steps_per_s']:.2f} steps per second of "
        f"{values['tiles_per_step']} tiles ({values['gflop_per_step']:.0f} GFLOP a step, {values['gflops']:.0f} GFLOP/s: "
        f"{values['share_of_matmul_peak']:.0%} of the matrix product's peak, {values['share_of_convolution_peak']:.0%} of a 3x3x3 convolution's). Of a step, "
        + ", ".join(f"{name} takes {part:.0%}" for name, part in share.items()) + ".", "",
    ]  # fmt: skip


def _other(values: Values) -> list[str]:
    return [f"## On {values['machine']['card'] or values['machine']['device']}", "", *_machine(values), "", *_contestants(values), ""]


def _method(values: Values) -> list[str]:
    return [
        "- One process per contestant and round; rounds interleaved (A B C A B C). Memory does not count the interpreter, the network and the "
        "loaded volume.",
        "- *First prompt*: from voxels in memory to the mask on the volume's own voxels. *Next prompt*: another structure on the same image, its text not yet "
        "read. Reported twice: the close look at its place is kept from before, or is missing and computed.",
        "- *8 prompts / 1 prompt*: the first prompt and seven more with the tiles kept, over the first; beside it, eight at once on a fresh image over one.",
        "- *Cancel*: the longest time between two moments at which the engine asks whether to stop.",
        "- Networks of others have random weights: cost does not depend on what a network has learnt. The default checkpoint reads heads and necks at 3 mm, "
        "the ViT-B configuration at 1.5 mm, nnU-Net and MONAI's networks at 1.5 mm, VoxTell and nnInteractive the volume's own voxels.",
        f"- Memory and times are of revision `{values['revision']}` of the measured code.",
    ]


def main() -> int:
    """Write page and pictures; ``--check`` fails if the page does not follow from the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    values, *others = (json.loads(path.read_text(encoding="utf-8")) for path in (SOURCE, *sorted(FIGURES.glob(OTHERS))))
    text = page(values, json.loads(TRAINING.read_text(encoding="utf-8")) if TRAINING.is_file() else None, others)
    if args.check:
        stale = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text
        sys.stdout.write(f"{PAGE.relative_to(ROOT)} is out of date; run python Testing/Performance/page.py\n" if stale else "")
        return int(stale)
    from plots import draw

    draw(values, IMAGES)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
