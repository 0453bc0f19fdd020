"""A review killed at random moments, and two reviewers at once in two processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from batch_volumes import write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.append_log import AppendLog
from RefSAM3DLib.review import ReviewSession

# Works through the queue: stores a draft, decides, says so on standard output when the decision returned.
REVIEWER = """
import sys, time
import numpy as np
from RefSAM3DLib.review import ReviewSession
session = ReviewSession(sys.argv[1], sys.argv[2])
for draft in session.drafts():
    print("offered", draft.case, draft.label, flush=True)
while (item := session.resume()) is not None:
    session.set_position(item)
    mask, _ = session.machine_mask(item)
    edited = np.roll(mask, 1, axis=1)
    session.store_draft(item, edited, seconds=1.0)
    print("draft", item.case, item.label, flush=True)
    session.decide(item, "accept_edited", edited_mask=edited, seconds=2.0)
    print("decided", item.case, item.label, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for n in range(20):
        write_volume(tmp_path / "in" / f"case_{n:02d}.nii.gz", seed=n)
    prompts = ("brainstem", "mandible", "larynx")
    run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=prompts, engine="batch_fake_engine:make", workers=0))
    return tmp_path / "out"


def reviewer(folder: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", REVIEWER, str(folder), name], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_review_killed_at_ten_random_moments(folder: Path) -> None:
    dice = random.Random(1)
    promised: list[str] = []
    drafted = ""
    recorded_now: Counter[str] = Counter()
    for _ in range(10):
        process = reviewer(folder, "A")
        assert process.stdout is not None
        lines = []
        for _ in range(dice.randint(1, 11)):  # somewhere between two lines of output
            lines.append(process.stdout.readline())
        time.sleep(dice.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
        assert process.wait() == -signal.SIGKILL, "the reviewer was done before the kill"
        lines = [line.strip() for line in lines if line.endswith("\n") and line.strip()]  # the kill may cut the last one short
        # recorded_now is what the killed run before this one left: its last edit is in there, or it was offered back first of all
        if drafted and drafted not in recorded_now:
            assert lines[0] == f"offered {drafted}", "an unsaved edit was not offered back"
        promised += [line.removeprefix("decided ") for line in lines if line.startswith("decided")]
        drafts = [line.removeprefix("draft ") for line in lines if line.startswith("draft")]
        drafted = drafts[-1] if drafts else drafted
        entries = AppendLog(folder / "review.jsonl").read().entries
        recorded_now = Counter(f"{e['case']} {e['label']}" for e in entries)
        assert set(promised) <= set(recorded_now), "a decision that was confirmed is gone"
        assert set(recorded_now.values()) <= {1}, "a decision was made twice"
        assert all((folder / e["mask_file"]).is_file() for e in entries)
    process = reviewer(folder, "A")
    assert process.wait(300) == 0
    session = ReviewSession(folder, "A")
    assert session.progress() == (60, 60)
    entries = AppendLog(folder / "review.jsonl").read()
    assert Counter(f"{e['case']} {e['label']}" for e in entries.entries).most_common(1)[0][1] == 1
    assert session.drafts() == []
    assert session.trail.log.verify() == []


@pytest.mark.slow
def test_two_reviewers_at_once_lose_no_entry(folder: Path) -> None:
    processes = [reviewer(folder, name) for name in ("A", "B")]
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    log = AppendLog(folder / "review.jsonl")
    content = log.read()
    assert not content.fragments
    assert log.verify() == []
    assert Counter(e["reviewer"] for e in content.entries) == {"A": 60, "B": 60}
    assert all(output.count("decided") == 60 for output in outputs)
    total = next(row for row in ReviewSession(folder, "C").agreement() if row["structure"] == "all structures")
    assert (total["items"], total["same_verdict"], total["dice"]) == (60, 60, 1.0)
