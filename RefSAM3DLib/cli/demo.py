"""``refsam3d demo``: the whole way from a prompt to a mask on a generated CT with known truth, or on any volume."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..types import Modality, PromptResult, Verdict, Volume
from .progress import ProgressLine

if TYPE_CHECKING:
    import numpy as np

NAME = "demo"
HELP = "try it: prompts on a generated head-and-neck CT with known truth, or on your own volume"

#: A healthy patient: a tumour, which the model was trained to find, must be reported as absent, not drawn.
ABSENT = "soft tissue sarcoma"
#: Three structures that are there, one that is not, one that no checkpoint here knows, and the other side of a pair.
PROMPTS = ("brainstem", "mandible", "right parotid gland", ABSENT, "liver", "left parotid gland")
#: About the field of view of a planning CT; a generated volume of this size takes a second.
SHAPE_DHW, SPACING_XYZ_MM = (160, 192, 192), (2.6, 2.6, 2.2)
CT_FILE, SEGMENTATION_FILE, REPORT_FILE, PICTURE_FILE = "demo_ct.nrrd", "demo.seg.nrrd", "demo.json", "demo.png"
#: What the report says of a volume that was not generated.
OWN_VOLUME = "own volume"

#: ``factory(device, model)`` gives the engine; tests put another one here.
EngineFactory = Callable[[str, str], Any]
_EPILOG = """examples:
  refsam3d demo
  refsam3d demo --seed 1000042 -p larynx -p "both parotid glands"
  refsam3d demo --input head.nrrd -p "left parotid gland" -p brainstem --output head_demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="folder for the results (default demo_output)"
    )
    parser.add_argument("--input", type=Path, metavar="FILE", help="your own volume instead of the generated CT; needs -p")
    parser.add_argument("-p", "--prompt", action="append", default=[], metavar="TEXT", help="structure to segment; repeat it")
    parser.add_argument("--modality", choices=[m.value for m in Modality], help="of --input (default: from the file)")
    parser.add_argument("--model", default="", help="name or file of a checkpoint (default: the one that ships)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--seed", type=int, help="another generated patient; seeds from 1000000 on were never trained on")
    parser.add_argument("--overwrite", action="store_true", help="replace files of these names that are not of an earlier demo")


def run(args: argparse.Namespace) -> int:
    """Do it with the default engine. 0 when it ran, whatever the model answered."""
    return run_demo(args, _make_engine)


def _make_engine(device: str, model: str) -> Any:
    from ..engine import RefSAM3DEngine
    from ..models_registry import find_model

    return RefSAM3DEngine.from_checkpoint(find_model(model), device=device) if model else RefSAM3DEngine.from_default(device=device)


def run_demo(args: argparse.Namespace, factory: EngineFactory) -> int:
    """Segment, compare with the truth where there is one, print the table, write the files."""
    from ..atomic import check_output, make_folder
    from ..errors import ConfigError, PromptError

    if args.seed is not None and args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}; give a whole number from 0 on.")
    if args.input and not args.prompt:
        raise PromptError('With --input the demo needs at least one prompt: add -p "left parotid gland", for example.')
    folder: Path = args.output
    names = [SEGMENTATION_FILE, REPORT_FILE, PICTURE_FILE] + ([] if args.input else [CT_FILE])
    make_folder(folder)
    replace = args.overwrite or _may_refresh(folder, args.input)
    for name in names:
        check_output(folder / name, replace)

    clock = time.monotonic()
    volume, truth = _load(args, folder, replace)
    loaded = time.monotonic() - clock
    engine = factory(args.device, args.model)
    progress = ProgressLine(sys.stderr)
    clock = time.monotonic()
    embedding = engine.embed(volume, progress=progress)
    embedded = time.monotonic() - clock
    results: list[PromptResult] = engine.segment(embedding, list(args.prompt or PROMPTS), progress=progress)
    progress.close()
    rows = [_row(number, result, truth) for number, result in enumerate(results, start=1)]
    timing = {"load": round(loaded, 3), "embed": round(embedded, 3), "total": round(loaded + time.monotonic() - clock, 3)}
    warnings = _warnings(engine, volume, results)
    _write(folder, args, engine, volume, truth, results, rows, warnings, timing, replace)
    speed = _speed(engine, timing, results)
    sys.stdout.write(
        "\n".join([*_table(rows, truth), "", speed, *_remarks(rows, truth, warnings), "", *_next_steps(folder, args.input)]) + "\n"
    )
    return 0


