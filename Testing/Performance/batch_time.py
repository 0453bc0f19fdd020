"""Time of a batch: 30 head-and-neck CTs with five prompts each, on an otherwise idle machine.

    python Testing/Performance/batch_time.py ../shared/data/openkbp_ct /tmp/batch_time --workers 1 2

Each number of workers is a batch of its own, from nothing to the report. A batch that is found finished in the work folder is not timed
again, one that was cut is thrown away, so that no time is made of parts. Figures: ``Docs/figures/batch_time.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from RefSAM3DLib.atomic import write_aside  # noqa: E402
from RefSAM3DLib.batch import BatchOptions, run_batch  # noqa: E402
from RefSAM3DLib.batch.append_log import utc_now  # noqa: E402
from RefSAM3DLib.batch.run_manifest import describe_machine  # noqa: E402
from RefSAM3DLib.checkpoint import load_checkpoint  # noqa: E402
from RefSAM3DLib.engine import DEFAULT_MODEL  # noqa: E402
from RefSAM3DLib.resources import resource_path  # noqa: E402

FIGURES = ROOT / "Docs" / "figures"
PROMPTS = ("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "mandible")


def measure(args: argparse.Namespace, workers: int, sha256: str) -> dict[str, Any]:
    """One batch; its row for the figures."""
    folder = args.work / f"{sha256[:12]}-{args.cases}-{workers}-{args.device.replace(':', '')}"
    row_file = folder.with_suffix(".json")
    if row_file.is_file():
        row: dict[str, Any] = json.loads(row_file.read_text(encoding="utf-8"))
        return row
    shutil.rmtree(folder, ignore_errors=True)
    options = BatchOptions(engine_arguments={"model": args.model, "adapter": "", "device": args.device}, workers=workers)
    load, clock = os.getloadavg()[0], time.monotonic()
    outcome = run_batch(args.work / "cases.json", folder, options, root=args.data)
    seconds = time.monotonic() - clock
    if outcome.counts != {"done": args.cases}:
        raise SystemExit(f"Not every case was done: {outcome.counts} {outcome.failures}")
    results = [json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("cases/*/*.json")]
    times = [r["elapsed_s"]["total"] for r in results]
    row = {
        "workers": workers, "threads_each": max(1, (os.cpu_count() or 1) // workers), "seconds": round(seconds, 1),
        "seconds_per_case": round(seconds / args.cases, 2), "median_s_of_a_case": round(statistics.median(times), 2), "longest_s": round(max(times), 2),
        "worker_peak_mb": round(max(r["peak_memory_mb"] or 0 for r in results)), "load_average_before": round(load, 2),
    }  # fmt: skip
    row_file.write_text(json.dumps(row), encoding="utf-8")
    return row


def main(args: argparse.Namespace) -> None:
    """Measure what is not measured yet and write the figures."""
    args.data, args.work = args.data.resolve(), args.work.resolve()
    args.output = args.output or FIGURES / f"batch_time{'' if args.device == 'cpu' else '-' + args.device.replace(':', '')}.json"
    args.work.mkdir(parents=True, exist_ok=True)
    model = load_checkpoint(Path(args.model) if args.model else resource_path(*DEFAULT_MODEL))
    content = json.loads((args.data / "datalist.json").read_text(encoding="utf-8"))
    cases = [{"image": e["image"], "prompts": list(PROMPTS)} for e in content["training"][: args.cases]]
    (args.work / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    figures = {
        "made": utc_now()[:10], "model": {"name": model.config.name, "sha256": model.sha256}, "set": args.data.name, "cases": len(cases),
        "prompts": list(PROMPTS), "device": args.device, "machine": describe_machine(), "batches": [measure(args, n, model.sha256) for n in args.workers],
    }  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(args.output, overwrite=True) as aside:
        aside.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a set with datalist.json")
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="", help="checkpoint file (default: the one that ships)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, help="where the figures go (default: batch_time.json, or batch_time-DEVICE.json beside it)")
    main(parser.parse_args())
