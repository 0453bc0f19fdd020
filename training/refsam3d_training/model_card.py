"""The model card: one set of values for the checkpoint's header and for a page that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from RefSAM3DLib.checkpoint import Calibration
from RefSAM3DLib.errors import CheckpointError

from .export import INTENDED_USE, calibration_sha256
from .manifest import data_statement

DISCLAIMER = "Not for diagnosis."
#: Of every model that this package trains.
LIMITS = (
    "Trained on the listed sets alone; each has its own look, so expect worse results on other scanners, protocols, ages and diseases.",
    "A verdict of presence is calibrated on images like those of training; on other images it is reported as uncertain.",
    "Presence follows the field of view more than the organ: one that is missing where it should be (removed by surgery) is called uncertain "
    "where its outline is less confident than usual, and may be called present where it is not.",
    "The mask threshold is the nearest to one half of those within 0.003 of the best validation Dice.",
)
_TEST_LISTS_SEEN = (
    "The rules for the thresholds of mask and presence were chosen after the test lists had been read with an earlier checkpoint; every value was then "
    "fitted on the validation lists alone. What to try next (a wider decoder, moved images; a stage that was not shipped) was chosen with test scores of "
    "earlier checkpoints known, so these lists are no longer untouched."
)
#: Of a model that was trained on one of this project's sets, by the set's name.
LIMITS_OF_SETS = {
    "openkbp_ct": ("Head-and-neck organs were learnt from planning CT of patients with cancer.", _TEST_LISTS_SEEN),
    "msd_hippocampus": (
        "Hippocampi were learnt from cropped T1 MR. Their side is not recorded in the training data and cannot be asked for.", _TEST_LISTS_SEEN,
        "The two hippocampi of one scan are two volumes of their set, and half of those tested have the other one in training; the scores file has the mean "
        "of both halves apart (by_patient).",
    ),
    "sts_tumour": ("Sarcoma was learnt from crops around the tumour.", _TEST_LISTS_SEEN),
}  # fmt: skip

#: What a card tells of presence; scores of an older version may lack some.
PRESENCE = ("auroc_all", "auroc_inside_head_and_neck", "auroc_painted_over", "ece")


def limits_of(training: Mapping[str, Any], data: Sequence[Mapping[str, Any]]) -> list[str]:
    """Limits of every model, those of the sets that it was trained on, and what the first of its trainings began with."""
    told = [*LIMITS, *dict.fromkeys(limit for row in data for limit in LIMITS_OF_SETS.get(row["name"], ()))]
    start: Mapping[str, Any] | None = training.get("started_from")
    while start is not None and "sources" not in start:
        start = start.get("training", {}).get("started_from")
    if start is None:
        return [*told, "Weights are random at the start of training: no SAM or CLIP weights are in this file."]
    names = ", ".join(source["file"] for source in start["sources"])
    return [*told, f"Training began with published weights ({names}); their licences hold for this file, too."]


def make_card(
    folders: list[Path], state: dict[str, Any], stored: dict[str, Any], scores: dict[str, Any] | None, tensors: str,
    calibration: Mapping[str, Calibration], hardware: str,
    power_watts: float | None = None, origin: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Card values.

    Args:
        state: training state. stored: its resolved configuration. scores: ``summary.json`` of ``evaluate``. tensors: weights hash.
        calibration: of the file that gets the card.
        power_watts: assumed power, from which energy is hours x watts (None: energy is not stated). origin: what the run began with.

    Raises:
        CheckpointError: the scores were measured on other weights.
    """
    train = stored["train"]
    card: dict[str, Any] = {
        "intended_use": INTENDED_USE, "disclaimer": DISCLAIMER, "data": data_statement(folders),
        "phantoms": train["phantoms"],
        "training": {
            "step": state["step"], "steps": train["steps"], "seed": train["seed"], "batch_size": train["batch_size"],
            "cpu_seconds": round(state["seconds"]), "hours": round(state["seconds"] / 3600, 2), "hardware": hardware,
            "parameters": sum(v.numel() for v in state["average"].values()), "excluded_structures": train["exclude_structures"],
        },
        "tensors_sha256": tensors,
    }  # fmt: skip
    training = card["training"]
    if teachers := stored.get("teachers"):
        training["teachers"] = teachers
    if origin is not None:
        training["started_from"] = origin
    card["limits"] = limits_of(training, card["data"])
    training["hours_in_all"] = round(hours_of(training) + hours_before(training), 2)
    if power_watts is not None:
        training["power_watts_assumed"] = power_watts
        training["energy_kwh"] = round(training["hours_in_all"] * power_watts / 1000, 3)
    if scores is not None:
        card["scores"] = scores_for_card(scores, tensors, calibration)
    return card


