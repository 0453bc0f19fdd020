"""The loop on real cases, in one command: batch, scripted review, export, fine-tune, batch again on other cases, scores.

    python Testing/Performance/review_loop.py ../shared/data/openkbp_ct /tmp/review_loop

Ten cases of the validation list stand for a site's studies: a script accepts what is close to the site's contour and edits the rest to
equal it. What ``review export`` writes is fine-tuned on by the training package's own command, but for a share of the cases that is kept
aside: what the adapter reads worse there is left to the base. Cases of the test list, which nobody reviewed, are segmented before and
after and compared with the site's contours of these cases.

The site has a contouring convention that the model does not know: it draws the spinal cord and the brainstem with the margin of a
planning organ at risk volume (``MARGIN_MM``); its other contours are the experts'. With ``--no-margin`` they all are, which the model
was trained on already: what ten more cases of the same kind teach is then measured.

A run that was stopped goes on where it was: each step keeps what it has in the work folder, under the hash of the model. Figures:
``Docs/figures/review_loop.json``; minutes are those of the work, over all runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "training")]

import SimpleITK as sitk  # noqa: E402
from refsam3d_training.evaluation.measures import described  # noqa: E402

from RefSAM3DLib.atomic import write_aside  # noqa: E402
from RefSAM3DLib.batch import BatchOptions, run_batch  # noqa: E402
from RefSAM3DLib.batch.append_log import utc_now  # noqa: E402
from RefSAM3DLib.batch.run_manifest import describe_machine, read_manifest  # noqa: E402
from RefSAM3DLib.checkpoint import load_checkpoint  # noqa: E402
from RefSAM3DLib.compare import read_masks  # noqa: E402
from RefSAM3DLib.engine import DEFAULT_MODEL  # noqa: E402
from RefSAM3DLib.resources import resource_path  # noqa: E402
from RefSAM3DLib.review import ReviewSession  # noqa: E402
from RefSAM3DLib.surfaces import dice  # noqa: E402

FIGURES = ROOT / "Docs" / "figures" / "review_loop.json"
CONFIG = Path(__file__).with_suffix(".toml")
REVIEWER = "scripted reviewer"
#: A result this close to the expert's is accepted as it is: readers differ by about as much.
GOOD_ENOUGH = 0.95
#: What the site draws around these structures, in whole voxels and into what no other contour claims.
MARGIN_MM = {"spinal cord": 5.0, "brainstem": 5.0}


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_list(data: Path, path: Path, split: str, count: int, margins: dict[str, float]) -> Path:
    """A manifest of the first ``count`` cases of a list, with absolute paths and the site's contours."""
    content = json.loads((data / "datalist.json").read_text(encoding="utf-8"))
    entries = [{**e, "image": str(data / e["image"]), "label": str(data / e["label"])} for e in content[split][:count]]
    if len(entries) < count:
        raise SystemExit(f"The list '{split}' of {data} has {len(entries)} cases, {count} are asked for; lower the number.")
    values = {name: int(value) for value, name in content["labels"].items()}
    for entry in entries if margins else []:
        drawn = path.parent / "contours" / Path(entry["label"]).name
        if not drawn.is_file():
            write_contours(Path(entry["label"]), drawn, {values[name]: mm for name, mm in margins.items()})
        entry["label"] = str(drawn)
    path.write_text(json.dumps({"labels": content["labels"], split: entries}), encoding="utf-8")
    return path


def write_contours(label: Path, target: Path, margins: dict[int, float]) -> None:
    """A label map with some of its structures grown into the background."""
    image = sitk.ReadImage(str(label))
    grown = sitk.GetArrayFromImage(image)
    for value, margin in margins.items():
        radius = [max(1, round(margin / spacing)) for spacing in image.GetSpacing()]
        near = sitk.GetArrayFromImage(sitk.BinaryDilate(image == value, radius)) > 0
        grown[near & (grown == 0)] = value
    out = sitk.GetImageFromArray(grown)
    out.CopyInformation(image)
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(target, overwrite=True) as aside:
        sitk.WriteImage(out, str(aside), useCompression=True)


