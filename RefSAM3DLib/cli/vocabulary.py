"""``refsam3d vocabulary``: what may be asked for."""

from __future__ import annotations

import argparse
import json
import sys

NAME = "vocabulary"
HELP = "list the structures and wordings that a checkpoint knows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", default="", metavar="NAME|FILE", help="checkpoint (default: the one that ships)")
    parser.add_argument("--json", action="store_true", help="as JSON, in the format of Resources/Text/vocabulary.json")


def run(args: argparse.Namespace) -> int:
    """Print names and synonyms."""
    from ..models_registry import DEFAULT_NAME, checkpoint_vocabulary, find_model, models_folder
    from ..text.vocabulary import Vocabulary

    if args.model or (models_folder() / f"{DEFAULT_NAME}.safetensors").is_file():
        vocabulary = checkpoint_vocabulary(find_model(args.model))
    else:
        vocabulary = Vocabulary.default()
        sys.stderr.write("The default weights are not installed; this is the vocabulary that they are trained on.\n")
    if args.json:
        sys.stdout.write(json.dumps(vocabulary.to_dict(), indent=1) + "\n")
        return 0
    width = max(len(name) for name in vocabulary.names)
    for structure in vocabulary.structures:
        also = f"  also: {', '.join(structure.synonyms)}" if structure.synonyms else ""
        sys.stdout.write(f"{structure.name:{width}}{also}\n".rstrip() + "\n")
    sys.stdout.write(f"\n{len(vocabulary.structures)} structures. Lists, 'both', 'and' and 'minus' combine them.\n")
    return 0
