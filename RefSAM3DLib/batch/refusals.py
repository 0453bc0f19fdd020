"""What a batch refuses before its first case: work that would cost decisions, or that nobody can have meant."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, PromptError, RefSAM3DError
from ..types import PromptStatus
from .append_log import AppendLog
from .case_work import read_result
from .cases import Case
from .content_hash import hash_files
from .folder_state import FolderState, case_folder
from .inputs import case_files
from .options import DEFAULT_ENGINE, BatchOptions
from .summary import collect_rows

if TYPE_CHECKING:
    from ..text.vocabulary import Vocabulary


def check_prompts(cases: Sequence[Case], options: BatchOptions) -> list[str]:
    """Sentences about prompts that the model does not know, before a night is spent on them. Reads the header of the weights alone, without torch.

    Raises:
        PromptError: a prompt of the command cannot be read, or no prompt of any case is known and unknown ones are not drawn.
    """
    from ..text.prompts import check_prompt, resolve
    from ..text.unknown_prompts import MOST_TOLD, refuse_unknown, unknown_note

    for prompt in options.prompts:
        check_prompt(prompt)
    vocabulary = _vocabulary(options)
    if vocabulary is None:
        return []
    count = Counter(prompt for case in cases for prompt in dict.fromkeys(case.prompts or options.prompts))
    notes: dict[str, str] = {}
    anything_known = False
    for prompt, number in count.items():
        of = f"of {number} case{'s' * (number != 1)}"
        try:
            answers = resolve(prompt, vocabulary)
        except PromptError as error:
            notes[prompt] = f"A prompt {of} cannot be read, and these will fail: {error}"
            continue
        anything_known |= any(answer.status is PromptStatus.KNOWN for answer in answers)
        for answer in answers:
            if note := unknown_note(answer, options.allow_unknown, of):
                notes[answer.prompt] = note
    if count and not anything_known and not options.allow_unknown:
        refuse_unknown([*notes.values()])
    told = list(notes.values())[:MOST_TOLD]
    return [*told, f"{len(notes) - MOST_TOLD} more prompts are not known."] if len(notes) > MOST_TOLD else told


def _vocabulary(options: BatchOptions) -> Vocabulary | None:
    """What the model, or the adapter on it, may be asked for; None where only the engine itself can tell, or say what is wrong with the files."""
    from ..models_registry import checkpoint_vocabulary, find_model
    from ..text.vocabulary import Vocabulary

    if options.engine != DEFAULT_ENGINE:
        return None
    try:
        vocabulary = checkpoint_vocabulary(find_model(options.engine_arguments.get("model") or ""))
        if adapter := options.engine_arguments.get("adapter"):
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(adapter, framework="np") as file:
                    extra = json.loads((file.metadata() or {}).get("extra", "{}"))
                vocabulary = Vocabulary.from_json(extra["vocabulary"]) if "vocabulary" in extra else vocabulary
            except (SafetensorError, OSError, ValueError, TypeError):
                return None
    except RefSAM3DError:
        return None
    return vocabulary


def pseudonyms_for_all(options: BatchOptions, manifest: Mapping[str, Any], state: FolderState) -> bool:
    """Whether every case gets a pseudonym: as the command says, or as an earlier run in this folder did.

    Raises:
        InputError: pseudonyms are asked for in a folder that names its cases already.
    """
    options_before = [run.get("options") for run in manifest.get("runs", ()) if isinstance(run, dict)]
    if any(isinstance(before, dict) and before.get("pseudonyms") for before in options_before):
        return True
    named = sum("image" in case.entry for case in state.cases.values())
    if options.pseudonyms and named:
        raise InputError(
            f"This folder names {named} case{'s' * (named != 1)} already, in its tables and file names, so that --pseudonyms would come too late;"
            " give a new folder, or leave --pseudonyms out."
        )
    return options.pseudonyms


def check_same_images(cases: Iterable[Case], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse files of one name in several folders that were given one after the other: the second patient would replace the first.

    Data that were moved or copied are the same bytes, or are gone where they were. Where they were may since hold somebody else's.

    Args:
        known: of each key, where its image lay, and the hash of what was read there.

    Raises:
        InputError: the image that a case's key stands for is still there, and is another one.
    """
    for case in cases:
        before = known.get(case.key, {})
        place = str(before.get("image") or "")
        if not place or place == case.image or not Path(place).exists():
            continue
        try:
            now = hash_files(case_files(case))
            is_same = now == before.get("input_sha256") or now == hash_files(case_files(replace(case, image=place)))
        except (RefSAM3DError, OSError):
            continue  # what cannot be read any more is no second image, and what cannot be read now fails by itself
        if not is_same:
            raise InputError(
                f"'{before.get('name') or case.name}' of this folder is '{place}', which is still there and not the same as '{case.image}';"
                " give the folder above them, a list with case names, or a new output folder."
            )


def check_reviewed(folder: Path, cases: Iterable[Case], state: FolderState, options: BatchOptions, engine: dict[str, Any]) -> None:
    """Refuse to replace results that somebody decided on by those of another question.

    An image that changed is another matter: its old result is wrong, and its decisions are open again.

    Raises:
        InputError: cases with final decisions would be computed anew for other prompts or options; with what differs.
    """
    from ..review.audit_trail import NAME
    from ..review.status import add_review_status
    from ..review.verdicts import ReviewVerdict

    if options.force or not AppendLog(folder / NAME).read().entries:
        return
    rows = add_review_status(folder, collect_rows(folder, state))
    final = {verdict.value for verdict in ReviewVerdict if verdict.is_final}
    decided = Counter(row["case"] for row in rows if row["review_key"] in final)
    asked = {case.key: case for case in cases if decided[case.key]}
    replaced = {key: difference for key, case in asked.items() if (difference := _other_question(folder, case, state, options, engine))}
    if not replaced:
        return
    count = sum(decided[key] for key in replaced)
    raise InputError(
        f"{len(replaced)} case{'s' * (len(replaced) != 1)} of this folder {'have' if len(replaced) != 1 else 'has'} {count} decision{'s' * (count != 1)}"
        f" on results that this run would replace ({next(iter(replaced.values()))}); give a new folder, or --force to replace them; the old ones go to"
        " superseded/."
    )


def _other_question(folder: Path, case: Case, state: FolderState, options: BatchOptions, engine: dict[str, Any]) -> str:
    """In what the question differs from that of the stored result, "" if it does not; the image itself is not asked, which would mean to read it."""
    entry = state.cases[case.key].entry
    stored = read_result(case_folder(folder, case.key), case.key)
    if stored is None or not entry.get("input_sha256"):
        return ""
    prompts = case.prompts or options.prompts
    before = list(dict.fromkeys(str(row["prompt"]) for row in stored["prompts"]))

    def would_be(probability: bool, allow_unknown: bool = options.allow_unknown) -> str:
        return replace(options, probability=probability, allow_unknown=allow_unknown).fingerprint(entry["input_sha256"], prompts, case, engine)

    # probability volumes are beside the masks, which are the same without them
    if stored.get("fingerprint") in {would_be(probability=kept) for kept in (False, True)}:
        return ""
    if before != list(dict.fromkeys(prompts)):
        return f"other prompts: {'; '.join(before)} there, {'; '.join(prompts)} now"
    if stored.get("fingerprint") in {would_be(probability=kept, allow_unknown=not options.allow_unknown) for kept in (False, True)}:
        return f"{'with' if options.allow_unknown else 'without'} --allow-unknown"
    return ""  # the list corrected its modality or its reference
