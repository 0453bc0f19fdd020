"""Evaluation, calibration and export through the engine, on phantoms and a tiny network."""

import csv
import dataclasses
import json
import shlex
import shutil

import numpy as np
import pytest
from refsam3d_training.__main__ import main
from refsam3d_training.evaluation import case_record
from refsam3d_training.evaluation.calibrate import EMPTY, fit_confidence, fit_threshold, read_calibration
from refsam3d_training.evaluation.case_record import THRESHOLDS
from refsam3d_training.evaluation.journal import Journal
from refsam3d_training.evaluation.probes import PAINTED, absent_names, cut_views, painted_view, presence_logits
from refsam3d_training.evaluation.report import write_page
from refsam3d_training.evaluation.summary import by_verdict, paraphrases, presence, prompt_use
from refsam3d_training.export import calibration_sha256, tensors_sha256
from refsam3d_training.manifest import Manifest
from refsam3d_training.model_card import LIMITS_OF_SETS, limits_of
from refsam3d_training.readers import READERS

from RefSAM3DLib.checkpoint import load_checkpoint, save_checkpoint
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.resources import resource_path


@pytest.fixture(scope="module")
def evaluated(tiny_data, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    where = ["--data", str(tiny_data), "--sets", "phantoms_ct", "--split", "validation", "-o", str(folder)]
    command = ["evaluate", str(tiny_model), *where, "--paraphrase-cases", "1"]
    assert main(command) == 0
    return folder, command


def test_evaluate_writes_everything_and_names_no_case_in_its_summary(evaluated):
    folder, _ = evaluated
    full, summary = (json.loads((folder / f"{n}.json").read_text()) for n in ("evaluation", "summary"))
    assert summary["cases"] == {"phantoms_ct": 2}
    row = summary["structures"]["brainstem"]
    assert row["dice"]["n"] == 2
    assert {"nsd_2mm", "nsd_5mm", "volume_error_percent"} <= set(row)
    assert "records" in full
    assert "p52" not in (folder / "summary.json").read_text()
    assert set(summary["composites"]) == {"left and right parotid glands"}  # no hippocampus here
    assert 0 <= summary["composites"]["left and right parotid glands"]["mean"] <= 1
    assert (folder / "reliability.png").read_bytes()[:4] == b"\x89PNG"
    assert "<h2>Worst cases</h2>" in (folder / "evaluation.html").read_text()
    page = folder / "with_adapter.html"
    write_page(page, {**summary, "model": {**summary["model"], "adapter": "<site>.safetensors"}}, [])
    assert ", adapter &lt;site&gt;.safetensors, " in page.read_text()
    assert "adapter" not in (folder / "evaluation.html").read_text()
    with open(folder / "evaluation.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert {r["case"] for r in rows} == {"phantoms_ct/p52", "phantoms_ct/p53"}


def test_evaluate_goes_on_from_its_journal(evaluated, monkeypatch):
    folder, command = evaluated
    journal = next(folder.glob("journal-*.jsonl"))
    lines = journal.read_text().splitlines()
    journal.write_text(lines[0] + "\n" + lines[1][:40])  # killed while it wrote the second case
    import refsam3d_training.evaluation.run as run

    measured = []
    original = run.measure_case
    monkeypatch.setattr(run, "measure_case", lambda engine, case, *rest: (measured.append(case.name), original(engine, case, *rest))[1])
    before = json.loads((folder / "summary.json").read_text())
    assert main(command) == 0
    assert measured == ["phantoms_ct/p53"]
    after = json.loads((folder / "summary.json").read_text())
    assert {k: v for k, v in after.items() if k != "seconds_per_case"} == {k: v for k, v in before.items() if k != "seconds_per_case"}


def test_unknown_structures_are_neither_scored_nor_called_absent(evaluated):
    records = [json.loads(line) for line in next(evaluated[0].glob("journal-*.jsonl")).read_text().splitlines() if line.endswith("}")]
    odd = next(r for r in records if r["key"].endswith("p53"))
    assert "esophagus" not in odd["structures"]
    assert not any(r["name"] == "esophagus" for r in odd["presence"])


def scores_with(calibration, evaluated, folder):
    """The summary as if it had been measured with a calibration."""
    values = json.loads((evaluated[0] / "summary.json").read_text())
    values["model"]["calibration_sha256"] = calibration_sha256(read_calibration(json.loads(calibration.read_text())))
    (folder / "scores.json").write_text(json.dumps(values))
    return folder / "scores.json"


def test_calibrate_then_export_changes_what_the_engine_says_and_keeps_the_weights(evaluated, tiny_data, tiny_run, tiny_model, tmp_path, capsys):
    calibration, output = tmp_path / "calibration.json", tmp_path / "calibrated.safetensors"
    assert main(["calibrate", str(tiny_model), "--data", str(tiny_data), "--sets", "phantoms_ct", "-o", str(calibration)]) == 0
    values = json.loads(calibration.read_text())
    assert values["fit"]["head_neck"]["absent"] > 0
    command = ["export", str(tiny_run), "-o", str(output), "--data", str(tiny_data), "--calibration", str(calibration), "--power-watts", "50", "--scores"]
    assert main([*command, str(evaluated[0] / "summary.json")]) == 1
    assert "another calibration" in capsys.readouterr().err, "they were measured on the file before"
    assert main([*command, str(scores_with(calibration, evaluated, tmp_path))]) == 0
    plain, calibrated = load_checkpoint(tiny_model), load_checkpoint(output)
    assert calibrated.calibration["head_neck"].scale == pytest.approx(values["grids"]["head_neck"]["scale"])
    assert calibrated.card["tensors_sha256"] == plain.card["tensors_sha256"]
    assert calibrated.card["scores"]["structures"]["larynx"]["dice"]["n"] == 2
    training = calibrated.card["training"]
    assert training["energy_kwh"] == pytest.approx(training["hours_in_all"] * 0.05, abs=1e-3)
    assert "energy_kwh" not in plain.card["training"]
    assert "Energy was not measured." in tiny_model.with_suffix(".md").read_text()
    page = output.with_suffix(".md").read_text()
    assert "at an assumed 50 W; it was not measured" in page
    assert "Not for diagnosis" in page
    assert "| brainstem | 2 |" in page
    assert "CC0" in page


def test_a_model_file_is_exported_again_with_its_weights_and_another_calibration(evaluated, tiny_data, tiny_model, tmp_path, capsys):
    calibration, output = tmp_path / "c.json", tmp_path / "again.safetensors"
    calibration.write_text(json.dumps({"grids": {"head_neck": {"scale": 2.0, "least_confidence": {"larynx": 0.75}}}}))
    bare = tmp_path / "bare.safetensors"
    whole = json.loads((evaluated[0] / "summary.json").read_text())
    for part, told in ({"limit": 3}, "the first 3 cases of the validation lists"), ({"split": "training"}, "the training lists"):
        (tmp_path / "part.json").write_text(json.dumps({**whole, **part}))
        assert main(["export", str(tiny_model), "-o", str(tmp_path / "no.safetensors"), "--scores", str(tmp_path / "part.json")]) == 1
        assert told in capsys.readouterr().err
        assert not (tmp_path / "no.safetensors").exists()
    scored = tmp_path / "scored.safetensors"
    assert main(["export", str(tiny_model), "-o", str(scored), "--scores", str(evaluated[0] / "summary.json")]) == 0
    assert main(["export", str(scored), "-o", str(bare), "--calibration", str(calibration)]) == 0
    assert "scores" in load_checkpoint(scored).card
    assert "scores" not in load_checkpoint(bare).card, "they are of another calibration"
    scores = scores_with(calibration, evaluated, tmp_path)
    command = ["export", str(tiny_model), "-o", str(output), "--calibration", str(calibration), "--scores", str(scores)]
    assert main(command) == 0
    before, after = load_checkpoint(tiny_model), load_checkpoint(output)
    assert after.calibration["head_neck"].least_confidence == {"larynx": 0.75}
    assert all(before.state[k].equal(v) for k, v in after.state.items())
    assert tensors_sha256(after.state) == before.card["tensors_sha256"] == after.card["tensors_sha256"]
    assert after.card["training"] == before.card["training"]
    assert "| larynx | 2 |" in output.with_suffix(".md").read_text()
    assert main(command) == 1  # it is there already
    assert "again.safetensors" in capsys.readouterr().err


def test_hours_of_the_weights_that_a_run_began_with_are_counted(tiny_data, tiny_run, tiny_model, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        'name = "more"\nmodel = "test_tiny"\nsets = ["phantoms_ct:head_neck"]\nphantoms = 0\nsteps = 1\nreport_steps = 1\n'
        '[[shares]]\ngrid = "head_neck"\nfine = 1.0\ncoarse = 0.0\n'
    )
    base = load_checkpoint(tiny_model)
    base.card["training"]["hours"] = 7.0
    del base.card["training"]["hours_in_all"]
    save_checkpoint(base, tmp_path / "base.safetensors")
    run, where = tmp_path / "run", ["--data", str(tiny_data)]
    assert main(["train", str(config), "--run", str(run), "--init", str(tmp_path / "base.safetensors"), *where]) == 0
    assert main(["export", str(run), "-o", str(tmp_path / "more.safetensors"), *where, "--power-watts", "100"]) == 0
    training = load_checkpoint(tmp_path / "more.safetensors").card["training"]
    assert training["hours_in_all"] == pytest.approx(7.0, abs=0.1)
    assert training["energy_kwh"] == pytest.approx(0.7, abs=0.01)
    assert training["started_from"]["sha256"] == load_checkpoint(tmp_path / "base.safetensors").sha256
    assert "which took 7.00 hours" in (tmp_path / "more.md").read_text()
    assert load_checkpoint(tiny_model).card["training"].get("started_from") is None


def test_export_refuses_scores_of_other_weights(evaluated, tiny_data, tiny_run, tmp_path, capsys):
    values = json.loads((evaluated[0] / "summary.json").read_text())
    values["model"]["tensors_sha256"] = "0" * 64
    (tmp_path / "foreign.json").write_text(json.dumps(values))
    code = main(["export", str(tiny_run), "-o", str(tmp_path / "m.safetensors"), "--data", str(tiny_data), "--scores", str(tmp_path / "foreign.json")])
    assert code == 1
    assert "run `evaluate` on this model first" in capsys.readouterr().err


def test_every_command_explains_itself_with_an_example():
    from refsam3d_training.__main__ import parser

    commands = next(a for a in parser()._actions if a.dest == "command").choices
    assert {"prepare", "train", "finetune", "evaluate", "baseline", "compare", "fewshot", "calibrate", "export", "average", "widen", "curves"} == set(commands)
    for name, command in commands.items():
        text = " ".join(command.format_help().split())
        assert f"example: python -m refsam3d_training {name} " in text
        assert command.description
        example = command.epilog.split(f"refsam3d_training {name} ", 1)[1]
        assert parser().parse_args([name, *shlex.split(example)]).command == name


def test_examples_can_be_followed():
    """What ships has the widest decoder already, and is there already."""
    from refsam3d_training.__main__ import parser

    commands = next(a for a in parser()._actions if a.dest == "command").choices
    assert "Resources/Models" not in commands["widen"].epilog
    assert "Resources/Models" not in commands["export"].epilog or "--overwrite" in commands["export"].epilog
    formats = next(a for a in commands["prepare"]._actions if a.dest == "format").help
    assert all(name in formats for name in READERS)


def test_a_card_tells_the_limits_of_its_own_sets_alone():
    ours, theirs = ("\n".join(limits_of({}, [{"name": name}])) for name in ("msd_hippocampus", "a hospital's own"))
    assert "two hippocampi of one scan" in ours
    assert "no longer untouched" in ours
    for word in ("hippocamp", "sarcoma", "planning CT", "untouched", "test list"):
        assert word not in theirs
    assert "expect worse results on other scanners" in theirs
    every = limits_of({}, [{"name": name} for name in LIMITS_OF_SETS])
    assert len(every) == len(set(every))


def test_errors_are_sentences(tiny_data, tiny_model, tmp_path, capsys):
    assert main(["export", str(tmp_path), "-o", str(tmp_path / "m.safetensors"), "--data", str(tiny_data)]) == 1
    assert main(["evaluate", str(tiny_model), "--data", str(tiny_data), "--sets", "nowhere", "-o", str(tmp_path / "e")]) == 1
    assert main(["baseline", "phantoms_ct", "--data", str(tiny_data), "--run", str(tmp_path / "b")]) == 1
    message = capsys.readouterr().err
    assert "must be written as folder:grid" in message
    assert "holds no state.pt" in message
    assert "run `prepare` first" in message


def test_presence_logit_is_the_one_that_the_engine_calibrates(tiny_data, tiny_model):
    engine = RefSAM3DEngine.from_checkpoint(tiny_model, "cpu")
    case = Manifest.read(tiny_data / "phantoms_ct").cases["test"][0]
    embedding = engine.embed(case.volume())
    names = ["larynx", "left parotid gland"]
    answers = engine.segment(embedding, names)
    logits = presence_logits(engine, embedding, engine.checkpoint.config.grids[0], [(n, n) for n in names])
    assert [a.presence for a in answers] == pytest.approx([1 / (1 + np.exp(-v)) for v in logits], abs=1e-5)


def test_cut_views_lose_what_they_claim_and_keep_every_voxel_in_place(tiny_data):
    case = Manifest.read(tiny_data / "phantoms_ct").cases["test"][0]
    volume = case.volume()
    truth = case.truth(volume)
    views = cut_views(volume, truth)
    assert {v.kind for v in views} == {"below the chin", "above the larynx"}
    for view in views:
        wanted = {"brainstem", "mandible"} if view.kind == "below the chin" else {"larynx"}
        assert wanted <= set(view.absent)
        assert not wanted & set(view.present)
        offset = np.linalg.inv(volume.geometry.ijk_to_ras) @ view.volume.geometry.ijk_to_ras[:, 3]
        start = round(offset[2])
        assert np.array_equal(volume.array[start : start + view.volume.array.shape[0]], view.volume.array)


def test_a_painted_view_lacks_one_structure_in_its_place_and_nothing_else(tiny_data, tiny_model):
    case = Manifest.read(tiny_data / "phantoms_ct").cases["test"][0]
    volume = case.volume()
    truth = case.truth(volume)
    config = load_checkpoint(tiny_model).config.intensity
    gone = set()
    for seed in range(6):
        view = painted_view(volume, truth, config, seed)
        assert view is not None
        assert view.kind == PAINTED
        (name,) = view.absent
        gone.add(name)
        assert set(view.present) | {name} <= {n for n, m in truth.items() if m.any()}
        assert view.volume.array.dtype == volume.array.dtype
        assert view.volume.geometry is volume.geometry
        changed = view.volume.array != volume.array
        assert changed[truth[name]].mean() > 0.5
        for other in set(view.present):
            assert not changed[truth[other] & ~truth[name]].any()
        assert changed.mean() < 0.1
    assert len(gone) > 2
    assert painted_view(volume, {}, config, 0) is None


def test_names_that_an_image_may_show_are_no_evidence_of_absence(tiny_model):
    engine = RefSAM3DEngine.from_checkpoint(tiny_model, "cpu")
    assert "brainstem" not in absent_names(engine, "hippocampus")
    assert "spinal cord" not in absent_names(engine, "abdomen")
    assert "larynx" in absent_names(engine, "limb")


def with_new_names(tiny_model, names=("liver", "left rib")):
    """The engine of a site's adapter that learnt new names on the grid of the head and neck, beside the base's larynx."""
    from refsam3d_training.new_structures import extended

    base = load_checkpoint(tiny_model)
    tuned = extended(base, names, base.config.grids[0])
    tuned.answers_for = (*names, "larynx")
    return RefSAM3DEngine(base, "cpu", adapter="site.safetensors", tuned=tuned)


def test_a_sites_new_names_are_never_asked_as_absent_and_its_images_not_for_ours(tiny_model, tiny_data, tmp_path, monkeypatch, caplog):
    """An abdomen shows the liver that an adapter learnt, and a whole body may show a brainstem that nobody contoured there."""
    from types import SimpleNamespace

    from refsam3d_training.evaluation import run
    from refsam3d_training.evaluation.case_record import Extras

    engine = with_new_names(tiny_model)
    assert "liver" in engine.vocabulary.names
    assert "larynx" in absent_names(engine, "abdomen")
    assert not {"liver", "left rib"} & {*absent_names(engine, "abdomen"), *absent_names(engine, "limb")}
    shutil.copytree(tiny_data / "phantoms_ct", tmp_path / "site")
    shutil.copytree(tiny_data / "phantoms_ct", tmp_path / "ours")
    values = json.loads((tmp_path / "site" / "datalist.json").read_text())
    values["name"], values["labels"]["1"] = "site", "liver"
    (tmp_path / "site" / "datalist.json").write_text(json.dumps(values))
    asked = {}

    def measured(engine, case, extras, pictures):
        asked[case.name] = extras.absent
        return {"structures": {}}

    monkeypatch.setattr(run, "measure_case", measured)
    engine = SimpleNamespace(**{k: getattr(engine, k) for k in ("branches", "vocabulary", "model_sha256", "device")}, adapter="")
    with caplog.at_level("WARNING"):
        run.collect(engine, tmp_path, "validation", ("site", "ours"), tmp_path / "out", Extras(), 1)
    assert asked == {"site/p52": False, "phantoms_ct/p52": True}
    assert "'site' labels structures that the base does not know" in caplog.text
    assert "'ours'" not in caplog.text


def test_a_name_without_unseen_wordings_is_not_measured_in_them(tiny_data, tiny_model):
    engine = with_new_names(tiny_model, ("left rib",))
    case = Manifest.read(tiny_data / "phantoms_ct").cases["test"][0]
    volume = case.volume()
    larynx = case.truth(volume)["larynx"]
    found = case_record._paraphrases(engine, engine.embed(volume), {"left rib": larynx, "larynx": larynx}, 1)
    assert set(found) == {"larynx"}
    record = {"case": "a/b", "grid": "head_neck", "modality": "ct"}
    earlier = {"left rib": {"canonical": 0.8, "resolver": [], "raw": [], "unresolved": [], "wordings": 0}}
    assert paraphrases([{**record, "paraphrases": earlier}]) == {}, "as journals of earlier versions hold it"


def test_names_from_far_away_are_asked_on_a_grid_of_sides_alone(tiny_data, tiny_model):
    engine = RefSAM3DEngine.from_checkpoint(tiny_model, "cpu")
    volume = Manifest.read(tiny_data / "phantoms_ct").cases["test"][0].volume()
    grid = engine.checkpoint.config.grids[0]
    sides = dataclasses.replace(grid, structures=("left parotid gland", "right parotid gland"))
    embedding = engine.embed(volume)
    alone, whole = ({r["name"]: r["logit"] for r in case_record._far_away(engine, embedding, g)} for g in (sides, grid))
    assert alone == pytest.approx(whole, abs=1e-4), "the structure only chooses the weights"


def test_tables_of_prompt_use_paraphrases_and_presence_by_hand():
    def row(present, probability, kind="own"):
        return {"kind": kind, "name": "larynx", "grid": "head_neck", "present": present, "probability": probability, "logit": 0.0,
                "drawn": probability > 0.3, "verdict": "present" if probability > 0.3 else "absent"}  # fmt: skip

    record = {
        "case": "a/b", "grid": "head_neck", "modality": "ct",
        "matrix": {"left parotid gland": {"right parotid gland": 0.5, "larynx": 0.1}, "hippocampus": {"anterior hippocampus": 0.9}},
        "paraphrases": {"larynx": {"canonical": 0.8, "resolver": [0.8, 0.0], "raw": [0.6, 0.7], "unresolved": ["x"], "wordings": 1}},
        "presence": [row(True, 0.9), row(False, 0.1, "below the chin"), row(False, 0.95, "abdomen"), row(False, 0.2, "distractor")],
    }  # fmt: skip
    use = prompt_use([record])
    assert use["off_diagonal_mean"]["all"] == pytest.approx(0.3)
    assert use["side_confusion"]["left parotid gland -> right parotid gland"]["mean"] == 0.5
    assert paraphrases([record])["mean"] == {"canonical": 0.8, "resolver": 0.4, "raw": 0.65, "unresolved_texts": 1, "texts": 2}
    found = presence([record])
    assert found["auroc_all"] == 0.5
    assert found["auroc_inside_head_and_neck"] == 1.0
    assert found["absent_and_not_drawn"] == {"share": 0.5, "n": 2}
    assert found["auroc_painted_over"] is None
    record["presence"] += [row(True, 0.4, PAINTED), row(False, 0.9, PAINTED)]
    apart = presence([record])
    assert apart["auroc_painted_over"] == 0.0
    assert all(apart[k] == found[k] for k in ("auroc_all", "auroc_inside_head_and_neck", "ece"))
    assert apart["painted_over"]["verdicts"] == {"present": 1.0, "uncertain": 0.0, "absent": 0.0, "n": 1}
    assert found["painted_over"]["verdicts"]["n"] == 0


def test_dice_by_verdict_parts_what_was_said_of_structures_that_are_there():
    rows = [("present", 0.9), ("present", 0.7), ("uncertain", 0.2)]
    records = [{"case": f"c{n}", "structures": {"larynx": {"verdict": verdict, "dice": value}}} for n, (verdict, value) in enumerate(rows)] + [{"presence": []}]
    found = by_verdict(records)
    assert {k: (v["mean"], v["n"]) for k, v in found.items()} == {"present": (0.8, 2), "uncertain": (0.2, 1)}


def test_least_confidence_lies_below_usual_outlines_and_above_failed_ones():
    """Log-odds around 2 with a spread of 0.1, two failures among them; a rare structure has no limit."""
    values = [1.8, 1.9, 1.9, 2.0, 2.0, 2.1, 2.1, 2.2, 0.5, None]

    def record(name, value):
        confidence = 0.0 if value is None else 1 / (1 + np.exp(-value))
        return {"grid": "g", "modality": "ct", "structures": {name: {"dice_at": {"0.5": 0.5}, "confidence_at": {"0.5": confidence}}}}

    records = [record("larynx", v) for v in values] + [record("esophagus", v) for v in values[:4]]
    found = fit_confidence(records, "g", 0.5)
    assert set(found) == {"larynx"}
    least = np.log(found["larynx"] / (1 - found["larynx"]))
    assert 0.5 < least < 1.8
    assert least > EMPTY
    assert fit_confidence(records, "other", 0.5) == {}


def test_composites_are_scored_as_unions_and_differences():
    from types import SimpleNamespace

    left, right, whole = (np.zeros((2, 2, 4), bool) for _ in range(3))
    left[..., 0], right[..., 3], whole[..., :2] = True, True, True
    truth = {"left parotid gland": left, "right parotid gland": right, "hippocampus": whole, "posterior hippocampus": left}
    answers = {"left and right parotid glands": [left, right], "hippocampus minus posterior hippocampus": [whole]}
    engine = SimpleNamespace(segment=lambda embedding, texts: [SimpleNamespace(mask=m) for m in answers[texts[0]]])
    found = case_record._composites(engine, None, truth)
    assert found["left and right parotid glands"] == 1.0
    assert found["hippocampus minus posterior hippocampus"] == pytest.approx(2 / 3)
    assert case_record._composites(engine, None, {"hippocampus": whole}) == {}


def test_every_image_is_asked_for_the_structures_of_every_other_grid(monkeypatch):
    """A grid whose look takes many tiles is no exception: the engine bounds it, and a calibration needs absent prompts."""
    from types import SimpleNamespace

    engine = SimpleNamespace(checkpoint=SimpleNamespace(config=ModelConfig.load(resource_path("Configs", "vit_t.json"))))
    monkeypatch.setattr(case_record, "presence_logits", lambda engine, embedding, grid, names: [0.0] * len(names))
    names = ["hippocampus", "posterior hippocampus", "larynx"]
    rows = case_record._elsewhere(engine, None, names, "other set", case_record.Extras(draw_absent=False))
    assert [r["name"] for r in rows] == ["larynx", "hippocampus", "posterior hippocampus"]


def test_journal_of_other_settings_is_another_file(tmp_path):
    first = Journal(tmp_path, {"model": "a"})
    first.add("case", {"value": 1}, "data")
    assert Journal(tmp_path, {"model": "a"}).holds("case", "data")
    assert not Journal(tmp_path, {"model": "a"}).holds("case", "corrected data")
    assert not Journal(tmp_path, {"model": "b"}).holds("case", "data")
    first.add("case", {"value": 2}, "corrected data")
    assert Journal(tmp_path, {"model": "a"}).records["case"]["value"] == 2


@pytest.mark.data
@pytest.mark.parametrize("name", ["openkbp_ct", "msd_hippocampus", "sts_tumour"])
def test_one_real_case_of_each_set_is_read_with_its_truth(data_folder, name):
    manifest = Manifest.read(data_folder / name)
    case = manifest.cases["validation"][0]
    volume = case.volume()
    truth = case.truth(volume)
    assert set(case.known.values()) <= set(truth)
    assert all(m.shape == volume.array.shape for m in truth.values())
    assert any(m.any() for m in truth.values())


@pytest.mark.parametrize(("slope", "expected"), [(0.005, 0.5), (0.05, 0.3)])  # Dice lost from 0.3 to 0.7: less and more than the tolerance at one half
def test_threshold_stays_at_one_half_unless_dice_gains_by_another(slope, expected):
    dice = {f"{t:g}": 0.8 - slope * (t - 0.3) / 0.4 for t in THRESHOLDS}
    records = [{"grid": "g", "modality": "ct", "structures": {"larynx": {"dice_at": dice}}}, {"grid": "other", "modality": "ct"}]
    assert fit_threshold(records, "g") == (expected, {k: round(v, 4) for k, v in dice.items()})
    assert fit_threshold(records, "other") == (0.5, {})
