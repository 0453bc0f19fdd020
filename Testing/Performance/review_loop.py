"""Close the loop on real cases: batch, scripted review, export, fine-tune, batch again on other cases.

    python Testing/Performance/review_loop.py ../shared/data/openkbp_ct /tmp/loop \\
        --finetune "python -m refsam3d_training finetune --data {manifest} --output {adapter}"

The first ``--reviewed`` cases of the training list are reviewed by a script that edits every result toward the expert's label; the
validation cases are only scored. Without ``--finetune`` the loop ends at the manifest. Figures go to ``loop.json`` in the work folder.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import numpy as np

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.options import DEFAULT_ENGINE
from RefSAM3DLib.compare import read_masks
from RefSAM3DLib.review import ReviewSession, export_manifest

#: A result this close to the expert's is accepted as it is: readers differ by about as much.
GOOD_ENOUGH = 0.95


def write_list(data: Path, work: Path, split: str, count: int) -> Path:
    """A manifest of the first ``count`` cases of a list, with absolute paths."""
    content = json.loads((data / "datalist.json").read_text(encoding="utf-8"))
    entries = [{**e, "image": str(data / e["image"]), "label": str(data / e["label"])} for e in content[split][:count]]
    path = work / f"{split}.json"
    path.write_text(json.dumps({"labels": content["labels"], split: entries}), encoding="utf-8")
    return path


def review(folder: Path, manifest: Path) -> dict[str, int]:
    """Accept what is good, correct the rest by the expert's label."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    names = {int(v): n for v, n in content["labels"].items()}
    labels = {Path(e["image"]).name.split(".")[0]: e["label"] for e in content["training"]}
    session = ReviewSession(folder, "scripted reviewer")
    counts: dict[str, int] = {}
    for item in session.queue():
        if item.segmentation is None:
            verdict = session.decide(item, "reject", reason="image not usable")["verdict"]
        else:
            machine, geometry = session.machine_mask(item)
            truth = read_masks(Path(labels[item.name]), names, geometry)[item.structure]
            overlap = 2 * int((machine & truth).sum()) / max(1, int(machine.sum()) + int(truth.sum()))
            edited = None if overlap >= GOOD_ENOUGH else np.asarray(truth)
            verdict = session.decide(item, "accept" if edited is None else "accept_edited", edited_mask=edited, seconds=0.0)["verdict"]
        counts[verdict] = counts.get(verdict, 0) + 1
    return counts


def scores(rows: list[dict]) -> dict[str, float]:
    """Mean Dice per structure and over all."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get("reference_dice") is not None:
            found.setdefault(row["structure"], []).append(row["reference_dice"])
    means = {name: round(mean(values), 4) for name, values in sorted(found.items())}
    return {**means, "mean": round(mean(means.values()), 4)} if means else {}


def main(args: argparse.Namespace) -> None:
    """Run the loop."""
    args.work.mkdir(parents=True, exist_ok=True)
    figures: dict[str, object] = {}

    def batch(manifest: Path, name: str, adapter: str = "") -> list[dict]:
        arguments = {"model": args.model, "adapter": adapter, "device": "auto"}
        started = time.monotonic()
        options = BatchOptions(engine=args.engine, engine_arguments=arguments, workers=args.workers)
        outcome = run_batch(manifest, args.work / name, options, root=args.data.resolve())
        figures[name] = {"cases": outcome.counts, "seconds": round(time.monotonic() - started, 1), "dice": scores(outcome.rows)}
        return outcome.rows

    reviewed = write_list(args.data.resolve(), args.work, "training", args.reviewed)
    others = write_list(args.data.resolve(), args.work, "validation", args.others)
    batch(reviewed, "reviewed")
    batch(others, "others_before")
    figures["review"] = review(args.work / "reviewed", reviewed)
    export = args.work / "export"
    outcome = export_manifest(ReviewSession(args.work / "reviewed", "scripted reviewer"), export)
    figures["export"] = {"cases": outcome.cases, "structures": outcome.structures, "notes": outcome.notes}
    if args.finetune:
        adapter = args.work / "adapter.safetensors"
        command = args.finetune.format(manifest=outcome.manifest, adapter=adapter, work=args.work)
        subprocess.run(shlex.split(command), check=True)
        batch(others, "others_after", str(adapter))
    (args.work / "loop.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a set with datalist.json")
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    parser.add_argument("--reviewed", type=int, default=10)
    parser.add_argument("--others", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="")
    parser.add_argument("--engine", default=DEFAULT_ENGINE, help="module:function that makes the engine")
    parser.add_argument("--finetune", default="", help="command with {manifest}, {adapter} and {work}")
    main(parser.parse_args())
