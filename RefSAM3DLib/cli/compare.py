"""``refsam3d compare``: two segmentations of one volume."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

NAME = "compare"
HELP = "compare two segmentations of one volume: Dice, surfaces, volumes, difference segments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "example:\n  refsam3d compare machine.seg.nrrd reviewer.seg.nrrd --differences differences.seg.nrrd\n"
    parser.add_argument("first", type=Path, help=".seg.nrrd, .dcm or label map; its grid is used")
    parser.add_argument("second", type=Path, help="the other one; moved to the first one's grid if it differs")
    parser.add_argument("--labels", metavar="NAMES", help='names of label map values, as "1=brainstem,2=mandible"')
    parser.add_argument("--differences", type=Path, metavar="FILE", help="write segments of what only the first, only the second and both have")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")


def run(args: argparse.Namespace) -> int:
    """Compare and print the table."""
    from ..atomic import check_output
    from ..batch.summary import write_csv
    from ..compare import compare_segmentations, write_differences

    for path in filter(None, (args.differences, args.csv)):
        check_output(path, args.overwrite)
    found, geometry = compare_segmentations(args.first, args.second, parse_labels(args.labels))
    rows = [comparison.row for comparison in found]
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        sys.stdout.write(f"{'structure':32} {'Dice':>6} {'NSD 2mm':>8} {'mean mm':>8} {'first mL':>9} {'second mL':>9}\n")
        for row in rows:
            mean = "-" if row["mean_surface_mm"] is None else f"{row['mean_surface_mm']:.2f}"
            scores = f"{row['dice']:6.3f} {row['nsd_2mm']:8.3f} {mean:>8} {row['first_ml']:9.2f} {row['second_ml']:9.2f}"
            sys.stdout.write(f"{row['structure'][:32]:32} {scores}\n")
    if args.csv:
        write_csv(args.csv, tuple(rows[0]), rows, overwrite=args.overwrite)
    if args.differences:
        write_differences(args.differences, found, geometry, overwrite=args.overwrite)
    return 0


def parse_labels(text: str | None) -> dict[int, str]:
    """``1=brainstem,2=mandible`` as a dictionary."""
    from ..errors import ConfigError

    labels = {}
    for part in filter(None, (text or "").split(",")):
        value, _, name = part.partition("=")
        if not value.strip().isdigit() or not name.strip():
            raise ConfigError(f"--labels has '{part}'; write it as 1=brainstem,2=mandible.")
        labels[int(value)] = name.strip()
    return labels
