"""Every shipped configuration can be built, and has the size that the documents say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.resources import resource_path

NAMES = sorted(path.stem for path in resource_path("Configs").glob("*.json"))


def parameters(module: torch.nn.Module) -> float:
    """Millions."""
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("decoder", ["cached", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_configuration_builds(name: str, decoder: str) -> None:
    config = ModelConfig.load(resource_path("Configs", f"{name}.json"))
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, kind=decoder), text=dataclasses.replace(config.text, name=""))
    with torch.device("meta"):
        model = build_model(config)
    assert (model.paper_decoder is None) == (decoder == "cached")
    assert (model.pixel_path is None) == (model.mask_embedding is None) == (decoder == "paper")
    assert model.image_encoder.domain_embed.num_embeddings == max(1, 2 * len(config.grids))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_text_tower_of_a_configuration_is_what_open_clip_says(name: str) -> None:
    import open_clip

    text = ModelConfig.load(resource_path("Configs", f"{name}.json")).text
    published = open_clip.get_model_config(text.name)["text_cfg"]
    assert {k: getattr(text, k) for k in published} == published


def test_vit_b_has_the_frozen_and_trained_sizes_of_the_method() -> None:
    config = ModelConfig.load(resource_path("Configs", "vit_b.json"))
    with torch.device("meta"):
        encoder = build_model(dataclasses.replace(config, text=dataclasses.replace(config.text, name=""))).image_encoder
    trained = sum(parameters(m) for m in (encoder.level_adapters, encoder.necks)) + sum(parameters(b.adapter) for b in encoder.blocks)
    frozen = parameters(encoder) - trained
    assert frozen == pytest.approx(88.9, rel=0.03)
    assert parameters(encoder.blocks[0].adapter) == pytest.approx(0.6, rel=0.05)


def test_default_fits_the_repository() -> None:
    """16 MB in half precision, with 300 kept tokens."""
    config = ModelConfig.load(resource_path("Configs", "vit_t.json"))
    with torch.device("meta"):
        model = build_model(dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=300)))
    assert parameters(model) * 2 < 16


def test_same_seed_gives_the_same_weights() -> None:
    config = ModelConfig.load(resource_path("Configs", "test_tiny.json"))
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build_model(config).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
