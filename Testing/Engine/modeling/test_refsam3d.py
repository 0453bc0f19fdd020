"""The composed model: encoding never sees a prompt, and prompts and tiles keep to themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch

from RefSAM3DLib.modeling.refsam3d import PromptFeatures, RefSAM3D

IDS = torch.tensor([[2, 5, 3, 0, 0], [2, 7, 8, 9, 3], [2, 1, 3, 0, 0]])


@pytest.fixture(params=["cached", "paper"])
def model(request: pytest.FixtureRequest, make_model: Callable[..., RefSAM3D]) -> RefSAM3D:
    return make_model(request.param, patch_size=4, position_grid=(2, 2, 2), window_size=2)


def tiles() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return torch.randn(2, 3, 8, 12, 8), torch.zeros(2, dtype=torch.long)


def test_no_argument_of_the_encoding_is_a_prompt() -> None:
    assert list(inspect.signature(RefSAM3D.encode_image).parameters) == ["self", "volume", "domain"]
    assert list(inspect.signature(RefSAM3D.cache_levels).parameters) == ["self", "features", "index"]


def test_encoding_is_the_same_before_between_and_after_prompts(model: RefSAM3D) -> None:
    features, pixels = model.encode_image(*tiles())
    model.forward_tile(features, pixels, 0, model.encode_text(IDS))
    again, again_pixels = model.encode_image(*tiles())
    for a, b in zip(features.levels, again.levels, strict=True):
        assert torch.equal(a, b)
    if pixels is not None:
        assert torch.equal(pixels, again_pixels)


def test_answer_does_not_depend_on_the_text_tower_until_it_is_asked(model: RefSAM3D) -> None:
    """The encoding is untouched by any weight of the text branch."""
    features, pixels = model.encode_image(*tiles())
    for module in (model.text_encoder, model.projector, model.cross_attention, model.reader):
        for parameter in module.parameters():
            parameter.add_(1)
    again, again_pixels = model.encode_image(*tiles())
    assert all(torch.equal(a, b) for a, b in zip(features.levels, again.levels, strict=True))
    assert pixels is None or torch.equal(pixels, again_pixels)


def test_tile_output_has_the_shapes_of_the_contract(model: RefSAM3D) -> None:
    features, pixels = model.encode_image(*tiles())
    out = model.forward_tile(features, pixels, 1, model.encode_text(IDS))
    assert out.mask.shape == (3, 8, 12, 8)
    assert out.presence.shape == (3,)
    assert out.coarse.shape == (3, 2, 3, 2)
    assert torch.isfinite(out.mask).all()


def test_batch_of_two_tiles_is_two_of_one(model: RefSAM3D) -> None:
    volume, domain = tiles()
    prompt = model.encode_text(IDS)
    features, pixels = model.encode_image(volume, domain)
    for n in range(2):
        own, own_pixels = model.encode_image(volume[n : n + 1], domain[n : n + 1])
        alone, together = model.forward_tile(own, own_pixels, 0, prompt), model.forward_tile(features, pixels, n, prompt)
        torch.testing.assert_close(alone.mask, together.mask, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone.presence, together.presence, rtol=1e-3, atol=1e-4)


def test_batch_of_prompts_is_one_by_one(model: RefSAM3D) -> None:
    features, pixels = model.encode_image(*tiles())
    prompt = model.encode_text(IDS)
    together = model.forward_tile(features, pixels, 0, prompt)
    for p in range(3):
        alone = model.forward_tile(features, pixels, 0, model.encode_text(IDS[p : p + 1]))
        torch.testing.assert_close(alone.mask[0], together.mask[p], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone.presence[0], together.presence[p], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model.forward_tile(features, pixels, 0, prompt.select(slice(p, p + 1))).mask[0], alone.mask[0], rtol=1e-3, atol=1e-3)


def test_sentence_is_the_last_word_and_words_are_projected(model: RefSAM3D) -> None:
    prompt = model.encode_text(IDS)
    text = model.text_encoder(IDS)
    assert prompt.words.shape[1] == text.words.shape[1] + 1
    torch.testing.assert_close(prompt.words[:, -1], model.projector(text.sentence))
    torch.testing.assert_close(prompt.words[:, :-1], model.projector(text.words))
    assert prompt.mask[:, -1].all()
    assert torch.equal(prompt.mask[:, :-1], text.mask)


def test_wording_changes_the_mask(model: RefSAM3D) -> None:
    features, pixels = model.encode_image(*tiles())
    mask = model.forward_tile(features, pixels, 0, model.encode_text(IDS)).mask
    assert float((mask[0] - mask[1]).abs().max()) > 1e-4


def test_gradients_reach_every_trained_part(make_model: Callable[..., RefSAM3D]) -> None:
    """Adapters, levels, necks, cross-attention, reader and decoder all learn from one tile (method: what is trained)."""
    model = make_model("cached", patch_size=4, position_grid=(2, 2, 2), window_size=2)
    with torch.enable_grad():
        features, pixels = model.encode_image(*tiles())
        out = model.forward_tile(features, pixels, 0, model.encode_text(IDS))
        (out.mask.square().mean() + out.presence.square().sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    unread = {"text_encoder.tower.token_embedding.weight"}
    assert not [name for name in without if name not in unread and "key.bias" not in name], without


def test_words_read_beforehand_and_stacked_are_read_as_each_alone(model: RefSAM3D) -> None:
    """Texts of different length, padded: the padding of the words' half adds nothing."""
    features, _ = model.encode_image(*tiles())
    levels = model.cross_attention.join(model.cache_levels(features, 0))
    prompts = [model.encode_text(ids[None, :n]) for ids, n in zip(IDS, (3, 5, 3), strict=True)]
    stacked = PromptFeatures.stack([model.cache_words(p) for p in prompts])
    assert stacked.cache is not None
    assert stacked.cache.folded.shape[:3] == (3, stacked.cache.keys.shape[1], 6)
    together = model.read_joined(levels, stacked)
    for n, prompt in enumerate(prompts):
        alone = model.read_joined(levels, prompt)
        torch.testing.assert_close(together.tokens[n], alone.tokens[0], rtol=1e-3, atol=1e-4)
        one = model.read_joined(levels, stacked.select(slice(n, n + 1)))
        torch.testing.assert_close(one.coarse[0], alone.coarse[0], rtol=1e-3, atol=1e-4)
    assert PromptFeatures.stack([prompts[0], model.cache_words(prompts[1])]).cache is None
