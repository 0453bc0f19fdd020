"""What is said about a structure from its presence and its outline."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from asymmetric_blocks import asymmetric_blocks
from tiny_checkpoint import DRAWN, tiny_checkpoint

from RefSAM3DLib.checkpoint import Calibration
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.inference.postprocess import NativeMap
from RefSAM3DLib.inference.session import PromptSession, TermAnswer
from RefSAM3DLib.inference.verdict import outline_doubt, part_doubt, verdict_of
from RefSAM3DLib.types import PromptResult, Verdict

CALIBRATION = Calibration(present_from=0.7, absent_below=0.3, least_confidence={"larynx": 0.85})
#: No outline is as sure as the first, every outline as sure as the second.
ALWAYS, NEVER = 1.0, 0.0


def ask(prompt: str, least: dict[str, float], **arguments) -> PromptResult:
    checkpoint = tiny_checkpoint(calibration=dataclasses.replace(DRAWN, least_confidence=least))
    volume = asymmetric_blocks((20, 24, 28), (12.0, 11.0, 12.5))[0]
    return RefSAM3DEngine(checkpoint, "cpu").segment(volume, [prompt], **arguments)[0]


@pytest.mark.parametrize(
    ("presence", "drawn", "expected"),
    [(0.9, True, Verdict.PRESENT), (0.9, False, Verdict.UNCERTAIN), (0.5, True, Verdict.UNCERTAIN), (0.5, False, Verdict.ABSENT), (0.2, True, Verdict.ABSENT)],
)
def test_verdict_follows_presence_and_whether_anything_was_drawn(presence, drawn, expected) -> None:
    assert verdict_of(presence, drawn, CALIBRATION) is expected


def test_doubt_is_said_below_the_least_confidence_alone_and_with_both_values() -> None:
    assert outline_doubt("larynx", 0.85, CALIBRATION) == ""
    assert outline_doubt("brainstem", 0.1, CALIBRATION) == ""  # nothing is known of its outlines
    said = outline_doubt("larynx", 0.849, CALIBRATION)
    assert "'larynx'" in said
    assert "0.85" in said
    assert "nothing could be outlined" in outline_doubt("brainstem", None, CALIBRATION)


def test_an_unusual_outline_is_drawn_but_uncertain_and_says_why() -> None:
    usual, unusual = (ask("brainstem", {"brainstem": least}) for least in (NEVER, ALWAYS))
    assert usual.verdict is Verdict.PRESENT
    assert usual.warnings == ()
    assert unusual.verdict is Verdict.UNCERTAIN
    assert "unusually low confidence" in unusual.warnings[0]
    np.testing.assert_array_equal(usual.mask, unusual.mask)
    assert usual.presence == unusual.presence
    assert unusual.confidence == usual.confidence


def test_the_confidence_that_is_compared_is_the_one_of_the_result() -> None:
    confidence = ask("brainstem", {}).confidence
    assert ask("brainstem", {"brainstem": confidence - 1e-6}).verdict is Verdict.PRESENT
    assert ask("brainstem", {"brainstem": confidence + 1e-6}).verdict is Verdict.UNCERTAIN


@pytest.mark.parametrize("prompt", ["left parotid gland plus right parotid gland", "left parotid gland minus right parotid gland"])
def test_each_structure_of_a_composite_is_judged_by_itself(prompt) -> None:
    doubted = [
        [w.split("'")[1] for w in ask(prompt, {"left parotid gland": NEVER, "right parotid gland": least}).warnings if "unusually" in w]
        for least in (NEVER, ALWAYS)
    ]
    assert doubted == [[], ["right parotid gland"]]


def test_an_outline_cut_by_a_region_is_not_judged() -> None:
    assert ask("brainstem", {"brainstem": ALWAYS}, roi=(2, 18, 2, 20, 2, 20)).verdict is Verdict.PRESENT


def test_a_place_in_view_without_an_outline_is_uncertain_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PromptSession._outline

    def without_voxels(self, term: TermAnswer, views, box) -> None:
        original(self, term, views, box)
        assert term.native is not None
        term.native = NativeMap(np.full_like(term.native.values, 0.2), term.native.box)

    def nothing(self, term: TermAnswer, views, box) -> None:
        pass

    for replacement in (without_voxels, nothing):
        monkeypatch.setattr(PromptSession, "_outline", replacement)
        found = ask("brainstem", {})
        assert found.verdict is Verdict.UNCERTAIN
        assert not found.mask.any()
        assert ["nothing could be outlined there" in w for w in found.warnings] == [True]
    assert not any("place" in w for w in ask("pterygoid plexus", {}, allow_unknown=True).warnings)


def test_part_that_is_absent_or_doubtful_is_said_with_what_it_means() -> None:
    assert part_doubt("larynx", 0.2, False, CALIBRATION) == "'larynx' was not found; the result is without it."
    assert part_doubt("larynx", 0.2, True, CALIBRATION) == ""  # nothing of it to subtract
    assert "its part of the result" in part_doubt("larynx", 0.5, False, CALIBRATION)
    assert "what was subtracted" in part_doubt("larynx", 0.5, True, CALIBRATION)
    assert part_doubt("larynx", 0.7, False, CALIBRATION) == ""


def test_combination_without_one_of_its_structures_is_uncertain_and_names_it() -> None:
    volume = asymmetric_blocks((20, 24, 28), (12.0, 11.0, 12.5))[0]
    names = ("brainstem", "larynx")
    steady = RefSAM3DEngine(tiny_checkpoint(calibration=dataclasses.replace(DRAWN, scale=1.0, bias=0.0, absent_below=0.0)), "cpu")
    logits = {name: float(np.log(p / (1 - p))) for name in names for p in [steady.segment(volume, [name])[0].presence]}
    absent, present = sorted(names, key=lambda name: logits[name])
    for middle, wanted in ((sum(logits.values()) / 2, "was not found"), (logits[absent], "It is not certain")):
        steep = 1000.0
        calibration = dataclasses.replace(DRAWN, scale=steep, bias=-steep * middle)
        engine = RefSAM3DEngine(tiny_checkpoint(calibration=calibration), "cpu")
        assert engine.segment(volume, [present])[0].verdict is Verdict.PRESENT
        union, difference = engine.segment(volume, [f"{present} plus {absent}", f"{present} minus {absent}"])
        assert union.verdict is Verdict.UNCERTAIN
        assert [absent in w and wanted in w for w in union.warnings] == [True]
        assert (difference.verdict, len(difference.warnings)) == ((Verdict.PRESENT, 0) if middle != logits[absent] else (Verdict.UNCERTAIN, 1))


def test_a_confidence_just_below_the_usual_is_told_from_it() -> None:
    said = outline_doubt("esophagus", 0.8211, Calibration(least_confidence={"esophagus": 0.8239}))
    assert "0.8211; 0.8239 or more" in said
