"""Command line of the training package: prepare, train, fine-tune, evaluate, compare, calibrate and export."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from RefSAM3DLib.errors import RefSAM3DError

from .commands import average, baseline, calibrate, compare, curves, data_folder, evaluate, export, fewshot, finetune, prepare, train, widen


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
    one.add_argument("--format", default="", help="datalist, decathlon, nnunet, totalsegmentator, openkbp, bids or slicer (default: recognised)")
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
    one.add_argument("--config", type=Path, help="TOML with parts, steps, learning rate; see training/configs/finetune.toml")
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

    one = add(baseline, "openkbp_ct:head_neck --run runs/dynunet_hn --split test")
    one.add_argument("set", help="folder:grid, as in a training configuration")
    one.add_argument("--run", type=Path, required=True, help="run folder; an existing one is continued")
    one.add_argument("--split", choices=("training", "validation", "test"), default="validation", help="lists to score at the end")
    one.add_argument("--steps", type=int, default=6000, help="most steps, and the length of the learning-rate schedule")
    one.add_argument("--least-steps", type=int, default=3000, help="steps before which it never stops")
    one.add_argument("--filters", type=int, default=32, help="channels of the first level (nnU-Net: 32)")
    one.add_argument("--validate-steps", type=int, default=250, help="steps between validations")
    one.add_argument("--patience", type=int, default=6, help="validations without a better score before it stops")
    one.add_argument("--learning-rate", type=float, default=1e-3)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--bf16", action="store_true", help="train in half precision on a machine that has it")
    one.add_argument("--limit", type=int, help="first cases of each list only")

    one = add(compare, "runs/default/test/evaluation.json --baseline runs/dynunet_hn/baseline_evaluation.json -o runs/default/compare.json", data=False)
    one.add_argument("evaluation", type=Path, help="evaluation.json or case_scores.json of the text-prompted model")
    one.add_argument("--baseline", type=Path, nargs="+", default=[], help="baseline_evaluation.json of each network; several of a set are seeds of one")
    one.add_argument("-o", "--output", type=Path, required=True, help="JSON file; the tables as Markdown lie beside it")
    one.add_argument("--keep", type=Path, help="earlier comparison, of these weights or others: references of sets without a --baseline here are paired again")
    one.add_argument("--margin", type=float, help="Dice that may be lost and still counts as level (default: 0.01, sarcoma 0.02)")

    one = add(fewshot, "training/configs/fewshot.toml --run runs/fewshot --threads 2")
    one.add_argument("config", type=Path)
    one.add_argument("--run", type=Path, required=True, help="run folder; what is finished in it is not done again")
    one.add_argument("--hardware", default="CPU cores", help="what it runs on, for the table")
    one.add_argument("--adapters-alone", action="store_true", help="leave the DynUNets out; the same command without this option adds them later")

    one = add(calibrate, "runs/default/uncalibrated.safetensors -o runs/default/calibration.json")
    one.add_argument("model", type=Path)
    one.add_argument("-o", "--output", type=Path, required=True, help="JSON file for `export --calibration`")
    one.add_argument("--journal", type=Path, help="folder of the journal (default: the output without its ending)")
    _shared(one)

    one = add(average, "runs/refine.safetensors runs/absence.safetensors -o runs/mean.safetensors", data=False)
    one.add_argument("models", type=Path, nargs="+", help="model files of one network and one vocabulary")
    one.add_argument("-o", "--output", type=Path, required=True)
    one.add_argument("--shares", type=float, nargs="+", help="share of each file, together 1 (default: equal)")
    one.add_argument("--overwrite", action="store_true")

    one = add(widen, "runs/narrow.safetensors --model wider.json -o runs/wide.safetensors", data=False)
    one.add_argument("base", type=Path, help="model file whose decoder is narrower than the configuration's")
    one.add_argument("--model", default="vit_t", help="name of a configuration in Resources/Configs, or a JSON file (default: vit_t, as wide as what ships)")
    one.add_argument("-o", "--output", type=Path, required=True)
    one.add_argument("--seed", type=int, default=0, help="of the new channels")
    one.add_argument("--overwrite", action="store_true")

    one = add(export, "runs/default -o Resources/Models/refsam3d-small.safetensors --calibration runs/default/calibration.json --overwrite")
    one.add_argument("run", type=Path, help="run folder, or a model file that shall keep its weights")
    one.add_argument("-o", "--output", type=Path, required=True)
    one.add_argument("--calibration", type=Path, help="file written by `calibrate`")
    one.add_argument("--scores", type=Path, help="summary.json written by `evaluate`, for the model card")
    one.add_argument("--hardware", default="CPU cores", help="what it was trained on, for the model card")
    one.add_argument("--power-watts", type=float, help="power assumed while training; the card then states energy as hours x watts (default: not stated)")
    one.add_argument("--started-from", type=Path, help="model file that the run began with (`train --init`), if the run folder does not say so")
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
