"""The list of models is read strictly, and a name leads to a file or to a sentence that says where to get it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from RefSAM3DLib import models_registry
from RefSAM3DLib.cli.main import main
from RefSAM3DLib.errors import CheckpointError, ConfigError
from RefSAM3DLib.models_registry import checkpoint_vocabulary, find_model, read_registry
from RefSAM3DLib.text.vocabulary import Vocabulary

CONTENT = b"weights"
ENTRY = {
    "name": "refsam3d-small",
    "file": "refsam3d-small.safetensors",
    "url": "",
    "size_bytes": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "licence": "Apache-2.0",
    "structures": ["brainstem", "mandible"],
}
LARGE = {**ENTRY, "name": "large-1.5", "file": "large-1.5.safetensors", "url": "https://example.org/large-1.5.safetensors"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An installation with a small model and one that is only listed."""
    (tmp_path / "models.json").write_text(json.dumps([ENTRY, LARGE]))
    (tmp_path / ENTRY["file"]).write_bytes(CONTENT)
    monkeypatch.setattr(models_registry, "resource_path", lambda *parts: tmp_path.joinpath(*parts[1:]))
    return tmp_path


def test_names_files_and_the_default_lead_to_a_file(folder: Path):
    assert find_model() == find_model("refsam3d-small") == folder / ENTRY["file"]
    assert find_model(folder / ENTRY["file"]) == folder / ENTRY["file"]


def test_missing_default_weights_are_named(folder: Path):
    (folder / ENTRY["file"]).unlink()
    with pytest.raises(CheckpointError, match=r"default weights .*refsam3d-small\.safetensors' are missing; install RefSAM3D again"):
        find_model()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("refsam3d-smal", r"neither a file nor a known name; did you mean 'refsam3d-small'\?"),
        ("zzz", r"neither a file nor a known name; known are refsam3d-small, large-1\.5\."),
        ("large-1.5", r"not installed; fetch it from https://example\.org/large-1\.5\.safetensors and save it as '.*large-1\.5"),
        ("some/where.safetensors", r"The weights file 'some/where\.safetensors' does not exist; check its name"),
    ],
)
def test_a_model_that_is_not_there_is_a_sentence_with_the_next_step(folder: Path, name: str, sentence: str):
    with pytest.raises(CheckpointError, match=sentence):
        find_model(name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"licence": None}, r"'licence' in entry 1 .* is None; it must be a text"),
        ({"sha256": "abc"}, r"must be 64 lower-case hexadecimal digits"),
        ({"file": "../a.safetensors"}, r"name of a \.safetensors file without a folder"),
        ({"file": "a.pth"}, r"name of a \.safetensors file"),
        ({"url": "http://example.org"}, r"must begin with https://"),
        ({"size_bytes": True}, r"positive whole number"),
        ({"structures": "brainstem"}, r"must be a list of names"),
        ({"licenses": "x"}, r"Unknown key 'licenses' .*; did you mean 'licence'\?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_entry_is_refused_with_its_value(tmp_path: Path, change: dict, sentence: str):
    path = tmp_path / "models.json"
    path.write_text(json.dumps([ENTRY | change]))
    with pytest.raises(ConfigError, match=sentence):
        read_registry(path)


def test_missing_keys_double_names_and_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "models.json"
    without = {key: value for key, value in ENTRY.items() if key != "url"}
    for content, sentence in [
        (json.dumps([without]), "key 'url' is missing in entry 1"),
        (json.dumps([ENTRY, ENTRY]), "'refsam3d-small' stands twice"),
        (json.dumps({}), "must be a list, found dict"),
        ("{", "cannot be read"),
        (json.dumps([1]), "to be a table, found int"),
    ]:
        path.write_text(content)
        with pytest.raises(ConfigError, match=sentence):
            read_registry(path)


def test_models_says_what_is_installed_and_verify_finds_damage(folder: Path, capsys):
    assert main(["models", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "refsam3d-small (default): verified" in shown
    assert "large-1.5: not installed" in shown
    assert "from https://example.org" in shown
    (folder / ENTRY["file"]).write_bytes(b"WEIGHTS")
    assert main(["models"]) == 0
    assert "refsam3d-small (default): installed" in capsys.readouterr().out
    assert main(["models", "--verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["state"] == "damaged"


def test_the_vocabulary_of_a_checkpoint_is_read_without_its_weights(tmp_path: Path):
    from safetensors.numpy import save_file

    small = Vocabulary.default().restricted_to(["brainstem"])
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros(3)}, path, metadata={"vocabulary": json.dumps(small.to_dict())})
    assert checkpoint_vocabulary(path).names == ("brainstem",)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="no vocabulary, so it is no RefSAM3D checkpoint"):
        checkpoint_vocabulary(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        checkpoint_vocabulary(path)
