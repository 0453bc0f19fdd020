"""Checkpoints and adapters on disk: what is read is what was written, and nothing else is read."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from RefSAM3DLib.checkpoint import Calibration, Checkpoint, apply_adapter, file_sha256, load_checkpoint, save_adapter, save_checkpoint
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import CheckpointError, OutputError
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.resources import resource_path
from RefSAM3DLib.text.vocabulary import Vocabulary

NAMES = ("brainstem", "left parotid gland", "right parotid gland")


def make_checkpoint() -> Checkpoint:
    config = ModelConfig.load(resource_path("Configs", "test_tiny.json"))
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=5))
    torch.manual_seed(0)
    calibration = {"head_neck": Calibration(0.5, -0.25, 0.8, 0.2, 0.4, {"brainstem": 0.875})}
    card = {"name": "tiny", "licence": "Apache-2.0", "scores": {"brainstem": 0.5}, "text": "Übung µ"}
    return Checkpoint(config, Vocabulary.default().restricted_to(NAMES), (320, 49406, 49407), build_model(config).state_dict(), calibration, card)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(make_checkpoint(), path)
    return path


def rewritten(source: Path, target: Path, **changes: str | None) -> Path:
    """The file with another header."""
    with safe_open(source, framework="pt") as file:
        header = dict(file.metadata())
    header |= {k: v for k, v in changes.items() if v is not None}
    for key in [k for k, v in changes.items() if v is None]:
        del header[key]
    save_file(load_file(source), target, metadata=header)
    return target


def test_round_trip_keeps_everything_and_halves_the_weights(stored: Path) -> None:
    made, found = make_checkpoint(), load_checkpoint(stored)
    assert (found.config, found.vocabulary, found.tokens, found.calibration, found.card) == (
        made.config, made.vocabulary, made.tokens, made.calibration, made.card,
    )  # fmt: skip
    assert found.sha256 == file_sha256(stored)
    assert found.path == str(stored)
    assert set(found.state) == set(made.state)
    assert all(v.dtype == torch.float16 for v in found.state.values() if v.is_floating_point())
    for name, value in found.build().state_dict().items():
        torch.testing.assert_close(value, made.state[name], rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_colleagues_can_read_a_model_file_as_any_other_new_file(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    assert stored.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_built_network_is_frozen_single_precision_and_in_evaluation_mode(stored: Path) -> None:
    model = load_checkpoint(stored).build()
    assert not model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())


def test_storing_what_was_loaded_changes_no_bit_of_it(stored: Path, tmp_path: Path) -> None:
    """The bytes of the file may differ: safetensors writes its header's entries in an order of its own each time."""
    again = tmp_path / "again.safetensors"
    save_checkpoint(load_checkpoint(stored), again)
    before, after = load_file(stored), load_file(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with safe_open(stored, framework="pt") as one, safe_open(again, framework="pt") as two:
        assert one.metadata() == two.metadata()


def test_published_tower_has_no_tokens_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "named.safetensors"
    save_checkpoint(dataclasses.replace(make_checkpoint(), tokens=None), path)
    assert load_checkpoint(path).tokens is None


def test_existing_file_is_kept_unless_told_otherwise(stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        save_checkpoint(make_checkpoint(), path)
    assert path.read_text() == "precious"
    save_checkpoint(make_checkpoint(), path, overwrite=True)
    assert load_checkpoint(path).card["name"] == "tiny"
    assert list(tmp_path.iterdir()) == [path]




def _pickle(path: Path, _: Path) -> None:
    torch.save(make_checkpoint().state, path)


def _plain_pickle(path: Path, _: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def _truncated(path: Path, source: Path) -> None:
    data = source.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _flipped_header(path: Path, source: Path) -> None:
    data = bytearray(source.read_bytes())
    data[12:40] = b"\xff" * 28
    path.write_bytes(bytes(data))


def _foreign(path: Path, _: Path) -> None:
    save_file({"w": torch.zeros(2)}, path, metadata={"format": "pt"})


def _no_header(path: Path, _: Path) -> None:
    save_file({"w": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_pickle, "no readable safetensors file"),
        (_plain_pickle, "no readable safetensors file"),
        (_truncated, "no readable safetensors file"),
        (_flipped_header, "no readable safetensors file"),
        (lambda p, s: p.write_bytes(b""), "no readable safetensors file"),
        (_foreign, "no RefSAM3D checkpoint .*another program's weights"),
        (_no_header, "no RefSAM3D checkpoint"),
        (lambda p, s: p.mkdir(), "does not exist"),
        (lambda p, s: None, "does not exist"),
        (lambda p, s: rewritten(s, p, format_version="2"), "format version 2, this program reads up to 1; update"),
        (lambda p, s: rewritten(s, p, format_version="new"), "format version new"),
        (lambda p, s: rewritten(s, p, kind="refsam3d-adapter"), "it says 'refsam3d-adapter'"),
        (lambda p, s: rewritten(s, p, vocabulary="{"), "header of .* is damaged"),
        (lambda p, s: rewritten(s, p, tokens="3"), "header of .* is damaged"),
        (lambda p, s: rewritten(s, p, calibration='{"g": {"colour": 1}}'), "header of .* is damaged"),
        (lambda p, s: rewritten(s, p, calibration="[]"), "header of .* is damaged"),
        (lambda p, s: rewritten(s, p, card=None), "header of .* is damaged"),
        (lambda p, s: rewritten(s, p, config='{"name": "m", "speed": 3}'), "header of .*speed"),
        (lambda p, s: rewritten(s, p, vocabulary='{"format": 9}'), "header of .*"),
    ],
)
def test_unusable_file_is_one_sentence_with_its_name(tmp_path: Path, stored: Path, write, words: str) -> None:
    path = tmp_path / "bad.safetensors"
    write(path, stored)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")


def test_weights_of_another_size_are_named(stored: Path) -> None:
    checkpoint = load_checkpoint(stored)
    wider = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, image=dataclasses.replace(checkpoint.config.image, level_dim=8)))
    with pytest.raises(CheckpointError, match="do not fit their own configuration") as caught:
        wider.build()
    assert "\n" not in str(caught.value)


