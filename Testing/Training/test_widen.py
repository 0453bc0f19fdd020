"""A wider decoder that begins as the narrower one."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from refsam3d_training.__main__ import main
from refsam3d_training.export import tensors_sha256
from refsam3d_training.widen import DETAIL, EMBEDDING, widen, widened

from RefSAM3DLib.checkpoint import load_checkpoint
from RefSAM3DLib.config import DecoderConfig
from RefSAM3DLib.errors import ConfigError


@pytest.fixture
def wider(tiny_model):
    """The tiny model, and a configuration whose decoder has more of both."""
    base = load_checkpoint(tiny_model)
    return base, dataclasses.replace(base.config, decoder=dataclasses.replace(base.config.decoder, pixel_dim=7, detail_channels=3))


def masks(model, prompts: int = 2) -> torch.Tensor:
    """What a network draws on one tile of noise."""
    torch.manual_seed(0)
    features, pixels = model.encode_image(torch.randn(1, 3, 32, 32, 32), torch.tensor([0]))
    return model.forward_tile(features, pixels, 0, model.encode_text(torch.randint(2, 20, (prompts, 6)))).mask


def test_the_wider_network_draws_the_same_and_its_new_channels_can_learn(wider):
    base, config = wider
    wide = dataclasses.replace(base, config=config, state=widened(base, config)).build()
    before = masks(base.build())
    torch.testing.assert_close(masks(wide), before)
    wide.requires_grad_(True)
    masks(wide).square().mean().backward()
    rows = wide.mask_embedding.layers[2].weight.grad[:-1].unflatten(0, (8, -1))
    old = base.config.decoder.pixel_dim
    assert rows[:, old:].abs().max() > 0, "prompts must be able to take from the new pixel features"
    with torch.no_grad():
        wide.mask_embedding.layers[2].weight[:-1].unflatten(0, (8, -1))[:, old:].add_(0.1)
    wide.zero_grad()
    drawn = masks(wide)
    assert not torch.allclose(drawn, before)
    drawn.square().mean().backward()
    assert wide.pixel_path.detail[0].weight.grad.abs().max() > 0


def test_the_command_keeps_calibration_and_says_what_it_came_from(tiny_model, tmp_path):
    base = load_checkpoint(tiny_model)
    values = {**base.config.to_dict(), "decoder": {**dataclasses.asdict(base.config.decoder), "pixel_dim": 9, "detail_channels": 2}}
    config = tmp_path / "wider.json"
    config.write_text(json.dumps(values), encoding="utf-8")
    out = tmp_path / "wide.safetensors"
    assert main(["widen", str(tiny_model), "--model", str(config), "-o", str(out)]) == 0
    wide = load_checkpoint(out)
    assert wide.config.decoder.pixel_dim == 9
    assert wide.calibration == base.calibration
    assert wide.card["widened_from"]["sha256"] == base.sha256
    assert wide.card["tensors_sha256"] == tensors_sha256(wide.state)
    assert len(wide.state[f"{EMBEDDING}.bias"]) == 8 * 9 + 1
    again = tmp_path / "again.safetensors"
    widen(tiny_model, str(config), again)
    assert tensors_sha256(load_checkpoint(again).state) == tensors_sha256(wide.state), "the same seed draws the same new channels"


def test_a_convolution_learns_to_read_voxels_beginning_with_none(wider):
    """Second growth: the same channels, which see the raw image too."""
    base, config = wider
    base = dataclasses.replace(base, config=config, state=widened(base, config))
    reading = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, detail_reads_voxels=True))
    wide = dataclasses.replace(base, config=reading, state=widened(base, reading)).build()
    torch.testing.assert_close(masks(wide), masks(base.build()))
    old = base.state[DETAIL].shape[1]
    assert wide.pixel_path.detail[0].weight.shape[1] == old + 8 * config.image.in_channels
    with torch.no_grad():  # as after a step, which lets prompts take from the new pixel features
        wide.mask_embedding.layers[2].weight.add_(0.1)
    wide.requires_grad_(True)
    masks(wide).square().mean().backward()
    assert wide.pixel_path.detail[0].weight.grad[:, old:].abs().max() > 0


def test_a_residual_unit_changes_nothing_at_first_and_can_learn(wider):
    """Third growth: more convolutions before the outlines are read."""
    base, config = wider
    base = dataclasses.replace(base, config=config, state=widened(base, config))
    deeper = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, detail_residual=5))
    wide = dataclasses.replace(base, config=deeper, state=widened(base, deeper)).build()
    before = masks(base.build())
    torch.testing.assert_close(masks(wide), before)
    with torch.no_grad():  # as after a step, which lets prompts take from the new pixel features
        wide.mask_embedding.layers[2].weight.add_(0.1)
    wide.requires_grad_(True)
    masks(wide).square().mean().backward()
    scale = wide.pixel_path.refine.layers[-1].weight
    assert scale.grad.abs().max() > 0
    with torch.no_grad():
        scale.add_(0.1)
    wide.zero_grad()
    masks(wide).square().mean().backward()
    assert wide.pixel_path.refine.layers[0][0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("values", [{"detail_reads_voxels": True}, {"detail_residual": 8}])
def test_voxels_are_read_by_a_convolution_that_is_there(values):
    with pytest.raises(ConfigError, match="needs detail_channels"):
        DecoderConfig(**values)


@pytest.mark.parametrize("changes", [{"pixel_dim": 4}, {"pixel_dim": 2, "detail_channels": 4}, {"pixel_dim": 9, "channels": 4}, {"kind": "paper"}])
def test_what_cannot_grow_is_refused(tiny_model, tmp_path, changes):
    base = load_checkpoint(tiny_model)
    values = {**base.config.to_dict(), "decoder": {**dataclasses.asdict(base.config.decoder), **changes}}
    config = tmp_path / "other.json"
    config.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match="greater pixel_dim"):
        widen(tiny_model, str(config), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