def _speed(engine: Any, timing: dict[str, float], results: list[PromptResult]) -> str:
    """One sentence on time. Fine tiles are encoded on demand: what is not of one prompt alone belongs to the image."""
    prompts_s = sum(result.elapsed_s for result in results)
    image_s = max(0.0, timing["total"] - timing["load"] - prompts_s)
    each_s = prompts_s / max(len(results), 1)
    return f"{engine.model_name} on {engine.device_name}: image read in {image_s:.1f} s, then {each_s:.2f} s a prompt."


def _may_refresh(folder: Path, own_input: Path | None) -> bool:
    """True if an earlier demo on the same input wrote what is in the folder.

    Raises:
        OutputError: it holds a demo that this one must not replace.
    """
    from ..batch.content_hash import hash_file
    from ..errors import OutputError

    try:
        before = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        was_own, image = before["demo"] == OWN_VOLUME, Path(before["input"])
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if was_own != bool(own_input) or (own_input and image.resolve() != own_input.resolve()):
        raise OutputError(f"'{folder}' holds the demo of another volume ('{image}'); give another folder with --output, or --overwrite.")
    if not (segmentation := folder / SEGMENTATION_FILE).exists():
        return True
    # an earlier version noted no hash, but wrote the report last too
    is_newer = segmentation.stat().st_mtime > (folder / REPORT_FILE).stat().st_mtime
    if before["segmentation_sha256"] != hash_file(segmentation) if "segmentation_sha256" in before else is_newer:
        raise OutputError(f"'{segmentation}' was changed after the demo wrote it; save it under another name or give another --output, or --overwrite.")
    return True


def _load(args: argparse.Namespace, folder: Path, replace: bool) -> tuple[Volume, dict[str, np.ndarray] | None]:
    """The user's volume without truth, or a generated one, which is saved beside the results."""
    if args.input:
        from ..volume_io import load_volume

        return load_volume(args.input, series=None, modality=args.modality), None
    import SimpleITK as sitk

    from ..atomic import write_aside
    from ..compare import to_image
    from ..image_files import itk_name
    from ..phantoms import FIRST_HELD_OUT_SEED, STRUCTURES, head_and_neck_ct

    seed = FIRST_HELD_OUT_SEED if args.seed is None else args.seed
    volume, truth = head_and_neck_ct(seed, SPACING_XYZ_MM, SHAPE_DHW, structures=STRUCTURES)
    with write_aside(folder / CT_FILE, replace) as aside:
        sitk.WriteImage(to_image(volume.array, volume.geometry), itk_name(aside), useCompression=True)
    return volume, truth


