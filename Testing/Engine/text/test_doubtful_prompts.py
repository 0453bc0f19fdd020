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
