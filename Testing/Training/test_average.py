"""The mean of trainings that began with the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from refsam3d_training.__main__ import main
from refsam3d_training.average import average
from refsam3d_training.export import tensors_sha256
from refsam3d_training.model_card import hours_before
from refsam3d_training.origin import origin_of

from RefSAM3DLib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from RefSAM3DLib.errors import CheckpointError, ConfigError


def later(model: Checkpoint, path: Path, change: float, hours: float, origin: Checkpoint | None = None) -> Path:
    """A model file whose weights all lie ``change`` above those of ``model``; ``hours`` of its own."""
    state = {name: value + change if value.is_floating_point() else value for name, value in model.state.items()}
    training = {**model.card["training"], "hours": hours, **({} if origin is None else {"started_from": origin_of(origin)})}
    training["hours_in_all"] = hours + hours_before(training)
    card = {**model.card, "training": training, "tensors_sha256": tensors_sha256(state), "scores": {"of": "these weights"}}
    save_checkpoint(dataclasses.replace(model, state=state, card=card), path)
    return path


@pytest.fixture(scope="module")
def files(tiny_model, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("average")
    first = later(load_checkpoint(tiny_model), folder / "first.safetensors", 0.0, 1.0)
    second = later(load_checkpoint(first), folder / "second.safetensors", 0.5, 0.5, load_checkpoint(first))
    return first, second


def test_every_weight_is_the_mean_and_what_belonged_to_the_parts_is_gone(files, tmp_path):
    out = tmp_path / "mean.safetensors"
    assert main(["average", *map(str, files), "-o", str(out), "--shares", "0.25", "0.75"]) == 0
    mean, first = load_checkpoint(out), load_checkpoint(files[0])
    for name, value in first.state.items():
        if value.is_floating_point():
            torch.testing.assert_close(mean.state[name].float(), value.float() + 0.375, atol=2e-3, rtol=2e-3)  # stored in half precision
    assert mean.calibration == {}
    assert "scores" not in mean.card
    assert mean.card["tensors_sha256"] == tensors_sha256(mean.state)
    training = mean.card["training"]
    assert [part["share"] for part in training["averaged"]] == [0.25, 0.75]
    assert [part["sha256"] for part in training["averaged"]] == [load_checkpoint(path).sha256 for path in files]
    assert training["hours_in_all"] == 1.5, "the second began with the first: its hours hold those of the first"
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "mean of 2 trainings (0.25 of" in page
    assert load_checkpoint(files[1]).card["tensors_sha256"][:12] in page


def test_hours_of_a_training_beside_it_are_added(files, tmp_path):
    """Each training once: that which all began with, and each of the others."""
    beside = later(load_checkpoint(files[0]), tmp_path / "beside.safetensors", 0.1, 2.0, load_checkpoint(files[0]))
    values = average([*files, beside], tmp_path / "mean.safetensors")
    assert [part["share"] for part in values["averaged"]] == [0.3333] * 3
    assert load_checkpoint(tmp_path / "mean.safetensors").card["training"]["hours_in_all"] == 1.0 + 0.5 + 2.0


def test_data_of_every_part_is_stated(files, tmp_path):
    model = load_checkpoint(files[1])
    row = {"name": "another set", "training": 3, "validation": 0, "test": 0, "licence": "CC-BY 4.0", "citation": "Somebody, 2020"}
    other = dataclasses.replace(model, card={**model.card, "data": [*model.card["data"], row], "phantoms": 7})
    save_checkpoint(other, tmp_path / "other.safetensors")
    average([files[1], tmp_path / "other.safetensors"], tmp_path / "mean.safetensors")
    card = load_checkpoint(tmp_path / "mean.safetensors").card
    assert [r["name"] for r in card["data"]] == [*(r["name"] for r in model.card["data"]), "another set"]
    assert card["phantoms"] == 7


def test_what_cannot_be_averaged_is_said(files, tmp_path):
    model = load_checkpoint(files[0])
    out = tmp_path / "mean.safetensors"
    for paths, shares in ((files[:1], None), (files, [1.0]), (files, [0.5, 0.6]), (files, [1.5, -0.5])):
        with pytest.raises(ConfigError, match="together 1"):
            average(paths, out, shares)
    other, fewer = tmp_path / "other.safetensors", tmp_path / "fewer.safetensors"
    save_checkpoint(dataclasses.replace(model, vocabulary=model.vocabulary.restricted_to(["mandible"])), other)
    save_checkpoint(dataclasses.replace(model, state={k: v for n, (k, v) in enumerate(sorted(model.state.items())) if n}), fewer)
    with pytest.raises(CheckpointError, match="other words"):
        average([files[0], other], out)
    with pytest.raises(CheckpointError, match=min(model.state)):
        average([files[0], fewer], out)
    coarser = dataclasses.replace(model.config, grids=tuple(dataclasses.replace(g, spacing_mm=2 * g.spacing_mm) for g in model.config.grids))
    save_checkpoint(dataclasses.replace(model, config=coarser), tmp_path / "coarser.safetensors")
    with pytest.raises(CheckpointError, match="in their configurations"):
        average([files[0], tmp_path / "coarser.safetensors"], out)
    stranger = later(model, tmp_path / "stranger.safetensors", 0.2, 1.0)
    with pytest.raises(CheckpointError, match="did not begin with the same weights"):
        average([files[0], stranger], out)
    assert not out.exists()
