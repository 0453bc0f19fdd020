"""Left and right are exchanged exactly where a reader would exchange them, and writings of one wording are equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from RefSAM3DLib.text.lexicon import canonical_word
from RefSAM3DLib.text.spelling import corrected, corrected_side, edit_distance
from RefSAM3DLib.text.wording import normalise, swap_sides

SIDES = ("left", "Left", "LEFT", "right", "Right", "RIGHT", "l", "L", "r", "R", "lt", "LT", "rt", "RT", "Rt", "sinistra", "Dextra", "lhs")
OTHERS = ("parotid", "Parotid", "gland", "SpinalCord", "L5", "mL", "cleft", "bright", "rtPA", " ", " ", " ", "_", "-", ", ", "(", "'s", "2")
PIECES = st.sampled_from((*SIDES, *OTHERS))


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("left parotid gland", "right parotid gland"),
        ("Left and RIGHT", "Right and LEFT"),
        ("Parotid_L", "Parotid_R"),
        ("PAROTID_RT", "PAROTID_LT"),
        ("ParotidL", "ParotidR"),
        ("LParotid", "RParotid"),
        ("LeftParotid", "RightParotid"),
        ("left-sided (l)", "right-sided (r)"),
        ("parotis sinistra", "parotis dextra"),
        ("rt. parotid", "lt. parotid"),
        ("on the patient's left", "on the patient's right"),
        ("L5, mL, cleft, bright, rtPA", "L5, mL, cleft, bright, rtPA"),
        ("lEFT", "right"),
        ("", ""),
    ],
)
def test_swap_sides(text: str, swapped: str):
    assert swap_sides(text) == swapped


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(deadline=None, max_examples=400)
def test_swapping_twice_gives_the_text_back(text: str):
    assert swap_sides(swap_sides(text)) == text


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=300)
def test_normalise_is_idempotent_and_leaves_words_and_single_spaces(text: str):
    normalised = normalise(text)
    assert normalise(normalised) == normalised
    assert normalised == " ".join(normalised.split())
    assert normalised.isalnum() or not normalised.replace(" ", "") or normalised.replace(" ", "").isalnum()


@pytest.mark.parametrize(
    "writing",
    [
        "SpinalCord",
        "spinal_cord",
        "Spinal-Cord",
        "SPINAL  CORD.",
        "ｓｐｉｎａｌ ｃｏｒｄ",
        "spi\u00adnal cord",
        "spinal\u200bcord",
        "Spínal córd",
        "‘spinal’ cord",
    ],
)
def test_writings_of_one_wording_are_equal(writing: str):
    assert normalise(writing) == "spinal cord"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("glands", "gland"), ("oesophagus", "esophagus"), ("tumours", "tumor"), ("sarcomata", "sarcomas"), ("hippocampi", "hippocampus")),
        *(("laryngeal", "larynx"), ("masses", "mass"), ("glandula", "gland")),
    ],
)
def test_forms_of_one_word_are_equal(one: str, other: str):
    assert canonical_word(one) == canonical_word(other)


@pytest.mark.parametrize("word", ["hippocampus", "sts", "mass", "spinalis", "is", "this", "truncus"])
def test_a_final_s_that_is_no_plural_stays(word: str):
    assert canonical_word(word) in (word, "spinal")


@given(*[st.text(alphabet="abcd", max_size=6)] * 2)
@settings(deadline=None, max_examples=300)
def test_edit_distance_is_symmetric_and_bounded_by_the_longer_word(one: str, other: str):
    distance = edit_distance(one, other)
    assert distance == edit_distance(other, one)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))
    assert (distance == 0) == (one == other)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("larnyx", "larynx"), ("alrynx", "larynx"), ("hipocampus", "hippocampus"), ("bullet", None), ("pharynx", None), ("larynx", None)],
)
def test_only_slips_are_corrected(word: str, expected: str | None):
    assert corrected(word, dict.fromkeys(("larynx", "hippocampus", "gullet"), False)) == expected


def test_short_words_are_corrected_only_where_their_context_asks_for_it():
    assert corrected("crod", {"cord": False}) is None
    assert corrected("crod", {"cord": True}) == "cord"


@pytest.mark.parametrize("word", ["rihgt", "rigth", "righ", "rright"])
def test_a_misspelt_side_is_never_read_as_the_other(word: str):
    assert corrected_side(word) == "right"
    assert corrected_side(word[::-1]) == ""
