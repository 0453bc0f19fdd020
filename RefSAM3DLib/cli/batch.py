"""``refsam3d batch``: many cases into one folder."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

NAME = "batch"
HELP = "segment many cases: a folder, a CSV or JSON list, or a training manifest"
_EPILOG = """examples:
  refsam3d batch studies/ -p "left parotid gland" -p "right parotid gland" -o results/
  refsam3d batch cases.csv -o results/ --workers 2
  refsam3d batch datalist.json --split test -o results/

A list (.csv) has the column image, and may have case, prompts (separated by ;), segmentation (to compare with), series, patient, modality.
The same command continues a batch that was stopped or killed. Names of DICOM cases are pseudonyms; identifiers.json holds the key.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("input", type=Path, help="folder, image, .csv or .json list, or datalist.json")
    parser.add_argument(
        "-p",
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="structure to segment, for cases that bring no prompts; repeat it",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results; an earlier batch's folder is continued")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="folder that the paths of a list are relative to (default: where the list lies)")
    parser.add_argument("--split", action="append", default=[], metavar="LIST", help="list of a manifest to take: training, validation or test; repeat it")
    parser.add_argument("--model", default="", help="name or file of a checkpoint (default: the one that ships)")
    parser.add_argument("--adapter", default="", metavar="FILE", help="adapter file for the checkpoint")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--modality", default="", choices=("ct", "mr", "pet"), help="of all images (default: from the list, else from each file)")
    parser.add_argument("--allow-unknown", action="store_true", help="draw wordings outside the vocabulary too")
    parser.add_argument("--probability", action="store_true", help="keep a probability volume of each structure")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine, each with its own model (default 1)")
    parser.add_argument("--ray", default="", metavar="ADDRESS", help="work on a Ray cluster: auto, local or host:port")
    parser.add_argument("--retry-failed", action="store_true", help="try again the cases that failed before")
    parser.add_argument(
        "--force", action="store_true", help="go on in a folder of another model or version, or replace reviewed results; all cases are done again"
    )
    parser.add_argument("--break-lock", action="store_true", help="take over a folder whose batch ran on another computer and is dead")
    parser.add_argument("--pseudonyms", action="store_true", help="name every case by a pseudonym, not only DICOM")
    parser.add_argument("--show-identifiers", action="store_true", help="show patients' names and numbers in report.html")
    parser.add_argument("--json-progress", action="store_true", help="progress as JSON lines on standard output, for another program")
    parser.add_argument("--quiet", action="store_true", help="only errors")


def run(args: argparse.Namespace) -> int:
    """Do it. 0 if every case is done, 1 if any failed."""
    from ..batch import BatchOptions, LiveTable, run_batch
    from ..errors import ConfigError

    if not 0 <= args.workers <= 256:
        raise ConfigError(f"--workers is {args.workers}; give a number from 1 to 256 (0 works in this process).")
    options = BatchOptions(
        prompts=tuple(args.prompt),
        allow_unknown=args.allow_unknown,
        modality=args.modality,
        probability=args.probability,
        engine_arguments={"model": args.model, "adapter": args.adapter, "device": args.device},
        workers=args.workers,
        ray_address=args.ray,
        retry_failed=args.retry_failed,
        force=args.force,
        break_lock=args.break_lock,
        pseudonyms=args.pseudonyms,
        show_identifiers=args.show_identifiers,
    )
    table = LiveTable(sys.stdout if args.json_progress else sys.stderr, 0, as_json=args.json_progress, quiet=args.quiet)
    with _terminated_in_order():
        outcome = run_batch(args.input, args.output, options, root=args.root, split=args.split, command=sys.argv, table=table)
    if not args.quiet and not args.json_progress:
        done = sum(outcome.counts.get(status, 0) for status in ("done", "recovered", "unchanged"))
        unknown = f", {outcome.unknown_answers} answers to words that the model does not know" if outcome.unknown_answers else ""
        sys.stdout.write(f"{done} case{'' if done == 1 else 's'} done, {len(outcome.failures)} failed{unknown}. Report: {outcome.folder / 'report.html'}\n")
    if outcome.failures:
        first = next(iter(outcome.failures.items()))
        sys.stderr.write(f"{len(outcome.failures)} case(s) failed, first '{first[0]}': {first[1]} Repeat with --retry-failed once the cause is mended.\n")
    return outcome.exit_code


@contextlib.contextmanager
def _terminated_in_order() -> Iterator[None]:
    """SIGTERM, by which other programs end this one, stops the batch as Ctrl-C does: with whole tables."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
