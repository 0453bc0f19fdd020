"""What each command does, from parsed options; ``__main__`` holds the options themselves."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
from pathlib import Path

from RefSAM3DLib.errors import InputError


def data_folder() -> Path:
    """``REFSAM3D_DATA``, else ``../shared/data`` beside the project."""
    return Path(os.environ.get("REFSAM3D_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def prepare(args: argparse.Namespace) -> int:
    """Bring a data set into a checked manifest: datalist.json, table of faults, mosaic of overlays."""
    from .case_checks import faults_table
    from .prepare import prepare as run

    odd = [pair for pair in args.rename if "=" not in pair]
    if odd:
        raise InputError(f"--rename takes OLD=NEW, not '{odd[0]}'; for example 'Anterior=anterior hippocampus'.")
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
    from .origin import write_origin
    from .setup_run import make_trainer

    with distributed.process_group(distributed.own_device(args.device)) as device:
        trainer = make_trainer(TrainConfig.load(args.config), args.data, args.run, device)
        if trainer.resume():
            logging.info("Continuing at step %d.", trainer.step)
        elif args.init:
            from RefSAM3DLib.checkpoint import load_checkpoint

            base = load_checkpoint(args.init)
            trainer.start_from(base)
            write_origin(base, args.run)
            logging.info("Starting from the weights of %s.", args.init)
        trainer.run(args.until)
        first = distributed.rank() == 0
    if first and (args.run / "curve.jsonl").is_file():
        logging.info("curve: %s", write_curves(args.run))
    return 0


def curves(args: argparse.Namespace) -> int:
    """Draw a run's learning curve as curve.png and write it for TensorBoard."""
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
    """Fit presence probability, mask threshold and usual confidence of each grid on the validation lists."""
    from .evaluation.calibrate import calibrate as run

    run(args.model, args.data, args.output, args.journal or args.output.with_suffix(""), tuple(args.sets), args.limit, args.device)
    return 0


def export(args: argparse.Namespace) -> int:
    """Write a training run as the engine's model file, with its model card beside it; a model file keeps its weights and gets the calibration."""
    from .evaluation.calibrate import read_calibration
    from .export import export_again, export_run
    from .origin import origin_of, read_origin

    calibration = read_calibration(read_json(args.calibration)) if args.calibration else None
    scores = read_json(args.scores) if args.scores else None
    if args.run.is_file():
        values = export_again(args.run, args.output, calibration, scores, args.overwrite)
        logging.info("%s: %.2f MB, the weights of '%s', sha256 %s", args.output, values["bytes"] / 1e6, args.run, values["sha256"])
        return 0
    origin = origin_of(args.started_from) if args.started_from else read_origin(args.run)
    cache = args.cache or args.run.parent / "cache"
    values = export_run(args.run, args.data, args.output, cache, calibration, scores, args.hardware, args.power_watts, origin, args.overwrite)
    logging.info("%s: %.2f MB, step %d, sha256 %s", args.output, values["bytes"] / 1e6, values["step"], values["sha256"])
    return 0


def average(args: argparse.Namespace) -> int:
    """Write the mean of the weights of several model files that began with the same weights; `calibrate` and `export` complete it."""
    from .average import average as run

    values = run(args.models, args.output, args.shares, args.overwrite)
    logging.info("%s: %.2f MB, sha256 %s; calibrate it next", args.output, values["bytes"] / 1e6, values["sha256"])
    return 0


def widen(args: argparse.Namespace) -> int:
    """Write a model file with a wider decoder that answers as before; `train --init` lets the new channels learn."""
    from .widen import widen as run

    values = run(args.base, args.model, args.output, args.seed, args.overwrite)
    logging.info("%s: %.2f MB, %d more parameters, sha256 %s", args.output, values["bytes"] / 1e6, values["new_parameters"], values["sha256"])
    return 0


def finetune(args: argparse.Namespace) -> int:
    """Train adapters on a few reviewed cases and write them as a small file that belongs to its base."""
    from RefSAM3DLib.engine import DEFAULT_MODEL
    from RefSAM3DLib.resources import resource_path

    from .distributed import own_device
    from .finetune import FinetuneConfig
    from .finetune import finetune as run

    config = FinetuneConfig.load(args.config)
    if args.steps is not None:
        config = dataclasses.replace(config, steps=args.steps)
    base = args.base or resource_path(*DEFAULT_MODEL)
    card = run(base, args.data, args.output, config, args.run, args.limit, own_device(args.device), args.overwrite)
    for name, (before, after) in card["loss_of_tuned_structures"].items():
        logging.info("%-24s loss on these cases %.3f -> %.3f", name, before, after)
    for name, (untuned, tuned) in card["loss_on_validation"].items():
        logging.info("%-24s loss on validation cases %.3f -> %.3f%s", name, untuned, tuned, "  left to the base" if name in card["left_to_base"] else "")
    share = 100 * card["trained"]["share"]
    logging.info("%s: %.2f MB, %.1f %% of the parameters, %.1f minutes", args.output, card["bytes"] / 1e6, share, card["seconds"] / 60)
    return 0


def baseline(args: argparse.Namespace) -> int:
    """Train MONAI's DynUNet on one data set until its validation score stops rising, and score it as `evaluate` does."""
    from .config import folder_and_grid
    from .curves import write_curves
    from .evaluation.baseline_scores import score_baseline
    from .manifest import Manifest
    from .setup_run import make_baseline

    keys = ("filters", "steps", "least_steps", "seed", "patience", "learning_rate", "validate_steps", "bf16")
    trainer = make_baseline(args.set, args.data, args.run, {k: getattr(args, k) for k in keys}, args.limit)
    if trainer.resume():
        logging.info("Continuing at step %d.", trainer.step)
    score = trainer.run()
    best = f"best validation Dice {score:.3f}" if score >= 0 else "no validation case to judge by: the last weights"
    logging.info("%s at step %d of %d, %.0f s", best, trainer.best_step, trainer.step, trainer.seconds)
    if (args.run / "curve.jsonl").is_file():
        write_curves(args.run)
    manifest = Manifest.read(args.data / folder_and_grid(args.set)[0])
    result = score_baseline(trainer, manifest, args.split, args.run, args.limit)
    for name, row in result["structures"].items():
        logging.info("%-28s Dice %.3f  n=%d", name, row["dice"]["mean"], row["dice"]["n"])
    return 0


def compare(args: argparse.Namespace) -> int:
    """Set an evaluation beside reference networks, case by case, and against what was asked: JSON and Markdown."""
    from .evaluation.compare import compare as run
    from .evaluation.compare import markdown

    earlier = read_json(args.keep) if args.keep else None
    result = run(read_json(args.evaluation), [read_json(p) for p in args.baseline], args.output, args.margin, earlier)
    logging.info("%s\n%s", args.output.with_suffix(".md"), markdown(result["rows"], result["targets"], result["taught_by"]))
    return 0


def fewshot(args: argparse.Namespace) -> int:
    """Hold a structure out of the base, then learn it from a few cases: adapters against DynUNet from scratch."""
    from .fewshot import FewshotConfig
    from .fewshot import fewshot as run

    run(FewshotConfig.load(args.config), args.data, args.run, args.hardware, args.adapters_alone)
    return 0


def read_json(path: Path) -> dict:
    """A JSON file that another command wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); write it again with `evaluate`, `baseline` or `calibrate`.") from error
