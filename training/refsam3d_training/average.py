"""The mean of several trainings of one network: often better than each on what the others are better at [ours; no step of the paper].

Wortsman et al., Model soups, 2022: weights of runs that began with the same weights lie close enough for their mean to work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from RefSAM3DLib.errors import CheckpointError, ConfigError

from .export import tensors_sha256
from .model_card import card_markdown, hours_of, limits_of


def average(models: Sequence[Path], output: Path, shares: Sequence[float] | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Write the weighted mean of model files, without calibration and scores, which belong to other weights.

    Args:
        models: files of the same network and words; the card is that of the one that was trained longest. shares: one per file,
            adding up to one (default: equal).

    Returns:
        sha256, bytes and the card's ``averaged``.

    Raises:
        ConfigError: fewer than two files, or shares that do not fit. CheckpointError: files of different networks or words, or that
            began with different weights.
    """
    shares = list(shares) if shares else [1 / len(models)] * len(models)
    if len(models) < 2 or len(shares) != len(models) or not math.isclose(sum(shares), 1, abs_tol=1e-6) or min(shares) < 0:
        raise ConfigError(f"{len(models)} models with the shares {shares}; give two or more models, and a share from 0 for each, together 1.")
    files = [load_checkpoint(path) for path in models]
    _check_alike(files)
    state: dict[str, Tensor] = {}
    for name, first in files[0].state.items():
        if first.is_floating_point():
            state[name] = sum((share * file.state[name].float() for share, file in zip(shares, files, strict=True)), start=first.float() * 0)
        else:
            state[name] = first
    longest = max(files, key=lambda file: _hours(file.card))
    training, data = _training(longest, files, shares), _data(files)
    card = {
        **longest.card, "limits": limits_of(training, data), "tensors_sha256": tensors_sha256(state), "training": training,
        "data": data, "phantoms": max(file.card.get("phantoms") or 0 for file in files),
    }  # fmt: skip
    card.pop("scores", None)
    output.parent.mkdir(parents=True, exist_ok=True)
    digest = save_checkpoint(dataclasses.replace(longest, state=state, calibration={}, card=card), output, overwrite)
    size = output.stat().st_size
    with write_aside(output.with_suffix(".md"), overwrite=True) as aside:
        aside.write_text(card_markdown(longest.config.name, card, digest, size), encoding="utf-8")
    return {"sha256": digest, "bytes": size, "averaged": card["training"]["averaged"]}


def _check_alike(files: Sequence[Checkpoint]) -> None:
    first = files[0]
    shapes = {name: value.shape for name, value in first.state.items()}
    for file in files[1:]:
        if file.tokens != first.tokens or file.vocabulary.names != first.vocabulary.names:
            raise CheckpointError(f"'{file.path}' knows other words than '{first.path}'; average models of one vocabulary.")
        different = [n for n in {*shapes, *file.state} if n not in shapes or n not in file.state or file.state[n].shape != shapes[n]]
        if different or _comparable(file) != _comparable(first):
            where = f"first at '{min(different)}'" if different else "in their configurations"
            raise CheckpointError(f"'{file.path}' and '{first.path}' are different networks, {where}; average models of one configuration.")
        if not {*_runs(first)} & {*_runs(file)}:
            raise CheckpointError(f"'{file.path}' and '{first.path}' did not begin with the same weights, so their mean is no model; average others.")


def _comparable(file: Checkpoint) -> dict[str, Any]:
    """The configuration without what a training may change: its name and the fields of view that it saw."""
    values = {**file.config.to_dict(), "name": ""}
    return {**values, "grids": [{**grid, "extent_mm": ()} for grid in values["grids"]]}


def _hours(card: dict[str, Any]) -> float:
    training = card.get("training", {})
    return float(training.get("hours_in_all", training.get("hours", 0.0)))


def _runs(file: Checkpoint) -> dict[str, float]:
    """Hours of every training that went into a model, by a hash of the weights that came out of it (the file's, where it tells no other)."""
    training = file.card.get("training", {})
    runs = {_key(file.card.get("tensors_sha256"), file.sha256): hours_of(training)}
    while start := training.get("started_from"):
        training = start.get("training", {})
        runs[_key(start.get("tensors_sha256"), start.get("sha256", ""))] = hours_of(training)
    return runs


def _key(tensors: str | None, file: str) -> str:
    return tensors or file


def _data(files: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Statements on the data of all files, each set once."""
    return list({row["name"]: row for file in files for row in file.card.get("data", [])}.values())


def _training(longest: Checkpoint, files: Sequence[Checkpoint], shares: Sequence[float]) -> dict[str, Any]:
    """Values of the longest training, with the hours of all trainings that went into any of the files, each counted once."""
    runs = {key: hours for file in files for key, hours in _runs(file).items()}
    training = {**longest.card.get("training", {}), "hours_in_all": round(sum(runs.values()), 2)}
    if "energy_kwh" in training:
        training["energy_kwh"] = round(training["hours_in_all"] * training["power_watts_assumed"] / 1000, 3)
    training["averaged"] = [
        {"name": f.config.name, "sha256": f.sha256, "tensors_sha256": f.card.get("tensors_sha256", ""), "share": round(s, 4)}
        for f, s in zip(files, shares, strict=True)
    ]
    return training
