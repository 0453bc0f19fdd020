"""``refsam3d inflate``: published SAM and CLIP weights into a 3D checkpoint to train from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "inflate"
HELP = "turn a published SAM checkpoint (and a CLIP text tower) into a 3D checkpoint to train from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--config", default="vit_b", metavar="NAME|FILE", help="vit_b, vit_l or vit_h (the size of the SAM file), or a JSON file")
    parser.add_argument("--sam", required=True, type=Path, metavar="FILE", help="SAM's published .pth, or the same names in .safetensors")
    parser.add_argument("--text", metavar="FILE|NAME:TAG", help="weights of the configuration's text tower, as open_clip publishes them")
    parser.add_argument("--decoder", choices=("cached", "paper"), help="the decoder, if not the configuration's; only 'paper' takes SAM's")
    parser.add_argument("--seed", type=int, default=0, help="of the parts that start at random (default 0)")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="checkpoint to write (.safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(args: argparse.Namespace) -> int:
    """Build, load, report, write."""
    import dataclasses

    import torch

    from .. import __version__
    from ..atomic import check_output
    from ..checkpoint import Checkpoint, file_sha256, save_checkpoint
    from ..modeling.build import build_model
    from ..resources import named_config
    from ..sam_weights import load_sam
    from ..text.tower import load_text_tower
    from ..text.vocabulary import Vocabulary

    config = named_config(args.config)
    if args.decoder:
        config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, kind=args.decoder))
    check_output(args.output, args.overwrite)
    torch.manual_seed(args.seed)
    model = build_model(config)
    reports = [load_sam(model, config, args.sam)]
    if args.text:
        reports.append(load_text_tower(model, args.text))
    for report in reports:
        sys.stdout.write(report.table() + "\n")
    if not args.text:
        sys.stdout.write("The text tower has random weights; give its published ones with --text.\n")
    card = {
        "name": config.name,
        "limits": "untrained adapters: not usable before training",
        "sources": [{"file": args.sam.name, "sha256": file_sha256(args.sam)}, *([{"file": Path(args.text).name}] if args.text else [])],
        "inflated": [{"title": report.title, **report.counts()} for report in reports],
        "version": __version__,
    }
    tokens = None if config.text.name else ()
    digest = save_checkpoint(Checkpoint(config, Vocabulary.default(), tokens, model.state_dict(), card=card), args.output, args.overwrite)
    sys.stdout.write(
        f"Wrote '{args.output}' (sha256 {digest[:12]}). It finds nothing yet: its adapters are untrained; train it first: python -m refsam3d_training "
        f"train CONFIG --init '{args.output}', with model = \"{args.config}\" in CONFIG.\n"
    )
    return 0
