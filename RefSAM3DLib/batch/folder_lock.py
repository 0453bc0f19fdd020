"""One batch at a time in one folder.

The truth is an advisory lock of the operating system on ``batch.lock``: the kernel frees it when the holder dies, by
``kill -9`` too, so a lock left behind is recognised without guessing from process numbers or clocks. The file also says
who holds it. Where the holder wrote another host's name, the kernel of this machine may know nothing of its lock (network
drives): then the folder is refused until the user says ``--break-lock``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import OutputError
from .append_log import fcntl, utc_now

#: What systems say of a lock that another process holds; anything else is about the drive.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class FolderLock:
    """Context manager that holds the lock of an output folder.

    Args:
        folder: an existing folder.
        break_lock: take over a lock that another computer left behind.

    Attributes:
        taken_over: the dead holder's record if a stale lock was found, else None.
    """

    def __init__(self, folder: Path, break_lock: bool = False) -> None:
        self.path = Path(folder) / "batch.lock"
        self.break_lock = break_lock
        self.taken_over: dict[str, Any] | None = None
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise OutputError(f"The output folder '{self.path.parent}' cannot be written: {error.strerror}; choose another one.") from error
            try:
                locked = _try_lock(descriptor)
            except OSError as error:
                os.close(descriptor)
                raise OutputError(
                    f"The drive of '{self.path.parent}' has no file locks ({error.strerror or error}), without which two batches could spoil each other's"
                    " results; put the output folder on another drive, or mount this one with locks."
                ) from error
            if not locked:
                holder = _read_holder(descriptor)
                os.close(descriptor)
                raise OutputError(_refusal(self.path.parent, holder) + " Wait for it to end, or choose another folder.")
            # The former holder may have removed the file between our open and our lock: then we locked a ghost.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.path).st_ino == os.fstat(descriptor).st_ino:
                    break
            os.close(descriptor)
        holder = _read_holder(descriptor)
        if holder and holder.get("host") != socket.gethostname() and not self.break_lock:
            os.close(descriptor)
            raise OutputError(
                _refusal(self.path.parent, holder)
                + " That is another computer, so it cannot be seen from here whether it runs; if it does not, repeat with --break-lock."
            )
        self.taken_over = holder or None
        record = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "time": utc_now()}).encode()
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, record)
        os.fsync(descriptor)
        self._descriptor = descriptor
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)  # Windows does not remove an open file: an empty record has no holder
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = None


def _try_lock(descriptor: int) -> bool:
    """False if another process holds the lock; raises OSError where there are no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:  # pragma: no cover - Windows
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # a byte behind the record, so that others can still read who it is
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True


def _read_holder(descriptor: int) -> dict[str, Any]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(descriptor, 4096) or b"{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _refusal(folder: Path, holder: dict[str, Any]) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, started {holder.get('time', '?')}"
    return f"Another batch is running in '{folder}' ({who})."
