"""Leftovers in shared memory go with the application that made them; those of a living one stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from RefSAM3DLib import shared_buffer
from RefSAM3DLib.shared_buffer import PREFIX, SharedBuffer, remove_leftovers, remove_orphans

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no names that outlive their process")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared_buffer, "_folders", lambda: [tmp_path])
    return tmp_path


@pytest.fixture
def living() -> Iterator[int]:
    """Another process that runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate()


@pytest.fixture
def ended() -> int:
    """A process that has run."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_only_names_of_applications_that_ended_are_removed(folder: Path, living: int, ended: int) -> None:
    kept = [SharedBuffer.create(8, owner=f"{pid}-abc123-") for pid in (os.getpid(), living)]
    orphan = SharedBuffer.create(8, owner=f"{ended}-abc123-")
    for name in (f"{PREFIX}worker", f"{PREFIX}x{ended}-abc123-", f"other-{ended}-abc123-"):
        (folder / name).touch()
    before = set(folder.iterdir())
    assert remove_orphans() == 1
    assert before - set(folder.iterdir()) == {Path(orphan.name.path)}
    kept[1].array((8,), "uint8")[:] = 7
    with SharedBuffer.open(kept[1].name) as same:
        assert np.array_equal(same.array((8,), "uint8"), [7] * 8), "the living process still finds its bytes"


def test_an_owners_leftovers_are_its_own_alone(folder: Path) -> None:
    mine, other = (SharedBuffer.create(8, owner=f"{os.getpid()}-{tag}-") for tag in ("aaaaaa", "bbbbbb"))
    assert remove_leftovers("") == 0
    assert remove_leftovers(f"{os.getpid()}-aaaaaa-") == 1
    assert [Path(b.name.path).exists() for b in (mine, other)] == [False, True]
