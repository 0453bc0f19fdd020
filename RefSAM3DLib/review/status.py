"""Where each result stands: the audit trail folded into the last decisions per item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..batch.append_log import AppendLog
from ..batch.folder_state import FolderState
from .audit_trail import NAME
from .queue import ReviewItem
from .subject import Subject, image_hashes
from .verdicts import STATUS_WORDS, ReviewVerdict

Item = tuple[str, int]


def item_of(entry: dict[str, Any]) -> Item:
    """Case and label that an entry is about."""
    return entry["case"], entry["label"]


def decisions(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The decisions among the entries, in the order in which they were made; what another hand wrote badly is none."""
    return [entry for entry in entries if entry.get("event") == "decision" and is_whole(entry)]


def is_whole(entry: dict[str, Any]) -> bool:
    """Whether a decision has all that is read of it later, and a mask inside the folder."""
    texts = ["id", "case", "reviewer", "verdict"]
    if entry.get("verdict") == ReviewVerdict.REPROMPT.value:
        texts += ["mask_file", "edited_mask", "wording", "answer_structure"]
    if entry.get("mask_file") is not None:
        texts += ["mask_file", "mask"]
    if not all(isinstance(entry.get(name), str) for name in texts) or type(entry.get("label")) is not int:
        return False
    place = PurePosixPath(entry.get("mask_file") or "")
    return entry["verdict"] in {verdict.value for verdict in ReviewVerdict} and not place.is_absolute() and ".." not in place.parts


def last_by_reviewer(entries: Iterable[dict[str, Any]]) -> dict[str, dict[Item, dict[str, Any]]]:
    """Last decision of each reviewer about each item."""
    last: dict[str, dict[Item, dict[str, Any]]] = {}
    for entry in decisions(entries):
        last.setdefault(str(entry.get("reviewer", "")), {})[item_of(entry)] = entry
    return last


def last_overall(entries: Iterable[dict[str, Any]], reviewer: str = "") -> dict[Item, dict[str, Any]]:
    """Decision that counts for each item: of the last ones of all reviewers the last that is final, else the last one at all."""
    return _fold(entries, reviewer)[0]


def late_decisions(entries: Iterable[dict[str, Any]]) -> list[str]:
    """A sentence about each decision that reached the record after a colleague's later one, and does not count for that; none if both say the same."""
    return [
        f"'{late['reviewer']}' decided on '{late['case']}/{late['label']}' ({STATUS_WORDS[late['verdict']]}) before '{counts['reviewer']}' did "
        f"({STATUS_WORDS[counts['verdict']]}), but it reached the record later; what '{counts['reviewer']}' decided counts: talk about it, and decide again."
        for late, counts in _fold(entries)[1].values()
        if (late["verdict"], late.get("mask")) != (counts["verdict"], counts.get("mask"))
    ]


def _fold(entries: Iterable[dict[str, Any]], reviewer: str = "") -> tuple[dict[Item, dict[str, Any]], dict[Item, tuple[dict[str, Any], dict[str, Any]]]]:
    """The decision that counts for each item, and where one came too late for that, it and the one that counts.

    Each reviewer's last entry stands: a later "skip" or re-prompt withdraws what the same reviewer had decided, and no colleague's decision.
    """
    standing: dict[Item, list[dict[str, Any]]] = {}
    counting: dict[Item, dict[str, Any]] = {}
    late: dict[Item, tuple[dict[str, Any], dict[str, Any]]] = {}
    for entry in decisions(entries):
        if reviewer and entry.get("reviewer") != reviewer:
            continue
        item = item_of(entry)
        others = [other for other in standing.get(item, []) if other["reviewer"] != entry["reviewer"]]
        place = len(others)
        while place and _came_late(entry, others[place - 1]):
            place -= 1
        standing[item] = [*others[:place], entry, *others[place:]]
        final = [other for other in standing[item] if ReviewVerdict(other["verdict"]).is_final]
        counts = counting[item] = (final or standing[item])[-1]
        if counts is not entry and entry in final:
            late[item] = entry, counts
        elif item in late and (counts is not late[item][1] or late[item][0] not in standing[item]):
            del late[item]
    return counting, late


def _came_late(entry: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether an entry that was kept aside stands behind a colleague's later one. Only here times count: the order of the lines is wrong."""
    kept_aside = entry.get("kept_aside") is True and entry["reviewer"] != before["reviewer"]
    return kept_aside and ReviewVerdict(entry["verdict"]).is_final and str(before.get("time", "")) > str(entry.get("time", ""))


def status_of(subject: Subject, decision: dict[str, Any] | None) -> str:
    """Key of :data:`~.verdicts.STATUS_WORDS`: the decision, or "changed" if it was about something else than what the folder has now."""
    if decision is None:
        return ""
    return "changed" if subject.differs(Subject.of_entry(decision)) else str(decision["verdict"])


def is_assisted(item: ReviewItem, decision: dict[str, Any]) -> bool:
    """Whether a person had a share in the mask that was accepted: by this decision's edit, or before the review."""
    return item.assisted or decision["verdict"] == ReviewVerdict.ACCEPT_EDITED.value


def structure_of(item: ReviewItem, decision: dict[str, Any]) -> str:
    """What was decided on: after a re-prompt, another structure than the batch's, and than what other reviewers see."""
    return str(decision.get("structure") or item.structure)


def add_review_status(folder: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of :func:`~RefSAM3DLib.batch.summary.collect_rows` with ``review`` (words), ``review_key`` and ``reviewer``."""
    counting = last_overall(AppendLog(Path(folder) / NAME).read().entries)
    images = image_hashes(folder, FolderState.read(folder))
    extended = []
    for row in rows:
        decision = counting.get((row["case"], int(row["label"])))
        key = status_of(Subject.of_row(row, images.get(row["case"], "")), decision)
        extended.append(
            {
                **row,
                "review": STATUS_WORDS[key],
                "review_key": key,
                "reviewer": (decision or {}).get("reviewer", ""),
                "review_comment": (decision or {}).get("comment", ""),
            }
        )
    return extended
