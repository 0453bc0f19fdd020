"""A disk that is really full, in the middle of a batch and of a review."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_volumes import write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch, runner
from RefSAM3DLib.errors import OutputError
from RefSAM3DLib.review import ReviewSession

pytestmark = [pytest.mark.slow, pytest.mark.mount]
OPTIONS = {"prompts": ("brainstem", "mandible"), "engine": "batch_fake_engine:make", "workers": 0}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)


def test_batch_goes_on_when_there_is_room_again(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for n in range(12):
        write_volume(tmp_path / "in" / f"case_{n:02d}.nii.gz", seed=n)
    out = small_disk / "out"
    with pytest.raises(OutputError, match=r"MB left.*finished cases are kept"):
        run_batch(tmp_path / "in", out, BatchOptions(**OPTIONS))
    monkeypatch.setattr(runner, "MIN_FREE_BYTES", 0)  # now into the wall
    failed = 0
    with contextlib.suppress(OutputError):  # or it stops, when not even the journal finds room
        failed = len(run_batch(tmp_path / "in", out, BatchOptions(**OPTIONS)).failures)
    enlarge(small_disk)
    outcome = run_batch(tmp_path / "in", out, BatchOptions(**OPTIONS, retry_failed=True))
    assert outcome.exit_code == 0
    assert outcome.counts.get("done", 0) >= max(1, failed)
    assert len(outcome.rows) == 24
    assert not list(out.rglob("*.part.*"))


def test_decision_on_a_full_disk_is_kept_and_recorded_later(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(tmp_path / "a.nii.gz", seed=1)
    out = small_disk / "out"
    monkeypatch.setattr(runner, "MIN_FREE_BYTES", 0)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_batch(tmp_path / "a.nii.gz", out, BatchOptions(**OPTIONS))
    session = ReviewSession(out, "A")
    session.decide(session.find("a/1"), "accept")
    fill(small_disk / "filler")
    said = []
    for _ in range(20):  # the last page of the trail may still take a few
        try:
            session.decide(session.find("a/2"), "reject", reason="leak " * 100)
        except OutputError as error:
            said.append(str(error))
    assert said
    assert all("decision is kept in" in text for text in said)
    (small_disk / "filler").unlink()
    again = ReviewSession(out, "A")
    assert again.trail.log.read().entries[-1]["verdict"] == "reject"
    assert len(again.trail.log.read().entries) == 21
    assert again.find("a/2").status == "reject"
