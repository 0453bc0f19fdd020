"""The check of the figures says when the scores, or the page, were made for other weights than those that ship."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, over a copy of the model's files."""
    spec = importlib.util.spec_from_file_location("fill_figures", ROOT / "Docs" / "fill_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path in (module.WEIGHTS, module.SCORES, module.WEIGHTS.with_suffix(".md")):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / module.WEIGHTS.name)
    monkeypatch.setattr(module, "SCORES", tmp_path / module.SCORES.name)
    return module


@pytest.mark.parametrize(("key", "said"), [("tensors_sha256", "measured on other weights"), ("calibration_sha256", "measured with another calibration")])
def test_scores_of_another_model_are_named(figures: ModuleType, key: str, said: str) -> None:
    assert figures.of_other_weights() == []
    scores = json.loads(figures.SCORES.read_text(encoding="utf-8"))
    scores["model"][key] = "0" * 64
    figures.SCORES.write_text(json.dumps(scores), encoding="utf-8")
    (sentence,) = figures.of_other_weights()
    assert said in sentence
    assert figures.SCORES.name in sentence


def test_a_page_of_another_file_is_named(figures: ModuleType) -> None:
    page = figures.WEIGHTS.with_suffix(".md")
    page.write_text(page.read_text(encoding="utf-8").replace(figures.shipped().sha256, "0" * 64), encoding="utf-8")
    (sentence,) = figures.of_other_weights()
    assert page.name in sentence
