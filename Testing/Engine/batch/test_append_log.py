"""The file of JSON lines: nothing lost by a cut, a kill, two writers or a refusing disk."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from RefSAM3DLib.batch import append_log
from RefSAM3DLib.batch.append_log import AppendLog
from RefSAM3DLib.errors import OutputError


@given(cut=st.integers(1, 400), texts=st.lists(st.text(max_size=20), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_log_cut_anywhere_keeps_every_whole_line_and_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("log") / "a.jsonl"
    log = AppendLog(path)
    for text in texts:
        log.append({"text": text})
    data = path.read_bytes()
    kept = data[: max(0, len(data) - cut)]
    path.write_bytes(kept)
    whole = kept.count(b"\n") + (1 if kept.endswith(b"}") else 0)
    log.append({"text": "after"})
    content = log.read()
    assert [e["text"] for e in content.entries] == [*texts[:whole], "after"]
    assert len(content.fragments) == (0 if not kept or kept.endswith((b"\n", b"}")) else 1)
    assert path.read_bytes().startswith(kept)  # nothing that was there is rewritten
    assert log.verify() == []


def test_altered_and_removed_lines_are_found(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "a.jsonl")
    for n in range(4):
        log.append({"n": n})
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], lines[1].replace('"n":1', '"n":7'), *lines[2:]]) + "\n")
    assert len(log.verify()) == 1
    log.path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert "altered, inserted or removed" in log.verify()[0]


def test_two_processes_that_append_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = (
        "import sys; from RefSAM3DLib.batch.append_log import AppendLog; log = AppendLog(sys.argv[1])\n"
        "for n in range(100): log.append({'who': sys.argv[2], 'n': n, 'long': 'x' * 500})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "abc"]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    content = AppendLog(path).read()
    assert not content.fragments
    for who in "abc":
        assert [e["n"] for e in content.entries if e["who"] == who] == list(range(100))
    assert AppendLog(path).verify() == []


def test_read_only_file_is_refused_in_words(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "a.jsonl")
    log.append({"n": 1})
    log.path.chmod(0o444)
    with pytest.raises(OutputError, match="read-only"):
        log.append({"n": 2})
    assert len(log.read().entries) == 1


def test_full_disk_in_the_middle_of_a_line_costs_only_that_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AppendLog(tmp_path / "a.jsonl")
    log.append({"n": 1})
    real = os.write
    calls = []

    def write(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(descriptor, bytes(data)[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OutputError, match=r"No space left.*free some disk space"):
        log.append({"n": 2})
    monkeypatch.undo()
    log.append({"n": 3})
    content = log.read()
    assert [e["n"] for e in content.entries] == [1, 3]
    assert len(content.fragments) == 1
    assert "cut or damaged (line 2)" in content.complaint(log.path)


def test_entries_are_plain_ascii_json_lines(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "a.jsonl")
    log.append({"text": "Ünïcode\u2028\nline"})
    assert log.path.read_bytes().count(b"\n") == 1
    assert json.loads(log.path.read_text())["text"] == "Ünïcode\u2028\nline"


def test_change_of_the_last_line_is_found_by_its_own_hash(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "a.jsonl")
    for n in range(3):
        log.append({"n": n, "hash": "of the caller", "text": 'a,"hash":"b"}'})
    assert log.verify() == []
    log.path.write_text(log.path.read_text().replace('"n":2', '"n":3'))
    assert [fault.split("'")[-1] for fault in log.verify()] == [" was altered: its content does not have the hash that stands in it."]


def test_log_of_an_earlier_version_stays_readable_and_is_continued(tmp_path: Path) -> None:
    from RefSAM3DLib.batch.append_log import _digest

    log = AppendLog(tmp_path / "a.jsonl")
    first = b'{"n":0,"previous":""}'
    second = b'{"n":1,"previous":"' + _digest(first).encode() + b'"}'
    log.path.write_bytes(first + b"\n" + second + b"\n")
    assert log.verify() == []
    log.append({"n": 2})
    assert log.verify() == []
    assert [entry["n"] for entry in log.read().entries] == [0, 1, 2]
    last = log.path.read_bytes().splitlines()[-1]
    log.path.write_bytes(log.path.read_bytes().replace(last, last.partition(b',"hash"')[0].replace(b'"n":2', b'"n":9') + b"}"))
    assert log.verify() == []  # the only hash was taken out with the change: as of an earlier version
    log.append({"n": 3})
    log.path.write_bytes(log.path.read_bytes() + b'{"n":4,"previous":"' + _digest(log.path.read_bytes().splitlines()[-1]).encode() + b'"}\n')
    assert "has no hash of its own, unlike lines before it" in log.verify()[-1]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
def test_colleagues_of_a_group_may_write_to_a_log_where_the_umask_says_so(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        AppendLog(tmp_path / "a.jsonl").append({"n": 1})
    finally:
        os.umask(before)
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o664


@pytest.mark.skipif(os.name != "posix", reason="Windows syncs no folders")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOLCK, errno.ENOSYS])
def test_drive_that_cannot_sync_folders_takes_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    log = AppendLog(tmp_path / "a.jsonl")
    log.append({"n": 1})
    log.append({"n": 2})
    assert [entry["n"] for entry in log.read().entries] == [1, 2]


@pytest.mark.skipif(append_log.fcntl is None, reason="Windows locks in another way")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOLCK, errno.ENOSYS])
def test_drive_without_locks_may_be_read_and_says_so_when_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    log = AppendLog(tmp_path / "a.jsonl")
    log.append({"n": 1})

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(append_log.fcntl, "flock", flock)
    assert len(log.read().entries) == 1
    with pytest.raises(OutputError, match=r"a\.jsonl' cannot be locked: its drive has no file locks .* nothing was written; put the folder on another drive"):
        log.append({"n": 2})
    assert len(log.read().entries) == 1
