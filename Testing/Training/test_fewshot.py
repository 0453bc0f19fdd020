"""The few-shot experiment on phantoms: every stage leaves a file, is not done twice, and the base has not met the structure."""

import json
import os
import shutil

import pytest
from refsam3d_training.__main__ import main
from refsam3d_training.fewshot import FewshotConfig, fewshot, held_out
from refsam3d_training.fewshot_report import markdown

from RefSAM3DLib.checkpoint import load_checkpoint
from RefSAM3DLib.errors import ConfigError, InputError

TRAIN = """name = "tiny"
model = "test_tiny"
sets = ["phantoms_ct:head_neck"]
phantoms = 0
steps = 2
report_steps = 1
[[shares]]
grid = "head_neck"
fine = 0.7
coarse = 0.3
"""
FEWSHOT = """structure = "larynx"
set = "phantoms_ct:head_neck"
train = "train.toml"
cases = [1, 2]
validation_cases = 1
[finetune]
steps = 2
[baseline]
filters = 2
steps = 2
least_steps = 1
validate_steps = 2
"""


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fewshot")
    (folder / "train.toml").write_text(TRAIN)
    (folder / "fewshot.toml").write_text(FEWSHOT)
    command = ["fewshot", str(folder / "fewshot.toml"), "--data", str(tiny_data), "--run", str(folder / "run"), "--hardware", "a test"]
    assert main(command) == 0
    return folder, command


def test_it_writes_values_table_and_figure(finished):
    run = finished[0] / "run"
    values = json.loads((run / "fewshot.json").read_text())
    assert [r["cases"] for r in values["rows"]] == [1, 2]
    row = values["rows"][0]
    assert row["ours"]["n"] == row["dynunet"]["n"] == 1
    assert row["difference"]["mean"] == pytest.approx(row["ours"]["mean"] - row["dynunet"]["mean"], abs=2e-4)
    assert row["adapter_mb"] > 0
    assert row["minutes"] > 0
    assert row["ours_by_case"] == [pytest.approx(row["ours"]["mean"], abs=1e-4)]
    assert "mandible" in row["old_structures"]["names"]
    assert "larynx" not in row["old_structures"]["names"]
    assert row["old_structures"]["values"] >= 4
    assert row["old_structures"]["changed"] == 0
    assert "p54" not in json.dumps(values)  # no name of a case leaves the run folder
    assert (run / "fewshot.md").read_text() == markdown(values)
    assert (run / "fewshot.png").read_bytes()[:4] == b"\x89PNG"
    base = load_checkpoint(run / "base.safetensors")
    assert "larynx" not in base.vocabulary.names
    assert base.card["training"]["excluded_structures"] == ["larynx"]
    smaller, larger = (json.loads((run / "lists" / f"cases{n:02d}_seed0" / "datalist.json").read_text())["training"] for n in (1, 2))
    assert smaller == larger[:1]
    assert all(e["labelled"] == [6] for e in larger)


def test_what_is_finished_is_not_done_again_and_a_lost_stage_is(finished, tmp_path):
    folder, command = finished
    run = shutil.copytree(folder / "run", tmp_path / "run")
    kept = [p for p in run.rglob("*") if p.is_file() and p.name not in ("fewshot.json", "fewshot.md", "fewshot.png", "datalist.json")]
    before = {p: p.stat().st_mtime_ns for p in kept}
    (run / "evaluation" / "cases01_seed0.json").unlink()
    assert main([*command[:4], "--run", str(run)]) == 0
    changed = {p.relative_to(run).as_posix() for p in kept if p.stat().st_mtime_ns != before[p]}
    assert changed == {"base.json", "evaluation/cases01_seed0.json"}


def test_small_files_alone_carry_the_adapters_side_to_a_later_reference(finished, tmp_path):
    """Without the DynUNets their columns stay empty; without the base's weights and the adapters they can still be added."""
    folder, command = finished
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run, ignore=shutil.ignore_patterns("*.safetensors", "dynunet", "cache", "fewshot.*"))
    again = [*command[:4], "--run", str(run)]
    assert main([*again, "--adapters-alone"]) == 0
    values = json.loads((run / "fewshot.json").read_text())
    assert all(r["dynunet"] is None and r["difference"] is None for r in values["rows"])
    assert "not measured yet" in (run / "fewshot.md").read_text()
    shutil.copytree(folder / "run" / "dynunet", run / "dynunet")
    assert main(again) == 0
    assert json.loads((run / "fewshot.json").read_text())["rows"] == json.loads((folder / "run" / "fewshot.json").read_text())["rows"]
    assert not list(run.rglob("*.safetensors"))


def test_another_configuration_and_a_base_that_met_the_structure_are_refused(finished, tiny_data, tiny_model, tmp_path, capsys):
    folder, command = finished
    config = FewshotConfig.load(folder / "fewshot.toml")
    (tmp_path / "train.toml").write_text(TRAIN)
    (tmp_path / "fewshot.toml").write_text(FEWSHOT.replace("cases = [1, 2]", "cases = [2]"))
    assert main([command[0], str(tmp_path / "fewshot.toml"), *command[2:]]) == 1, "in the run folder of the other one"
    assert "was begun with another cases" in capsys.readouterr().err
    import dataclasses

    seen = dataclasses.replace(config, base=os.path.relpath(tiny_model, folder))
    with pytest.raises(ConfigError, match="does not say that it was trained without 'larynx'"):
        fewshot(seen, tiny_data, tmp_path / "seen")
    many = dataclasses.replace(config, base=os.path.relpath(folder / "run" / "base.safetensors", folder), cases=(3,))
    with pytest.raises(InputError, match="2 training"):
        fewshot(many, tiny_data, tmp_path / "many")


def test_a_structure_with_a_side_is_held_out_with_its_other_side(tiny_data, tmp_path):
    """Flipped images would bring its name back, so a base without one side alone cannot be trained."""
    import dataclasses

    from refsam3d_training.config import TrainConfig
    from refsam3d_training.setup_run import make_trainer

    (tmp_path / "train.toml").write_text(TRAIN)
    train = TrainConfig.load(tmp_path / "train.toml")
    assert held_out("larynx") == ["larynx"]
    with pytest.raises(ConfigError, match="exclude both"):
        make_trainer(dataclasses.replace(train, exclude_structures=("left parotid gland",)), tiny_data, tmp_path / "one")
    trainer = make_trainer(dataclasses.replace(train, exclude_structures=tuple(held_out("left parotid gland"))), tiny_data, tmp_path / "both")
    assert not {"left parotid gland", "right parotid gland"} & {*trainer.sampler.vocabulary.names}


def test_few_shot_of_a_side_runs_to_its_end(tiny_data, tmp_path):
    (tmp_path / "train.toml").write_text(TRAIN)
    (tmp_path / "fewshot.toml").write_text(FEWSHOT.replace('"larynx"', '"left parotid gland"').replace("cases = [1, 2]", "cases = [2]"))
    assert main(["fewshot", str(tmp_path / "fewshot.toml"), "--data", str(tiny_data), "--run", str(tmp_path / "run")]) == 0
    values = json.loads((tmp_path / "run" / "fewshot.json").read_text())
    assert values["base"]["excluded_structures"] == ["left parotid gland", "right parotid gland"]
    assert values["rows"][0]["dynunet"]["n"] == values["rows"][0]["ours"]["n"] == 1
