"""CLIP's tokens without the packages that they do not need."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from RefSAM3DLib.text import tokenizer


@pytest.fixture
def afresh():
    tokenizer.clip_tokenizer.cache_clear()
    yield
    tokenizer.clip_tokenizer.cache_clear()


@pytest.mark.parametrize("text", ["left parotid gland", "the Larynx; (voice box)!", "Ösophagus, Speiseröhre", "a 2 cm x 3 mm tumour's rim", ""])
def test_tokens_are_those_of_open_clip(text: str) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    plain = SimpleTokenizer()
    assert tokenizer.clip_ids(text) == [plain.sot_token_id, *plain.encode(text), plain.eot_token_id]


def test_a_release_without_that_module_is_asked_in_the_usual_way(afresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    elsewhere = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: elsewhere if name == "open_clip" else find(name, *rest))
    assert type(tokenizer.clip_tokenizer()).__module__ == "open_clip.tokenizer"


def test_where_open_clip_is_missing_the_error_names_it(afresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "open_clip"] + ["open_clip"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="open_clip"):
        tokenizer.clip_tokenizer()
