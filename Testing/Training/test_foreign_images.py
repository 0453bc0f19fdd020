"""Trained names asked of an image that holds none of them."""

import math

import pytest
import SimpleITK as sitk
from refsam3d_training.evaluation.case_record import Extras, measure_foreign
from tiny_checkpoint import DRAWN, STRUCTURES
from tiny_engine import blocks, make_engine

from RefSAM3DLib.compare import to_image


@pytest.mark.parametrize(("file", "modality"), [("case_ct.nii.gz", "ct"), ("case_mr.nii.gz", "mr")])
def test_every_trained_name_counts_as_absent_with_its_answer_and_its_logit(tmp_path, file, modality):
    volume, engine = blocks(), make_engine()
    sitk.WriteImage(to_image(volume.array, volume.geometry), str(tmp_path / file))
    record = measure_foreign(engine, "abdomen/1", tmp_path / file, Extras())
    rows = record.pop("presence")
    assert record == {"case": "abdomen/1", "grid": "abdomen", "modality": modality}
    assert {row["name"] for row in rows} == set(STRUCTURES) - {"spinal cord", "esophagus"}, "these two pass through an abdomen's image"
    for row in rows:
        assert (row["kind"], row["grid"], row["present"]) == ("abdomen", "head_neck", False)
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(-DRAWN.scale * row["logit"] - DRAWN.bias)), abs=1e-4)
        assert (row["drawn"], row["verdict"] != "absent") == (True, True), "this network draws whatever it is asked for"
    assert engine.cached_bytes == 0


def test_logits_alone_are_the_same(tmp_path):
    volume, engine = blocks(), make_engine()
    sitk.WriteImage(to_image(volume.array, volume.geometry), str(tmp_path / "a.nii.gz"))
    drawn, alone = (measure_foreign(engine, "a", tmp_path / "a.nii.gz", Extras(draw_absent=d))["presence"] for d in (True, False))
    assert all("probability" not in row for row in alone)
    assert [row["logit"] for row in alone] == pytest.approx([row["logit"] for row in drawn], abs=1e-4)
