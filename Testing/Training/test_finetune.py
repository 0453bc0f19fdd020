"""Fine-tuning: only the chosen parts move, the adapter belongs to its base, and a new name becomes known."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refsam3d_training.__main__ import main
from refsam3d_training.finetune import FinetuneConfig, answered, finetune
from refsam3d_training.new_structures import ABSENT_BELOW, changes, check_names, extended, seen_in, structure_entry
from refsam3d_training.trainable import PAPER_PARTS, PARTS, part_of, select, shares

from RefSAM3DLib.checkpoint import Calibration, apply_adapter, load_checkpoint, save_checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.errors import CheckpointError, ConfigError, InputError, OutputError
from RefSAM3DLib.types import PromptStatus
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
    values["validation"] = []  # nothing to judge the adapter on, but in the test of that
    (folder / "datalist.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def tuned(tiny_model, reviewed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    path = folder / "adapter.safetensors"
    card = finetune(tiny_model, reviewed / "datalist.json", path, FinetuneConfig(steps=4, learning_rate=1e-2), folder / "run")
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


def test_new_name_is_answered_and_the_old_ones_as_before(tiny_model, tuned, reviewed):
    plain = RefSAM3DEngine.from_checkpoint(tiny_model, "cpu")
    engine = RefSAM3DEngine.from_checkpoint(tiny_model, "cpu", adapter=tuned[0])
    assert plain.resolve(["left zygomatic bone"])[0].status is not PromptStatus.KNOWN
    assert engine.resolve(["segment the left zygomatic bone"])[0].resolved == "left zygomatic bone"
    volume = load_volume(next((reviewed / "images").iterdir()), modality="ct")
    new, mandible, brainstem = engine.segment(volume, ["left zygomatic bone", "mandible", "brainstem"], probability=True)
    assert np.isfinite(new.presence)
    before = plain.segment(volume, ["brainstem"], probability=True)[0]  # alone: prompts that are read together differ by rounding
    assert brainstem.presence == before.presence
    assert np.array_equal(brainstem.probability, before.probability)
    assert abs(mandible.presence - plain.segment(volume, ["mandible"])[0].presence) > 1e-6  # tuned, too


def test_a_run_of_other_cases_is_not_taken_for_finished_and_nothing_is_trained_in_vain(tiny_model, reviewed, tmp_path, monkeypatch):
    config, out = FinetuneConfig(steps=2), tmp_path / "adapter.safetensors"
    finetune(tiny_model, reviewed, out, config)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.safetensors"], "the run folder goes with its work"
    monkeypatch.setattr("refsam3d_training.finetune.load_checkpoint", lambda _path: pytest.fail("it must refuse before it reads anything"))
    with pytest.raises(OutputError, match="exists already"):
        finetune(tiny_model, reviewed, out, config)
    monkeypatch.undo()
    finetune(tiny_model, reviewed, out, config, tmp_path / "run", overwrite=True)
    finetune(tiny_model, reviewed, out, config, tmp_path / "run", overwrite=True)  # the same goes on where it was
    with pytest.raises(ConfigError, match="another cases"):
        finetune(tiny_model, reviewed, out, config, tmp_path / "run", limit=1, overwrite=True)
    with pytest.raises(ConfigError, match="a run with steps 2 instead of 3"):
        finetune(tiny_model, reviewed, out, FinetuneConfig(steps=3), tmp_path / "run", overwrite=True)
    for steps in (0, -5):
        with pytest.raises(ConfigError, match=f"in {steps} steps"):
            finetune(tiny_model, reviewed, tmp_path / "none.safetensors", FinetuneConfig(steps=steps))
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        finetune(tiny_model, reviewed, tmp_path / "adapter.txt", config)
    other = tmp_path / "other.safetensors.run"
    other.mkdir()
    (other / "thesis.txt").write_text("not ours")
    with pytest.raises(ConfigError, match="is not empty"):
        finetune(tiny_model, reviewed, tmp_path / "other.safetensors", config)
    assert (other / "thesis.txt").read_text() == "not ours"
    with pytest.raises(InputError, match=r"not called datalist\.json"):
        finetune(tiny_model, reviewed / "fold2.json", tmp_path / "other.safetensors", config)


def test_card_says_what_was_tuned(tuned):
    card = tuned[1]
    assert card["new_structures"] == ["left zygomatic bone"]
    assert set(card["loss_of_tuned_structures"]) == {"left zygomatic bone", "mandible"}
    assert all(len(v) == 2 and None not in v for v in card["loss_of_tuned_structures"].values())
    assert 0 < card["trained"]["share"] < 1


def test_adapter_answers_for_a_whole_whose_parts_it_learnt():
    parts = ["anterior hippocampus", "posterior hippocampus"]
    both, front, back = (SimpleNamespace(known=dict(enumerate(names, 1)), composites={}) for names in (parts, parts[:1], parts[1:]))
    assert answered(parts, [front, both]) == [*parts[:1], "hippocampus", *parts[1:]]
    assert answered(parts, [front, back]) == parts  # no case ever showed the whole
    assert answered(parts[:1], [both]) == parts[:1]


def test_structure_that_no_case_shows_stays_with_the_base(tiny_model, reviewed, tmp_path):
    """A confirmed absence is a label without voxels: nothing to learn a structure from."""
    folder = tmp_path / "cases"
    shutil.copytree(reviewed, folder)
    values = json.loads((folder / "datalist.json").read_text())
    values["labels"]["9"] = "larynx"  # no voxel has this value
    for entry in values["training"]:
        entry["labelled"] = [7, 9]
    (folder / "datalist.json").write_text(json.dumps(values))
    card = finetune(tiny_model, folder, tmp_path / "a.safetensors", FinetuneConfig(steps=1), tmp_path / "run")
    assert card["structures"] == ["larynx", "mandible"]
    assert card["answers_for"] == ["mandible"]
    assert apply_adapter(load_checkpoint(tiny_model), tmp_path / "a.safetensors").answers_for == ("mandible",)
    for entry in values["training"]:
        entry["labelled"] = [9]
    (folder / "datalist.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="No case holds a voxel of larynx"):
        finetune(tiny_model, folder, tmp_path / "b.safetensors", FinetuneConfig(steps=1), tmp_path / "run2")


def test_a_new_name_that_no_case_shows_is_not_askable(tiny_model, reviewed, tmp_path, caplog):
    """Known by name and denied by a network that never saw it, it would be a firm "absent" about a tumour."""
    folder = tmp_path / "cases"
    shutil.copytree(reviewed, folder)
    values = json.loads((folder / "datalist.json").read_text())
    values["labels"]["9"] = "cauda equina"  # no voxel has this value
    for entry in values["training"]:
        entry["labelled"] = [6, 9]
    (folder / "datalist.json").write_text(json.dumps(values))
    card = finetune(tiny_model, folder, tmp_path / "a.safetensors", FinetuneConfig(steps=1), tmp_path / "run")
    assert card["structures"] == card["new_structures"] == ["left zygomatic bone"]
    assert "Not learnt: cauda equina" in caplog.text
    names = apply_adapter(load_checkpoint(tiny_model), tmp_path / "a.safetensors").vocabulary.names
    assert "left zygomatic bone" in names
    assert "cauda equina" not in names


def test_a_composite_of_the_manifest_is_learnt_as_a_name_of_its_own(tiny_model, reviewed, tmp_path):
    """The union of a structure that the base knows and a new one."""
    folder = tmp_path / "cases"
    shutil.copytree(reviewed, folder)
    values = json.loads((folder / "datalist.json").read_text())
    values["composites"] = {"facial skeleton": [6, 7]}
    (folder / "datalist.json").write_text(json.dumps(values))
    card = finetune(tiny_model, folder, tmp_path / "a.safetensors", FinetuneConfig(steps=1), tmp_path / "run")
    assert card["new_structures"] == ["facial skeleton", "left zygomatic bone"]
    tuned = apply_adapter(load_checkpoint(tiny_model), tmp_path / "a.safetensors")
    assert tuned.answers_for == ("facial skeleton", "left zygomatic bone", "mandible")
    assert {"facial skeleton", "left zygomatic bone"} <= {*tuned.config.grids[0].structures}


def test_an_adapter_knows_the_images_that_it_was_tuned_on(tiny_model):
    base = load_checkpoint(tiny_model)
    grid = next(g for g in base.config.grids if g.name == "head_neck")
    case = SimpleNamespace(grid="head_neck", modality="pet", extent_mm=(2e9, 5.0, 5.0))
    found = next(g for g in seen_in(base, [case]).config.grids if g.name == "head_neck")
    assert found.extent_mm[1][0] == 2e9
    assert found.extent_mm[0][1] == min(5.0, grid.extent_mm[0][1])
    assert found.modalities == (*grid.modalities, "pet")
    assert [g for g in seen_in(base, [case]).config.grids if g.name != "head_neck"] == [g for g in base.config.grids if g.name != "head_neck"]


def test_base_keeps_what_the_adapter_reads_worse_on_cases_it_was_not_tuned_on(tiny_model, reviewed, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "cases"
    shutil.copytree(reviewed, folder)
    values = json.loads((folder / "datalist.json").read_text())
    values["labels"] |= {"1": "brainstem"}
    values["training"], values["validation"] = values["training"][:1], [values["training"][1], {**values["training"][1], "image": "images/gone.nii.gz"}]
    for entry in (*values["training"], *values["validation"]):
        entry["labelled"] = [1, 6, 7]
    (folder / "datalist.json").write_text(json.dumps(values))
    asked, models = [], []

    def losses(model, config, tokenizer, cases, names, *rest):
        asked.append(([c.name for c in cases], list(names)))
        models.append(model)
        first = len(asked) <= 2
        return {n: 0.5 if first else {"brainstem": 0.6}.get(n, 0.4) for n in names}

    monkeypatch.setattr("refsam3d_training.finetune.structure_losses", losses)
    with caplog.at_level("INFO"):
        card = finetune(tiny_model, folder, tmp_path / "a.safetensors", FinetuneConfig(steps=1), tmp_path / "run")
    assert asked[1] == asked[3]
    assert models[0] is models[1]
    assert models[2] is models[3] is not models[0], "judged is the running average, which is what is written"
    assert "gone.nii.gz" in caplog.text
    assert asked[1][1] == ["brainstem", "mandible"], "a new name cannot be compared with the base"
    assert not set(asked[0][0]) & set(asked[1][0]), "judged on other cases than it was tuned on"
    assert card["answers_for"] == ["left zygomatic bone", "mandible"]
    assert (card["left_to_base"], card["loss_on_validation"]["brainstem"]) == (["brainstem"], [0.5, 0.6])
    assert apply_adapter(load_checkpoint(tiny_model), tmp_path / "a.safetensors").answers_for == ("left zygomatic bone", "mandible")
    assert "brainstem (Dice loss 0.500 -> 0.600)" in caplog.text
    for entry in values["training"]:
        entry["labelled"] = [1]
    (folder / "datalist.json").write_text(json.dumps(values))
    asked.clear()
    with pytest.raises(InputError, match="Nothing got better on the 1 validation cases"):
        finetune(tiny_model, folder, tmp_path / "b.safetensors", FinetuneConfig(steps=1), tmp_path / "run2")
    assert not (tmp_path / "b.safetensors").exists()


def test_adapter_refuses_another_base(tiny_model, tuned, tmp_path):
    base = load_checkpoint(tiny_model)
    base.card = {**base.card, "note": "another file"}
    save_checkpoint(base, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="load it with its own base"):
        apply_adapter(load_checkpoint(tmp_path / "other.safetensors"), tuned[0])


def test_adapter_takes_nothing_as_usual_and_denies_with_more_reserve(tiny_model):
    base = load_checkpoint(tiny_model)
    base.calibration = {"head_neck": Calibration(scale=2.0, absent_below=0.2, least_confidence={"larynx": 0.8, "mandible": 0.9})}
    kept = changes(base, base)["calibration"]["head_neck"]
    assert Calibration(**kept) == Calibration(scale=2.0, absent_below=ABSENT_BELOW)
    assert changes(base, base).keys() == {"calibration"}
    base.calibration = {}
    assert all(c["absent_below"] == ABSENT_BELOW for c in changes(base, base)["calibration"].values())


def test_names_that_mean_something_else_or_nothing_labelled_are_refused(tiny_model, tiny_data, tmp_path):
    base = load_checkpoint(tiny_model)
    with pytest.raises(ConfigError, match="understood as 'brainstem'"):
        check_names(["Brain_Stem"], base)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "datalist.json").write_text(json.dumps({"name": "e", "labels": {"1": "larynx"}, "training": []}))
    with pytest.raises(InputError, match="no training case"):
        finetune(tiny_model, empty, tmp_path / "a.safetensors", FinetuneConfig())


def test_pair_of_new_names_knows_its_mirror_and_a_distractor_stops_being_one(tiny_model):
    assert structure_entry("left kidney", ["left kidney", "right kidney"])["mirror"] == "right kidney"
    assert structure_entry("left kidney", ["left kidney"])["side"] == ""
    base = load_checkpoint(tiny_model)
    wider = extended(base, ["liver"], base.config.grids[0])
    assert "liver" in wider.vocabulary.names
    assert "liver" not in wider.vocabulary.distractors
    assert "liver" in wider.config.grids[0].structures


def test_the_other_side_of_a_new_name_is_no_distractor_either(tiny_model):
    base = load_checkpoint(tiny_model)
    name = next(d for d in base.vocabulary.distractors if d.startswith("left ") and d.replace("left", "right") in base.vocabulary.distractors)
    grown = extended(base, [name], base.config.grids[0]).vocabulary
    assert not {name, name.replace("left", "right")} & {*grown.distractors}


def test_finetune_command_takes_what_the_review_loop_gives_it(tiny_model, reviewed, tmp_path):
    (tmp_path / "f.toml").write_text('parts = ["adapters", "decoder"]\n')
    path = tmp_path / "adapter.safetensors"
    command = ["finetune", "--data", str(reviewed / "datalist.json"), "--output", str(path), "--base", str(tiny_model), "--config", str(tmp_path / "f.toml")]
    assert main([*command, "--steps", "1", "--limit", "1"]) == 0
    assert path.is_file()
