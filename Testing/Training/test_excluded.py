"""A structure held out of a training is met nowhere: not as a prompt, present or absent, not as a word, not as a contour."""

from types import SimpleNamespace

import pytest
import torch
from refsam3d_training.cases import load_cases
from refsam3d_training.excluded import cases_without, model_without, vocabulary_without
from refsam3d_training.sampling import TileSampler
from refsam3d_training.setup_run import make_trainer, model_config, tokens_of

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.resources import resource_path
from RefSAM3DLib.text.tokenizer import clip_ids
from RefSAM3DLib.text.vocabulary import Vocabulary


def asked_by(sampler, steps):
    return [prompt for step in range(steps) for tile in sampler.batch(step) for prompt in tile.prompts]


def test_no_prompt_no_word_and_no_contour_of_an_excluded_structure(tiny_data, make_tiny_config, tmp_path):
    trainer = make_trainer(make_tiny_config(exclude_structures=("larynx",)), tiny_data, tmp_path / "run")
    wordings = Vocabulary.default().all_wordings("larynx")
    asked = asked_by(trainer.sampler, 40)
    assert not [p for p in asked if any(w in p for w in ("larynx", "voice box", "laryngeal"))]
    assert "larynx" not in trainer.sampler.vocabulary.names
    assert not any("larynx" in grid.structures for grid in trainer.model_config.grids)
    assert set(clip_ids("larynx")) - set(trainer.tokenizer.kept)
    assert any(w == "larynx" for w in wordings)
    whole = load_cases(tiny_data / "phantoms_ct", "training", model_config(trainer.config, 1), "head_neck", tmp_path / "cache")
    for case, before in zip(trainer.sampler.by_grid["head_neck"], whole, strict=True):
        value = next(v for v, n in before.known.items() if n == "larynx")
        assert value not in case.known
        assert (before.fine.labels == value).any()
        assert not (case.fine.labels == value).any()
        assert not (case.coarse.labels == value).any()
        others = before.fine.labels != value
        assert torch.equal(case.fine.labels[others], before.fine.labels[others])
        assert torch.equal(case.fine.values, before.fine.values)


def test_an_excluded_name_is_not_asked_as_absent_in_images_of_other_grids(tiny_data, make_tiny_config):
    """On a sarcoma's tiles, names of the head and neck are asked as absent: an excluded one must not be among them."""
    model = ModelConfig.load(resource_path("Configs", "vit_t.json"))
    config = make_tiny_config(sets=(), absent_prompts=20)
    rng = __import__("numpy").random.default_rng(0)
    for excluded, expected in (((), True), (("larynx",), False)):
        vocabulary = vocabulary_without(Vocabulary.default(), excluded)
        sampler = TileSampler.__new__(TileSampler)
        sampler.config, sampler.model, sampler.vocabulary, sampler.known_names = config, model_without(model, excluded), vocabulary, {"leg": set()}
        sampler.unread = ()
        texts = [sampler._absent_wording(rng, model.grid("limb"), SimpleNamespace(name="leg", grid="limb")) for _ in range(800)]
        assert any("larynx" in t or "voice box" in t for t in texts) is expected


def test_nothing_excluded_changes_nothing():
    vocabulary, model = Vocabulary.default(), ModelConfig.load(resource_path("Configs", "vit_t.json"))
    assert tokens_of(vocabulary_without(vocabulary, ())) == tokens_of(vocabulary)
    assert model_without(model, ()) == model
    assert cases_without([], ()) == []


def test_a_name_that_a_flip_or_a_union_would_bring_back_is_refused():
    with pytest.raises(ConfigError, match="exclude both"):
        vocabulary_without(Vocabulary.default(), ("left parotid gland",))
    with pytest.raises(ConfigError, match="made of it"):
        vocabulary_without(Vocabulary.default(), ("anterior hippocampus",))
    assert "left parotid gland" not in vocabulary_without(Vocabulary.default(), ("left parotid gland", "right parotid gland")).names
