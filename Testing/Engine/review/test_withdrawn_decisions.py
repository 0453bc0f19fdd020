"""A reviewer who skips an item, or asks again, after deciding on it has withdrawn the decision: in sign-off, export and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from batch_fake_engine import FakeEngine

from RefSAM3DLib.batch.summary import collect_rows
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.review import ReviewSession, export_manifest, write_structured_result
from RefSAM3DLib.review.status import add_review_status, last_overall


def accept_case(folder: Path, reviewer: str) -> ReviewSession:
    session = ReviewSession(folder, reviewer)
    for label in (1, 2, 3):
        session.decide(session.find(f"case_0/{label}"), "accept")
    return session


def withdraw(session: ReviewSession, how: str) -> None:
    item = session.find("case_0/1")
    if how == "skip":
        session.decide(item, "skip")
    else:
        session.reprompt(item, "larynx", FakeEngine())


def reported(folder: Path) -> tuple[str, str]:
    (row,) = [row for row in add_review_status(folder, collect_rows(folder)) if (row["case"], row["label"]) == ("case_0", 1)]
    return row["review_key"], row["reviewer"]


@pytest.mark.parametrize("how", ["skip", "reprompt"])
def test_a_withdrawn_acceptance_is_neither_signed_nor_exported_nor_reported(folder: Path, tmp_path: Path, how: str) -> None:
    session = accept_case(folder, "A")
    write_structured_result(session, "case_0", tmp_path / "before")
    withdraw(session, how)
    with pytest.raises(InputError, match=r"not reviewed completely \(open: (brainstem|larynx)\)"):
        write_structured_result(session, "case_0", tmp_path / "after")
    for reviewer in ("", "A"):
        content = json.loads(export_manifest(session, tmp_path / f"export{reviewer}", reviewer).manifest.read_text())
        assert content["labels"] == {"1": "mandible"}
    assert reported(folder) == (how, "A")
    session.decide(session.find("case_0/1"), "accept")
    write_structured_result(session, "case_0", tmp_path / "after")


@pytest.mark.parametrize("how", ["skip", "reprompt"])
def test_a_colleagues_decision_stands_when_a_later_one_is_withdrawn(folder: Path, tmp_path: Path, how: str) -> None:
    accept_case(folder, "A")
    colleague = ReviewSession(folder, "B")
    colleague.decide(colleague.find("case_0/1"), "reject", reason="wrong side")
    assert reported(folder) == ("reject", "B")
    withdraw(colleague, how)
    assert reported(folder) == ("accept", "A")
    (path,) = write_structured_result(colleague, "case_0", tmp_path)
    assert json.loads(path.read_text())["findings"][0]["review"]["reviewer"] == "A"
    content = json.loads(export_manifest(colleague, tmp_path / "export").manifest.read_text())
    assert content["labels"] == {"1": "brainstem", "2": "mandible"}


def entry(number: int, reviewer: str, verdict: str, second: int, kept_aside: bool = False) -> dict[str, object]:
    made = {"event": "decision", "id": str(number), "case": "c", "label": 1, "reviewer": reviewer, "verdict": verdict, "time": f"{second:02d}"}
    return {**made, "kept_aside": True} if kept_aside else made


def test_a_late_decision_counts_once_the_one_before_it_is_withdrawn() -> None:
    entries = [entry(0, "C", "accept", 1), entry(1, "B", "reject", 5), entry(2, "A", "accept", 3, kept_aside=True)]
    assert last_overall(entries)["c", 1]["reviewer"] == "B"
    assert last_overall([*entries, entry(3, "B", "skip", 9)])["c", 1]["reviewer"] == "A"
    assert last_overall([*entries, entry(3, "B", "skip", 9), entry(4, "A", "skip", 10)])["c", 1]["reviewer"] == "C"


def test_a_colleagues_skip_undoes_nothing() -> None:
    assert last_overall([entry(0, "A", "accept", 1), entry(1, "B", "skip", 2)])["c", 1]["reviewer"] == "A"
