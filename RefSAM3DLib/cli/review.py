"""``refsam3d review``: look at, record, measure and export the review of a batch folder from the shell."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import Any

NAME = "review"
#: An edit that shares less with the machine's mask is more often a wrong file than an edit.
LEAST_DICE = 0.3
HELP = "review a batch: queue, decisions, agreement, CSV, signed-off result, export for training"
_EPILOG = """examples:
  refsam3d review list results/ --reviewer "A. Muster"
  refsam3d review decide results/ kbp_242/1 accept --reviewer "A. Muster"
  refsam3d review decide results/ kbp_242/3 reject --reason "wrong side" --reviewer "A. Muster"
  refsam3d review export results/ -o reviewed/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command and its actions."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=text)
        one.add_argument("folder", type=Path, help="output folder of a batch")
        one.add_argument("--reviewer", default="", metavar="NAME", help="your name (default: the account's)")
        return one

    one = action("list", "print the queue, most urgent first")
    one.add_argument("--all", action="store_true", help="decided items too")
    one.add_argument("--json", action="store_true", help="as JSON")
    one = action("decide", "record a decision about one item")
    one.add_argument("item", help="case/label, as printed by list")
    one.add_argument("verdict", choices=("accept", "accept_edited", "reject", "skip"))
    one.add_argument("--reason", default="", help="why it is rejected")
    one.add_argument("--comment", default="")
    one.add_argument("--edited", type=Path, metavar="FILE", help="edited segmentation (.seg.nrrd or label map) for accept_edited")
    one.add_argument("--far", action="store_true", help=f"record an edit that has less than {LEAST_DICE:g} Dice with the machine's mask")
    one = action("reprompt", "ask the model about an item in other words, and record the answer")
    one.add_argument("item", help="case/label, as printed by list")
    one.add_argument("wording", help="what to segment, in other words")
    one.add_argument("--model", default="", help="name or file of a checkpoint (default: the one that ships)")
    one.add_argument("--adapter", default="", metavar="FILE", help="adapter file for the checkpoint")
    one.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    one = action("agreement", "Cohen's kappa of the verdicts and Dice of the masks of each pair of reviewers")
    one.add_argument("--json", action="store_true", help="as JSON")
    one = action("csv", "write all decisions as CSV")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    one.add_argument("--overwrite", action="store_true")
    one = action("result", "write the signed-off result of a case: JSON, and DICOM SEG for DICOM images")
    one.add_argument("case")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    one.add_argument("--overwrite", action="store_true")
    one = action("export", "write the accepted cases as a training manifest (datalist.json, images, labels)")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="new folder")
    one.add_argument("--only", default="", metavar="NAME", help="decisions of this reviewer alone")
    one.add_argument("--validation", type=float, default=0.0, metavar="SHARE", help="share of patients for the validation list (default 0)")
    action("verify", "check that no line of the audit trail was altered or removed")
    one = action("report", "write summary.csv and report.html anew, with the state of the review")
    one.add_argument("--show-identifiers", action="store_true", help="show patients' names and numbers")


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    from ..review.session import ReviewSession

    if args.action == "verify":
        return _verify(args.folder)
    if args.action == "report":
        from ..batch import refresh_tables

        ReviewSession(args.folder, "report")  # says what is wrong with the folder
        refresh_tables(args.folder, args.show_identifiers)
        sys.stdout.write(f"{args.folder / 'report.html'}\n")
        return 0
    session = ReviewSession(args.folder, args.reviewer or _account())
    for note in session.notes:
        sys.stderr.write(note + "\n")
    return {"list": _list, "decide": _decide, "reprompt": _reprompt, "agreement": _agreement, "csv": _csv, "result": _result, "export": _export}[args.action](
        session, args
    )


def _verify(folder: Path) -> int:
    from ..batch.append_log import AppendLog
    from ..batch.folder_state import JOURNAL
    from ..errors import InputError
    from ..review.audit_trail import NAME as TRAIL

    if not (folder / JOURNAL).is_file():
        raise InputError(f"'{folder}' holds no batch; choose the output folder of 'refsam3d batch'.")
    log = AppendLog(folder / TRAIL)
    if not log.path.exists():
        sys.stdout.write(f"There is no '{log.path}': nothing was decided in this folder yet, or the file was removed.\n")
        return 0
    content = log.read()
    faults = [*log.verify(), *filter(None, [content.complaint(log.path)])]
    if faults:
        sys.stdout.write("\n".join(faults) + "\n")
        return 1
    sys.stdout.write(f"All {len(content.entries)} entries are in order.")
    if content.entries:
        last = content.entries[-1]
        known = f"has the hash {last['hash']}" if "hash" in last else "is of an earlier version and has no hash, so that a change of it cannot be seen"
        sys.stdout.write(f" The last one, of {last.get('time', 'no time')}, {known}. Entries that were taken off the end leave no trace here.")
    sys.stdout.write("\n")
    return 0


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        return ""


