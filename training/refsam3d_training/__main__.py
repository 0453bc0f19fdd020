"""Command line of the training package: prepare, train, fine-tune, evaluate, calibrate and export."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path

from RefSAM3DLib.errors import InputError, RefSAM3DError


def data_folder() -> Path:
    """``REFSAM3D_DATA``, else ``../shared/data`` beside the project."""
    return Path(os.environ.get("REFSAM3D_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def prepare(args: argparse.Namespace) -> int:
    """Bring a data set into a checked manifest: datalist.json, table of faults, mosaic of overlays."""
    from .case_checks import faults_table
    from .prepare import prepare as run

    renames = dict(pair.split("=", 1) for pair in args.rename)
    manifest, faults = run(args.source, args.output, args.format, renames, args.validation, args.test, args.overwrite)
    logging.info("%s: %s", manifest.name, ", ".join(f"{len(v)} {k}" for k, v in manifest.cases.items()))
    logging.info("%s", faults_table(faults))
    logging.info("look at %s", args.output / "mosaic.png")
    return 1 if any(f.serious for f in faults) else 0


def train(args: argparse.Namespace) -> int:
    """Train, or continue a run that was stopped."""
    from . import distributed
    from .config import TrainConfig
    from .curves import write_curves
    from .setup_run import make_trainer

    with distributed.process_group(args.device) as device:
        trainer = make_trainer(TrainConfig.load(args.config), args.data, args.run, device)
        if trainer.resume():
            logging.info("Continuing at step %d.", trainer.step)
        elif args.init:
            from RefSAM3DLib.checkpoint import load_checkpoint

            trainer.start_from(load_checkpoint(args.init))
            logging.info("Starting from the weights of %s.", args.init)
        trainer.run(args.until)
        first = distributed.rank() == 0
    if first and (args.run / "curve.jsonl").is_file():
        logging.info("curve: %s", write_curves(args.run))
    return 0


def curves(args: argparse.Namespace) -> int:
    """Draw a run's learning curve and write it for TensorBoard."""
    from .curves import write_curves

    logging.info("written: %s", write_curves(args.run))
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Measure a model file with the engine on the native grids: scores, presence, wordings, time."""
    from .evaluation.run import evaluate as run

    summary = run(args.model, args.data, args.split, args.output, tuple(args.sets), args.limit, args.device, args.adapter, args.paraphrase_cases)
    for name, row in summary["structures"].items():
        low, high = row["dice"]["interval"]
        logging.info("%-28s Dice %.3f [%.3f, %.3f]  n=%d", name, row["dice"]["mean"], low, high, row["dice"]["n"])
    presence = summary["presence"]
    logging.info("presence: AUROC %s over all, %s inside head and neck, ECE %s", presence["auroc_all"], presence["auroc_inside_head_and_neck"], presence["ece"])
    logging.info("written: %s", args.output / "evaluation.html")
    return 0


def calibrate(args: argparse.Namespace) -> int:
    """Fit presence probability and mask threshold of each grid on the validation lists."""
    from .evaluation.calibrate import calibrate as run

    run(args.model, args.data, args.output, args.journal or args.output.with_suffix(""), tuple(args.sets), args.limit, args.device)
    return 0


def export(args: argparse.Namespace) -> int:
    """Write a training run as the engine's model file, with its model card beside it."""
    from RefSAM3DLib.config import ModelConfig

    from .config import TrainConfig, from_dict
    from .evaluation.calibrate import read_calibration
    from .export import export_checkpoint, load_state, tensors_sha256
    from .model_card import card_markdown, make_card
    from .setup_run import training_cases

    state, stored = load_state(args.run)
    config = from_dict(TrainConfig, stored["train"])
    folders = [args.data / entry.split(":")[0] for entry in config.sets]
    calibration = read_calibration(read_json(args.calibration)) if args.calibration else None
    scores = read_json(args.scores) if args.scores else None
    card = make_card(folders, state, stored, scores, tensors_sha256(state["average"]), args.hardware)
    model = ModelConfig.from_dict(stored["model"])
    cases = training_cases(config, model, args.data, args.cache or args.run.parent / "cache")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    digest = export_checkpoint(args.run, cases, args.output, calibration, card, args.overwrite)
    size = args.output.stat().st_size
    args.output.with_suffix(".md").write_text(card_markdown(model.name, card, digest, size), encoding="utf-8")
    logging.info("%s: %.2f MB, step %d, sha256 %s", args.output, size / 1e6, state["step"], digest)
    return 0


