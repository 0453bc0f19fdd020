"""``refsam3d inflate`` from published files to a checkpoint that says it is untrained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from RefSAM3DLib.checkpoint import load_checkpoint
from RefSAM3DLib.cli.main import main
from RefSAM3DLib.config import ImageEncoderConfig, ModelConfig, PromptConfig, TextEncoderConfig
from RefSAM3DLib.modeling.build import build_model

DIM, DEPTH = 16, 4


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    image = ImageEncoderConfig(patch_size=16, dim=DIM, depth=DEPTH, num_heads=2, window_size=4, position_grid=(2, 8, 8), stem_channels=0, level_dim=8)
    config = ModelConfig("tiny-inflated", image, TextEncoderConfig(width=16, heads=2, layers=1, vocab_size=8), PromptConfig(16, 2, 8, 16))
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    return path


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    r, state = torch.randn, {"image_encoder.pos_embed": torch.randn(1, 8, 8, DIM)}
    state |= {"image_encoder.patch_embed.proj.weight": r(DIM, 3, 16, 16), "image_encoder.patch_embed.proj.bias": r(DIM)}
    for n in range(DEPTH):
        block = {"attn.rel_pos_h": r(27, 8), "attn.rel_pos_w": r(27, 8), "attn.qkv.weight": r(3 * DIM, DIM), "attn.qkv.bias": r(3 * DIM)}
        block |= {"attn.proj.weight": r(DIM, DIM), "mlp.lin1.weight": r(4 * DIM, DIM), "mlp.lin1.bias": r(4 * DIM), "mlp.lin2.weight": r(DIM, 4 * DIM)}
        block |= {name: r(DIM) for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.proj.bias", "mlp.lin2.bias")}
        state |= {f"image_encoder.blocks.{n}.{name}": value for name, value in block.items()}
    path = tmp_path / "sam_vit_t.pth"
    torch.save(state | {"image_encoder.neck.0.weight": r(8, DIM, 1, 1)}, path)
    return path


def test_checkpoint_holds_the_inflated_weights_and_says_that_it_is_untrained(
    config_file: Path, sam_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["inflate", "--config", str(config_file), "--sam", str(sam_file), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "image_encoder.blocks.*.attn.qkv.weight  x4" in printed
    assert "image_encoder.neck.*.weight" in printed
    assert "text tower has random weights" in printed
    checkpoint = load_checkpoint(out)
    assert checkpoint.card["limits"] == "untrained adapters: not usable before training"
    assert checkpoint.card["sources"][0]["file"] == "sam_vit_t.pth"
    assert str(tmp_path) not in json.dumps(checkpoint.card["sources"])
    published = torch.load(sam_file, weights_only=True)
    torch.testing.assert_close(checkpoint.state["image_encoder.blocks.2.mlp.lin1.weight"], published["image_encoder.blocks.2.mlp.lin1.weight"].half())
    checkpoint.build()


def test_text_weights_and_the_papers_decoder_are_taken_on_request(config_file: Path, sam_file: Path, tmp_path: Path) -> None:
    config = ModelConfig.load(config_file)
    tower = build_model(config).text_encoder.tower.state_dict()
    text, out = tmp_path / "text.pt", tmp_path / "out.safetensors"
    torch.save({name: torch.full_like(value, 0.5) for name, value in tower.items()}, text)
    arguments = ["inflate", "--config", str(config_file), "--sam", str(sam_file), "--text", str(text), "--decoder", "paper", "-o", str(out)]
    assert main(arguments) == 0
    checkpoint = load_checkpoint(out)
    assert checkpoint.config == dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, kind="paper"))
    assert (checkpoint.state["text_encoder.tower.ln_final.weight"] == 0.5).all()
    assert len(checkpoint.card["inflated"]) == 2
    assert main(arguments) == 1  # the file is there


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--config": "vit_x"}, "use one of test_tiny, vit_b, vit_h, vit_l, vit_t"),
        ({"--sam": "none.pth"}, "'none.pth' does not exist"),
        ({"--text": "none.pt"}, "'none.pt' does not exist"),
        ({"-o": "nowhere/out.safetensors"}, "'nowhere' does not exist"),
    ],
)
def test_mistake_is_one_sentence_and_writes_nothing(
    config_file: Path, sam_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], words: str
) -> None:
    given = {"--config": str(config_file), "--sam": str(sam_file), "-o": str(tmp_path / "out.safetensors"), **change}
    assert main(["inflate", *(part for pair in given.items() for part in pair)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()