def _list(session: Any, args: argparse.Namespace) -> int:
    from ..review.queue import QueueFilter

    queue = session.queue(QueueFilter() if args.all else None)
    if args.json:
        names = ("id", "case", "label", "structure", "prompt", "verdict", "confidence", "volume_ml", "attention", "reasons", "status")
        sys.stdout.write(json.dumps([{name: getattr(item, name) for name in names} for item in queue], indent=1) + "\n")
        return 0
    decided, total = session.progress()
    sys.stdout.write(f"{decided} of {total} decided by {session.reviewer}\n")
    line = "{:32} {:28} {:10} {:>10} {:>9}  {:20} {}\n"
    sys.stdout.write(line.format("item", "structure", "verdict", "confidence", "mL", "review", "why look"))
    for item in queue:
        numbers = ("-" if item.confidence is None else f"{item.confidence:.2f}", "-" if item.volume_ml is None else f"{item.volume_ml:.2f}")
        sys.stdout.write(line.format(item.id, item.structure[:28], item.verdict, *numbers, item.status_words, "; ".join(item.reasons)).rstrip() + "\n")
    return 0


def _decide(session: Any, args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..review.verdicts import load_reasons

    item = session.find(args.item)
    if args.verdict == "reject" and not args.reason.strip():
        first, *others = load_reasons(session.folder)
        raise InputError(f"A rejection needs a reason; give --reason '{first}', or another ({', '.join(others)}, or your own).")
    edited = None
    if args.edited:
        edited = _edited_mask(session, item, args.edited)
        _check_likeness(session, item, edited, args)
    entry = session.decide(item, args.verdict, reason=args.reason, comment=args.comment, edited_mask=edited)
    changed = ""
    if metrics := entry.get("metrics"):
        changed = f" (Dice {metrics['dice']:.3f} with the machine's mask, {metrics['added_ml']:.2f} mL added, {metrics['removed_ml']:.2f} mL removed)"
    sys.stdout.write(f"{item.id}: {args.verdict}, recorded for {session.reviewer}{changed}\n")
    return 0


def _check_likeness(session: Any, item: Any, edited: Any, args: argparse.Namespace) -> None:
    """Refuse what is rather another file than an edit.

    Raises:
        InputError: it shares next to nothing with the machine's mask.
    """
    from ..errors import InputError
    from ..surfaces import dice

    machine, _ = session.machine_mask(item)
    if args.far or not machine.any() or not edited.any():
        return
    shared = dice(machine, edited)
    if shared < LEAST_DICE:
        raise InputError(
            f"'{args.edited}' shares a Dice of {shared:.3f} with the machine's mask of '{item.id}', which looks like another structure or patient; "
            "check the file, or give --far to record it."
        )


def _edited_mask(session: Any, item: Any, path: Path) -> Any:
    """The item's structure in a segmentation or label map, on the grid of the result: by its name, its value, or as the only one there is."""
    from ..compare import read_masks
    from ..errors import InputError
    from ..review.lone_segment import other_structure

    drawn = read_masks(path, {})
    chosen = next((name for name in (item.structure, f"label {item.label}") if name in drawn), "")
    if not chosen and len(drawn) == 1:
        chosen = next(iter(drawn))
        if other := other_structure(chosen, item, session.items):
            raise InputError(
                f"The only segment of '{path}' is '{chosen}', which is {other}, and '{item.id}' is {item.structure}; "
                "give the file of this structure, or rename the segment."
            )
    if not chosen:
        held = ", ".join(f"'{name}'" for name in drawn) or "nothing"
        raise InputError(
            f"'{path}' has no segment '{item.structure}' and no value {item.label} (it has {held}); rename the segment, or save it alone. "
            "To say that nothing is there, save an empty segment of this name as .seg.nrrd."
        )
    _, geometry = session.machine_mask(item)
    edited = read_masks(path, {}, geometry)[chosen]
    if drawn[chosen].any() and not edited.any():
        raise InputError(f"'{chosen}' of '{path}' lies outside the image of '{item.id}'; check that the file belongs to this case.")
    return edited


def _reprompt(session: Any, args: argparse.Namespace) -> int:
    from ..batch import options

    item = session.find(args.item)
    engine = options.load_factory(options.DEFAULT_ENGINE)(model=args.model, adapter=args.adapter, device=args.device)
    result = session.reprompt(item, args.wording, engine)
    sys.stdout.write(f"{item.id}: {result.resolved or args.wording}, {result.verdict.value}, {result.volume_ml:.2f} mL\n")
    return 0


def _agreement(session: Any, args: argparse.Namespace) -> int:
    rows = session.agreement()
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return 0
    if not rows:
        sys.stdout.write("Fewer than two reviewers have decided on this folder.\n")
    for row in rows:
        kappa, dice = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("kappa", "dice"))
        left_out = f"  ({row['left_out']} left out: decided about different results)" if row["left_out"] else ""
        sys.stdout.write(f"{row['first']} / {row['second']}  {row['structure'][:30]:30} {row['items']:4} items  kappa {kappa:>6}  Dice {dice:>6}{left_out}\n")
    return 0


def _csv(session: Any, args: argparse.Namespace) -> int:
    session.export_csv(args.output, overwrite=args.overwrite)
    return 0


def _result(session: Any, args: argparse.Namespace) -> int:
    from ..review.structured_result import write_structured_result

    told = len(session.notes)
    for path in write_structured_result(session, args.case, args.output, args.overwrite):
        sys.stdout.write(f"{path}\n")
    for note in session.notes[told:]:
        sys.stderr.write(note + "\n")
    return 0


def _export(session: Any, args: argparse.Namespace) -> int:
    from ..review.export import export_manifest

    outcome = export_manifest(session, args.output, reviewer=args.only, validation=args.validation)
    for note in outcome.notes:
        sys.stderr.write(note + "\n")
    sys.stdout.write(f"{outcome.manifest}: {outcome.cases} cases, {outcome.structures} labelled structures\n")
    return 0
