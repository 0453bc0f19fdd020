"""Words that several structures of a list share: "left and right parotid glands", "anterior and posterior hippocampus"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import lexicon
from .matching import Bag, Index, Phrase
from .wording import SIDE_WORDS


@dataclass(frozen=True)
class Share:
    """One term of a prompt after sharing.

    Attributes:
        phrase: the complete phrase. lender: position of the term that its noun was borrowed from, or None.
        spent: whether it only lent its noun, as "parotid glands" in "parotid glands, left and right", and asks for nothing itself.
    """

    phrase: Phrase
    lender: int | None = None
    spent: bool = False


def share(phrases: Sequence[Phrase], simple: Sequence[bool], index: Index) -> list[Share]:
    """Complete terms that are a mere side or a mere part by the noun of a neighbour, the next one before the previous one.

    Args:
        phrases: the terms of the whole prompt in order.
        simple: whether each term is a result of its own; a term of a union or difference is never spent.
        index: of the vocabulary.
    """
    shares = [Share(phrase) for phrase in phrases]
    complete = [not phrase.is_side_only and not _modifiers(phrase, index) for phrase in phrases]
    for position, phrase in enumerate(phrases):
        if complete[position]:
            continue
        following = next((i for i in range(position + 1, len(phrases)) if complete[i]), None)
        preceding = next((i for i in range(position - 1, -1, -1) if complete[i]), None)
        forward = following is not None and _lends(phrases[following], phrase, preceding is not None, index)
        lender = following if forward else preceding
        if lender is None:
            continue
        completed = _completed(phrase, phrases[lender], index)
        if completed is None:
            continue
        shares[position] = Share(completed, lender=lender)
        if not forward and simple[lender] and not phrases[lender].sides and not _modifiers(phrases[lender], index, whole=True):
            shares[lender] = replace(shares[lender], spent=True)
        elif forward and phrase.sides and not phrase.is_side_only and not phrases[lender].sides:
            # "Left anterior and posterior hippocampus": the side was meant for both.
            shares[lender] = Share(replace(phrases[lender], sides=phrase.sides))
    return shares


def _modifiers(phrase: Phrase, index: Index, whole: bool = False) -> Bag:
    """The words that name a part ("anterior"); unless ``whole``, only if the phrase consists of nothing else."""
    rest = phrase.content - lexicon.NEUTRAL - lexicon.NEUTRAL_PARTS
    return rest & index.modifiers if whole or rest <= index.modifiers else frozenset()


def _lends(donor: Phrase, taker: Phrase, has_alternative: bool, index: Index) -> bool:
    """Whether the next noun is meant for this term too.

    A noun with a side of its own is ("left and right parotid"); one without may belong to the next entry of a list ("parotid, left;
    parotid, right"), and an unpaired one is not ("left, larynx").
    """
    if not taker.is_side_only:
        return _completed(taker, donor, index) is not None
    if donor.sides or donor.both:
        return True
    return not has_alternative and any(concept.is_paired for concept in index.find(donor.content))


def _completed(taker: Phrase, donor: Phrase, index: Index) -> Phrase | None:
    if taker.is_side_only:
        noun = tuple(word for word in donor.words if word not in SIDE_WORDS and word not in lexicon.BOTH_SIDES)
        side = tuple(word for word in taker.words if word in SIDE_WORDS or word in lexicon.BOTH_SIDES)
        return replace(taker, words=side + noun, content=donor.content)
    rest = donor.content - lexicon.NEUTRAL - lexicon.NEUTRAL_PARTS - index.modifiers
    for concept in index.concepts:
        # A noun with a word that is not understood ("duct of the hippocampus") must not lose that word by lending itself.
        if (
            concept.is_part
            and (rest == concept.base or index.find(donor.content))
            and concept.base <= donor.content
            and _modifiers(taker, index) <= concept.words
        ):
            return replace(taker, words=(*taker.words, *sorted(concept.base)), content=taker.content | concept.base)
    return None
