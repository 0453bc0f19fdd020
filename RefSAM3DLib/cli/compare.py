"""``refsam3d compare``: two segmentations of one volume."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "compare"
HELP = "compare two segmentations of one volume: Dice, surfaces, volumes, difference segments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "example:\n  refsam3d compare machine.seg.nrrd reviewer.seg.nrrd --differences differences.seg.nrrd\n"
    parser.add_argument("first", type=Path, help=".seg.nrrd, .dcm or label map; its grid is used")
    parser.add_argument("second", type=Path, help="the other one; moved to the first one's grid if it differs")
    parser.add_argument("--labels", metavar="NAMES", help='names of label map values, as "1=brainstem,2=mandible" (default: those in the file)')
    parser.add_argument("--differences", type=Path, metavar="FILE", help="write segments of what only the first, only the second and both have")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")


def run(args: argparse.Namespace) -> int:
    """Compare, write the files and print the table."""
    from ..atomic import check_output
    from ..batch.summary import write_csv
    from ..compare import compare_segmentations, write_differences

    for path in filter(None, (args.differences, args.csv)):
        check_output(path, args.overwrite)
    labels = parse_labels(args.labels) or own_labels((args.first, args.second))
    found, geometry = compare_segmentations(args.first, args.second, labels)
    rows = [comparison.row for comparison in found]
    if args.csv:
        write_csv(args.csv, tuple(rows[0]), rows, overwrite=args.overwrite)
    if args.differences:
        write_differences(args.differences, found, geometry, overwrite=args.overwrite)
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        sys.stdout.write(f"{'structure':32} {'Dice':>6} {'NSD 2mm':>8} {'mean mm':>8} {'first mL':>9} {'second mL':>9}\n")
        for row in rows:
            mean = "-" if row["mean_surface_mm"] is None else f"{row['mean_surface_mm']:.2f}"
            scores = f"{row['dice']:6.3f} {row['nsd_2mm']:8.3f} {mean:>8} {row['first_ml']:9.2f} {row['second_ml']:9.2f}"
            sys.stdout.write(f"{row['structure'][:32]:32} {scores}\n")
    return 0


def parse_labels(text: str | None) -> dict[int, str]:
    """``1=brainstem,2=mandible`` as a dictionary."""
    from ..errors import ConfigError

    labels = {}
    for part in filter(None, (text or "").split(",")):
        value, _, name = part.partition("=")
        if not value.strip().isdigit() or not name.strip() or "=" in name:
            raise ConfigError(f"--labels has '{part}'; write it as 1=brainstem,2=mandible.")
        labels[int(value)] = name.strip()
    return labels


def own_labels(paths: Sequence[Path]) -> dict[int, str]:
    """Names that label maps of ``refsam3d segment`` carry for their values, "label 3" for the other values; {} if no file has names.

    Raises:
        InputError: the files name a value differently.
    """
    from ..compare import read_masks
    from ..errors import InputError

    named: dict[int, tuple[str, Path]] = {}
    maps = [path for path in paths if path.is_file() and not path.name.lower().endswith((".seg.nrrd", ".dcm"))]
    for path in maps:
        for value, name in _names_in(path).items():
            before, first = named.setdefault(value, (name, path))
            if before.lower() != name.lower():
                raise InputError(
                    f"The value {value} is '{before}' in '{first}' and '{name}' in '{path}'; write them as .seg.nrrd, or with the prompts in one order."
                )
    labels = {value: name for value, (name, _) in named.items()}
    for path in maps if labels else ():
        for title in read_masks(path, {}):
            labels.setdefault(int(title.removeprefix("label ")), title)
    return labels


def _names_in(path: Path) -> dict[int, str]:
    from ..image_files import check_name, itk_name, quiet_itk
    from ..provenance import PREFIX

    check_name(path)
    mark = f"{PREFIX}Label"
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetFileName(itk_name(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return {}  # the comparison says what is wrong with it
        keys = [key for key in reader.GetMetaDataKeys() if key.startswith(mark) and key[len(mark) :].isdigit()]
        return {int(key[len(mark) :]): reader.GetMetaData(key) for key in keys}
