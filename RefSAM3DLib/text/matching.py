"""One phrase against a vocabulary: which structure it names, or which ones are near.

A phrase names a structure when every word of it is accounted for: by a trained wording of that structure (words in any order, several
wordings may be mixed, "lower jaw" and "jaw bone" give "lower jaw bone"), by its base noun, or by words without anatomy. Held-out
wordings are never looked up, so that they measure this rule as well as the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from . import lexicon
from .lexicon import NEUTRAL, NEUTRAL_PARTS, canonical_word
from .spelling import corrected, corrected_side
from .vocabulary import Structure, Vocabulary
from .wording import SIDE_WORDS, normalise

Bag = frozenset[str]


@dataclass(frozen=True)
class Concept:
    """Structures that differ by their side alone: both parotid glands, or the one brainstem.

    Attributes:
        names: canonical name by side; the one key is "" for a structure without a side.
        cores: the words of each trained wording, without side words and articles.
        base: words of the base noun. words: every word of base and cores.
        heads: nouns that stand for it in its wordings: "gland", "tumor". Alone they are a hint, never a name.
    """

    names: dict[str, str]
    cores: frozenset[Bag]
    base: Bag
    words: Bag
    heads: Bag
    is_part: bool

    @property
    def is_paired(self) -> bool:
        """Whether its structures have sides."""
        return "" not in self.names

    def own(self, content: Bag) -> Bag:
        """Return the words of ``content`` that trained wordings account for; empty if no wording is complete in it."""
        return frozenset().union(*(core for core in self.cores if core <= content))

    def leftover(self, content: Bag) -> Bag:
        """Return the words of ``content`` that this concept cannot explain."""
        parts = NEUTRAL_PARTS if self.is_part else frozenset()
        return content - self.own(content) - self.base - NEUTRAL - parts


@dataclass(frozen=True)
class Phrase:
    """The words of one term, taken apart.

    Attributes:
        words: as typed, compounds split ("spinalcord"), without dashes.
        content: canonical words without sides, articles and "both".
        sides: "left" and "right" as far as they were named.
        both: whether "both" or "bilateral" was said.
    """

    words: tuple[str, ...]
    content: Bag
    sides: frozenset[str]
    both: bool

    @property
    def is_side_only(self) -> bool:
        """Whether a side is all it says, as "left" in "left and right parotid"."""
        return bool(self.sides or self.both) and self.content <= NEUTRAL


class Index:
    """Everything that matching needs to know of a vocabulary, computed once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.concepts = _concepts(vocabulary)
        listed = [(normalise(wording), wording, name) for name in vocabulary.names for wording in vocabulary.all_wordings(name)]
        self.wordings = {key: wording for key, wording, _ in reversed(listed)}
        self.owners = {key: name for key, _, name in listed}
        self.compounds = {
            "".join(words): tuple(words)
            for words in (key.split() for key in self.wordings)
            if not any(word in SIDE_WORDS for word in words)
        }
        self.pairs = frozenset(
            frozenset((words[i - 1], words[i + 1]))
            for words in (key.split() for key in self.wordings)
            for i in range(1, len(words) - 1)
            if words[i] in ("and", "or")
        )
        self.words = frozenset().union(*(concept.words for concept in self.concepts))
        self.modifiers = frozenset().union(*(c.words - c.base for c in self.concepts if c.is_part)) - NEUTRAL_PARTS - NEUTRAL
        self.distractors = frozenset(_content(normalise(name).split()) for name in vocabulary.distractors)
        self.foreign = frozenset().union(*self.distractors, lexicon.LOOKALIKES) - self.words

    def phrase(self, words: Iterable[str]) -> Phrase:
        """Take the words of one term apart."""
        split = [part for word in words if word not in lexicon.OPERATORS for part in self._compound(word)]
        return Phrase(
            words=tuple(split),
            content=_content(split),
            sides=frozenset(SIDE_WORDS[word] for word in split if word in SIDE_WORDS),
            both=any(word in lexicon.BOTH_SIDES for word in split),
        )

    def find(self, content: Bag) -> list[Concept]:
        """Return the concepts that account for every word; several only if a wording is shared between them."""
        if content - NEUTRAL in self.distractors:
            return []
        found = [concept for concept in self.concepts if concept.own(content) and not concept.leftover(content)]
        most = max((len(concept.own(content)) for concept in found), default=0)
        return [concept for concept in found if len(concept.own(content)) == most]

    def near(self, content: Bag) -> list[Concept]:
        """Return concepts that the words hint at, best first; none for a name that belongs to something else."""
        content = content - NEUTRAL
        if content in self.distractors:
            return []
        scored: list[tuple[int, bool, int, Concept]] = []
        for concept in self.concepts:
            named, incomplete = concept.own(content), content & concept.heads
            if named or (incomplete and not concept.leftover(content | concept.words)):
                scored.append((-len(content & concept.words), bool(concept.leftover(content)), len(scored), concept))
        return [concept for *_, concept in sorted(scored, key=lambda entry: entry[:3])]

    def correct(self, phrase: Phrase) -> tuple[Bag, str] | None:
        """Return the content and the side ("" if none is misspelt) after correcting typing errors, or None if there is none to correct."""
        unknown = phrase.content - self.words - NEUTRAL - NEUTRAL_PARTS
        content, side = set(phrase.content), ""
        for word in sorted(unknown):
            if not phrase.sides and (misspelt := corrected_side(word)):
                side = misspelt
                content.discard(word)
            elif word not in self.foreign and (better := corrected(word, self._targets(content, word))):
                content.discard(word)
                content.update(canonical_word(part) for part in self._compound(better))
        return (frozenset(content), side) if content != phrase.content else None

    def _compound(self, word: str) -> tuple[str, ...]:
        parts = self.compounds.get(word) or self.compounds.get(canonical_word(word)) or (word,)
        return parts if len(parts) > 1 else (word,)

    def _targets(self, content: Collection[str], word: str) -> dict[str, bool]:
        """Words that a misspelt one may stand for; True where a neighbour completes a name with it, so that a short one can be meant."""
        targets = dict.fromkeys(self.compounds, False) | dict.fromkeys(self.words, False)
        rest = set(content) - {word}
        for concept in self.concepts:
            for core in concept.cores:
                targets |= {target: True for target in core if core - {target} and core - {target} <= rest}
        return targets


