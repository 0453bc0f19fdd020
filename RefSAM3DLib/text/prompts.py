"""From what a user types to what the engine computes: free text in, one :class:`ResolvedPrompt` per result out.

A list gives several results, a union or a difference gives one; see :mod:`.parsing` for the grammar, :mod:`.matching` for what counts as
the name of a structure. A text is KNOWN only if every word is understood. What is merely similar is CLOSE and waits for the user's choice;
a side is never dropped, guessed or exchanged.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import PromptError
from ..types import PromptStatus, ResolvedPrompt, Term
from . import lexicon
from .lookup import Finding, look_up, trained_wording
from .matching import Index, index_of
from .parsing import RawGroup, abbreviated_side, filler_side, join_pairs, parse, tokenise, viewers_side, without_shorthand, words_only
from .sharing import share
from .vocabulary import Vocabulary
from .wording import normalise, swap_sides

__all__ = ["MAX_CHARACTERS", "check_prompt", "complete", "resolve", "resolve_all", "swap_sides"]

#: All eleven structures of the default vocabulary in one list take 150 characters; a longer text is a pasted report, not a prompt.
MAX_CHARACTERS = 500

# Invisible characters that reorder what is shown: the user could not see which side a text asks for.
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_prompt(text: str) -> str:
    """Return the stripped text.

    Raises:
        PromptError: it is blank, too long, or contains control, bidirectional or broken characters.
    """
    prompt = text.strip()
    if not prompt:
        raise PromptError("The prompt is empty; type the name of a structure, such as 'brainstem'.")
    if len(prompt) > MAX_CHARACTERS:
        raise PromptError(
            f"The prompt '{prompt[:30]}…' has {len(prompt)} characters, at most {MAX_CHARACTERS} are read; shorten or split it."
        )
    for position, character in enumerate(prompt, 1):
        if character in _BIDIRECTIONAL or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            shown = "".join(c if c.isprintable() else "?" for c in prompt[:30])
            code = f"U+{ord(character):04X}"
            raise PromptError(
                f"The prompt '{shown}' contains the invisible character {code} at position {position}; type it anew without it."
            )
    return prompt


def resolve(text: str, vocabulary: Vocabulary) -> list[ResolvedPrompt]:
    """Return what a text asks for, at least one entry; nothing is computed.

    A known structure is read by its canonical name whatever wording was typed, so that no wording of a structure gives a
    better mask than another (the scores of the model file have what the text tower makes of raw wordings). For a union or difference
    ``text`` equals ``resolved``.

    Raises:
        PromptError: see :func:`check_prompt`.
    """
    prompt = check_prompt(text)
    refusal = _refusal(prompt)
    if refusal:
        return [_unknown(prompt, refusal)]
    index = index_of(vocabulary)
    results = _understood(prompt, index)
    if note := _doubtful_side(prompt, index):
        results = [_asked_for_the_side(result, vocabulary, note) for result in results]
    return _without_repeats(results)


def _understood(prompt: str, index: Index) -> list[ResolvedPrompt]:
    tokens = join_pairs(tokenise(prompt), index.pairs)
    # A dash or minus sign is no letter of a wording: "hippocampus - anterior" would otherwise be the anterior hippocampus.
    symbolic = lexicon.DASH in tokens or lexicon.MINUS_SIGN in tokens
    trained = None if symbolic else trained_wording(normalise(without_shorthand(prompt)).split(), index)
    if trained is not None:
        name = index.owners[normalise(trained)]
        return [ResolvedPrompt(prompt, name, PromptStatus.KNOWN, (Term(name),), text=name)]
    if any(token in lexicon.NEGATIONS and token not in index.words for token in tokens):
        return [_unknown(prompt, "Negations are not understood; name what you want, or write 'A minus B'.")]
    groups = parse(tokens, index.words)
    if not groups:
        return [_unknown(prompt, "The text names no structure.")]
    results = [result for wanted in _wanted(groups, index) for result in _results(prompt, wanted)]
    if any(result.status is not PromptStatus.KNOWN for result in results):
        results = _inverted(prompt, tokens, index) or results
    return results


def resolve_all(texts: Iterable[str] | str, vocabulary: Vocabulary) -> list[ResolvedPrompt]:
    """Resolve several texts in order; a text that was typed twice counts once, and a single string is one text (not its letters).

    Raises:
        PromptError: see :func:`check_prompt`; nothing is resolved then.
    """
    texts = [texts] if isinstance(texts, str) else texts
    return [result for text in dict.fromkeys(check_prompt(text) for text in texts) for result in resolve(text, vocabulary)]


def complete(prefix: str, vocabulary: Vocabulary, limit: int = 12) -> list[str]:
    """Return wordings that contain ``prefix``: canonical names before synonyms, starts before starts of later words before the rest."""
    typed = normalise(prefix)
    ranked: dict[str, tuple[tuple[bool, int], str]] = {}
    for structure in vocabulary.structures:
        for wording in vocabulary.all_wordings(structure.name):
            key = normalise(wording)
            if typed in key and key not in ranked:
                place = 0 if key.startswith(typed) else 1 if f" {typed}" in key else 2
                ranked[key] = ((wording != structure.name, place), wording)
    return [wording for _, wording in sorted(ranked.values(), key=lambda entry: entry[0])][: max(limit, 0)]


def _refusal(prompt: str) -> str:
    """Why a text cannot be read at all; "" if it can."""
    letters = [c for c in unicodedata.normalize("NFKC", prompt) if unicodedata.category(c) in ("Ll", "Lu", "Lt", "Lo")]
    if any(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters):
        return "This model reads English (and a few Latin terms) in Latin letters only; type the English name."
    return "" if letters else "The text contains no word."


def _unknown(prompt: str, note: str) -> ResolvedPrompt:
    return ResolvedPrompt(prompt, "", PromptStatus.UNKNOWN, note=note, text=prompt)


@dataclass(frozen=True)
class _Wanted:
    """One result: terms to unite or subtract, and whether a paired structure without a side is one term of it or two results."""

    findings: tuple[Finding, ...]
    subtract: tuple[bool, ...]
    is_composite: bool


def _wanted(groups: Sequence[RawGroup], index: Index) -> list[_Wanted]:
    """Complete the terms of all groups together, since nouns are shared across groups, and look each of them up."""
    terms = [(group, term) for group in groups for term in group.terms]
    shares = share([index.phrase(term.words) for _, term in terms], [not group.is_composite for group, _ in terms], index)
    findings = [
        _dashed(term.words, index) or look_up(one.phrase, index, alone=len(terms) == 1)
        if term.words or not term.required
        else Finding(PromptStatus.UNKNOWN, "", note="A structure is missing behind 'plus' or 'minus'.")
        for (_, term), one in zip(terms, shares, strict=True)
    ]
    wanted = []
    start = 0
    for group in groups:
        end = start + len(group.terms)
        members = list(range(start, end))
        lender = shares[start].lender
        if len(members) == 1 and lender is not None and lender >= end and not terms[lender][0].united:
            # "Left and right parotid minus mandible": what is taken from the noun is taken from all who share it.
            members += [i for i in range(lender + 1, len(terms)) if terms[i][0] is terms[lender][0]]
        if not shares[start].spent:
            wanted.append(
                _Wanted(
                    findings=tuple(findings[i] for i in members),
                    subtract=tuple(terms[i][1].subtract for i in members),
                    is_composite=group.united or len(members) > 1,
                )
            )
        start = end
    return wanted


def _results(prompt: str, wanted: _Wanted) -> list[ResolvedPrompt]:
    if wanted.is_composite:
        return [_composite(prompt, wanted)]
    (finding,) = wanted.findings
    if finding.status is not PromptStatus.KNOWN:
        text = finding.text or prompt
        return [ResolvedPrompt(prompt, "", finding.status, suggestions=finding.suggestions, note=finding.note, text=text)]
    return [ResolvedPrompt(prompt, name, PromptStatus.KNOWN, (Term(name),), note=finding.note, text=name) for name in finding.names]


def _inverted(prompt: str, tokens: Sequence[str], index: Index) -> list[ResolvedPrompt]:
    """Read the commas of an index entry ("cord, spinal") as spaces if that names a structure, ours or another, which the list did not."""
    if set(tokens) & lexicon.OPERATORS != {lexicon.LIST}:
        return []
    phrase = index.phrase(words_only(tokens))
    joined = look_up(phrase, index)
    if phrase.content - lexicon.NEUTRAL in index.distractors:  # "cord, vocal": of neither part a structure of ours may be made
        return [_unknown(prompt, joined.note)]
    if joined.status is not PromptStatus.KNOWN:
        return []
    return _results(prompt, _Wanted((joined,), (False,), is_composite=False))


def _composite(prompt: str, wanted: _Wanted) -> ResolvedPrompt:
    """Unite and subtract in the order of the text; a question about one term is a question about the whole."""
    findings = wanted.findings
    open_question = next((finding for finding in findings if finding.status is not PromptStatus.KNOWN), None)
    if open_question is not None:
        near = tuple(dict.fromkeys(name for finding in findings for name in (*finding.names, *finding.suggestions)))
        if findings[0].status is PromptStatus.UNKNOWN or not near:
            return _unknown(prompt, open_question.note)
        return ResolvedPrompt(prompt, "", PromptStatus.CLOSE, suggestions=near, note=open_question.note, text=prompt)
    terms: list[Term] = []
    remaining: set[str] = set()
    for subtract, finding in zip(wanted.subtract, findings, strict=True):
        for name in finding.names:
            if subtract or name not in remaining:
                terms.append(Term(name, subtract))
            (remaining.discard if subtract else remaining.add)(name)
    if not remaining:
        cancelled = tuple(dict.fromkeys(term.structure for term in terms))
        note = "Nothing would be left of this difference."
        return ResolvedPrompt(prompt, "", PromptStatus.CLOSE, suggestions=cancelled, note=note, text=prompt)
    resolved = terms[0].structure + "".join(f" {'minus' if term.subtract else 'plus'} {term.structure}" for term in terms[1:])
    note = next((finding.note for finding in findings if finding.note), "")
    return ResolvedPrompt(prompt, resolved, PromptStatus.KNOWN, tuple(terms), note=note, text=resolved)


def _dashed(words: Sequence[str], index: Index) -> Finding | None:
    """A lone dash between two structures may be a minus, a list or a gloss: ask, and so before a part or a side of what is one result or "both"
    without it ("hippocampus - anterior", "both parotids - left"). Between other words it means nothing ("parotid gland - left").
    """
    dashes = {lexicon.DASH, lexicon.MINUS_SIGN}
    if not dashes & {*words}:
        return None
    pieces: list[list[str]] = [[]]
    for word in words:
        if word in dashes:
            pieces.append([])
        else:
            pieces[-1].append(word)
    findings = [look_up(index.phrase(piece), index) for piece in pieces]
    names = dict.fromkeys(name for finding in findings if finding.status is PromptStatus.KNOWN for name in finding.names)
    known = sum(finding.status is PromptStatus.KNOWN for finding in findings)
    joined = look_up(index.phrase(words_only(words)), index, alone=False)
    taken_away = any(
        finding.status is PromptStatus.KNOWN
        and finding.names != joined.names
        and (len(finding.names) == 1 or lexicon.BOTH_SIDES & {*piece} or lexicon.MINUS_SIGN in words)
        for finding, piece in zip(findings, pieces, strict=True)
    )
    if joined.status is PromptStatus.KNOWN and taken_away:
        names |= dict.fromkeys(joined.names)
    elif known < 2 or len({finding.names for finding in findings if finding.names}) == 1:
        return None
    note = "A dash may mean a list or a difference; write 'minus' or a comma."
    return Finding(PromptStatus.CLOSE, " ".join(words), suggestions=tuple(names), note=note)


def _doubtful_side(prompt: str, index: Index) -> str:
    """Why a side in the text may not be what it looks like; "" if it is one."""
    words = normalise(without_shorthand(prompt)).split()
    if viewers_side(words):
        return "The side may be the patient's or that of the displayed image, which usually shows the patient's left on its right; choose the patient's side."
    if short := abbreviated_side(words, index.words):
        return {"rt": "'RT' may mean right or radiotherapy; choose what you want, or write 'right'.",
                "lt": "'LT' is read as a side beside the name of one structure alone; choose what you want, or write 'left'."}[short]  # fmt: skip
    if filler_side(prompt):
        return "'Left' or 'right' may be no side here; choose what you want."
    return ""


def _asked_for_the_side(result: ResolvedPrompt, vocabulary: Vocabulary, note: str) -> ResolvedPrompt:
    """A question in place of a result whose side is in doubt."""
    asked = [term.structure for term in result.terms] or [*result.suggestions]
    names = dict.fromkeys(name for one in asked for name in (one, vocabulary.mirror(one)))
    if all(vocabulary.mirror(one) == one for one in asked):
        return result
    return ResolvedPrompt(result.prompt, "", PromptStatus.CLOSE, suggestions=tuple(sorted(names, key=vocabulary.names.index)), note=note, text=result.prompt)


def _without_repeats(results: Sequence[ResolvedPrompt]) -> list[ResolvedPrompt]:
    kept: dict[object, ResolvedPrompt] = {}
    for result in results:
        kept.setdefault(result.resolved or (result.text, result.note, result.suggestions), result)
    return list(kept.values())
