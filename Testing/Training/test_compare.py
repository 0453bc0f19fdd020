"""Paired differences against the reference, and what was asked of the model, as tables."""

import json

import numpy as np
import pytest
from refsam3d_training.__main__ import main
from refsam3d_training.evaluation.compare import markdown, paired_rows, targets, taught_by, verdict


def records(shift, spread, seed=0, count=20):
    scores = 0.8 + shift + spread * np.random.default_rng(seed).normal(size=count)
    return [{"case": f"c{n}", "grid": "head_neck", "modality": "ct", "structures": {"larynx": {"dice": float(s)}}} for n, s in enumerate(scores)]


@pytest.mark.parametrize(("shift", "spread", "said"), [(0.05, 0.01, "above"), (-0.002, 0.001, "within"), (-0.1, 0.01, "below"), (-0.01, 0.2, "undecided")])
def test_the_verdict_is_the_intervals(shift, spread, said):
    (row,) = paired_rows(records(shift, spread), [records(0, 0)], 0.01)
    assert row["verdict"] == said
    assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert row["n"] == 20


def test_an_interval_that_touches_both_sides_of_the_margin_decides_nothing():
    assert [verdict(*x, 0.01) for x in ((0.001, 0.1), (-0.009, 0.1), (-0.02, -0.011), (-0.02, 0.1), (-0.02, -0.005))] == [
        "above", "within", "below", "undecided", "undecided",
    ]  # fmt: skip


def test_pairs_are_by_case_and_several_runs_of_the_reference_are_averaged():
    ours = records(0.0, 0.1)
    shuffled = [dict(r, structures={"larynx": {"dice": r["structures"]["larynx"]["dice"] - 0.05}}) for r in reversed(ours)]
    more = [dict(r, structures={"larynx": {"dice": r["structures"]["larynx"]["dice"] - 0.03}}) for r in ours[:10]]
    (row,) = paired_rows(ours, [shuffled])
    assert (row["difference"], row["interval"]) == (0.05, [0.05, 0.05])
    (row,) = paired_rows(ours, [shuffled, more])
    assert row["difference"] == pytest.approx(0.045, abs=1e-4)


def test_a_reference_that_taught_the_model_or_one_that_it_began_with_is_named():
    def reference(grid, **other):
        return {"grid": grid, "filters": 16, "step": 6000, "seed": 0, "seconds": 2715.8, **other}

    teacher = {"grid": "head_neck", "filters": 16, "step": 6000, "seed": 0, "hours": 0.75}
    for training in ({"teachers": [teacher]}, {"started_from": {"training": {"started_from": {"training": {"teachers": [teacher]}}}}}):
        assert taught_by(training, [reference("head_neck"), reference("limb")]) == ["head_neck"]
        for change in ({"seed": 1}, {"step": 5750}, {"seconds": 2900.0}):
            assert taught_by(training, [reference("head_neck", **change)]) == []
    assert taught_by({}, [reference("head_neck")]) == []
    assert "The DynUNet of head neck also taught ours" in markdown([], [], ["head_neck"])
    assert "taught" not in markdown([], [])


def test_the_mean_of_a_grid_counts_structures_alike_and_draws_cases():
    ours, theirs = records(0, 0), records(0, 0)
    for n, record in enumerate(ours):
        if n < 2:  # a structure that few cases hold
            record["structures"]["esophagus"] = {"dice": 0.5}
            theirs[n]["structures"]["esophagus"] = {"dice": 0.3}
    mean = paired_rows(ours, [theirs])[-1]
    assert mean["title"] == "head and neck, mean of 2"
    assert mean["difference"] == pytest.approx(0.1)


def summary():
    def row(mean, low, high):
        return {"dice": {"mean": mean, "interval": [low, high], "n": 20}}

    return {
        "structures": {"anterior hippocampus": row(0.88, 0.87, 0.89), "hippocampus": row(0.88, 0.87, 0.90), "posterior hippocampus": row(0.80, 0.79, 0.81)},
        "presence": {"auroc_all": 0.99, "auroc_inside_head_and_neck": 0.9, "absent_and_not_drawn": {"share": 0.96, "n": 100}, "ece": 0.06},
        "prompt_use": {"off_diagonal_mean": {"head and neck": 0.01}, "side_confusion": {}},
        "paraphrases": {"mean": {"canonical": 0.8, "resolver": 0.8, "raw": 0.75}},
    }


