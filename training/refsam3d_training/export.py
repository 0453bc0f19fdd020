"""From a training state, or an earlier model file, to the engine's checkpoint with its model card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.checkpoint import Calibration, Checkpoint, load_checkpoint, save_checkpoint
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import CheckpointError
from RefSAM3DLib.text.vocabulary import Vocabulary

from .cases import Case

INTENDED_USE = "Research on text-prompted segmentation. Not for diagnosis, not for treatment planning, not a medical device."


def trained_extents(cases: list[Case], grid: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(least, greatest) field of view of the real training images of a grid."""
    extents = torch.tensor([c.extent_mm for c in cases if c.grid == grid and not c.name.startswith("phantom/")])
    low, high = extents.min(0).values.tolist(), extents.max(0).values.tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def with_extents(model: ModelConfig, cases: list[Case]) -> ModelConfig:
    """Configuration whose grids know what field of view they were trained on."""
    real = {c.grid for c in cases if not c.name.startswith("phantom/")}
    grids = tuple(dataclasses.replace(g, extent_mm=trained_extents(cases, g.name)) if g.name in real else g for g in model.grids)
    return dataclasses.replace(model, grids=grids)


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of the weights alone, as stored in half precision: the same before and after a calibration or a card is added."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu()
        value = value.half() if value.is_floating_point() else value
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def calibration_sha256(calibration: Mapping[str, Calibration]) -> str:
    """Hash of a calibration: masks and verdicts, and with them every score, depend on it."""
    values = {grid: dataclasses.asdict(row) for grid, row in calibration.items()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_state(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training state, resolved configuration) of a run.

    Raises:
        CheckpointError: the run has no state.
    """
    if not (run / "state.pt").is_file() or not (run / "config.json").is_file():
        raise CheckpointError(f"'{run}' holds no state.pt with its config.json; train first, or give another run folder.")
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    return state, json.loads((run / "config.json").read_text(encoding="utf-8"))


def export_run(
    run: Path, data: Path, output: Path, cache: Path, calibration: dict[str, Calibration] | None = None, scores: dict[str, Any] | None = None,
    hardware: str = "CPU cores", power_watts: float | None = None, origin: dict[str, Any] | None = None, overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Model file with its card, and the card as a page beside it; returns step, sha256 and bytes.

    Args:
        cache: folder of preprocessed cases, whose fields of view the file states. scores: ``summary.json`` of these weights.
        power_watts: assumed while training. origin: what the run began with, see ``origin``.

    Raises:
        CheckpointError: no state, or scores of other weights.
    """
    from .config import TrainConfig, folder_and_grid, from_dict
    from .excluded import cases_without
    from .model_card import card_markdown, make_card
    from .setup_run import model_config, training_cases

    state, stored = load_state(run)
    config = from_dict(TrainConfig, stored["train"])
    folders = [data / folder_and_grid(entry)[0] for entry in config.sets]
    card = make_card(folders, state, stored, scores, tensors_sha256(state["average"]), calibration or {}, hardware, power_watts, origin)
    model = ModelConfig.from_dict(stored["model"])
    # Cases were cached on the complete grids, from which excluded structures were then taken.
    reading = model_config(config, len(state["kept"] or ())) if config.exclude_structures else model
    cases = cases_without(training_cases(config, reading, data, cache), config.exclude_structures)
    output.parent.mkdir(parents=True, exist_ok=True)
    digest = export_checkpoint(run, cases, output, calibration, card, overwrite)
    size = output.stat().st_size
    with write_aside(output.with_suffix(".md"), overwrite=True) as aside:
        aside.write_text(card_markdown(model.name, card, digest, size), encoding="utf-8")
    return {"step": state["step"], "sha256": digest, "bytes": size}


def export_again(
    model: Path, output: Path, calibration: dict[str, Calibration] | None = None, scores: dict[str, Any] | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """A model file with the same weights, and another calibration or newer scores in its card; returns step, sha256 and bytes.

    Raises:
        CheckpointError: not a model file, or scores of other weights.
    """
    from .model_card import card_markdown, limits_of, scores_for_card

    checkpoint = load_checkpoint(model)
    calibrated = calibration or checkpoint.calibration
    card = {**checkpoint.card, "limits": limits_of(checkpoint.card.get("training", {}), checkpoint.card.get("data", ()))}
    if calibration_sha256(calibrated) != calibration_sha256(checkpoint.calibration):
        card.pop("scores", None)  # they were measured with the other one
    if scores is not None:
        card["scores"] = scores_for_card(scores, tensors_sha256(checkpoint.state), calibrated)
    again = dataclasses.replace(checkpoint, calibration=calibrated, card=card)
    output.parent.mkdir(parents=True, exist_ok=True)
    digest = save_checkpoint(again, output, overwrite)
    size = output.stat().st_size
    with write_aside(output.with_suffix(".md"), overwrite=True) as aside:
        aside.write_text(card_markdown(checkpoint.config.name, card, digest, size), encoding="utf-8")
    return {"step": card["training"]["step"], "sha256": digest, "bytes": size}


def export_checkpoint(
    run: Path, cases: list[Case], output: Path, calibration: dict[str, Calibration] | None = None, card: dict[str, Any] | None = None, overwrite: bool = False
) -> str:
    """Write the running average of a training state in the engine's format; returns the file's sha256.

    Raises:
        CheckpointError: the run has no state.
    """
    state, stored = load_state(run)
    model = with_extents(ModelConfig.from_dict(stored["model"]), cases)
    names = [n for g in model.grids for n in g.structures if n not in stored["train"]["exclude_structures"]]
    values = {
        "intended_use": INTENDED_USE,
        "training": {"step": state["step"], "steps": stored["train"]["steps"], "cpu_seconds": round(state["seconds"]), "seed": stored["train"]["seed"]},
        **(card or {}),
    }
    checkpoint = Checkpoint(
        config=model, vocabulary=Vocabulary.default().restricted_to(names), state=state["average"],
        tokens=None if state["kept"] is None else tuple(state["kept"]),
        calibration=calibration or {}, card=values,
    )  # fmt: skip
    return save_checkpoint(checkpoint, output, overwrite)
