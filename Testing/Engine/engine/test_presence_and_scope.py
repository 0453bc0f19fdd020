"""Absent, uncertain, out of scope, and on the wrong side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_engine import BOTH, blocks, make_engine

from RefSAM3DLib.checkpoint import Calibration, Checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.errors import DeviceError
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.inference.localize import Finding
from RefSAM3DLib.inference.postprocess import NativeMap
from RefSAM3DLib.inference.session import PromptSession, TermAnswer
from RefSAM3DLib.types import SIDE_UNSURE, Modality, Verdict


def test_absent_structure_takes_no_fine_tile(checkpoint: Checkpoint) -> None:
    engine = make_engine(calibration=Calibration(scale=0.01, bias=-5.0))
    found = engine.segment(blocks(), ["brainstem"])[0]
    assert found.verdict is Verdict.ABSENT
    assert found.presence < 0.1
    assert not found.mask.any()
    assert found.box is None
    assert found.volume_ml == 0
    assert np.isnan(found.confidence)
    assert all(not grid.tiles for (_, coarse, *_), grid in engine.embed(blocks()).grids.items() if not coarse)


def test_in_between_is_uncertain() -> None:
    found = make_engine(calibration=Calibration(scale=0.0, bias=0.0)).segment(blocks(), ["brainstem"])[0]
    assert found.presence == 0.5
    assert found.verdict is Verdict.UNCERTAIN


def test_image_out_of_scope_is_at_most_uncertain_and_says_why() -> None:
    engine = make_engine(grid={"extent_mm": ((0, 0, 0), (100.0, 100.0, 100.0))})
    found = engine.segment(blocks(), ["brainstem"])[0]
    assert found.verdict is Verdict.UNCERTAIN
    assert any("field of view" in w for w in found.warnings)
    other = make_engine().segment(dataclasses.replace(blocks(), modality=Modality.MR), ["brainstem"])[0]
    assert other.verdict is Verdict.UNCERTAIN
    assert any("This image is MR" in w for w in other.warnings)


#: By hand: a brainstem with a speck, a larynx of 4 % of it with a speck of its own, a mandible that takes all but a corner of the larynx.
OUTLINES = {
    "brainstem": [(2, 12, 4, 14, 4, 14), (15, 17, 4, 6, 4, 6)],
    "larynx": [(4, 8, 16, 20, 20, 22), (10, 11, 16, 17, 20, 21)],
    "mandible": [(4, 12, 16, 20, 20, 21), (5, 8, 16, 20, 21, 22)],
}


def outlined(session: PromptSession, term: TermAnswer, *_: object) -> float:
    values = np.zeros((20, 24, 28), np.float32)
    for d0, d1, h0, h1, w0, w1 in OUTLINES[term.term.structure]:
        values[d0:d1, h0:h1, w0:w1] = 0.9 if term.term.structure == "brainstem" else 0.8
    term.native = NativeMap(values, (0, 20, 0, 24, 0, 28))
    return 0.0


def test_a_small_structure_is_no_speck_of_a_larger_one(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptSession, "_draw", outlined)
    prompts = ("brainstem", "larynx", "brainstem plus larynx", "larynx plus brainstem minus mandible", "brainstem minus larynx")
    large, small, union, rest, without = engine.segment(blocks(), prompts, probability=True)
    assert (large.mask.sum(), small.mask.sum()) == (1000, 32), "specks of each are gone"
    assert np.array_equal(union.mask, large.mask | small.mask)
    assert union.volume_ml == pytest.approx(large.volume_ml + small.volume_ml)
    assert union.confidence == pytest.approx((1000 * large.confidence + 32 * small.confidence) / 1032)
    assert union.probability.max() == large.probability.max()
    assert union.probability[15, 4, 4] == large.probability[15, 4, 4] > 0, "probabilities keep their specks"
    corner = np.zeros_like(small.mask)
    corner[4, 16:20, 21] = True
    assert np.array_equal(rest.mask, large.mask | corner)
    assert np.array_equal(without.mask, large.mask)
    cut = engine.segment(blocks(), ["brainstem plus larynx"], roi=(0, 20, 16, 24, 0, 28))[0]
    assert np.array_equal(cut.mask, small.mask)


def test_what_was_to_be_subtracted_and_could_not_be_outlined_is_said(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptSession, "_draw", lambda self, term, *rest: 0.0 if term.term.structure == "larynx" else outlined(self, term))
    whole, rest = engine.segment(blocks(), ["brainstem", "brainstem minus larynx"])
    assert np.array_equal(rest.mask, whole.mask)
    assert rest.verdict is Verdict.UNCERTAIN
    assert any("'larynx' is in view but could not be outlined, so nothing was subtracted" in w for w in rest.warnings)


def test_a_region_without_the_structure_says_so(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptSession, "_draw", outlined)
    inside, beside = (engine.segment(blocks(), ["larynx"], roi=roi)[0] for roi in ((0, 20, 16, 24, 0, 28), (0, 20, 0, 10, 0, 28)))
    assert inside.verdict is Verdict.PRESENT
    assert inside.warnings == ()
    assert beside.verdict is Verdict.UNCERTAIN
    assert any("nothing of it lies in the region" in w for w in beside.warnings)


def test_an_answer_that_is_no_number_is_an_error(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.inference.session.localize", lambda views, prompts: [Finding(float("nan"), None)])
    with pytest.raises(DeviceError, match="no number for 'brainstem'"):
        engine.segment(blocks(), ["brainstem"])


def test_a_bias_beyond_all_exponentials_is_absent() -> None:
    assert make_engine(calibration=Calibration(scale=0.01, bias=-800.0)).segment(blocks(), ["brainstem"])[0].verdict is Verdict.ABSENT


@pytest.mark.parametrize("change", [lambda a: a + 1024, lambda a: np.clip((a + 1024) / 8, 0, 255)], ids=["no intercept", "a picture"])
def test_a_ct_in_other_units_is_never_denied_with_certainty(change) -> None:
    """Air is 0 and soft tissue 1064: nothing looks like itself, so that "absent" says nothing of the patient."""
    array = np.full((20, 24, 28), -1000, np.int16)
    array[2:18, 3:21, 4:24] = 40  # a body
    array[6:9, 8:12, 9:13] = -90  # with fat
    engine, volume = make_engine(calibration=Calibration(scale=0.01, bias=-5.0)), dataclasses.replace(blocks(), array=array)
    assert engine.segment(volume, ["brainstem"])[0].verdict is Verdict.ABSENT
    found = engine.segment(dataclasses.replace(volume, array=np.ascontiguousarray(change(volume.array.astype(np.float32)))), ["brainstem"])[0]
    assert found.verdict is Verdict.UNCERTAIN
    assert not found.mask.any()
    assert any("do not look like Hounsfield units" in w for w in found.warnings)


def test_an_image_that_another_model_encoded_is_read_anew(engine: RefSAM3DEngine) -> None:
    other = make_engine(seed=1)
    volume = blocks()
    expected = other.segment(volume, ["brainstem"], probability=True)[0]
    found = other.segment(engine.embed(volume), ["brainstem"], probability=True)[0]
    assert found.presence == expected.presence
    assert np.array_equal(found.probability, expected.probability)


@pytest.mark.parametrize("kept", [slice(0, 18), slice(14, 28), slice(9, 18)])
def test_no_side_is_doubted_where_the_midline_is_not_in_the_middle(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, kept: slice) -> None:
    """Crops of one side, or of the middle of the body alone: what is left of a crop's middle may well be right of the body's."""
    array = np.full((20, 24, 28), -1000, np.int16)
    array[2:18, 3:21, 4:24] = 40
    array[2:18, 3:21, 4] = array[2:18, 3:21, 16] = 41
    volume = dataclasses.replace(blocks(), array=np.ascontiguousarray(array[:, :, kept]))
    volume.geometry = Geometry(volume.array.shape, volume.geometry.ijk_to_ras)
    width = volume.array.shape[2]
    engine = make_engine(grid={"extent_mm": ((100.0, 100.0, 150.0), (500.0, 500.0, 500.0))})
    for low in (1, width - 5):

        def outline(session: PromptSession, term: TermAnswer, *_: object, low: int = low) -> float:
            term.native = NativeMap(np.full((4, 4, 4), 0.9, np.float32), (8, 12, 8, 12, low, low + 4))
            return 0.0

        monkeypatch.setattr(PromptSession, "_draw", outline)
        for r in engine.segment(volume, [BOTH]):
            assert r.mask.sum() == 64
            assert r.verdict is Verdict.PRESENT
            assert r.warnings == ()


def test_result_on_the_wrong_side_of_the_midline_is_warned_about(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outline is put by hand on one side of a symmetric body; only the name for the other side is warned about."""
    array = np.full((20, 24, 28), -1000, np.int16)
    array[2:18, 3:21, 4:24] = 40
    array[2:18, 3:21, 4] = 41  # not constant along the rows, so no orientation is a guess
    volume = dataclasses.replace(blocks(), array=array)  # i grows to the Left
    engine = RefSAM3DEngine(checkpoint, "cpu")
    for low, side in ((5, "right"), (18, "left")):

        def outline(session: PromptSession, term: TermAnswer, *_: object, low: int = low) -> float:
            term.native = NativeMap(np.full((4, 4, 4), 0.9, np.float32), (8, 12, 8, 12, low, low + 4))
            return 0.0

        monkeypatch.setattr(PromptSession, "_draw", outline)
        for r in engine.segment(volume, [BOTH]):
            assert r.mask[8:12, 8:12, low : low + 4].all()
            assert r.mask.sum() == 64
            is_right_answer = r.resolved.startswith(side)
            assert (r.verdict is Verdict.PRESENT) == is_right_answer
            assert any("check the side" in w for w in r.warnings) != is_right_answer