def finetune(args: argparse.Namespace) -> int:
    """Train adapters on a few reviewed cases and write them as a small file that belongs to its base."""
    from RefSAM3DLib.engine import DEFAULT_MODEL
    from RefSAM3DLib.resources import resource_path

    from .finetune import FinetuneConfig
    from .finetune import finetune as run

    config = FinetuneConfig.load(args.config)
    if args.steps:
        config = dataclasses.replace(config, steps=args.steps)
    base = args.base or resource_path(*DEFAULT_MODEL)
    card = run(base, args.data, args.output, config, args.replay_data, args.run, args.limit, args.device, args.overwrite)
    for title in ("tuned", "old"):
        for name, (before, after) in card[f"loss_of_{title}_structures"].items():
            logging.info("%s structure %-24s loss %.3f -> %.3f", title, name, before, after)
    share = 100 * card["trained"]["share"]
    logging.info("%s: %.2f MB, %.1f %% of the parameters, %.1f minutes", args.output, card["bytes"] / 1e6, share, card["seconds"] / 60)
    return 0


def baseline(args: argparse.Namespace) -> int:
    """Train MONAI's DynUNet on one data set until its validation score stops rising, and score it as `evaluate` does."""
    from .evaluation.baseline_scores import paired_differences, score_baseline
    from .evaluation.report import write_json
    from .manifest import Manifest
    from .setup_run import make_baseline

    settings = {"filters": args.filters, "steps": args.steps, "seed": args.seed, "patience": args.patience}
    trainer = make_baseline(args.set, args.data, args.run, settings, args.limit)
    if trainer.resume():
        logging.info("Continuing at step %d.", trainer.step)
    score = trainer.run()
    logging.info("best validation Dice %.3f at step %d, %.0f s", score, trainer.best_step, trainer.seconds)
    manifest = Manifest.read(args.data / args.set.split(":")[0])
    result = score_baseline(trainer, manifest, args.split, args.run, args.limit)
    for name, row in result["structures"].items():
        logging.info("%-28s Dice %.3f  n=%d", name, row["dice"]["mean"], row["dice"]["n"])
    if args.against:
        pairs = paired_differences(read_json(args.against)["records"], result["records"], args.margin)
        write_json(args.run / "paired.json", pairs)
        for name, row in pairs.items():
            logging.info("%-28s difference %+.3f [%+.3f, %+.3f] %s", name, row["mean"], *row["interval"], row["verdict"])
    return 0


