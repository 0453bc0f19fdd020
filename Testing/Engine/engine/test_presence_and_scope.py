"""Absent, uncertain, out of scope, and on the wrong side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_engine import BOTH, blocks, make_engine

from RefSAM3DLib.checkpoint import Calibration, Checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.inference.postprocess import NativeMap
from RefSAM3DLib.inference.session import PromptSession, TermAnswer
from RefSAM3DLib.types import Modality, Verdict


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
