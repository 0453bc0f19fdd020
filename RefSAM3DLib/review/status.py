"""Where each result stands: the audit trail folded into the last decisions per item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..batch.append_log import AppendLog
from .audit_trail import NAME
from .queue import ReviewItem
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
    """Decision that counts for each item: the last final one of anybody, else the last one at all."""
    counting: dict[Item, dict[str, Any]] = {}
    for entry in decisions(entries):
        if reviewer and entry.get("reviewer") != reviewer:
            continue
        item, before = item_of(entry), counting.get(item_of(entry))
        final_before = before is not None and ReviewVerdict(before["verdict"]).is_final
        # A colleague's later "skip" does not undo a decision; the same reviewer's re-prompt does.
        if (
            ReviewVerdict(entry["verdict"]).is_final
            or not final_before
            or (before is not None and before.get("reviewer") == entry.get("reviewer") and entry["verdict"] == "reprompt")
        ):
            counting[item] = entry
    return counting


def status_of(row: dict[str, Any], decision: dict[str, Any] | None) -> str:
    """Key of :data:`~.verdicts.STATUS_WORDS`: the decision, or "changed" if it was about another mask than the folder has now."""
    if decision is None:
        return ""
    if decision.get("machine_mask") and row.get("mask_sha256") and decision.get("batch_mask", decision["machine_mask"]) != row["mask_sha256"]:
        return "changed"
    return str(decision["verdict"])


def is_assisted(item: ReviewItem, decision: dict[str, Any]) -> bool:
    """Whether a person had a share in the mask that was accepted: by this decision's edit, or before the review."""
    return item.assisted or decision["verdict"] == ReviewVerdict.ACCEPT_EDITED.value


def structure_of(item: ReviewItem, decision: dict[str, Any]) -> str:
    """What was decided on: after a re-prompt, another structure than the batch's, and than what other reviewers see."""
    return str(decision.get("structure") or item.structure)


def add_review_status(folder: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of :func:`~RefSAM3DLib.batch.summary.collect_rows` with ``review`` (words), ``review_key`` and ``reviewer``."""
    counting = last_overall(AppendLog(Path(folder) / NAME).read().entries)
    extended = []
    for row in rows:
        decision = counting.get((row["case"], int(row["label"])))
        key = status_of(row, decision)
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
