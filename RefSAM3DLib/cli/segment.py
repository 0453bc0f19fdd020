"""``refsam3d segment``: prompts on one image."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..types import Modality, PromptResult, PromptStatus, ResolvedPrompt, Verdict, Volume
from .progress import ProgressBar

NAME = "segment"
HELP = "segment structures of one image by name"
_EPILOG = """examples:
  refsam3d segment head.nrrd -p "left parotid gland" -p brainstem -o head.seg.nrrd
  refsam3d segment dicom_folder/ --series 1.2.840.1 -p "both parotid glands" -o organs.dcm --report organs.json
  refsam3d segment knee.nii.gz --modality pet -p "soft tissue sarcoma" --roi 10,90,10,90,5,40 -o tumour.nii.gz

OUT by its ending: .seg.nrrd (segments for 3D Slicer, may overlap), .nii.gz, .nii, .nrrd, .mha (label map: value n is the n-th result),
.dcm (DICOM SEG, for DICOM input). Exit code: 0 done, 1 error, 2 wrong usage, 130 cancelled. Not for diagnosis.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("input", metavar="INPUT", type=Path, help=".nrrd, .nii.gz, .mha file, or a folder or file of a DICOM series")
    parser.add_argument("-p", "--prompt", action="append", required=True, metavar="TEXT", help="what to look for; repeat it")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="segmentation to write, see below")
    parser.add_argument("--report", type=Path, metavar="R.json", help="write verdicts, volumes, times and versions as JSON")
    parser.add_argument("--model", default="", metavar="NAME|FILE", help="checkpoint (default: the one that ships)")
    parser.add_argument("--adapter", default="", metavar="FILE", help="adapter trained on the checkpoint")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    parser.add_argument("--probability", type=Path, metavar="P.nrrd", help="write probabilities: 3D for one result, a frame per result for more")
    parser.add_argument("--modality", choices=[m.value for m in Modality], help="of the image (default: from the file, else its values)")
    parser.add_argument("--series", metavar="UID", help="series instance UID, where a folder holds several")
    parser.add_argument("--roi", metavar="R", help="look only here: i0,i1,j0,j1,k0,k1 in voxels, or a markups ROI file of Slicer (.mrk.json)")
    parser.add_argument("--allow-unknown", action="store_true", help="draw wordings that the model was not trained on, too")
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def make_engine(model: str, adapter: str, device: str) -> Any:
    """The engine; looked up at call time, so that tests put another one here."""
    from ..engine import RefSAM3DEngine
    from ..models_registry import find_model

    return RefSAM3DEngine.from_checkpoint(find_model(model), device=device, adapter=adapter or None)


def run(args: argparse.Namespace) -> int:
    """Check everything that can be wrong, compute, write, print the table."""
    from ..roi import Region
    from ..text.prompts import check_prompt
    from ..text.unknown_prompts import refuse_unknown, unknown_note
    from ..volume_io import load_volume

    started = time.monotonic()
    for prompt in args.prompt:
        check_prompt(prompt)
    _check_outputs(args)
    region = Region(args.roi) if args.roi else None
    volume = load_volume(args.input, series=args.series, modality=args.modality)
    loaded = time.monotonic() - started
    _check_formats(args, volume)
    roi = region.box(volume.geometry) if region else None
    engine = make_engine(args.model, args.adapter, args.device)
    resolved: Sequence[ResolvedPrompt] = engine.resolve(args.prompt)
    if not args.allow_unknown and all(prompt.status is not PromptStatus.KNOWN for prompt in resolved):
        refuse_unknown([unknown_note(prompt, args.allow_unknown) for prompt in resolved])
    if not args.quiet:
        _announce(volume, resolved, args.allow_unknown)

    with ProgressBar(args.quiet) as bar:
        clock = time.monotonic()
        bar.part("1/2 ")
        source = engine.embed(volume, progress=bar)
        embedded = time.monotonic() - clock
        bar.part("2/2 ")
        clock = time.monotonic()
        results: list[PromptResult] = engine.segment(
            source, args.prompt, progress=bar, probability=bool(args.probability), allow_unknown=args.allow_unknown, roi=roi
        )
        results, repeats = _without_repeats(results)
        # fine tiles are encoded on demand: what is not of one prompt alone belongs to the image
        embedded += max(0.0, time.monotonic() - clock - sum(result.elapsed_s for result in results))
    timing = {"load": loaded, "embed": embedded, "total": time.monotonic() - started}
    written, warnings = _write(args, volume, results, engine, timing, repeats)
    if not args.quiet:
        for warning in warnings:
            sys.stderr.write(f"Warning: {warning}\n")
        sys.stdout.write("\n".join([*table(results), "", *(f"Written: {path}" for path in written)]) + "\n")
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse names that cannot be written before anything is loaded."""
    from ..atomic import check_output
    from ..errors import OutputError
    from ..segmentation_io import check_probability_output, check_segmentation_output

    check_segmentation_output(args.output)
    if args.probability:
        check_probability_output(args.probability)
    if args.report and args.report.suffix.lower() != ".json":
        raise OutputError(f"The report '{args.report}' needs the ending .json.")
    outputs = [path for path in (args.output, args.probability, args.report) if path]
    for number, path in enumerate(outputs):
        check_output(path, args.overwrite)
        if path.resolve() == args.input.resolve():
            raise OutputError(f"The output '{path}' is the input; give another name.")
        if path.resolve() in [other.resolve() for other in outputs[:number]]:
            raise OutputError(f"Two outputs have the name '{path}'; give each its own.")


def _check_formats(args: argparse.Namespace, volume: Volume) -> None:
    """Refuse formats that cannot hold this image's grid before anything is computed."""
    from ..segmentation_io import check_probability_output, check_segmentation_output

    check_segmentation_output(args.output, volume)
    if args.probability:
        check_probability_output(args.probability, volume)


