"""Fine-tuning: only the chosen parts move, the adapter belongs to its base, and a new name becomes known."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from refsam3d_training.__main__ import main
from refsam3d_training.base_outlines import with_base_outlines
from refsam3d_training.finetune import FinetuneConfig, finetune
from refsam3d_training.new_structures import changes, check_names, extended, structure_entry
from refsam3d_training.trainable import PAPER_PARTS, PARTS, part_of, select, shares

from RefSAM3DLib.checkpoint import Calibration, apply_adapter, load_checkpoint, save_checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.errors import CheckpointError, ConfigError, InputError
from RefSAM3DLib.types import PromptStatus, Verdict
from RefSAM3DLib.volume_io import load_volume


@pytest.fixture(scope="module")
def reviewed(tiny_data, tmp_path_factory):
    """Two cases in which the larynx was renamed to a structure that the model does not know, and the mandible kept."""
    folder = tmp_path_factory.mktemp("reviewed") / "cases"
    shutil.copytree(tiny_data / "phantoms_ct", folder)
    values = json.loads((folder / "datalist.json").read_text())
    values["labels"]["6"] = "left zygomatic bone"
    for entry in values["training"]:
        entry["labelled"] = [6, 7]
    (folder / "datalist.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def tuned(tiny_model, reviewed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    config = FinetuneConfig(steps=4, phantoms=0, replay=("phantoms_ct:head_neck",), replay_limit=1, learning_rate=1e-2)
    data = folder / "data"
    shutil.copytree(reviewed.parent, data)
    (data / "cases").rename(data / "phantoms_ct")
    values = json.loads((data / "phantoms_ct" / "datalist.json").read_text())
    values["labels"]["6"] = "larynx"
    for entry in values["training"]:
        entry["labelled"] = [1, 2, 3, 4, 6, 7]
    (data / "phantoms_ct" / "datalist.json").write_text(json.dumps(values))
    path = folder / "adapter.safetensors"
    card = finetune(tiny_model, reviewed / "datalist.json", path, config, data, folder / "run")
    return path, card


def test_every_parameter_has_one_part_and_the_paper_freezes_encoder_and_tower(tiny_model):
    model = load_checkpoint(tiny_model).build()
    names = [n for n, _ in model.named_parameters()]
    assert {part_of(n) for n in names} == set(PARTS)
    trained = set(select(model, PAPER_PARTS))
    frozen = [n for n in names if n not in trained]
    assert any(".attn.qkv." in n for n in frozen)
    assert all(n.startswith(("image_encoder.", "text_encoder.")) for n in frozen)
    assert not any(n.startswith("text_encoder.") for n in trained)
    assert sum(p.requires_grad for p in model.parameters()) == len(trained)
    table = shares(model.state_dict(), PAPER_PARTS)
    assert sum(v["share"] for p, v in table.items() if p != "all trained") == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ConfigError, match="choose from adapters"):
        select(model, ["adaptors"])


def test_adapter_changes_what_is_trained_and_nothing_else(tiny_model, tuned):
    base = load_checkpoint(tiny_model)
    both = apply_adapter(base, tuned[0])
    for name, value in base.state.items():
        same = both.state[name].shape == value.shape and torch.equal(both.state[name].float(), value.float())
        if part_of(name) in ("image_encoder", "text_tower") and "token_embedding" not in name:
            assert same, name
    table = "text_encoder.tower.token_embedding.weight"
    rows = len(base.state[table])
    assert torch.equal(both.state[table][:rows].float(), base.state[table].float())
    assert len(both.state[table]) > rows
    assert not torch.equal(both.state["mask_embedding.layers.0.weight"].float(), base.state["mask_embedding.layers.0.weight"].float())
    assert tuned[0].stat().st_size < 3_000_000


def test_new_name_is_understood_and_answered_beside_the_old_ones(tiny_model, tuned, reviewed):
    plain = RefSAM3DEngine.from_checkpoint(tiny_model, "cpu")
    engine = RefSAM3DEngine.from_checkpoint(tiny_model, "cpu", adapter=tuned[0])
    assert plain.resolve(["left zygomatic bone"])[0].status is not PromptStatus.KNOWN
    assert engine.resolve(["segment the left zygomatic bone"])[0].resolved == "left zygomatic bone"
    volume = load_volume(next((reviewed / "images").iterdir()), modality="ct")
    answers = engine.segment(volume, ["left zygomatic bone", "brainstem"])
    assert [a.resolved for a in answers] == ["left zygomatic bone", "brainstem"]
    assert all(np.isfinite(a.presence) for a in answers)


def test_card_reports_old_structures_before_and_after(tuned):
    card = tuned[1]
    assert card["new_structures"] == ["left zygomatic bone"]
    assert {"brainstem", "larynx"} <= set(card["loss_of_old_structures"])
    assert all(len(v) == 2 and None not in v for v in card["loss_of_old_structures"].values())
    assert 0 < card["trained"]["share"] < 1


def test_adapter_refuses_another_base(tiny_model, tuned, tmp_path):
    base = load_checkpoint(tiny_model)
    base.card = {**base.card, "note": "another file"}
    save_checkpoint(base, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="load it with its own base"):
        apply_adapter(load_checkpoint(tmp_path / "other.safetensors"), tuned[0])


def test_what_was_usual_for_a_tuned_structure_is_dropped_and_kept_for_the_others(tiny_model):
    base = load_checkpoint(tiny_model)
    base.calibration = {"head_neck": Calibration(scale=2.0, least_confidence={"larynx": 0.8, "mandible": 0.9})}
    kept = changes(base, base, ["larynx"])["calibration"]["head_neck"]
    assert Calibration(**kept) == Calibration(scale=2.0, least_confidence={"mandible": 0.9})
    assert changes(base, base, ["brainstem"]) == {}


def test_names_that_mean_something_else_or_nothing_labelled_are_refused(tiny_model, tiny_data, tmp_path):
    base = load_checkpoint(tiny_model)
    with pytest.raises(ConfigError, match="understood as 'brainstem'"):
        check_names(["Brain_Stem"], base)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "datalist.json").write_text(json.dumps({"name": "e", "labels": {"1": "larynx"}, "training": []}))
    with pytest.raises(InputError, match="no training case"):
        finetune(tiny_model, empty, tmp_path / "a.safetensors", FinetuneConfig(phantoms=0), tiny_data)


def test_pair_of_new_names_knows_its_mirror_and_a_distractor_stops_being_one(tiny_model):
    assert structure_entry("left kidney", ["left kidney", "right kidney"])["mirror"] == "right kidney"
    assert structure_entry("left kidney", ["left kidney"])["side"] == ""
    base = load_checkpoint(tiny_model)
    wider = extended(base, ["liver"], base.config.grids[0])
    assert "liver" in wider.vocabulary.names
    assert "liver" not in wider.vocabulary.distractors
    assert "liver" in wider.config.grids[0].structures


def test_finetune_command_takes_what_the_review_loop_gives_it(tiny_model, reviewed, tmp_path):
    (tmp_path / "f.toml").write_text('phantoms = 0\nparts = ["adapters", "decoder"]\n')
    path = tmp_path / "adapter.safetensors"
    command = ["finetune", "--data", str(reviewed / "datalist.json"), "--output", str(path), "--base", str(tiny_model), "--config", str(tmp_path / "f.toml")]
    assert main([*command, "--steps", "1", "--limit", "1"]) == 0
    assert path.is_file()


def test_new_structure_keeps_its_share_of_the_tiles_beside_replayed_ones(tiny_data, make_tiny_config, tmp_path):
    """With six old structures on the same grid, choosing by structure alone would leave a seventh."""
    from refsam3d_training.setup_run import make_trainer
    from refsam3d_training.tuned_sampling import TunedSampler

    trainer = make_trainer(make_tiny_config(), tiny_data, tmp_path / "run")
    old = [dataclasses.replace(c, known={v: n for v, n in c.known.items() if n != "larynx"}) for c in trainer.sampler.by_grid["head_neck"]]
    new = [dataclasses.replace(c, known={v: n for v, n in c.known.items() if n == "larynx"}) for c in trainer.sampler.by_grid["head_neck"]]
    sampler = TunedSampler([*new, *old], trainer.config, trainer.model_config, trainer.sampler.vocabulary, ["larynx"], 0.25)
    rng, grid = np.random.default_rng(0), trainer.model_config.grids[0]
    chosen = [sampler._choose_case(rng, grid, False)[1] for _ in range(600)]
    assert chosen.count("larynx") / 600 == pytest.approx(0.75 + 0.25 / 7, abs=0.06)


def test_what_nobody_contoured_is_labelled_as_the_base_draws_it():
    """Present: its mask, where no hand drew. Absent: known without a voxel. Uncertain, or tuned: unknown. The whole follows from its parts."""
    from types import SimpleNamespace

    shape = (2, 2, 4)
    hand, drawn = np.zeros(shape, np.uint16), np.zeros(shape, bool)
    hand[..., 0], drawn[..., :2] = 6, True
    said = {"brainstem": Verdict.PRESENT, "mandible": Verdict.ABSENT, "esophagus": Verdict.UNCERTAIN}
    asked = []

    def segment(volume, names):
        asked.extend(names)
        return [SimpleNamespace(verdict=said[n], mask=drawn if said[n] is not Verdict.ABSENT else np.zeros(shape, bool)) for n in names]

    engine = SimpleNamespace(vocabulary=SimpleNamespace(names=[*said, "larynx", "spinal cord", "hippocampus"]), segment=segment)
    grid = SimpleNamespace(structures=[*said, "larynx", "spinal cord", "hippocampus", "left zygomatic bone"])
    labels, known = with_base_outlines(engine, None, grid, hand, {6: "larynx"}, ["larynx", "spinal cord", "left zygomatic bone"])
    assert asked == list(said)
    assert known == {6: "larynx", 1: "brainstem", 2: "mandible"}
    assert (labels == 6).sum() == (hand == 6).sum() == 4
    assert (labels == 1).sum() == 4
    assert not (labels == 2).any()
    assert hand.max() == 6  # the caller's labels are as they were
    assert not (hand == 1).any()


def test_few_old_structures_are_asked_in_a_tile_of_a_tuned_case_and_all_of_a_replayed_one(tiny_data, make_tiny_config, tmp_path):
    from refsam3d_training.setup_run import make_trainer
    from refsam3d_training.tuned_sampling import OLD_PROMPTS, TunedSampler

    trainer = make_trainer(make_tiny_config(), tiny_data, tmp_path / "run")
    replayed = trainer.sampler.by_grid["head_neck"]
    own = [dataclasses.replace(c) for c in replayed]  # the same names and contours
    sampler = TunedSampler([*own, *replayed], trainer.config, trainer.model_config, trainer.sampler.vocabulary, ["larynx"], 0.25, own)
    grid = trainer.model_config.grids[0]
    asked = [
        sampler._ask(np.random.default_rng(n), grid, case, torch.zeros(1, 8, 8, 8), torch.zeros(8, 8, 8), False, False, False).asked
        for n in range(5)
        for case in (own[0], replayed[0])
    ]
    assert asked == [1 + OLD_PROMPTS, len(replayed[0].known)] * 5
