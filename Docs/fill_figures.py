"""Fill the tables of README.md and Docs/batch_and_review.md from what scripts wrote, and the registry from the weights that ship.

``python Docs/fill_figures.py [--check]``: the check writes nothing, and also asks whether the scores were measured on those weights.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from RefSAM3DLib.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "Resources" / "Models" / "refsam3d-small.safetensors"
SCORES = WEIGHTS.with_suffix(".scores.json")
SPEED = ROOT / "Docs" / "figures" / "performance.json"
COMPARE = ROOT / "Docs" / "figures" / "compare.json"
FEWSHOT = ROOT / "Docs" / "figures" / "fewshot.json"
LOOP = ROOT / "Docs" / "figures" / "review_loop.json"
PAGES = (ROOT / "README.md", ROOT / "Docs" / "batch_and_review.md")


def scores_table(values: dict) -> str:
    """Test scores per structure with n and interval, and what else the evaluation says in a line each."""
    lines = ["| structure | Dice (95 % interval) | NSD at 2 mm | mean absolute volume error | n |", "|---|---|---|---|---|"]
    for name, row in values["structures"].items():
        low, high = row["dice"]["interval"]
        error = row["absolute_volume_error_percent"]["mean"]
        lines.append(f"| {name} | {row['dice']['mean']:.2f} ({low:.2f} to {high:.2f}) | {row['nsd_2mm']['mean']:.2f} | {error:.0f} % | {row['dice']['n']} |")
    blob = "; ".join(f"{kind.upper()} {row['dice']['mean']:.2f}" for kind, row in values["centred_ellipsoid"].items())
    presence, training = values["presence"], shipped().card["training"]
    listed, others = sum(values["cases"][row["name"]] for row in shipped().card["data"]), values["prompt_use"]["off_diagonal_mean"]["head and neck"]
    foreign = sum(values["cases"].values()) - listed
    if values["split"] != "test" or values["limit"]:
        raise SystemExit(f"{SCORES.name} is of the {values['split']} lists (limit {values['limit']}); evaluate all of the test lists.")
    lines += [
        "",
        f"Test lists, {listed} volumes that training never saw, and {foreign} of other body regions that are asked for what they lack; measured on "
        f"their own grids. An ellipsoid in the centre of the sarcoma crops, fitted on "
        f"the training cases and blind to the image, reaches {blob}. Presence: AUROC {presence['auroc_all']:.3f} over all, "
        f"{presence['auroc_inside_head_and_neck']:.3f} inside the head and neck; expected calibration error {presence['ece']:.2f}. "
        f"Asked for one structure of the head and neck, the mask's mean Dice with the other ones is {others:.3f}.",
        *patient_lines(values),
        *trust_lines(values),
        f"This model was trained for {training.get('hours_in_all', training['hours']):.1f} hours, its teachers' counted, the last stage on "
        f"{training['hardware']}.",
    ]  # fmt: skip
    return "\n".join(lines)


def patient_lines(values: dict) -> list[str]:
    """Of sets in which some patients of the test list have another image in training: both halves apart."""
    lines = []
    for grid, row in values["by_patient"].items():
        seen, unseen = row["patient_in_training"], row["patient_unseen"]
        lines.append(
            f"Of the {seen['n'] + unseen['n']} {grid} images {seen['n']} have the other side of their scan in training (mean Dice {seen['mean']:.3f}), "
            f"{unseen['n']} have not ({unseen['mean']:.3f})."
        )
    return lines


def trust_lines(values: dict) -> list[str]:
    """How far a verdict can be trusted: Dice by verdict, and what is said of structures that were painted over."""
    said, gone = values["dice_by_verdict"], values["presence"]["painted_over"]["verdicts"]
    parts = [f"{said[v]['mean']:.2f} where it is called {v} (n = {said[v]['n']})" for v in ("present", "uncertain") if v in said]
    return [
        f"A structure that is there has a mean Dice of {', '.join(parts)}. Of {gone['n']} structures that were painted over with the tissue around "
        f"them, {100 * gone['present']:.0f} % are called present, {100 * gone['uncertain']:.0f} % uncertain, {100 * gone['absent']:.0f} % absent."
    ]


def speed_table(values: dict) -> str:
    """Seconds and memory of the first and the next prompt per volume, VoxTell beside it, and where the first prompt's time goes."""
    sys.path.insert(0, str(ROOT / "Testing" / "Performance"))
    from metrics import cell, next_seconds, peer_seconds, seconds
    from page import stage_table

    machine = values["machine"]
    lines = [
        f"Measured on {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, without a graphics card.", "",
        "| volume | first prompt | next prompt, a new place | next prompt, a place seen before | a structure of another part of the body | "
        "one missing in its place | memory above the volume | VoxTell, each prompt |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, facts in values["volumes"].items():
        found = cell(values, "own", name)
        if found is None:
            continue
        kept, new = (list(next_seconds(found, tiles).values()) for tiles in ("cached", "missing"))
        times = [f"{seconds(found, 'first'):.1f} s", f"{sum(new) / len(new):.1f} s" if new else "-", f"{sum(kept) / len(kept):.2f} s"]
        for label in ("absent_elsewhere", "absent"):
            absent = found["facts"].get(label)
            told = "" if absent is None or absent["verdict"] == "absent" else f" (called {absent['verdict']})"
            times.append(f"{seconds(found, label):.1f} s{told}" if absent is not None else "-")
        peer = peer_seconds(values, "voxtell", name)
        other = "-" if peer is None else f"{'about ' if peer[1] else ''}{peer[0]:,.0f} s"
        lines.append(f"| {facts['title']} | {' | '.join(times)} | {found['facts']['memory']['above_mb']:.0f} MB | {other} |")
    return "\n".join([*lines, "", *stage_table(values)])


def compare_table(values: dict) -> str:
    """Paired differences to the specialised networks."""
    sys.path.insert(0, str(ROOT / "training"))
    from refsam3d_training.evaluation.compare import markdown

    return markdown(values["rows"], [], values.get("taught_by", ())).rstrip()


def fewshot_table(values: dict) -> str:
    """A structure that the base never met, learnt from a few cases: picture, table, conditions."""
    sys.path.insert(0, str(ROOT / "training"))
    from refsam3d_training.fewshot_report import condition_lines, new_structure_lines

    picture = f"![Dice of the {values['structure']} against the number of cases](Docs/images/fewshot.png)"
    return "\n".join([picture, "", *new_structure_lines(values), "", *condition_lines(values)])


def loop_table(values: dict) -> str:
    """Dice on cases that nobody reviewed, before and after fine-tuning on the reviewed ones."""
    (reviewed, count), (scored, others), margins = values["data"]["reviewed"], values["data"]["scored"], values["data"]["margin_mm"]
    minutes, rows = values["minutes"], values["dice"]["structures"]
    drawn = " and ".join(f"the {name} with a margin of {mm:g} mm" for name, mm in margins.items())
    site = f"The site of this script draws {drawn}, which the model does not know." if drawn else "The site draws as the experts of the training data did."
    kept_aside = ""
    if values["export"].get("aside"):
        left = ", ".join(values["finetune"]["left_to_base"]) or "nothing"
        kept_aside = f" {values['export']['aside']} of the reviewed cases were kept aside; what the adapter read worse there was left to the base: {left}."
        tuned = values["finetune"]
        unjudged = sorted({*tuned["answers_for"]} - {*tuned["loss_on_validation"]})
        kept_aside += f" None of them holds the {' and the '.join(unjudged)}, so the adapter answers for it untried." if unjudged else ""
    lines = [
        f"{count} cases of the {reviewed} list were reviewed ({values['export']['structures']} structures exported), {others} cases of the {scored} list "
        f"scored before and after; {values['finetune']['steps']} steps of fine-tuning took {minutes['finetune']:.0f} minutes (threads: "
        f"{values['machine']['threads']}). {site}{kept_aside}",
        "", "| structure | n | before | after | change (95 % interval) |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in [*rows.items(), ("all", values["dice"]["all"])]:
        low, high = row["interval"]
        shown = f"{name} (with margin)" if name in margins else name
        lines.append(f"| {shown} | {row['n']} | {row['before']:.2f} | {row['after']:.2f} | {row['change']:+.3f} ({low:+.3f} to {high:+.3f}) |")
    return "\n".join(lines)


BLOCKS: dict[str, tuple[Path, Callable[[dict], str]]] = {
    "scores": (SCORES, scores_table), "speed": (SPEED, speed_table), "compare": (COMPARE, compare_table), "fewshot": (FEWSHOT, fewshot_table),
    "loop": (LOOP, loop_table),
}  # fmt: skip


@cache
def shipped() -> Checkpoint:
    """The weights that ship."""
    sys.path.insert(0, str(ROOT))
    from RefSAM3DLib.checkpoint import load_checkpoint

    return load_checkpoint(WEIGHTS)


def registry() -> str:
    """``models.json`` for the weights file that ships, from its own header."""
    checkpoint = shipped()
    licences = "; ".join(f"{row['name']}: {row['licence']}" for row in checkpoint.card["data"])
    entry = {"name": checkpoint.config.name, "file": WEIGHTS.name, "url": "", "size_bytes": WEIGHTS.stat().st_size, "sha256": checkpoint.sha256,
             "licence": f"Apache-2.0 for the weights; trained on {licences}", "structures": list(checkpoint.vocabulary.names)}  # fmt: skip
    return json.dumps([entry], indent=1) + "\n"


def of_other_weights() -> list[str]:
    """A sentence for each file that speaks of other weights, or of another calibration, than those that ship."""
    checkpoint = shipped()
    sys.path.insert(0, str(ROOT / "training"))
    from refsam3d_training.export import calibration_sha256, tensors_sha256

    scored, tensors = json.loads(SCORES.read_text(encoding="utf-8"))["model"], tensors_sha256(checkpoint.state)
    found = []
    if checkpoint.card.get("tensors_sha256") != tensors:
        found.append(f"The card in {WEIGHTS.name} is of other weights; export it again.")
    if scored["tensors_sha256"] != tensors:
        found.append(f"{SCORES.name} was measured on other weights than {WEIGHTS.name} holds; evaluate again.")
    if scored["calibration_sha256"] != calibration_sha256(checkpoint.calibration):
        found.append(f"{SCORES.name} was measured with another calibration than {WEIGHTS.name} holds; evaluate again.")
    page = WEIGHTS.with_suffix(".md")
    if checkpoint.sha256 not in page.read_text(encoding="utf-8"):
        found.append(f"{page.name} is of another file than {WEIGHTS.name}; export it again.")
    return found


def filled(text: str) -> str:
    """Text of a page with each of its blocks written anew."""
    for name, (path, table) in BLOCKS.items():
        block = re.compile(rf"(<!-- figures:{name} -->\n).*?(<!-- /figures -->)", re.S)
        if not block.search(text):
            continue
        if not path.is_file():
            sys.stderr.write(f"{path.relative_to(ROOT)} does not exist, so the block '{name}' stays as it is; run the evaluation or make bench.\n")
            continue
        content = table(json.loads(path.read_text(encoding="utf-8")))
        text = block.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    return text


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` fail if a file is out of date or of other weights."""
    wanted = {page: filled(page.read_text(encoding="utf-8")) for page in PAGES} | {ROOT / "Resources" / "Models" / "models.json": registry()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        wrong = [f"{path.relative_to(ROOT)} is out of date; run python Docs/fill_figures.py" for path in stale] + of_other_weights()
        sys.stdout.write("".join(f"{line}\n" for line in wrong))
        return int(bool(wrong))
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