def test_adapter_replaces_its_parameters_and_brings_its_own_words(stored: Path, tmp_path: Path) -> None:
    base = load_checkpoint(stored)
    name = "image_encoder.blocks.0.adapter.up.weight"
    state = {name: torch.ones_like(base.state[name], dtype=torch.float32)}
    vocabulary = Vocabulary.default().restricted_to(["larynx"])
    extra = {"vocabulary": vocabulary.to_dict(), "tokens": [1, 2, 3], "calibration": {"head_neck": {"scale": 2.0}}}
    path = tmp_path / "adapter.safetensors"
    save_adapter(state, base.sha256, ["larynx"], {"site": "here"}, extra, path)
    found = apply_adapter(base, path)
    assert found.vocabulary == vocabulary
    assert found.answers_for == ("larynx",)
    assert base.answers_for == ()
    assert found.tokens == (1, 2, 3)
    assert found.calibration["head_neck"].scale == 2.0
    assert found.card == {**base.card, "adapter": {"site": "here"}}
    assert torch.equal(found.state[name], torch.ones_like(base.state[name]))
    assert all(torch.equal(v, base.state[n]) for n, v in found.state.items() if n != name)
    assert not torch.equal(base.state[name], found.state[name])


def test_adapter_of_another_base_is_refused_with_both_hashes(stored: Path, tmp_path: Path) -> None:
    base, path = load_checkpoint(stored), tmp_path / "adapter.safetensors"
    save_adapter({}, "f" * 64, ["larynx"], {}, {}, path)
    with pytest.raises(CheckpointError, match=rf"trained on the base {'f' * 12}, not on {base.sha256[:12]}"):
        apply_adapter(base, path)


def test_adapter_with_foreign_parameters_is_refused(stored: Path, tmp_path: Path) -> None:
    base, path = load_checkpoint(stored), tmp_path / "adapter.safetensors"
    save_adapter({"zoom.weight": torch.zeros(2)}, base.sha256, ["larynx"], {}, {}, path)
    with pytest.raises(CheckpointError, match=r"1 parameters that its base lacks, first 'zoom\.weight'"):
        apply_adapter(base, path)


def test_adapter_with_parameters_of_another_shape_is_refused(stored: Path, tmp_path: Path) -> None:
    base, path = load_checkpoint(stored), tmp_path / "adapter.safetensors"
    save_adapter({"image_encoder.blocks.0.adapter.up.weight": torch.zeros(2)}, base.sha256, ["larynx"], {}, {}, path)
    with pytest.raises(CheckpointError, match=r"adapter\.up\.weight.*\(2,\)"):
        apply_adapter(base, path)


@pytest.mark.parametrize(
    "change",
    [{"extra": "{"}, {"answers_for": "\"larynx\""}, {"card": None}, {"card": "{"}, {"extra": '{"tokens": 3}'}, {"extra": '{"calibration": {"g": {"x": 1}}}'}],
)
def test_adapter_with_a_damaged_header_is_one_sentence(stored: Path, tmp_path: Path, change: dict) -> None:
    base, good = load_checkpoint(stored), tmp_path / "good.safetensors"
    save_adapter({"image_encoder.blocks.0.adapter.up.bias": base.state["image_encoder.blocks.0.adapter.up.bias"]}, base.sha256, ["larynx"], {}, {}, good)
    bad = rewritten(good, tmp_path / "bad.safetensors", **change)
    with pytest.raises(CheckpointError, match=r"header of .*bad.* is damaged"):
        apply_adapter(base, bad)


def test_adapter_from_before_they_named_their_structures_must_be_trained_again(stored: Path, tmp_path: Path) -> None:
    base, good = load_checkpoint(stored), tmp_path / "good.safetensors"
    save_adapter({}, base.sha256, ["larynx"], {}, {}, good)
    with pytest.raises(CheckpointError, match="fine-tune it again"):
        apply_adapter(base, rewritten(good, tmp_path / "old.safetensors", answers_for=None))


def test_checkpoint_is_no_adapter(stored: Path) -> None:
    with pytest.raises(CheckpointError, match="no RefSAM3D adapter"):
        apply_adapter(load_checkpoint(stored), stored)


def test_card_is_plain_json(stored: Path) -> None:
    with safe_open(stored, framework="pt") as file:
        assert json.loads(file.metadata()["card"])["text"] == "Übung µ"