def _announce(volume: Volume, resolved: Sequence[ResolvedPrompt], allow_unknown: bool) -> None:
    """Say how image and prompts were understood, before the waiting begins."""
    from ..text.unknown_prompts import unknown_note

    size = " x ".join(map(str, volume.geometry.shape_dhw[::-1]))
    spacing = " x ".join(f"{s:.3g}" for s in volume.geometry.spacing_xyz_mm)
    modality = f"{volume.modality.value} ({volume.modality_source})" if volume.modality else "of unknown modality"
    sys.stderr.write(f"Image: {size} voxels, {spacing} mm, {modality}\n")
    for note in filter(None, (unknown_note(prompt, allow_unknown) for prompt in resolved)):
        sys.stderr.write(f"{note}\n")


def _without_repeats(results: Sequence[PromptResult]) -> tuple[list[PromptResult], list[str]]:
    """The results without those of a structure that an earlier prompt asked for in other words, and a sentence about each of these."""
    from ..batch.repeats import repeat_note

    kept: list[PromptResult] = []
    notes = []
    for result in results:
        if note := repeat_note(result, kept):
            notes.append(note)
        else:
            kept.append(result)
    return kept, notes


def _write(
    args: argparse.Namespace, volume: Volume, results: list[PromptResult], engine: Any, timing: dict[str, float], notes: Sequence[str],
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Write the files, the report last: where it is, the rest is. Returns the paths and the warnings about the whole run."""
    from ..provenance import engine_values, is_drawn
    from ..report import build_report, write_report
    from ..segmentation_io import write_probability, write_segmentation

    info = {**engine_values(engine), "vocabulary": engine.vocabulary}
    warnings = [*engine.warnings, *filter(None, [volume.metadata.get("warning", "")]), *notes]
    written = []
    if args.output.name.lower().endswith(".dcm") and not any(map(is_drawn, results)):
        warnings.append(f"'{args.output}' was not written: nothing was found, and DICOM knows no segmentation without a voxel.")
    else:
        write_segmentation(args.output, results, volume, info, overwrite=args.overwrite)
        written.append(args.output)
    if args.probability:
        if any(result.probability is not None for result in results):
            write_probability(args.probability, results, volume, overwrite=args.overwrite)
            written.append(args.probability)
        else:
            warnings.append(f"'{args.probability}' was not written: no result has a probability.")
    if args.report:
        write_report(args.report, build_report(volume, results, info, timing, warnings), overwrite=args.overwrite)
        written.append(args.report)
    return written, warnings


def table(results: Sequence[PromptResult]) -> list[str]:
    """The results as lines of text, with the remarks of each below its line."""
    from ..report import number_or_none

    def show(value: float, digits: int) -> str:
        number = number_or_none(value, digits)
        return "-" if number is None else f"{number:.{digits}f}"

    width = [max([len(title), *(min(len(text(r)), 40) for r in results)]) for title, text in _COLUMNS]
    head = f"{'':>5}  {_COLUMNS[0][0]:{width[0]}}  {_COLUMNS[1][0]:{width[1]}}  verdict    presence  confidence       mL       s"
    lines = [head, "-" * len(head)]
    for label, r in enumerate(results, 1):
        names = "  ".join(f"{text(r)[:40]:{w}}" for (_, text), w in zip(_COLUMNS, width, strict=True))
        drawn = r.verdict in (Verdict.PRESENT, Verdict.UNCERTAIN)
        volume = show(r.volume_ml, 2) if drawn else "-"
        lines.append(
            f"{label:>5}  {names}  {Verdict(r.verdict).value:9}  {show(r.presence, 2):>8}  {show(r.confidence, 2):>10}  {volume:>7}  {r.elapsed_s:6.2f}"
        )
        lines += [f"       {text}" for text in r.warnings]
        if r.suggestions and r.verdict is Verdict.UNKNOWN:
            lines.append(f"       did you mean {' or '.join(repr(name) for name in r.suggestions[:3])}?")
    return lines


_COLUMNS = (("prompt", lambda r: r.prompt), ("structure", lambda r: r.resolved or "-"))
