"""A file of JSON lines that only ever grows: the journal of a batch and the audit trail of a review.

One entry is one line, written by one ``write`` on an ``O_APPEND`` descriptor under an advisory lock, then fsynced, so
that several processes may append and a ``kill -9`` costs at most the line that was being written, which was not yet
promised to anybody. A line that was cut (kill, power, full disk) is never repaired or removed: the next entry starts on
a line of its own, readers skip the fragment, and :meth:`AppendLog.read` reports it.

Each entry carries ``previous``, the hash of the line before it, and at its end ``hash``, that of its own content, so that a line
that was altered or taken out later is found by :meth:`AppendLog.verify`. Lines taken off the end leave no trace: whoever must know
keeps the last line's hash elsewhere. Lines of earlier versions have no ``hash``. Order is the order of the lines; times are for people
and may jump.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Hex digits kept of the hash of the line before: 64 bits tell an accident and a careless edit apart from the truth.
CHAIN_DIGITS = 16
#: Fields that the log adds, whatever the entry says of them.
_CHAIN = ("previous", "hash")
_HASH_MARK = b',"hash":"'
#: No entry is longer; read back to find the line before.
_LONGEST_LINE = 1 << 20
#: What systems say of a lock on a drive that has none (network drives, some of containers and sticks).
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
#: Where Windows locks one byte, far behind any content, so that readers are not blocked.
_LOCK_OFFSET = 1 << 40


def utc_now() -> str:
    """Time of day for people, UTC, to the millisecond; never used to order or expire anything."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Fragment:
    """A line that is no entry: cut in the middle, or damaged later. ``line`` counts from one."""

    line: int
    text: str


@dataclass
class LogContent:
    """What a log holds. ``fragments`` are the lines that could not be read, in order."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    fragments: list[Fragment] = field(default_factory=list)

    def complaint(self, path: Path) -> str:
        """One sentence about the fragments, or an empty string."""
        if not self.fragments:
            return ""
        lines = ", ".join(str(f.line) for f in self.fragments[:5]) + (", ..." if len(self.fragments) > 5 else "")
        return (
            f"'{path}' has {len(self.fragments)} line(s) that were cut or damaged (line {lines}); they are kept in the file and"
            f" skipped, and all {len(self.entries)} other entries were read."
        )


@contextlib.contextmanager
def _exclusive(descriptor: int, path: Path) -> Iterator[None]:
    """Hold the advisory lock of an open file. The kernel frees it if the process dies.

    Raises:
        OutputError: the drive has no locks, so that two writers could spoil each other's lines. Nothing was written then.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise OutputError(
                f"'{path}' cannot be locked: its drive has no file locks ({error.strerror}), and nothing was written;"
                " put the folder on another drive, or mount this one with locks."
            ) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what was written stands, and closing the file frees the lock too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        return
    import msvcrt  # pragma: no cover

    os.lseek(descriptor, _LOCK_OFFSET, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    try:
        yield
    finally:
        os.lseek(descriptor, _LOCK_OFFSET, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:CHAIN_DIGITS]


def _is_unaltered(line: bytes) -> bool:
    content, _, digest = line.rpartition(_HASH_MARK)
    return digest == _digest(content + b"}").encode("ascii") + b'"}'


def sync_folder(folder: Path) -> None:
    """Make a new or renamed name in ``folder`` durable (POSIX; Windows does it by itself), as far as the drive can: some refuse it for folders."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # the content is on the disk by then, and to call it unwritten would have it written twice
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class AppendLog:
    """Append to and read a file of JSON lines; see the module for what it promises."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Write one entry and return it as stored, when it is on the disk.

        Raises:
            OutputError: the file is read-only, the disk is full, the folder is gone or its drive has no locks. The entry is then not in the log.
        """
        new = not self.path.exists()  # made with the mode that the user's umask leaves: colleagues of a group may write to one trail
        if not new and not stat.S_IMODE(self.path.stat().st_mode) & 0o222:  # asked of the mode: root may write to anything
            raise OutputError(f"'{self.path}' was made read-only, so nothing can be recorded; make it writable again and repeat.")
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise OutputError(f"'{self.path}' cannot be opened for writing: {error.strerror}; check the folder and its permissions.") from error
        try:
            with _exclusive(descriptor, self.path):
                stored = self._append_locked(descriptor, entry)
            if new:
                sync_folder(self.path.parent)
            return stored
        except OSError as error:
            hint = "free some disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the disk"
            raise OutputError(f"'{self.path}' could not be written: {error.strerror}; {hint} and repeat.") from error
        finally:
            os.close(descriptor)

    @staticmethod
    def _append_locked(descriptor: int, entry: dict[str, Any]) -> dict[str, Any]:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(0, size - _LONGEST_LINE), os.SEEK_SET)
        tail = _read_all(descriptor, size)
        cut = bool(tail) and not tail.endswith(b"\n")
        last = tail.rstrip(b"\n").rpartition(b"\n")[2]
        stored = {name: value for name, value in entry.items() if name not in _CHAIN} | {"previous": _digest(last) if last else ""}
        content = json.dumps(stored, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
        stored["hash"] = _digest(content)
        data = content[:-1] + _HASH_MARK + stored["hash"].encode("ascii") + b'"}\n'
        if cut:
            data = b"\n" + data
        view = memoryview(data)
        while view:  # one write in practice; a full disk may take a part and refuse the rest with an error
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        return stored

    def read(self) -> LogContent:
        """All entries in order. A missing file is an empty log; unreadable lines are reported, not raised."""
        content = LogContent()
        for number, line in self._lines():
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                content.entries.append(entry)
            else:
                content.fragments.append(Fragment(number, line.decode("utf-8", "replace")))
        return content

    def verify(self) -> list[str]:
        """Sentences about lines that were altered, and about lines that do not follow from the line before them."""
        faults, before = [], b""
        was_altered = has_hash = False
        for number, line in self._lines():
            expected, before = _digest(before) if before else "", line
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if not isinstance(entry, dict):
                continue
            fault, is_altered = "", "hash" in entry and not _is_unaltered(line)
            if is_altered:
                fault = "was altered: its content does not have the hash that stands in it."
            elif not was_altered and entry.get("previous") != expected:  # of the line behind an altered one this says nothing new
                fault = "does not follow from the line before it: a line was altered, inserted or removed."
            elif has_hash and "hash" not in entry:
                fault = "has no hash of its own, unlike lines before it: it was altered, or an earlier version wrote it."
            if fault:
                faults.append(f"Line {number} of '{self.path}' {fault}")
            was_altered, has_hash = is_altered, has_hash or "hash" in entry
        return faults

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with open(self.path, "rb") as handle:
                if fcntl is not None:  # else a line that is just being written looks like a cut one
                    with contextlib.suppress(OSError):  # a drive without locks may be read all the same
                        fcntl.flock(handle, fcntl.LOCK_SH)
                data = handle.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read: {error.strerror}; check its permissions.") from error
        for number, line in enumerate(data.split(b"\n"), 1):
            if line:
                yield number, line


def _read_all(descriptor: int, size: int) -> bytes:
    parts, left = [], min(size, _LONGEST_LINE)
    while left > 0:
        part = os.read(descriptor, left)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