def scores_for_card(scores: dict[str, Any], tensors: str, calibration: Mapping[str, Calibration]) -> dict[str, Any]:
    """What a card keeps of ``summary.json``.

    Raises:
        CheckpointError: the scores were measured on other weights, with another calibration, on the training lists, or on a part of a list.
    """
    if scores["split"] == "training" or scores["limit"]:
        what = f"the first {scores['limit']} cases of the {scores['split']} lists" if scores["limit"] else "the training lists"
        raise CheckpointError(f"The scores are of {what}, which say too little for a model card; run `evaluate --split test` without --limit.")
    if scores["model"].get("calibration_sha256") != calibration_sha256(calibration):
        raise CheckpointError("The scores were measured with another calibration than this model file has; run `evaluate` on the calibrated file first.")
    if scores["model"].get("tensors_sha256") != tensors:
        raise CheckpointError(
            f"The scores were measured on the weights {str(scores['model'].get('tensors_sha256'))[:12]}, this model has {tensors[:12]}; "
            "run `evaluate` on this model first."
        )
    presence = scores["presence"]
    return {
        "split": scores["split"], "structures": scores["structures"], "mean_dice_by_grid": scores["mean_dice_by_grid"],
        "presence": {k: presence.get(k) for k in PRESENCE},
        "centred_ellipsoid": scores.get("centred_ellipsoid", {}), "seconds_per_case": scores["seconds_per_case"], "device": scores["device"],
        "painted_over": presence.get("painted_over"), "dice_by_verdict": scores.get("dice_by_verdict", {}),
    }  # fmt: skip


def hours_of(training: Mapping[str, Any]) -> float:
    """Hours of one training and of the teachers that were trained for it."""
    return float(training.get("hours", 0.0)) + sum(float(teacher["hours"]) for teacher in training.get("teachers", ()))


def hours_before(training: dict[str, Any]) -> float:
    """Hours that went into the weights which a run began with."""
    earlier = training.get("started_from", {}).get("training", {})
    return float(earlier.get("hours_in_all", earlier.get("hours", 0.0)))


def _training_lines(training: dict[str, Any]) -> list[str]:
    start = training.get("started_from")
    begun = "from random weights"
    if start is not None:
        begun = f"from the weights of {start['name']} (sha256 {start['sha256'][:12]}), which took {hours_before(training):.2f} hours"
    lines = [
        f"{training['step']} of {training['steps']} steps of {training['batch_size']} tiles, seed {training['seed']}, "
        f"{training['hours']} hours on {training['hardware']}, {begun}.",
    ]
    for teacher in training.get("teachers", ()):
        lines.append(
            f"Soft masks of a DynUNet of the same training cases ({teacher['grid']}, {teacher['filters']} filters, {teacher['step']} steps, "
            f"{teacher['hours']} hours) were additional targets."
        )
    if parts := training.get("averaged"):
        shares = ", ".join(f"{part['share']:g} of {part['tensors_sha256'][:12] or part['sha256'][:12]}" for part in parts)
        lines.append(f"The weights are the mean of {len(parts)} trainings ({shares}); the line above is of the longest one.")
    if "energy_kwh" in training:
        watts, hours = training["power_watts_assumed"], training["hours_in_all"]
        lines.append(f"Energy: about {training['energy_kwh']:.2f} kWh, which is {hours} hours at an assumed {watts:g} W; it was not measured.")
    else:
        lines.append("Energy was not measured.")
    if training["excluded_structures"]:
        lines.append(f"Never seen in training: {', '.join(training['excluded_structures'])}.")
    return lines


