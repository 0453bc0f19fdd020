"""Time of a batch: 30 head-and-neck CTs with five prompts each, as figures in JSON.

    python Testing/Performance/batch_time.py ../shared/data/openkbp_ct /tmp/batch_time --workers 1

Without ``--model`` and without a default checkpoint, random weights of the default configuration are used: they cost the same per voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Engine" / "batch_doubles")]

from RefSAM3DLib.batch import BatchOptions, run_batch  # noqa: E402

PROMPTS = ("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "mandible")


def main(args: argparse.Namespace) -> None:
    """Run it and print the figures."""
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.model
    if not model and not list((ROOT / "Resources" / "Models").glob("*.safetensors")):
        from batch_random_model import write_random_checkpoint

        model = str(args.work / "random.safetensors")
        if not Path(model).exists():
            write_random_checkpoint(Path(model), "vit_t")
    content = json.loads((args.data / "datalist.json").read_text(encoding="utf-8"))
    cases = [{"image": e["image"], "prompts": list(PROMPTS)} for e in content["training"][: args.cases]]
    (args.work / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    arguments = {"model": model, "adapter": "", "device": args.device}
    started = time.monotonic()
    outcome = run_batch(
        args.work / "cases.json", args.work / f"out-{args.workers}", BatchOptions(engine_arguments=arguments, workers=args.workers), root=args.data
    )
    elapsed = time.monotonic() - started
    times = sorted(json.loads(p.read_text(encoding="utf-8"))["elapsed_s"]["total"] for p in outcome.folder.glob("cases/*/*.json"))
    figures = {
        "cases": outcome.counts, "prompts": len(PROMPTS), "workers": args.workers, "cpus": os.cpu_count(), "load_average": os.getloadavg()[0],
        "model": model or "default", "seconds": round(elapsed, 1), "seconds_per_case_median": times[len(times) // 2] if times else None,
    }  # fmt: skip
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a set with datalist.json")
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="")
    parser.add_argument("--device", default="cpu")
    main(parser.parse_args())
