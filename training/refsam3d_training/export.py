"""From a training state to the engine's checkpoint with its model card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from RefSAM3DLib.checkpoint import Calibration, Checkpoint, save_checkpoint
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


def load_state(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training state, resolved configuration) of a run.

    Raises:
        CheckpointError: the run has no state.
    """
    if not (run / "state.pt").is_file() or not (run / "config.json").is_file():
        raise CheckpointError(f"'{run}' holds no state.pt with its config.json; train first, or give another run folder.")
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    return state, json.loads((run / "config.json").read_text(encoding="utf-8"))


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
        config=model, vocabulary=Vocabulary.default().restricted_to(names), tokens=tuple(state["kept"]), state=state["average"],
        calibration=calibration or {}, card=values,
    )  # fmt: skip
    return save_checkpoint(checkpoint, output, overwrite)