def segment(manifest: Path, folder: Path, args: argparse.Namespace, adapter: Path | None = None) -> list[dict[str, Any]]:
    """Run or finish a batch; every case must succeed."""
    arguments = {"model": args.model, "adapter": str(adapter or ""), "device": args.device}
    outcome = run_batch(manifest, folder, BatchOptions(engine_arguments=arguments, workers=args.workers), root=args.root)
    if outcome.failures:
        raise SystemExit(f"{folder}: {outcome.failures}")
    say(f"{folder.name}: {outcome.counts}")
    return outcome.rows


def review(folder: Path, manifest: Path) -> dict[str, Any]:
    """Decide on everything that is open, and say what was decided and how large the edits were."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    names = {int(v): n for v, n in content["labels"].items()}
    labels = {Path(e["image"]).name.split(".")[0]: Path(e["label"]) for split in ("training", "validation", "test") for e in content.get(split, [])}
    session = ReviewSession(folder, REVIEWER)
    for item in session.queue():
        machine, geometry = session.machine_mask(item)
        truth = read_masks(labels[item.name], names, geometry)[item.structure]
        if dice(machine, truth) >= GOOD_ENOUGH:
            session.decide(item, "accept")
        else:
            session.decide(item, "accept_edited", edited_mask=truth)
    decisions = [item.decision for item in session.items if item.decision]
    verdicts = [d["verdict"] for d in decisions]
    edits = [d["metrics"] for d in decisions if d["metrics"]]
    volumes = {name: round(sum(e[name] for e in edits), 1) for name in ("added_ml", "removed_ml")}
    return {"decisions": {v: verdicts.count(v) for v in sorted(set(verdicts))}, **volumes}


def run(*command: str) -> float:
    """A command of the project in a process of its own, as a user runs it; seconds it took."""
    started = time.monotonic()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "training"), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-m", *command], check=True, env={**os.environ, "PYTHONPATH": paths})
    return time.monotonic() - started


def batch_minutes(folder: Path) -> float:
    """Of all runs on a folder that computed something."""
    return round(sum(r.get("elapsed_s", 0.0) for r in read_manifest(folder)["runs"] if r.get("counts", {}).get("done")) / 60, 1)


def paired(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """Dice before and after per structure and over all, on the same cases, with the mean difference and its 95 % interval."""
    earlier = {(r["case"], r["structure"]): r["reference_dice"] for r in before}
    later = {(r["case"], r["structure"]): r["reference_dice"] for r in after}
    if earlier.keys() != later.keys():
        raise SystemExit("The two batches answered different questions; use a new work folder.")

    def row(keys: list[tuple[str, str]]) -> dict[str, Any]:
        pairs = [(earlier[key], later[key]) for key in keys]
        change = described([b - a for a, b in pairs], [case for case, _ in keys])  # structures of one patient are no independent draws
        means = {"before": round(sum(a for a, _ in pairs) / len(pairs), 4), "after": round(sum(b for _, b in pairs) / len(pairs), 4)}
        return {"n": len(pairs), **means, "change": change["mean"], "interval": change["interval"], "better": sum(b > a for a, b in pairs)}

    structures = {name: row(sorted(key for key in earlier if key[1] == name)) for name in sorted({s for _, s in earlier})}
    return {"structures": structures, "all": row(sorted(earlier))}


def main(args: argparse.Namespace) -> None:
    """Run what is missing of the loop and write the figures."""
    args.data = args.data.resolve()
    base = Path(args.model) if args.model else resource_path(*DEFAULT_MODEL)
    checkpoint = load_checkpoint(base)
    sha256 = checkpoint.sha256
    settings = args.config.read_bytes() + f"{args.reviewed} {args.steps} {args.aside}".encode()
    margins = {} if args.no_margin else MARGIN_MM
    work = args.work.resolve() / (sha256[:12] + ("-margin" if margins else ""))
    args.root = Path(os.path.commonpath([args.data, work]))  # images lie in one, contours in the other
    tuned = work / f"finetune-{hashlib.sha256(settings).hexdigest()[:8]}"
    tuned.mkdir(parents=True, exist_ok=True)
    mine = write_list(args.data, work / "reviewed.json", args.review_list, args.reviewed, margins)
    others = write_list(args.data, work / "others.json", args.score_list, args.others, margins)
    if args.review_list == args.score_list:
        raise SystemExit("The cases that are scored must not be those that were reviewed; name two lists.")

    segment(mine, work / "reviewed", args)
    before = segment(others, work / "before", args)
    decided = review(work / "reviewed", mine)
    export = work / f"export-{args.reviewed}-{args.aside:g}"
    if not (export / "datalist.json").is_file():  # written last
        run("RefSAM3DLib", "review", "export", str(work / "reviewed"), "-o", str(export), "--reviewer", REVIEWER, "--validation", str(args.aside))
    adapter = tuned / "adapter.safetensors"
    if not adapter.is_file():
        steps = ["--steps", str(args.steps)] if args.steps else []
        common = ["--threads", str(args.threads), "--device", args.device]
        run("refsam3d_training", "finetune", "--data", str(export / "datalist.json"), "--base", str(base), "-o", str(adapter), "--config", str(args.config),
            "--run", str(tuned / "run"), *common, *steps)  # fmt: skip
    after = segment(others, tuned / "after", args, adapter)

    card = adapter_card(adapter)
    exported = json.loads((export / "datalist.json").read_text(encoding="utf-8"))
    lists = [exported.get(name, []) for name in ("training", "validation")]
    told = ("steps", "parts", "seed", "trained", "answers_for", "left_to_base", "loss_on_validation")
    figures = {
        "made": utc_now()[:10],
        "model": {"name": checkpoint.config.name, "sha256": sha256},
        "data": {"set": args.data.name, "reviewed": [args.review_list, args.reviewed], "scored": [args.score_list, args.others], "margin_mm": margins},
        "review": decided,
        "export": {"cases": sum(len(c) for c in lists), "aside": len(lists[1]), "structures": sum(len(e["labelled"]) for c in lists for e in c)},
        "finetune": {name: card[name] for name in told} | {"settings": args.config.read_text(encoding="utf-8")},
        "adapter_bytes": adapter.stat().st_size,
        "minutes": {
            "batch_reviewed": batch_minutes(work / "reviewed"), "batch_before": batch_minutes(work / "before"),
            "finetune": round(card["seconds"] / 60, 1), "batch_after": batch_minutes(tuned / "after"),
        },
        "dice": paired(before, after),
        "machine": describe_machine() | {"threads": args.threads, "workers": args.workers},
    }  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(args.output, overwrite=True) as aside:
        aside.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for name, row in [*figures["dice"]["structures"].items(), ("all", figures["dice"]["all"])]:
        low, high = row["interval"]
        say(f"{name:24} n {row['n']:3}  {row['before']:.3f} -> {row['after']:.3f}  {row['change']:+.3f} ({low:+.3f} to {high:+.3f})")
    say(f"Figures: {args.output}")


def adapter_card(path: Path) -> dict[str, Any]:
    """What the fine-tuning wrote about itself into the adapter's header."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["card"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a set with datalist.json")
    parser.add_argument("work", type=Path, help="folder for everything that is made; an earlier run's is continued")
    parser.add_argument("--reviewed", type=int, default=10, help="cases to review")
    parser.add_argument("--others", type=int, default=20, help="other cases to score")
    parser.add_argument("--review-list", default="validation")
    parser.add_argument("--score-list", default="test")
    parser.add_argument("--aside", type=float, default=0.3, help="share of the reviewed cases that the fine-tuning is judged on")
    parser.add_argument("--no-margin", action="store_true", help="the site contours as the experts of the training data did")
    parser.add_argument("--config", type=Path, default=CONFIG, help="settings of the fine-tuning")
    parser.add_argument("--steps", type=int, default=0, help="of the fine-tuning (default: those of the settings)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the fine-tuning")
    parser.add_argument("--model", default="", help="checkpoint file (default: the one that ships)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, default=FIGURES, help="where the figures go")
    main(parser.parse_args())