def test_a_structure_with_a_side_is_uncertain_where_the_file_does_not_say_which_side_is_left(
    engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outline(session: PromptSession, term: TermAnswer, *_: object) -> float:
        low = 18 if term.term.structure.startswith("left") else 5
        term.native = NativeMap(np.full((4, 4, 4), 0.9, np.float32), (8, 12, 8, 12, low, low + 4))
        return 0.0

    monkeypatch.setattr(PromptSession, "_draw", outline)
    prompts = ("brainstem", "left parotid gland", "brainstem plus left parotid gland", "brainstem minus left parotid gland")
    for metadata in ({}, {SIDE_UNSURE: "yes"}, {}):  # one encoding answers for all of them: the voxels are the same
        found = engine.segment(dataclasses.replace(blocks(), metadata=metadata), prompts)
        doubted = [any("what is left and what is right" in w for w in result.warnings) for result in found]
        assert doubted == ([False, True, True, True] if metadata else [False] * 4)
        assert all(result.verdict is Verdict.UNCERTAIN for result, doubt in zip(found, doubted, strict=True) if doubt)
        assert found[0].verdict is Verdict.PRESENT


def test_an_image_of_another_stated_modality_is_at_most_uncertain_and_says_why(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptSession, "_draw", outlined)
    for stated, source, doubted in (("NM", "inspection", True), ("NM", "user", False), ("CT", "dicom", False)):
        volume = dataclasses.replace(blocks(), metadata={"modality": stated}, modality_source=source)
        found = engine.segment(volume, ["brainstem"])[0]
        assert (found.verdict is Verdict.UNCERTAIN) == doubted
        assert any("says NM (nuclear medicine), and no model was trained on that" in w for w in found.warnings) == doubted