def card_markdown(name: str, card: dict[str, Any], sha256: str, size_bytes: int) -> str:
    """The card as a page."""
    training = card["training"]
    lines = [
        f"# Model card: {name}", "", f"**{card['disclaimer']}** {card['intended_use']}", "",
        f"{training['parameters'] / 1e6:.1f} million parameters, {size_bytes / 1e6:.1f} MB in half precision, sha256 `{sha256}`.", "",
        "## Training", "", *_training_lines(training), "",
        "| set | training / validation / test | licence | citation |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {d['name']} | {d['training']} / {d['validation']} / {d['test']} | {d['licence']} | {d['citation']} |" for d in card["data"]]
    if card.get("phantoms"):
        lines.append(f"| generated head-and-neck phantoms | {card['phantoms']} / 0 / 0 | this project's own | |")
    if "scores" in card:
        lines += ["", f"## Scores on the {card['scores']['split']} lists", "", *_score_lines(card["scores"])]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), ""]
    return "\n".join(lines)


def _score_lines(scores: dict[str, Any]) -> list[str]:
    head = ["| structure | n | Dice | NSD 2 mm | NSD 5 mm | mean signed volume error |", "|---|---|---|---|---|---|"]
    lines = ["Mean over cases with a 95 % interval (bootstrap over patients).", "", *head]
    for name, row in scores["structures"].items():
        cells = [_cell(row.get(k)) for k in ("dice", "nsd_2mm", "nsd_5mm")]
        lines.append(f"| {name} | {row['dice']['n']} | {' | '.join(cells)} | {row['volume_error_percent']['mean']:+.1f} % |")
    for modality, row in scores["centred_ellipsoid"].items():
        lines.append(f"| (a centred ellipsoid, sarcoma {modality.upper()}) | {row['dice']['n']} | {_cell(row['dice'])} | | | |")
    presence = scores["presence"]
    seconds = ", ".join(f"{g} {v['embed'] + v['segment']:.1f} s for {v['prompts']} structures" for g, v in scores["seconds_per_case"].items())
    number = {k: "not measured" if presence.get(k) is None else f"{presence[k]:.3f}" for k in PRESENCE}
    return [
        *lines, "",
        f"Presence: AUROC {number['auroc_all']} over all images, {number['auroc_inside_head_and_neck']} inside head-and-neck CT, "
        f"{number['auroc_painted_over']} where a structure was painted over with the tissue around it; calibration error {number['ece']}.",
        *_trust_lines(scores),
        *([f"Median time per case ({scores['device']}): {seconds}."] if seconds else []),
    ]  # fmt: skip


def _trust_lines(scores: dict[str, Any]) -> list[str]:
    lines = []
    painted = scores.get("painted_over")
    if painted and painted["verdicts"]["n"]:
        gone = painted["verdicts"]
        lines.append(
            f"Of {gone['n']} structures that were painted over, {100 * gone['present']:.0f} % were called present, {100 * gone['uncertain']:.0f} % "
            f"uncertain and {100 * gone['absent']:.0f} % absent."
        )
    said = scores.get("dice_by_verdict", {})
    parts = [f"{_cell(said[v])} where called {v} (n = {said[v]['n']})" for v in ("present", "uncertain") if said.get(v, {}).get("n")]
    return [*lines, f"Dice of structures that are there: {', '.join(parts)}."] if parts else lines


def _cell(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{value['mean']:.3f} [{value['interval'][0]:.3f}, {value['interval'][1]:.3f}]"