@lru_cache(maxsize=8)
def index_of(vocabulary: Vocabulary) -> Index:
    """Return the index of a vocabulary; the panel asks at every key stroke."""
    return Index(vocabulary)


def _content(words: Sequence[str]) -> Bag:
    spoken = (word for word in words if word not in SIDE_WORDS and word not in lexicon.BOTH_SIDES)
    return frozenset(canonical_word(word) for word in spoken) - lexicon.EMPTY_WORDS - {"and", "or"}


def _concepts(vocabulary: Vocabulary) -> list[Concept]:
    concepts = []
    done: set[str] = set()
    for structure in vocabulary.structures:
        if structure.name in done:
            continue
        members = [structure] + ([vocabulary.structure(structure.mirror)] if structure.mirror else [])
        done.update(member.name for member in members)
        concepts.append(_concept(members))
    return concepts


def _concept(members: Sequence[Structure]) -> Concept:
    base = _content(normalise(members[0].base).split())
    cores: set[Bag] = set()
    heads: set[str] = set(base)
    for member in members:
        for wording in (member.name, *member.synonyms):
            words = normalise(wording).split()
            core = _content(words)
            # "Front part of the hippocampus" and "front half of it" are one wording, but a bare "part of" names nothing.
            reduced = core - NEUTRAL_PARTS if members[0].is_part else core
            core = core if reduced <= base else reduced
            if core:
                cores.add(core)
                heads |= _head(words)
    return Concept(
        names={member.side: member.name for member in members},
        cores=frozenset(cores),
        base=base,
        words=base.union(*cores),
        heads=(base if members[0].is_part else frozenset(heads)) - NEUTRAL,
        is_part=members[0].is_part,
    )


def _head(words: Sequence[str]) -> Bag:
    """The noun of a wording: the last word before "of" or "on", else the last word."""
    end = next((i for i, word in enumerate(words) if i and word in lexicon.STOP_WORDS), len(words))
    named = [canonical_word(word) for word in words[:end] if word not in SIDE_WORDS]
    return frozenset(named[-1:])
