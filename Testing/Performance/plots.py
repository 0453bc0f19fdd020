"""The pictures of ``Docs/performance.md``, from the benchmark's JSON alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter
from metrics import ONE_PASS, cell, growth, next_seconds, peer_seconds, seconds, session_seconds

#: Ours in one colour, peers in grey; first and next prompt in two shades.
OURS, OURS_NEXT, PEER, PEER_NEXT = "#1f6f8b", "#8fc7d8", "#666666", "#bbbbbb"
COLOURS = ("#d1495b", "#edae49", "#66a182", "#8d6a9f", "#666666", "#b5651d", "#222222", "#c77dba")
STYLE = {"axes.prop_cycle": mpl.cycler(color=COLOURS), "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "refsam3d"}
Values = dict[str, Any]


def draw(values: Values, folder: Path) -> dict[str, Path]:
    """Write all of them that the values allow; name to file."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    with plt.rc_context(STYLE):
        for name, picture in {"latency": latency, "memory": memory, "voxels": voxels, "prompts": prompts}.items():
            figure = picture(values)
            if figure is not None:
                made[name] = folder / f"performance_{name}.png"
                figure.savefig(made[name], dpi=130, metadata={"Software": None})
                plt.close(figure)
    return made


def titles(values: Values) -> dict[str, str]:
    """Contestants by name, in order."""
    return {name: row["title"] for name, row in values["contestants"].items()}


def latency(values: Values) -> plt.Figure | None:
    """First and next prompt of every contestant, per volume with peers (measured or extrapolated)."""
    wanted = [v for v in ("128", "512") if v in values["volumes"]]
    if not wanted:
        return None
    figure, axes = plt.subplots(1, len(wanted), figsize=(5.2 * len(wanted), 3.6), sharey=True, squeeze=False, layout="constrained")
    names = list(titles(values))
    for axis, volume in zip(axes[0], wanted, strict=True):
        for row, name in enumerate(names):
            first, following, guessed = _pair(values, name, volume)
            if first is None:
                axis.text(0.011, row, "not run on this volume", va="center", fontsize=7, color="#999999")
                continue
            mine = name.startswith("own")
            axis.barh(row - 0.2, first, 0.38, color=OURS if mine else PEER, hatch="//" if guessed else None, edgecolor="white")
            axis.text(first * 1.1, row - 0.2, _words(first), va="center", fontsize=7)
            if name in ONE_PASS:
                axis.text(0.011, row + 0.2, "next: in the same pass, if it was trained on", va="center", fontsize=7, color="#999999")
                continue
            axis.barh(row + 0.2, following, 0.38, color=OURS_NEXT if mine else PEER_NEXT, hatch="//" if guessed else None, edgecolor="white")
            axis.text(following * 1.1, row + 0.2, _words(following), va="center", fontsize=7)
        axis.set_xscale("log")
        axis.set_xlim(0.01, axis.get_xlim()[1] * 6)
        axis.set_yticks(range(len(names)), [titles(values)[n] for n in names])
        axis.set_title(values["volumes"][volume]["title"], fontsize=9)
    figure.supxlabel("seconds: first prompt (dark), next prompt (light); hatched: extrapolated", fontsize=9)
    axes[0][0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _words(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def _pair(values: Values, name: str, volume: str) -> tuple[float | None, float, bool]:
    found = cell(values, name, volume)
    if found is None:
        peer = None if name.startswith("own") else peer_seconds(values, name, volume)
        return (None, 0.0, False) if peer is None else (peer[0], peer[0], peer[1])
    first = seconds(found, "first")
    if not name.startswith("own"):
        return first, seconds(found, "next") if "next" in found["times"] else first, False
    following = next_seconds(found, "cached") or next_seconds(found, "missing")
    return first, statistics.mean(following.values()), False


def memory(values: Values) -> plt.Figure | None:
    """Peak memory above the loaded volume."""
    rows = [(c["contestant"], c["volume"], c["facts"]["memory"]["above_mb"] / 1024) for c in values["cells"] if "error" not in c]
    rows = [row for row in rows if row[1] in ("128", "512")]
    if not rows:
        return None
    names = [n for n in titles(values) if any(r[0] == n for r in rows)]
    figure, axis = plt.subplots(figsize=(7, 0.42 * len(names) + 1.2), layout="constrained")
    for row, name in enumerate(names):
        for shift, volume in ((-0.2, "128"), (0.2, "512")):
            for _, _, used in [r for r in rows if r[:2] == (name, volume)]:
                mine = name.startswith("own")
                dark = volume == "128"
                axis.barh(row + shift, used, 0.38, color=(OURS if dark else OURS_NEXT) if mine else (PEER if dark else PEER_NEXT))
                axis.text(used, row + shift, f" {used:.2f} GB", va="center", fontsize=7)
    axis.set_yticks(range(len(names)), [titles(values)[n] for n in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.margins(x=0.15)
    axis.set_xlabel("peak memory above the loaded volume, GB: 128 x 128 x 128 (dark), 512 x 512 x 300 (light)")
    return figure


def voxels(values: Values) -> plt.Figure | None:
    """First prompt and memory over the number of voxels."""
    names = [n for n in titles(values) if len(growth(values, n)) > 1]
    guessed = [n for n in titles(values) if not n.startswith("own") and n not in names]
    if not names:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for name in names:
        rows = growth(values, name)
        for axis, column in zip(axes, (2, 3), strict=True):
            axis.plot([r[1] for r in rows], [r[column] for r in rows], "o-", label=titles(values)[name], color=None if name != "own" else OURS)
    sizes = {name: _voxel_count(facts) for name, facts in values["volumes"].items() if name != "real"}
    for name in guessed:
        points = sorted((size, peer[0]) for volume, size in sizes.items() if (peer := peer_seconds(values, name, volume)) is not None)
        if not points:
            continue
        axes[0].plot([p[0] for p in points], [p[1] for p in points], "x:", label=f"{titles(values)[name]} (extrapolated)", linewidth=1)
    for axis, label in zip(axes, ("first prompt, s", "peak memory above the volume, MB"), strict=True):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("voxels")
        axis.set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _voxel_count(facts: Values) -> int:
    d, h, w = facts["shape"]
    return d * h * w


def prompts(values: Values) -> plt.Figure | None:
    """Seconds until k prompts are answered."""
    volume = next((v for v in ("512", "128") if cell(values, "own", v) is not None), None)
    if volume is None:
        return None
    figure, axis = plt.subplots(figsize=(9.5, 3.8), layout="constrained")
    for name, title in titles(values).items():
        total = session_seconds(values, name, volume)
        if total is None:
            continue
        guessed = cell(values, name, volume) is None
        axis.plot(range(1, len(total) + 1), total, "x:" if guessed else "o-", label=title + (" (extrapolated)" if guessed else ""), markersize=4,
                  color=OURS if name == "own" else None)  # fmt: skip
    axis.set_yscale("log")
    axis.set_xlabel(f"prompts answered, one after the other, on {values['volumes'][volume]['title']}")
    axis.set_ylabel("seconds since the first was asked")
    figure.legend(fontsize=7, loc="outside right center", frameon=False)
    return figure
