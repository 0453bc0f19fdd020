"""The benchmark: interleaved rounds, one process per contestant, everything kept in a journal so that a stopped run goes on.

``python Testing/Performance/run.py quick|full [--device cpu|cuda|mps]`` writes ``Docs/figures/performance.json``; then
``python Testing/Performance/page.py`` writes ``Docs/performance.md`` from it. ``make bench`` and ``make bench-full`` do both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
sys.path[:0] = [str(ROOT), str(HERE)]

import volumes  # noqa: E402
from contestant import CONTESTANTS  # noqa: E402
from environments import python_of  # noqa: E402
from measuring import machine  # noqa: E402

FIGURES = ROOT / "Docs" / "figures"
PEERS = ("segresnet", "swinunetr", "nnunet", "nninteractive", "voxtell")
#: (contestant, volume, rounds). Quick: the peers run on the smallest volume, larger ones are extrapolated tile by tile and labelled so.
QUICK = [
    ("own", "128", 3), ("own-literal", "128", 1), *((peer, "128", 1) for peer in PEERS),
    ("own", "real", 3), ("own", "192", 1), ("own", "256", 1), ("own-whole", "256", 1), ("own", "512", 2), ("own-vit_b", "512", 1),
]  # fmt: skip
#: Ours first, so that a run that is stopped has measured it on every volume. A peer takes minutes to an hour on the larger volumes and gets one
#: round there; how much its rounds differ shows on the smallest.
FULL = [
    (contestant, volume, 3 if volume == "128" or contestant not in PEERS else 1)
    for peers in (False, True) for volume in volumes.VOLUMES for contestant in CONTESTANTS if (contestant in PEERS) is peers
]  # fmt: skip
MODES = {"quick": QUICK, "full": FULL}
#: With one of these set, the first OpenMP library pins this process to one core, and every contestant inherits that: twice the time, unseen.
PINNING = ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
#: Scripts of their own that print one JSON line: (name, arguments).
STUDIES = {"optimisations": ["192"], "guards": [], "stages": ["real", volumes.REFERENCE]}


def revision(contestant: str = "own") -> str:
    """Hash of all that is measured. Results of another revision are not mixed in.

    Ours: the engine, the weights, this folder. A peer's: this folder and the generator of the volumes; hours of peers outlive a change of
    the engine.
    """
    digest = hashlib.sha256()
    if contestant in PEERS:
        files = [HERE / n for n in ("contestant.py", "measuring.py", "peers.py", "volumes.py", "windows.py")]
        files += (ROOT / "RefSAM3DLib" / "phantoms").rglob("*.py")
    else:
        files = [*(ROOT / "RefSAM3DLib").rglob("*.py"), *HERE.glob("*.py"), *(ROOT / "Resources" / "Models").glob("*.safetensors")]
    for path in sorted(files):
        if path.name not in ("page.py", "plots.py", "metrics.py", "run.py", "batch_time.py", "review_loop.py"):
            digest.update(path.relative_to(ROOT).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Journal:
    """Finished children by key, one JSON object a line, flushed as they end."""

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, {}
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            if not text.endswith("\n"):
                path.write_text(text + "\n", encoding="utf-8")
            for line in text.splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # the line that a stopped run was writing
                    continue
                self.done[tuple(row["key"])] = row["result"]

    def get(self, key: tuple[Any, ...], work: list[str]) -> dict[str, Any]:
        """The result of a child, run now unless it is there."""
        if key in self.done:
            return self.done[key]
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {' '.join(str(k) for k in key[1:])} ... ")
        sys.stderr.flush()
        started, load = time.monotonic(), list(os.getloadavg()) if hasattr(os, "getloadavg") else []
        child = subprocess.run(work, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if child.returncode:
            reason = child.stderr.strip().splitlines()[-1:] or [f"ended with {child.returncode} (9 or 137: the system's memory ran out)"]
            result: dict[str, Any] = {"error": reason[0]}
        else:
            result = json.loads(child.stdout.splitlines()[-1])
        result["load"], result["seconds"] = load, time.monotonic() - started
        sys.stderr.write(f"{result['seconds']:.0f} s{': ' + result['error'] if 'error' in result else ''}\n")
        self.done[key] = result
        if "error" not in result:  # what failed is tried again next time
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps({"key": key, "result": result}) + "\n")
        return result


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and minima over the rounds of one contestant on one volume."""
    good = [r for r in rounds if "error" not in r]
    if not good:
        return {"error": rounds[0]["error"]}
    times = {
        label: {f"{kind}_{name}": value([r["times"][label][f"{kind}_s"] for r in good]) for kind in ("wall", "cpu") for name, value in
                (("median_s", statistics.median), ("min_s", min))}
        for label in good[0]["times"]
    }  # fmt: skip
    facts = dict(good[-1]["facts"])
    for key in [k for k, v in facts.items() if isinstance(v, float)]:
        facts[key] = statistics.median(r["facts"][key] for r in good)
    if "cancel_gap_s" in facts:  # a longest wait: of all rounds
        facts["cancel_gap_s"] = max(r["facts"]["cancel_gap_s"] for r in good)
    facts["memory"] = {key: statistics.median(r["facts"]["memory"][key] for r in good) for key in good[0]["facts"]["memory"]}
    calibration = [c for r in good for c in r["calibration_gflops"]]
    return {"rounds": len(good), "times": times, "facts": facts, "load": max(r["load"][0] for r in good) if good[0]["load"] else None,
            "calibration_gflops": {"median": statistics.median(calibration), "min": min(calibration), "max": max(calibration)}}  # fmt: skip


