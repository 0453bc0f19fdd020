"""A reader sees the old file or the whole new one, whatever ends the writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import RefSAM3DLib
from RefSAM3DLib import atomic
from RefSAM3DLib.atomic import check_output, write_aside
from RefSAM3DLib.errors import OutputError

ROOT = Path(RefSAM3DLib.__file__).parent.parent


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write_half(path: Path, error: BaseException | None) -> None:
    with write_aside(path, overwrite=True) as aside:
        aside.write_bytes(b"half")
        if error:
            raise error


def test_a_finished_write_is_there_and_nothing_else(tmp_path: Path):
    with write_aside(tmp_path / "a.seg.nrrd") as aside:
        aside.write_bytes(b"new")
        assert not (tmp_path / "a.seg.nrrd").exists()
    assert (tmp_path / "a.seg.nrrd").read_bytes() == b"new"
    assert names(tmp_path) == ["a.seg.nrrd"]


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a.seg.nrrd", ".seg.nrrd"), ("a.nii.gz", ".nii.gz"), ("ü b.json", ".json"), ("1.5.Läsion.mha", ".mha"), ("x" * 240 + ".json", ".json")],
)
def test_the_temporary_name_is_hidden_short_and_ascii_and_keeps_the_ending(tmp_path: Path, name: str, ending: str):
    with write_aside(tmp_path / name) as aside:
        assert aside.parent == tmp_path
        assert aside.name.startswith(".")
        assert aside.name.endswith(ending)
        assert aside.name.isascii()
        assert len(aside.name) < 40
        aside.write_bytes(b"1")
    assert names(tmp_path) == [name]


def test_a_rename_waits_on_windows_for_whoever_looks_at_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held, real = [1, 1, 1], os.replace

    def replace(old: Path, new: Path) -> None:
        if held:
            held.pop()
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(atomic, "_PAUSES_S", (0.0, 0.0, 0.0))
    (tmp_path / "old").write_bytes(b"1")
    with pytest.raises(PermissionError):
        atomic.rename(tmp_path / "old", tmp_path / "new")
    assert len(held) == 2, "elsewhere it is no matter of time"
    monkeypatch.setattr(atomic, "_IS_WINDOWS", True)
    atomic.rename(tmp_path / "old", tmp_path / "new")
    assert names(tmp_path) == ["new"]
    held += [1] * 9
    with pytest.raises(PermissionError):
        atomic.rename(tmp_path / "new", tmp_path / "old")


def test_a_folder_that_somebody_has_looked_at_is_still_empty(tmp_path: Path):
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "Thumbs.db").write_bytes(b"")
    assert atomic.holds_nothing(tmp_path)
    (tmp_path / ".hidden work").write_bytes(b"")
    assert not atomic.holds_nothing(tmp_path)
    with pytest.raises(OSError, match="not empty"):
        atomic.remove_empty(tmp_path)
    assert names(tmp_path) == [".hidden work"], "what came in meanwhile stays"
    (tmp_path / ".hidden work").unlink()
    (tmp_path / ".DS_Store").write_bytes(b"")
    atomic.remove_empty(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()], ids=["exception", "Ctrl-C"])
def test_a_failed_write_keeps_the_old_file_and_removes_its_own(tmp_path: Path, error: BaseException):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_a_writer_that_is_killed_in_mid_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.nrrd"
    path.write_bytes(b"old")
    code = (
        "import sys, time\n"
        "from RefSAM3DLib.atomic import write_aside\n"
        "with write_aside(sys.argv[1], overwrite=True) as aside, open(aside, 'wb') as handle:\n"
        "    for _ in range(10_000):\n"
        "        handle.write(bytes(4096)); handle.flush(); time.sleep(0.002)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not any(entry.stat().st_size > 8192 for entry in tmp_path.glob(".*part*")):
            assert time.monotonic() < deadline, "the writer never began"
            time.sleep(0.01)
    finally:
        writer.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        writer.wait()
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_at_any_point_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch, where: str):
    path = tmp_path / "a.nrrd"
    path.write_bytes(b"old")

    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(*_args, **_kwargs):
        raise error

    if where != "write":
        monkeypatch.setattr(os, where, full)
    with pytest.raises(OutputError, match=r"Could not write '.*a\.nrrd': No space left on device; free some disk space"):
        write_half(path, error if where == "write" else None)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.nrrd"]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path):
    (tmp_path / "there.json").write_text("{}")
    with pytest.raises(OutputError, match=r"folder '.*nowhere' does not exist; create it"):
        check_output(tmp_path / "nowhere" / "a.json")
    with pytest.raises(OutputError, match=r"there\.json' exists already; give another name, or --overwrite"):
        check_output(tmp_path / "there.json")
    with pytest.raises(OutputError, match="is a folder; give a file name"):
        check_output(tmp_path, overwrite=True)
    check_output(tmp_path / "there.json", overwrite=True)


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(OutputError, match="is read-only; choose another one"):
        check_output(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "free some disk space"), (errno.EACCES, "close it in other programs"), (errno.EIO, "check the disk")],
)
def test_next_step_after_a_failed_write_is_that_of_its_cause(tmp_path: Path, code: int, words: str):
    with pytest.raises(OutputError, match=words):
        write_half(tmp_path / "a.json", OSError(code, os.strerror(code)))