def test_targets_are_met_missed_undecided_or_not_measured():
    found = {r["title"]: r["verdict"] for r in targets(summary())}
    assert found["Dice, anterior hippocampus"] == "met"
    assert found["Dice, posterior hippocampus"] == "missed"
    assert found["Dice, hippocampus"] == "undecided"
    assert not [title for title in found if "sarcoma" in title], "without an ellipsoid there is nothing to pass"
    assert found["Dice lost by unseen wordings, through the resolver"] == "met"
    assert found["Dice lost by unseen wordings, raw text"] == "missed"
    assert found["presence AUROC inside head and neck"] == "missed"
    assert found["calibration error of presence"] == "missed"


def test_wordings_that_were_not_measured_are_no_target_missed():
    """The mean of an evaluation with no unseen wordings is null in the JSON."""
    values = summary()
    for means in ({"canonical": None, "resolver": None, "raw": None}, {"canonical": 0.8, "resolver": None, "raw": 0.8}, {}):
        values["paraphrases"] = {"mean": means}
        found = {r["title"]: r["verdict"] for r in targets(values)}
        assert found["Dice lost by unseen wordings, through the resolver"] == "not measured"


def test_a_sarcoma_must_pass_the_ellipsoid_that_was_measured():
    values = summary()
    values["structures"] |= {"soft tissue sarcoma (MR)": {"dice": {"mean": 0.78, "interval": [0.65, 0.9], "n": 5}}}
    values["centred_ellipsoid"] = {m: {"dice": {"mean": v, "interval": [0.6, 0.8], "n": 5}} for m, v in (("mr", 0.687), ("ct", 0.7))}
    found = {r["title"]: r for r in targets(values)}
    assert (found["Dice, soft tissue sarcoma (MR)"]["bound"], found["Dice, soft tissue sarcoma (MR)"]["verdict"]) == (0.687, "undecided")
    assert found["Dice, soft tissue sarcoma (CT)"]["verdict"] == "not measured"


def test_compare_command_writes_both_tables_and_refuses_another_split(tmp_path, capsys):
    ours = {"split": "test", "model": {"name": "x"}, "records": records(0.05, 0.01), **summary()}
    theirs = {"split": "test", "grid": "head_neck", "seed": 0, "records": records(0, 0)}
    for name, values in (("ours", ours), ("theirs", theirs), ("other", {**theirs, "split": "validation"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    command = ["compare", str(tmp_path / "ours.json"), "-o", str(tmp_path / "out.json"), "--baseline"]
    assert main([*command, str(tmp_path / "theirs.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert [r["verdict"] for r in result["rows"]] == ["above"]
    table = (tmp_path / "out.md").read_text()
    assert "| larynx | 0.8" in table
    assert "| ours | DynUNet | difference (95 % interval) |" in table
    assert main([*command, str(tmp_path / "other.json")]) == 1
    assert "use the same --split" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "nowhere.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_references_of_an_earlier_comparison_are_paired_with_later_weights(tmp_path, capsys):
    first = {"split": "test", "model": {"tensors_sha256": "a" * 64}, "records": records(0.05, 0.01), **summary()}
    later = {"split": "test", "model": {"tensors_sha256": "b" * 64}, "records": records(0.02, 0.02, seed=1), **summary()}
    theirs = {"split": "test", "grid": "head_neck", "seed": 0, "step": 90, "records": records(0, 0.01, seed=2)}
    for name, values in (("first", first), ("later", later), ("theirs", theirs)):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))

    def compared(ours, out, *options):
        return main(["compare", str(tmp_path / f"{ours}.json"), "-o", str(tmp_path / out), *options])

    assert compared("first", "earlier.json", "--baseline", str(tmp_path / "theirs.json")) == 0
    assert compared("later", "kept.json", "--keep", str(tmp_path / "earlier.json")) == 0
    assert compared("later", "anew.json", "--baseline", str(tmp_path / "theirs.json")) == 0
    kept, anew, earlier = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("kept", "anew", "earlier"))
    assert kept["rows"] == anew["rows"] != earlier["rows"]
    assert kept["references"] == anew["references"] == earlier["references"]
    assert kept["references"][0]["step"] == 90

    assert compared("later", "replaced.json", "--baseline", str(tmp_path / "theirs.json"), "--keep", str(tmp_path / "earlier.json")) == 0
    assert len(json.loads((tmp_path / "replaced.json").read_text())["references"]) == 1, "one that is measured anew is not counted twice"

    del earlier["references"][0]["records"]
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    assert compared("later", "out.json", "--keep", str(tmp_path / "earlier.json")) == 1
    assert "leave --keep out" in capsys.readouterr().err
    assert compared("later", "out.json") == 1
    assert "give --baseline" in capsys.readouterr().err
