"""Text towers by open_clip's names, from files in the layout that open_clip publishes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from RefSAM3DLib.config import ImageEncoderConfig, ModelConfig, PromptConfig, TextEncoderConfig
from RefSAM3DLib.errors import CheckpointError, ConfigError
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.modeling.text_encoder import TextEncoder, pad_tokens
from RefSAM3DLib.text.tokenizer import PromptTokenizer
from RefSAM3DLib.text.tower import load_text_tower

NAME = "Tiny-CLIP-for-tests"
WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT, JOINT = 16, 2, 2, 49408, 77, 12


@pytest.fixture
def tiny_tower(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tower of few channels under a name of its own, otherwise like ViT-B-16's."""
    import open_clip

    known = open_clip.get_model_config
    settings = {"embed_dim": JOINT, "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": WIDTH, "heads": HEADS, "layers": LAYERS}}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: settings if name == NAME else known(name))
    return settings


def published_state(prefix: str = "", layers: int = LAYERS, width: int = WIDTH) -> dict[str, Tensor]:
    """Key layout of an open_clip CLIP file: text tower at the root or under ``text.``, image tower under ``visual.``."""
    torch.manual_seed(5)
    r = torch.randn
    text = {"positional_embedding": r(CONTEXT, width), "text_projection": r(width, JOINT), "token_embedding.weight": r(VOCABULARY, width)}
    for n in range(layers):
        block = {"ln_1.weight": r(width), "ln_1.bias": r(width), "attn.in_proj_weight": r(3 * width, width), "attn.in_proj_bias": r(3 * width)}
        block |= {"attn.out_proj.weight": r(width, width), "attn.out_proj.bias": r(width), "ln_2.weight": r(width), "ln_2.bias": r(width)}
        block |= {"mlp.c_fc.weight": r(4 * width, width), "mlp.c_fc.bias": r(4 * width)}
        block |= {"mlp.c_proj.weight": r(width, 4 * width), "mlp.c_proj.bias": r(width)}
        text |= {f"transformer.resblocks.{n}.{name}": value for name, value in block.items()}
    text |= {"ln_final.weight": r(width), "ln_final.bias": r(width)}
    visual = {"visual.conv1.weight": r(8, 3, 16, 16), "visual.transformer.resblocks.0.ln_1.weight": r(8), "logit_scale": r(())}
    return {f"{prefix}{name}": value for name, value in text.items()} | visual


def config(name: str = NAME) -> ModelConfig:
    image = ImageEncoderConfig(patch_size=8, dim=16, depth=4, num_heads=2, window_size=4, position_grid=(4, 4, 4), stem_channels=2, level_dim=8)
    text = TextEncoderConfig(name=name, context_length=CONTEXT)
    return ModelConfig("tiny-text", image, text, PromptConfig(16, 2, 8, 8))


