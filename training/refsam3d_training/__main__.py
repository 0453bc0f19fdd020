"""Command line of the training package."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from RefSAM3DLib.errors import RefSAM3DError


def data_folder() -> Path:
    """``REFSAM3D_DATA``, else ``../shared/data`` beside the project."""
    return Path(os.environ.get("REFSAM3D_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def train(args: argparse.Namespace) -> int:
    """Train, or continue a run that was stopped."""
    import torch

    from .config import TrainConfig
    from .setup_run import make_trainer

    if args.threads:
        torch.set_num_threads(args.threads)
    trainer = make_trainer(TrainConfig.load(args.config), args.data, args.run, args.device)
    if trainer.resume():
        logging.info("Continuing at step %d.", trainer.step)
    trainer.run(args.until)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit codes as in ``refsam3d``."""
    parser = argparse.ArgumentParser(prog="refsam3d_training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help=train.__doc__, epilog="example: python -m refsam3d_training train training/configs/default.toml --run runs/default")
    one.add_argument("config", type=Path)
    one.add_argument("--run", type=Path, required=True, help="run folder; an existing one is continued")
    one.add_argument("--data", type=Path, default=data_folder(), help="folder of the data sets")
    one.add_argument("--device", default="cpu")
    one.add_argument("--until", type=int, help="stop at this step (the schedule keeps its length)")
    one.add_argument("--threads", type=int)
    one.set_defaults(run_command=train)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
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
