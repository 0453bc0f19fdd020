"""Tiny networks with random weights that are not at their neutral start, so that every term counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.modeling.refsam3d import RefSAM3D
from RefSAM3DLib.resources import resource_path

VOCABULARY = 12


@pytest.fixture(autouse=True)
def _one_thread_no_gradients() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def stir(module: torch.nn.Module) -> torch.nn.Module:
    """Random values in place of every zero start (adapters, relative positions, depth tables, biases)."""
    for parameter in module.parameters():
        if not parameter.any():
            parameter.normal_(std=0.2)
    return module.eval()


@pytest.fixture(name="stir")
def _stir() -> Callable[[torch.nn.Module], torch.nn.Module]:
    return stir


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    config = ModelConfig.load(resource_path("Configs", "test_tiny.json"))
    return dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=VOCABULARY))


@pytest.fixture
def make_model(tiny_config: ModelConfig) -> Callable[..., RefSAM3D]:
    """``make_model(decoder, patch_size=..., stem_channels=..., ...)``: the tiny model, changed."""

    def make(decoder: str = "cached", **image: int) -> RefSAM3D:
        config = dataclasses.replace(
            tiny_config, image=dataclasses.replace(tiny_config.image, **image), decoder=dataclasses.replace(tiny_config.decoder, kind=decoder), grids=()
        )
        torch.manual_seed(0)
        return stir(build_model(config))

    return make