def as_torch(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"epoch": 1, "name": "run", "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


def as_bin(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def as_safetensors(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path)
    return path


@pytest.mark.usefixtures("tiny_tower")
@pytest.mark.parametrize("prefix", ["", "text."])
@pytest.mark.parametrize(("write", "ending"), [(as_torch, ".pt"), (as_bin, ".bin"), (as_safetensors, ".safetensors")])
def test_every_published_form_is_read(tmp_path: Path, prefix: str, write, ending: str) -> None:
    state = published_state(prefix)
    model = build_model(config())
    report = load_text_tower(model, write(state, tmp_path / f"clip{ending}"))
    assert sorted([*report.used, *report.left_over]) == sorted(state)
    assert set(report.left_over) == {"visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.weight", "logit_scale"}
    assert report.missing == []
    assert "transformer.resblocks.*.attn.in_proj_weight  x2" in report.table()
    for name, value in model.text_encoder.tower.state_dict().items():
        assert torch.equal(value, state[prefix + name]), name


@pytest.mark.usefixtures("tiny_tower")
def test_words_are_those_of_open_clips_own_model(tmp_path: Path) -> None:
    """The causal transformer written out: pre-norm blocks, the last norm, words before the projection."""
    import torch.nn.functional as F

    state = published_state()
    model = build_model(config()).eval()
    load_text_tower(model, as_bin(state, tmp_path / "clip.bin"))
    ids = pad_tokens([PromptTokenizer(None).encode("the left parotid gland!")], CONTEXT)
    count = int((ids != 0).sum()) + int((ids[0, : ids.argmax()] == 0).sum())
    with torch.no_grad():
        found = model.text_encoder(ids)
    x = state["token_embedding.weight"][ids[0, :count]] + state["positional_embedding"][:count]
    hidden = torch.full((count, count), float("-inf")).triu(1)
    for n in range(LAYERS):
        p = {name.removeprefix(f"transformer.resblocks.{n}."): v for name, v in state.items() if name.startswith(f"transformer.resblocks.{n}.")}
        q, k, v = F.linear(F.layer_norm(x, (WIDTH,), p["ln_1.weight"], p["ln_1.bias"]), p["attn.in_proj_weight"], p["attn.in_proj_bias"]).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(0, 1) for t in (q, k, v))
        out = ((q @ k.mT / (WIDTH / HEADS) ** 0.5 + hidden).softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + F.linear(out, p["attn.out_proj.weight"], p["attn.out_proj.bias"])
        inner = F.gelu(F.linear(F.layer_norm(x, (WIDTH,), p["ln_2.weight"], p["ln_2.bias"]), p["mlp.c_fc.weight"], p["mlp.c_fc.bias"]))
        x = x + F.linear(inner, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])
    expected = F.layer_norm(x, (WIDTH,), state["ln_final.weight"], state["ln_final.bias"])
    assert found.words.shape[1] == count
    torch.testing.assert_close(found.words[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("tiny_tower")
@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: {"conv.weight": torch.zeros(2)}, "none of the names of a text tower"),
        (lambda: published_state(width=24), r"shape \(77, 24\).*has \(77, 16\); set text\.name"),
        (lambda: published_state(layers=1), r"lacks 'transformer\.resblocks\.1\."),
        (lambda: published_state(layers=3), r"has 'transformer\.resblocks\.2\."),
    ],
)
def test_another_tower_is_refused_and_the_model_left_alone(tmp_path: Path, state, words: str) -> None:
    path = as_safetensors(state(), tmp_path / "other.safetensors")
    model = build_model(config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as caught:
        load_text_tower(model, path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(".")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("tiny_tower")
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b'{"not": "weights"}'])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_damaged_file_is_one_sentence(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"damaged{ending}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        load_text_tower(build_model(config()), path)
    assert "\n" not in str(caught.value)


def test_name_and_tag_are_looked_up_by_open_clip(tiny_tower: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    path = as_bin(published_state(), tmp_path / "cached.bin")
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["some_tag"] if name == NAME else [])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"name": name, "tag": tag})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: str(path) if cfg == {"name": NAME, "tag": "some_tag"} else "")
    report = load_text_tower(build_model(config()), f"{NAME}:some_tag")
    assert "token_embedding.weight" in report.used
    with pytest.raises(CheckpointError, match=rf"write '{NAME}:TAG' with one of some_tag"):
        load_text_tower(build_model(config()), NAME)
    with pytest.raises(CheckpointError, match="neither a file nor published weights"):
        load_text_tower(build_model(config()), "no-such-tower:tag")
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["some_tag"])
    with pytest.raises(CheckpointError, match=rf"is '{NAME}', not 'ViT-B-32'"):
        load_text_tower(build_model(config()), "ViT-B-32:some_tag")

    def offline(cfg: dict) -> str:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(CheckpointError, match=r"could not fetch .*no network"):
        load_text_tower(build_model(config()), f"{NAME}:some_tag")


def test_activation_of_the_configuration_is_kept(tiny_tower: dict[str, Any]) -> None:
    """OpenAI's weights were trained with a sigmoid in place of the error function; with the wrong one every word is off."""
    from open_clip.transformer import QuickGELU

    tiny_tower["quick_gelu"] = True
    tower = TextEncoder(TextEncoderConfig(name=NAME)).tower
    assert any(isinstance(module, QuickGELU) for module in tower.modules())


@pytest.mark.parametrize(
    ("name", "words"),
    [("no-such", "knows no text tower 'no-such'"), ("roberta-ViT-B-32", "roberta-base"), ("ViT-B-16-SigLIP", "tokens of")],
)
def test_tower_that_cannot_be_used_is_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TextEncoder(TextEncoderConfig(name=name))


def test_context_longer_than_the_towers_is_refused(tiny_tower: dict[str, Any]) -> None:
    tiny_tower["text_cfg"]["context_length"] = 32
    with pytest.raises(ConfigError, match="at most 32 tokens, not 77"):
        TextEncoder(TextEncoderConfig(name=NAME, context_length=77))


def test_vit_b_16_at_full_size(tmp_path: Path) -> None:
    """The tower of ``vit_b.json``: names, shapes and sizes of the published file (63.4 million parameters)."""
    model = build_model(dataclasses.replace(config("ViT-B-16"), prompt=PromptConfig(16, 2, 8, 8)))
    tower = model.text_encoder.tower
    expected = {"positional_embedding": (77, 512), "text_projection": (512, 512), "token_embedding.weight": (49408, 512)}
    state = {name: torch.full_like(value, 0.01) for name, value in tower.state_dict().items()}
    assert {name: tuple(state[name].shape) for name in expected} == expected
    assert sum(value.numel() for value in state.values()) == 63_428_096
    assert sum(".attn.in_proj_weight" in name for name in state) == 12
    report = load_text_tower(model, as_safetensors(state, tmp_path / "open_clip_model.safetensors"))
    assert len(report.used) == len(state) == 149
    assert torch.equal(tower.ln_final.weight, state["ln_final.weight"])