def read_json(path: Path) -> dict:
    """A JSON file that another command wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); write it again with `evaluate` or `calibrate`.") from error


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(prog="refsam3d_training", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def add(function, example: str, data: bool = True) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        text = f"example: python -m refsam3d_training {function.__name__} {example}"
        one = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__, epilog=text)
        if data:
            one.add_argument("--data", type=Path, default=data_folder(), help="folder of the data sets (default: REFSAM3D_DATA, else ../shared/data)")
        one.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
        one.set_defaults(run_command=function)
        return one

    one = add(prepare, "Task04_Hippocampus -o prepared/hippocampus --rename 'Anterior=anterior hippocampus'", data=False)
    one.add_argument("source", type=Path, help="folder of the data set")
    one.add_argument("-o", "--output", type=Path, required=True, help="folder for the manifest (and for merged label maps)")
    one.add_argument("--format", default="", help="datalist, decathlon, nnunet, totalsegmentator, openkbp or bids (default: recognised)")
    one.add_argument("--rename", nargs="*", default=[], metavar="OLD=NEW", help="name labels as the vocabulary does")
    one.add_argument("--validation", type=float, default=0.1, help="share of patients, if the source has no such list")
    one.add_argument("--test", type=float, default=0.1)
    one.add_argument("--overwrite", action="store_true")

    one = add(train, "training/configs/default.toml --run runs/default")
    one.add_argument("config", type=Path)
    one.add_argument("--run", type=Path, required=True, help="run folder; an existing one is continued")
    one.add_argument("--device", default="cpu")
    one.add_argument("--init", type=Path, help="model file to begin with instead of random weights (ignored where the run continues)")
    one.add_argument("--until", type=int, help="stop at this step (the schedule keeps its length)")

    one = add(finetune, "--data reviewed/datalist.json --output larynx.safetensors", data=False)
    one.add_argument("--data", type=Path, required=True, help="datalist.json of the reviewed cases, or its folder")
    one.add_argument("--base", type=Path, help="model file to build on (default: the one that ships)")
    one.add_argument("-o", "--output", type=Path, required=True, help="adapter file")
    one.add_argument("--config", type=Path, help="TOML with parts, steps, replay; see training/configs/finetune.toml")
    one.add_argument("--replay-data", type=Path, default=data_folder(), help="folder of the sets named under 'replay'")
    one.add_argument("--run", type=Path, help="run folder, to continue after a stop")
    one.add_argument("--steps", type=int)
    one.add_argument("--limit", type=int, help="first cases only")
    one.add_argument("--device", default="cpu")
    one.add_argument("--overwrite", action="store_true")

    one = add(curves, "runs/default", data=False)
    one.add_argument("run", type=Path)

    one = add(evaluate, "Resources/Models/refsam3d-small.safetensors --split test -o runs/default/test")
    one.add_argument("model", type=Path)
    one.add_argument("--split", choices=("training", "validation", "test"), default="validation")
    one.add_argument("-o", "--output", type=Path, required=True, help="folder; cases that are in its journal are not measured again")
    one.add_argument("--adapter", type=Path, help="adapter to apply first")
    one.add_argument("--paraphrase-cases", type=int, default=3, help="cases per set that are asked in held-out wordings (0: none)")
    _shared(one)

    one = add(baseline, "openkbp_ct:head_neck --run runs/dynunet --split test --against runs/default/test/evaluation.json")
    one.add_argument("set", help="folder:grid, as in a training configuration")
    one.add_argument("--run", type=Path, required=True, help="run folder; an existing one is continued")
    one.add_argument("--split", choices=("training", "validation", "test"), default="validation", help="lists to score at the end")
    one.add_argument("--steps", type=int, default=6000)
    one.add_argument("--filters", type=int, default=32, help="channels of the first level")
    one.add_argument("--patience", type=int, default=6, help="validations without a better score before it stops")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--against", type=Path, help="evaluation.json of the text-prompted model, for paired differences")
    one.add_argument("--margin", type=float, default=0.01, help="Dice that may be lost and still counts as level")
    one.add_argument("--limit", type=int, help="first cases of each list only")

    one = add(calibrate, "runs/default/uncalibrated.safetensors -o runs/default/calibration.json")
    one.add_argument("model", type=Path)
    one.add_argument("-o", "--output", type=Path, required=True, help="JSON file for `export --calibration`")
    one.add_argument("--journal", type=Path, help="folder of the journal (default: the output without its ending)")
    _shared(one)

    one = add(export, "runs/default -o Resources/Models/refsam3d-small.safetensors --calibration runs/default/calibration.json")
    one.add_argument("run", type=Path)
    one.add_argument("-o", "--output", type=Path, required=True)
    one.add_argument("--calibration", type=Path, help="file written by `calibrate`")
    one.add_argument("--scores", type=Path, help="summary.json written by `evaluate`, for the model card")
    one.add_argument("--hardware", default="CPU cores", help="what it was trained on, for the model card")
    one.add_argument("--cache", type=Path, help="folder of preprocessed cases (default: cache beside the run)")
    one.add_argument("--overwrite", action="store_true")
    return top


def _shared(one: argparse.ArgumentParser) -> None:
    one.add_argument("--sets", nargs="+", default=["openkbp_ct", "msd_hippocampus", "sts_tumour"], help="folders with a datalist.json")
    one.add_argument("--limit", type=int, help="first cases of each set only")
    one.add_argument("--device", default="auto")


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit codes as in ``refsam3d``."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    try:
        return args.run_command(args)
    except RefSAM3DError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; run the same command to continue.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