def _row(number: int, result: PromptResult, truth: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """One prompt for the report, in plain values; ``dice`` and ``expected`` only where the truth is known."""
    from ..surfaces import dice

    row: dict[str, Any] = {
        "prompt": result.prompt,
        "resolved": result.resolved,
        "label": number,
        "verdict": result.verdict.value,
        "presence": _finite(result.presence),
        "confidence": _finite(result.confidence),
        "volume_ml": round(result.volume_ml, 3),
        "elapsed_s": round(result.elapsed_s, 3),
    }
    if truth is None:
        return row
    known = result.verdict is not Verdict.UNKNOWN
    there, mirror = truth.get(result.resolved), truth.get(_other_side(result.resolved))
    composite = result.resolved not in truth and any(name in result.resolved for name in truth)
    expected = None if composite else Verdict.PRESENT if there is not None else Verdict.ABSENT if known else Verdict.UNKNOWN
    row["expected"] = expected.value if expected else None
    row["dice"] = None if there is None else round(dice(result.mask, there), 4)
    row["dice_other_side"] = None if mirror is None else round(dice(result.mask, mirror), 4)
    return row


def _other_side(name: str) -> str:
    """The same structure on the other side, "" if it has none.

    >>> _other_side("left parotid gland")
    'right parotid gland'
    """
    swap = {"left": "right", "right": "left"}
    words = [swap.get(word, word) for word in name.split()]
    return " ".join(words) if words != name.split() else ""


def _finite(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _warnings(engine: Any, volume: Volume, results: list[PromptResult]) -> list[str]:
    """Sentences about the volume, the run and single prompts, each once."""
    said = [volume.metadata.get("warning", ""), *engine.warnings, *(sentence for result in results for sentence in result.warnings)]
    return [sentence for sentence in dict.fromkeys(said) if sentence]


def _table(rows: list[dict[str, Any]], truth: dict[str, np.ndarray] | None) -> list[str]:
    """The results as lines of text."""
    shown = ["prompt", "resolved", "verdict", "presence", "mL"] + (["Dice", "Dice, other side"] if truth is not None else [])
    cells = [shown]
    for row in rows:
        drawn = row["verdict"] in ("present", "uncertain")
        cell = [
            row["prompt"],
            row["resolved"] or "-",
            row["verdict"],
            _number(row["presence"]),
            f"{row['volume_ml']:.1f}" if drawn else "-",
        ]
        cells.append(cell + ([_number(row["dice"]), _number(row["dice_other_side"])] if truth is not None else []))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(f"{text:{'<' if n < 3 else '>'}{width}}" for n, (text, width) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _remarks(rows: list[dict[str, Any]], truth: dict[str, np.ndarray] | None, warnings: list[str]) -> list[str]:
    """What the table means, mistakes included."""
    lines = [f"Note: {warning}" for warning in warnings]
    if truth is None:
        return [*lines, "No truth is known for this volume: look at the picture before you trust a number. Not for diagnosis."]
    for row in rows:
        if row["expected"] and row["verdict"] != row["expected"]:
            lines.append(f"Not as it should be: '{row['prompt']}' is {row['expected']} here, the model says {row['verdict']}.")
        if row["dice_other_side"] is not None and row["verdict"] in ("present", "uncertain"):
            right = row["dice"] is not None and row["dice"] > row["dice_other_side"]
            kept = "the side asked for" if right else "NOT the side asked for"
            lines.append(f"Sides: '{row['prompt']}' is drawn on {kept} ({_number(row['dice'])} against {_number(row['dice_other_side'])}).")
    lines.append("The CT is generated, and such volumes are a small share of the training data: this shows how it works, not how well.")
    return lines


def _next_steps(folder: Path, own_input: Path | None) -> list[str]:
    """Where the files are and how to go on."""
    image = own_input or folder / CT_FILE
    return [
        f"Picture:       {folder / PICTURE_FILE}",
        f"Segmentation:  {folder / SEGMENTATION_FILE}",
        f"Report:        {folder / REPORT_FILE}",
        f"Next: drag {image} and {folder / SEGMENTATION_FILE} into 3D Slicer to see the structures by name and in 3D.",
    ]


def _write(
    folder: Path,
    args: argparse.Namespace,
    engine: Any,
    volume: Volume,
    truth: dict[str, np.ndarray] | None,
    results: list[PromptResult],
    rows: list[dict[str, Any]],
    warnings: list[str],
    timing: dict[str, float],
    replace: bool,
) -> None:
    """Segmentation, picture and, last, the report: where it is, the rest is."""
    from .. import __version__
    from ..atomic import write_aside
    from ..batch.content_hash import hash_file
    from ..memory import peak_memory_mb
    from ..overlay import overlay_figure
    from ..provenance import engine_values, model_values
    from ..segmentation_io import write_segmentation

    info = {**engine_values(engine), "vocabulary": getattr(engine, "vocabulary", None)}
    write_segmentation(folder / SEGMENTATION_FILE, results, volume, info, overwrite=replace)
    title = "" if args.input else "RefSAM3D on a generated head-and-neck CT"
    overlay_figure(volume, results, folder / PICTURE_FILE, truth=truth, title=title, overwrite=replace)
    report = {
        "input": str((args.input or folder / CT_FILE).absolute()),
        "modality": volume.modality.value if volume.modality else None,
        "model": model_values(info),
        "device": engine.device_name,
        "prompts": rows,
        "warnings": warnings,
        "elapsed_s": timing,
        "peak_memory_mb": peak_memory_mb(),
        "version": __version__,
        "demo": volume.source if truth is not None else OWN_VOLUME,
        "segmentation_sha256": hash_file(folder / SEGMENTATION_FILE),
    }
    with write_aside(folder / REPORT_FILE, replace) as aside:
        aside.write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
