"""One batch per folder, and locks that dead ones left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from RefSAM3DLib.batch.folder_lock import FolderLock
from RefSAM3DLib.errors import OutputError

HOLD = """
import sys, time
from RefSAM3DLib.batch.folder_lock import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_batch_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(OutputError, match=f"process {process.pid} on .*, started 20"), FolderLock(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()


def test_lock_of_a_killed_holder_is_taken_over(tmp_path: Path) -> None:
    process = hold(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with FolderLock(tmp_path) as lock:
        assert lock.taken_over is not None
        assert lock.taken_over["pid"] == process.pid
    assert not lock.path.exists()


def test_lock_of_another_computer_needs_the_users_word(tmp_path: Path) -> None:
    (tmp_path / "batch.lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "time": "2020-01-01"}))
    with pytest.raises(OutputError, match=r"another computer.*--break-lock"), FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path, break_lock=True) as lock:
        assert lock.taken_over is not None


def test_record_cut_by_a_kill_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "batch.lock").write_text('{"pid": 1, "ho')
    with FolderLock(tmp_path):
        pass


def test_file_that_cannot_be_removed_has_no_holder_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to remove an open file."""

    def refused(_path: Path, missing_ok: bool = False) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        with FolderLock(tmp_path):
            assert (tmp_path / "batch.lock").stat().st_size
    assert (tmp_path / "batch.lock").stat().st_size == 0
    with FolderLock(tmp_path) as lock:
        assert lock.taken_over is None, "nobody was killed"


@pytest.mark.skipif(sys.platform == "win32", reason="the locks of POSIX")
def test_drive_without_locks_is_no_other_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuse(code: int) -> None:
        raise OSError(code, os.strerror(code))

    for code, words in ((errno.ENOLCK, "The drive of .* has no file locks .* on another drive"), (errno.EWOULDBLOCK, "Another batch is running")):
        monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation, code=code: refuse(code))
        with pytest.raises(OutputError, match=words), FolderLock(tmp_path):
            pass
