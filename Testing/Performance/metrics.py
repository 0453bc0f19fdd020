"""Targets, measured values and whether they are met, from the benchmark's JSON alone."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import own
import volumes
from windows import tiles_of

REFERENCE = volumes.REFERENCE
#: Networks with fixed classes: one pass gives all the structures that they were trained on, another structure needs another network.
ONE_PASS = ("segresnet", "swinunetr", "nnunet")
Values = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """One row: name, target and measurement in words; met is None where it could not be measured."""

    key: str
    name: str
    target: str
    measured: str
    met: bool | None


def cell(values: Values, contestant: str, volume: str) -> Values | None:
    """One contestant on one volume; None if it was not run or failed."""
    for each in values["cells"]:
        if (each["contestant"], each["volume"]) == (contestant, volume) and "error" not in each:
            return each
    return None


def seconds(found: Values, label: str, kind: str = "wall_median_s") -> float:
    """Median of a label."""
    return found["times"][label][kind]


def next_seconds(found: Values, tiles: str) -> dict[str, float]:
    """Wall seconds of each next prompt, by structure; ``tiles``: "missing" (at least one was) or "cached"."""
    return {
        row["structure"]: seconds(found, f"next_{tiles}:{row['structure']}")
        for row in found["facts"]["next"] if row["tiles"] == tiles and (tiles == "cached" or row["new_tiles"])
    }  # fmt: skip


def peer_seconds(values: Values, peer: str, volume: str) -> tuple[float, bool] | None:
    """Seconds of a prompt of a peer, and whether they are extrapolated: its tiles on the volume times its seconds per tile."""
    found = cell(values, peer, volume)
    if found is not None:
        return seconds(found, "next" if "next" in found["times"] else "first"), False
    facts = values["volumes"].get(volume)
    measured = [c for c in values["cells"] if c["contestant"] == peer and "error" not in c]
    if facts is None or not measured:
        return None
    return tiles_of(peer, facts["shape"], facts["spacing"]) * measured[0]["facts"]["tile_s"], True


def exponent(points: list[tuple[float, float]]) -> float | None:
    """Slope of log y over log x, least squares."""
    if len(points) < 3:
        return None
    x, y = ([math.log(p[n]) for p in points] for n in (0, 1))
    mx, my = statistics.mean(x), statistics.mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def growth(values: Values, contestant: str) -> list[tuple[str, float, float, float]]:
    """(volume, voxels, first prompt s, MB above the volume), smallest first, of the phantoms."""
    rows = []
    for name, facts in values["volumes"].items():
        found = cell(values, contestant, name)
        if found is not None and name != "real":
            rows.append((name, math.prod(facts["shape"]), seconds(found, "first"), found["facts"]["memory"]["above_mb"]))
    return sorted(rows, key=lambda row: row[1])


def table(values: Values) -> list[Metric]:
    """T1-T12 and G."""
    return [*_against_peers(values), *_own(values), *_small(values), *_guards(values)]


def _missing(key: str, name: str, target: str) -> Metric:
    return Metric(key, name, target, "not measured in this run", None)


def _against_peers(values: Values) -> list[Metric]:
    rows = []
    here = cell(values, "own", REFERENCE)
    peer = peer_seconds(values, "voxtell", REFERENCE)
    names = (("T1", "next prompt against VoxTell, same volume", ">= 500x faster", 500.0), ("T4", "first prompt against VoxTell", ">= 15x less time", 15.0))
    for key, name, target, limit in names:
        if here is None or peer is None:
            rows.append(_missing(key, name, target))
            continue
        mine = statistics.mean(next_seconds(here, "cached").values()) if key == "T1" else seconds(here, "first")
        note = "VoxTell extrapolated from its tiles" if peer[1] else "both measured"
        text = f"{peer[0] / mine:,.0f}x ({peer[0]:,.0f} s against {mine:.2f} s; {note})"
        large = cell(values, "own-vit_b", REFERENCE)
        if large is not None:
            theirs = statistics.mean(next_seconds(large, "cached").values()) if key == "T1" else seconds(large, "first")
            text += f"; ViT-B size {peer[0] / theirs:,.0f}x"
        rows.append(Metric(key, name, target, text, peer[0] / mine >= limit))
    return rows


def _own(values: Values) -> list[Metric]:
    here = cell(values, "own", REFERENCE)
    specs = {
        "T2": ("next prompt / own first prompt", "<= 2 %"), "T3": ("next prompt, reference volume", "<= 0.5 s"),
        "T5": ("first prompt, reference volume, default checkpoint", "<= 10 s"),
        "T7": ("memory above the volume; image kept", "<= 1.5 GB; <= 250 MB"), "T8": ("8 prompts / 1 prompt", "<= 1.15"),
    }  # fmt: skip
    if here is None:
        return [*(_missing(key, *spec) for key, spec in specs.items()), *_absent(None)]
    first = seconds(here, "first")
    kept, new = (next_seconds(here, tiles) for tiles in ("cached", "missing"))
    facts, eight = here["facts"], (seconds(here, "eight_cached") if "eight_cached" in here["times"] else None)
    rows = [
        _row("T2", specs, f"{_mean(kept) / first:.1%} with the tiles kept; {_mean(new) / first:.0%} where tiles are missing", _mean(kept) / first <= 0.02),
        _row("T3", specs, f"{_mean(kept):.2f} s (slowest {max(kept.values()):.2f} s) with the tiles kept; {_mean(new):.1f} s where tiles are missing",
             max(kept.values()) <= 0.5),
        _row("T5", specs, f"{first:.1f} s", first <= 10),
    ]  # fmt: skip
    large = cell(values, "own-vit_b", REFERENCE)
    name, target = "first prompt, reference volume, ViT-B size", "<= 45 s"
    slow = None if large is None else seconds(large, "first")
    rows.append(_missing("T5", name, target) if slow is None else Metric("T5", name, target, f"{slow:.1f} s", slow <= 45))
    rows += _absent(here)
    above, cache = facts["memory"]["above_mb"], facts["cache_mb"]
    rows.append(_row("T7", specs, f"{above / 1024:.2f} GB; {cache:.0f} MB", above <= 1536 and cache <= 250))
    if eight is None or "eight_missing" not in here["times"]:
        rows.append(_missing("T8", *specs["T8"]))
    else:
        share = (first + eight * 7 / 8) / first
        rows.append(_row("T8", specs, f"{share:.2f} with the tiles kept; {seconds(here, 'eight_missing') / first:.2f} where tiles are missing", share <= 1.15))
    return rows


def _absent(here: Values | None) -> list[Metric]:
    """T6, for a structure of another part of the body and for one that is missing in its place: the coarse look follows the place."""
    rows = []
    for label, what in (("absent_elsewhere", "of another part of the body"), ("absent", "that is missing where its place is in view")):
        name, target = f"absent structure {what}", "<= 3 s, no fine tile"
        if here is None or label not in here["facts"]:
            rows.append(_missing("T6", name, target))
            continue
        spent, tiles, verdict = seconds(here, label), here["facts"][label]["fine_tiles"], here["facts"][label]["verdict"]
        text = f"{here['facts'][label]['structure']}: {spent:.1f} s, {tiles} fine tiles, verdict {verdict}"
        rows.append(Metric("T6", name, target, text, spent <= 3 and tiles == 0 and verdict == "absent"))
    return rows


def _mean(by_structure: dict[str, float]) -> float:
    return statistics.mean(by_structure.values())


def _row(key: str, specs: dict[str, tuple[str, str]], measured: str, met: bool | None) -> Metric:
    return Metric(key, *specs[key], measured, met)


def _small(values: Values) -> list[Metric]:
    rows = []
    points = growth(values, "own")
    name, target = "growth with voxels: first prompt, memory", "exponent <= 1.05"
    powers = [exponent([(row[1], row[n]) for row in points]) for n in (2, 3)]
    if None in powers:
        rows.append(_missing("T9", name, target))
    else:
        rows.append(Metric("T9", name, target, f"{powers[0]:.2f}, {powers[1]:.2f}", max(p for p in powers if p is not None) <= 1.05))
    stages = values["studies"].get("stages", {}).get("volumes", {}).get(REFERENCE)
    name, target = "resampling and export", "<= 10 % of the first prompt"
    if stages is None:
        rows.append(_missing("T10", name, target))
    else:
        first = stages["first prompt"]
        share = sum(v for k, v in first.items() if k.startswith(("resampling", "writing"))) / sum(first.values())
        rows.append(Metric("T10", name, target, f"{share:.1%}", share <= 0.10))
    mine = [c for c in values["cells"] if c["contestant"] == "own" and "error" not in c]
    if not mine:
        return [*rows, _missing("T11", "cold start; import", "<= 4 s; <= 50 ms"), _missing("T12", "cancel", "<= 1 s")]
    ready, load = (statistics.median(c["facts"][key] for c in mine) for key in ("ready_s", "import_s"))
    rows.append(Metric("T11", "cold start, import to ready; `import RefSAM3DLib`", "<= 4 s; <= 50 ms", f"{ready:.1f} s; {load * 1000:.0f} ms",
                       ready <= 4 and load <= 0.05))  # fmt: skip
    gap = max(c["facts"]["cancel_gap_s"] for c in mine)
    large = cell(values, "own-vit_b", REFERENCE)
    rows.append(Metric("T12", "cancel: longest wait in a first prompt, all volumes", "<= 1 s", f"{gap:.2f} s", gap <= 1))
    if large is not None:
        wait = large["facts"]["cancel_gap_s"]
        rows.append(Metric("T12", "cancel, ViT-B size", "<= 1 s", f"{wait:.2f} s", wait <= 1))
    return rows


def _guards(values: Values) -> list[Metric]:
    rows = []
    for row in values["studies"].get("optimisations", {}).get("rows", []):
        if row["met"] is None:
            continue
        sign = ">=" if row["least"] else "<="
        rows.append(Metric("G", f"{row['name']}: {row['guard']}", f"{sign} {row['limit']:g}", f"{row['value']:.4g}", row["met"]))
    guards = values["studies"].get("guards", {})
    if "coarse_recall" in guards:
        recall = guards["coarse_recall"]
        lost = ", ".join(f"{n} {v['recall']:.0%} ({v['voxels_inside']:.1%} of voxels)" for n, v in recall["per_structure"].items() if v["recall"] < 1)
        text = f"{recall['recall']:.0%} of {recall['structures']} structures" + (f"; not all of {lost}" if lost else "")
        rows.append(Metric("G", "coarse look holds the whole structure (phantoms, >= 10 mm)", "100 %", text, recall["recall"] == 1.0))
    if "bf16" in guards:
        half = guards["bf16"]
        measured = half["reason"] if half["dice"] is None else f"{half['dice']:.4f} ({half['reason']})"
        rows.append(Metric("G", "masks in bf16 against fp32, least Dice", ">= 0.999", measured, None if half["dice"] is None else half["dice"] >= 0.999))
    return rows


def session_seconds(values: Values, contestant: str, volume: str) -> list[float] | None:
    """Seconds until k prompts (1-8) are answered, one after the other."""
    found = cell(values, contestant, volume)
    count = len(own.EIGHT)
    if found is None:
        peer = peer_seconds(values, contestant, volume) if not contestant.startswith("own") else None
        return None if peer is None else [peer[0] * (1 if contestant in ONE_PASS else k) for k in range(1, count + 1)]
    first = seconds(found, "first")
    if contestant in ONE_PASS:
        return [first] * count
    if contestant.startswith("own"):
        following = [*next_seconds(found, "missing").values()] if contestant != "own-literal" else []
        rest = _mean(next_seconds(found, "cached")) if next_seconds(found, "cached") else _mean(next_seconds(found, "missing"))
        steps = [first, *following, *[rest] * count][:count]
    else:
        steps = [first, *[seconds(found, "next") if "next" in found["times"] else first] * (count - 1)]
    return [sum(steps[:k]) for k in range(1, count + 1)]
