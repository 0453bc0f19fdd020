"""What holds for every text, whatever is typed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from readings import POSTERIOR, VOCABULARY, WORDINGS, known

from RefSAM3DLib.errors import PromptError
from RefSAM3DLib.text.prompts import resolve, swap_sides
from RefSAM3DLib.text.wording import normalise
from RefSAM3DLib.types import PromptStatus, ResolvedPrompt

TOKENS = st.sampled_from(
    [word for _, wording in WORDINGS for word in wording.split()]
    + [word for name in VOCABULARY.distractors for word in name.split()]
    + [
        *(
            "and",
            ",",
            ";",
            "minus",
            "plus",
            "union of",
            "both",
            "left",
            "right",
            "l",
            "R",
            "segment",
            "the",
            "without",
            "together",
            "-",
            "/",
        )
    ]
    * 6
)
TYPED = st.lists(TOKENS, min_size=1, max_size=9).map(" ".join)


@given(st.text(max_size=60))
@example("\ufdfa" * 100)
@example("a\u0301" * 50)
@example("left" * 100)
@settings(deadline=None, max_examples=400)
def test_any_text_gives_results_or_a_prompt_error(text: str):
    try:
        results = resolve(text, VOCABULARY)
    except PromptError:
        return
    assert results
    check_consistent(text, results)


@given(TYPED)
@settings(deadline=None, max_examples=600)
def test_any_sequence_of_words_gives_consistent_results(text: str):
    check_consistent(text, resolve(text, VOCABULARY))


def check_consistent(text: str, results: list[ResolvedPrompt]) -> None:
    for result in results:
        assert result.prompt == text.strip()
        assert result.text
        if result.status is PromptStatus.KNOWN:
            assert result.resolved
            assert all(term.structure in VOCABULARY.names for term in result.terms)
            assert not result.terms[0].subtract
            assert not result.suggestions
        else:
            assert (result.resolved, result.terms) == ("", ())
            assert bool(result.suggestions) == (result.status is PromptStatus.CLOSE)
            assert set(result.suggestions) <= set(VOCABULARY.names)
            assert result.note


@given(TYPED)
@settings(deadline=None, max_examples=600)
def test_swapping_the_sides_of_a_text_mirrors_its_meaning(text: str):
    here, there = resolve(text, VOCABULARY), resolve(swap_sides(text), VOCABULARY)

    def meaning(results: list[ResolvedPrompt], mirrored: bool) -> set[Any]:
        name = VOCABULARY.mirror if mirrored else str
        return {
            (result.status, frozenset((name(t.structure), t.subtract) for t in result.terms), frozenset(map(name, result.suggestions)))
            for result in results
        }

    assert meaning(here, mirrored=True) == meaning(there, mirrored=False)


@given(TYPED)
@settings(deadline=None, max_examples=300)
def test_case_and_outer_punctuation_do_not_matter(text: str):
    assert known(text.lower()) == known(text.upper()) == known(f"  {text.lower()}. ")


@pytest.mark.parametrize("word", ["duct", "tumour", "nerve", "stone", "artery", "kidney", "liver", "tail", "neck", "foo", "c5"])
def test_a_word_that_is_not_understood_never_yields_the_structure(word: str):
    explained = {("tumour", "soft tissue sarcoma"), ("tail", POSTERIOR)}
    masks = [
        text
        for name, wording in WORDINGS
        for text in (f"{word} {wording}", f"{wording} {word}", f"segment the {word} of the {wording}")
        if (word, name) not in explained and all(result.status is PromptStatus.KNOWN for result in resolve(text, VOCABULARY))
    ]
    assert masks == []


@given(st.sampled_from(WORDINGS))
@settings(deadline=None, max_examples=200)
def test_a_wording_with_a_side_is_never_answered_by_the_other_side(pair: tuple[str, str]):
    name, wording = pair
    side = VOCABULARY.structure(name).side
    if side:
        for slip in (wording[:-1], wording[1:], wording.replace("a", "", 1), wording.replace("o", "oo", 1)):
            for result in resolve(slip, VOCABULARY):
                named = {term.structure for term in result.terms} | set(result.suggestions)
                if normalise(slip).split() and any(word in normalise(slip).split() for word in (side, side[0])):
                    assert VOCABULARY.mirror(name) not in named
