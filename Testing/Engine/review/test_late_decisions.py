"""A decision that was kept aside reaches the record after a colleague's later one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from RefSAM3DLib.errors import OutputError
from RefSAM3DLib.review import ReviewSession, audit_trail
from RefSAM3DLib.review.status import last_overall


def kept_aside(folder: Path) -> Path:
    """The trail, into which reviewer A's acceptance of case_0/1 could not be written."""
    session = ReviewSession(folder, "C")
    session.decide(session.find("case_0/1"), "skip")
    trail = folder / "review.jsonl"
    trail.chmod(0o444)
    session = ReviewSession(folder, "A")
    with pytest.raises(OutputError, match="kept in"):
        session.decide(session.find("case_0/1"), "accept")
    trail.chmod(0o644)
    return trail


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(audit_trail, "utc_now", lambda: f"2026-01-01T00:00:{next(seconds):02d}.000+00:00")


def test_a_colleagues_later_decision_counts_and_a_note_names_both(folder: Path) -> None:
    kept_aside(folder)
    colleague = ReviewSession(folder, "B")
    colleague.decide(colleague.find("case_0/1"), "reject", reason="wrong side")
    late = ReviewSession(folder, "A")
    assert late.find("case_0/1").status == "accept", "what A decided stays A's own decision"
    assert (late.trail.read().entries[-1]["reviewer"], late.trail.read().entries[-1]["kept_aside"]) == ("A", True)
    for session in (late, ReviewSession(folder, "B")):
        assert last_overall(session.trail.read().entries)[("case_0", 1)]["reviewer"] == "B"
        (note,) = [note for note in session.notes if "case_0/1" in note]
        assert "'A' decided on 'case_0/1' (accepted) before 'B' did (rejected)" in note
    late.decide(late.find("case_0/1"), "accept", comment="we talked about it")
    assert last_overall(late.trail.read().entries)[("case_0", 1)]["reviewer"] == "A"
    assert not [note for note in ReviewSession(folder, "B").notes if "case_0/1" in note]


def test_a_decision_kept_aside_counts_where_it_is_the_later_one(folder: Path) -> None:
    colleague = ReviewSession(folder, "B")
    colleague.decide(colleague.find("case_0/1"), "reject", reason="wrong side")
    kept_aside(folder)
    session = ReviewSession(folder, "A")
    assert last_overall(session.trail.read().entries)[("case_0", 1)]["reviewer"] == "A"
    assert len(session.notes) == 1