def run(mode: str, device: str, journal: Journal, only_volumes: list[str], only: list[str], minutes: float = math.inf) -> dict[str, Any]:
    """All rounds, interleaved; then the studies.

    ``minutes``: after these no further round begins but the first of each contestant on the smallest of its volumes, from which the larger ones are
    extrapolated. The studies run in any case.
    """
    deadline = time.monotonic() + 60 * minutes
    plan = [cell for cell in MODES[mode] if cell[1] in only_volumes and cell[0] in only]
    for name in dict.fromkeys(volume for _, volume, _ in plan):
        volumes.ensure(name)
    mark, here = revision(), hashlib.sha256(json.dumps([machine(device)[k] for k in ("cpu", "cores", "card", "torch", "python")]).encode()).hexdigest()[:8]
    results: dict[tuple[str, str], list[dict[str, Any]]] = {(c, v): [] for c, v, _ in plan}
    smallest = {c: next(v for other, v, _ in plan if other == c) for c, _, _ in plan}
    left = 0
    for number in range(max(rounds for _, _, rounds in plan)):
        for contestant, volume, rounds in plan:
            if number >= rounds:
                continue
            key = (revision(contestant), device, here, contestant, volume, number)  # rounds of another machine are not mixed in
            if key not in journal.done and time.monotonic() > deadline and (number or volume != smallest[contestant]):
                left += 1
                continue
            python = python_of(CONTESTANTS[contestant].environment)
            command = [python, str(HERE / "contestant.py"), contestant, volume, "--device", device]
            results[contestant, volume].append(journal.get(key, command))
    if left:
        sys.stderr.write(f"{left} rounds were left out after {minutes:g} minutes; the same command goes on with them.\n")
    studies = {}
    for name, arguments in STUDIES.items():
        wanted = [a for a in arguments if a in only_volumes]
        if arguments and not wanted:
            continue
        for volume in wanted:
            volumes.ensure(volume)
        studies[name] = journal.get((mark, device, here, name, *wanted), [sys.executable, str(HERE / f"{name}.py"), *wanted, "--device", device])
    facts = {name: volumes.load(name) for name in dict.fromkeys(v for _, v, _ in plan)}
    return {
        "mode": mode, "left_out": left, "date": time.strftime("%Y-%m-%d"), "revision": mark, "machine": machine(device),
        "volumes": {n: {"title": volumes.VOLUMES[n].title, "shape": s.array.shape, "spacing": s.spacing} for n, s in facts.items()},
        "contestants": {n: {"title": CONTESTANTS[n].title, "concessions": CONTESTANTS[n].concessions} for n in dict.fromkeys(c for c, _, _ in plan)},
        "cells": [{"contestant": c, "volume": v, **summary(rounds)} for (c, v), rounds in results.items() if rounds],
        "studies": studies,
    }  # fmt: skip


def main() -> int:
    """Write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--volumes", nargs="+", default=list(volumes.VOLUMES), choices=volumes.VOLUMES)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no round after these; the next call goes on (default: measure everything)")
    parser.add_argument("--fresh", action="store_true", help="forget the journal and measure everything anew")
    parser.add_argument("--output", type=Path, help="default: performance.json, or performance-DEVICE.json beside it")
    args = parser.parse_args()
    pinned = [f"{name}={os.environ[name]}" for name in PINNING if os.environ.get(name)]
    if pinned:
        parser.error(f"{', '.join(pinned)} would hold every contestant on one core; unset it and try again.")
    from RefSAM3DLib.atomic import write_aside

    path = volumes.WORK / f"journal-{args.device}.jsonl"
    if args.fresh:
        path.unlink(missing_ok=True)
    values = run(args.mode, args.device, Journal(path), args.volumes, args.contestants, args.minutes)
    output = args.output or FIGURES / f"performance{'' if args.device == 'cpu' else '-' + args.device}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(output, overwrite=True) as aside:
        aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    failed = [f"{c['contestant']} on {c['volume']}: {c['error']}" for c in values["cells"] if "error" in c]
    failed += [f"{name}: {study['error']}" for name, study in values["studies"].items() if "error" in study]
    sys.stderr.write("".join(f"FAILED {line}\n" for line in failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
