"""Texts that may mean the opposite of what their words name: the viewer's side, a dash before a part. They are asked about, never drawn."""

from __future__ import annotations

import pytest

from RefSAM3DLib.text.prompts import resolve
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.types import PromptStatus

VOCABULARY = Vocabulary.default()


@pytest.mark.parametrize(
    "text",
    [
        "parotid on the left of the image", "image left parotid", "left side of image: parotid gland", "parotid on my left", "parotid I see on the left",
        "left image parotid", "the parotid gland shown on the right", "Parotid right half of the slice",
    ],
)  # fmt: skip
def test_the_viewers_side_is_asked_for(text: str):
    """The left of a displayed image is usually the patient's right: such a text never draws a side by itself."""
    (result,) = resolve(text, VOCABULARY)
    assert result.status is PromptStatus.CLOSE
    assert {*result.suggestions} == {"left parotid gland", "right parotid gland"}
    assert "patient's side" in result.note


@pytest.mark.parametrize("text", ["show the left parotid in the image", "see left parotid", "I want to see the left parotid on this scan", "view left parotid"])
def test_an_image_elsewhere_in_the_text_makes_no_question(text: str):
    assert [r.resolved for r in resolve(text, VOCABULARY)] == ["left parotid gland"]


@pytest.mark.parametrize(
    "text",
    [
        "segment the parotid glands for RT", "parotids for RT", "RT parotid glands", "the RT structures: parotid glands", "parotid glands (RT)",
        "CT/RT parotid glands", "RT OAR parotid", "both parotid glands for RT", "left parotid for RT", "dose to the rt parotid for RT",
    ],
)  # fmt: skip
def test_radiotherapy_is_never_drawn_as_the_right_side(text: str):
    (result,) = resolve(text, VOCABULARY)
    assert result.status is PromptStatus.CLOSE
    assert {*result.suggestions} == {"left parotid gland", "right parotid gland"}
    assert "radiotherapy" in result.note


@pytest.mark.parametrize("text", ["rt parotid", "Parotid_RT", "RT Parotid", "parotid gland, rt", "segment the rt parotid please", "larynx minus rt parotid"])
def test_rt_beside_the_name_of_one_is_right(text: str):
    assert resolve(text, VOCABULARY)[-1].resolved.endswith("right parotid gland")


@pytest.mark.parametrize("text", ["lt/rt parotids", "lt and rt parotid"])
def test_rt_beside_lt_is_right(text: str):
    assert [r.resolved for r in resolve(text, VOCABULARY)] == ["left parotid gland", "right parotid gland"]


@pytest.mark.parametrize(
    "text",
    [
        "segment the parotid glands right now", "the left parotid, right?", "left parotid please, right now", "parotid glands minus right now",
        "the parotid that is left", "what is left of the parotid", "what's left of the parotid gland", "both right parotid",
    ],
)  # fmt: skip
def test_a_word_of_speech_is_no_side(text: str):
    (result,) = resolve(text, VOCABULARY)
    assert result.status is PromptStatus.CLOSE
    assert {*result.suggestions} == {"left parotid gland", "right parotid gland"}


def test_both_may_join_a_list_with_one_side_in_it():
    assert [r.resolved for r in resolve("both the right parotid and the mandible", VOCABULARY)] == ["right parotid gland", "mandible"]
    assert [r.resolved for r in resolve("Parotid, right", VOCABULARY)] == ["right parotid gland"]


@pytest.mark.parametrize(
    ("text", "suggestions"),
    [
        ("hippocampus - anterior", ["hippocampus", "anterior hippocampus"]),
        ("hippocampus \u2212 anterior", ["hippocampus", "anterior hippocampus"]),
        ("both parotids - left", ["left parotid gland", "right parotid gland"]),
        ("both parotids \u2212 left", ["left parotid gland", "right parotid gland"]),
        ("parotid glands \u2212 left", ["left parotid gland", "right parotid gland"]),
    ],
)
def test_a_dash_before_a_part_or_a_side_is_never_the_part_itself(text: str, suggestions: list[str]):
    (result,) = resolve(text, VOCABULARY)
    assert (result.status, list(result.suggestions)) == (PromptStatus.CLOSE, suggestions)
    assert "dash" in result.note


def test_every_open_difference_of_a_list_is_a_question_of_its_own():
    first, second = resolve("larynx minus teeth; mandible minus marrow", VOCABULARY)
    assert "larynx" in first.suggestions
    assert "mandible" in second.suggestions


@pytest.mark.parametrize("text", ["b/l parotids", "B/L Parotid", "b / l parotid glands"])
def test_bilateral_shorthand_is_both_sides(text: str):
    assert [r.resolved for r in resolve(text, VOCABULARY)] == ["left parotid gland", "right parotid gland"]


@pytest.mark.parametrize("text", ["c/l parotid", "i/l parotid", "C/L parotid gland"])
def test_the_side_relative_to_something_unsaid_is_a_question(text: str):
    (found,) = resolve(text, VOCABULARY)
    assert found.status is PromptStatus.CLOSE
    assert {*found.suggestions} == {"left parotid gland", "right parotid gland"}


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("both parotids, excluding the left", "left parotid gland plus right parotid gland minus left parotid gland"),
        ("hippocampus, minus the posterior part", "hippocampus minus posterior hippocampus"),
        ("left parotid, without the larynx", "left parotid gland minus larynx"),
        ("larynx; without esophagus", "larynx minus esophagus"),
    ],
)
def test_punctuation_before_a_subtraction_does_not_drop_it(text: str, resolved: str):
    assert [r.resolved for r in resolve(text, VOCABULARY)] == [resolved]


@pytest.mark.parametrize("text", ["cord, vocal", "brainstem/spinal cord junction"])
def test_another_organ_written_like_a_list_draws_none_of_ours(text: str):
    assert all(r.status is not PromptStatus.KNOWN for r in resolve(text, VOCABULARY))


@pytest.mark.parametrize(
    ("text", "side"), [("parotide droite", "right"), ("glande parotide gauche", "left"), ("Parotis rechts", "right"), ("linke Parotis", "left")]
)
def test_a_side_in_another_language_is_never_answered_by_the_other(text: str, side: str):
    (found,) = resolve(text, VOCABULARY)
    assert {found.resolved, *found.suggestions} - {""} == {f"{side} parotid gland"}


def test_a_side_that_is_not_understood_names_both():
    (found,) = resolve("parotide destra", VOCABULARY)
    assert found.note.endswith("did you mean 'left parotid gland' or 'right parotid gland'?")


def test_an_unknown_structure_is_answered_with_those_that_there_are():
    (found,) = resolve("liver", VOCABULARY)
    assert "It has brainstem, spinal cord, left and right parotid gland, " in found.note
