"""Bytes that two processes see at once, without a copy through a pipe and without a helper process.

``multiprocessing.shared_memory`` starts a resource-tracker process inside the application that imports it and, before Python 3.13,
lets that tracker of *either* side remove the memory; both hurt inside a desktop application. Here:

* Linux: a file in ``/dev/shm`` (memory, never a disk), reserved in full before use so that a full device is an error, not a crash;
* macOS, and Linux where ``/dev/shm`` is missing or too small (containers): a file in the temporary folder, mapped;
* Windows: a named section backed by the page file; no file exists.

The creator removes the name as soon as the other side has opened it: nothing is left behind when a process is killed later.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OutputError

if TYPE_CHECKING:
    import numpy as np

_MEMORY_FOLDER = Path("/dev/shm")
#: Names made here start with this, so that leftovers of a killed process can be found and nothing else is ever removed.
PREFIX = "refsam3d-"
_FILE_MAP_READ = 4


@dataclass(frozen=True)
class BufferName:
    """What the other side needs to open the same bytes. ``path`` is empty for a Windows section (``tag`` names it)."""

    path: str
    tag: str
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"path": self.path, "tag": self.tag, "size": self.size}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BufferName:
        """Inverse of :meth:`as_dict`; KeyError or ValueError if a field is missing or no number."""
        return cls(str(data["path"]), str(data["tag"]), int(data["size"]))


class SharedBuffer:
    """One block of shared bytes; a context manager that closes its own side."""

    def __init__(self, name: BufferName, mapping: mmap.mmap, unreserved: int = -1) -> None:
        self.name = name
        self._mapping: mmap.mmap | None = mapping
        self._descriptor = unreserved  # open while parts may still have to be reserved

    @classmethod
    def create(cls, size: int, owner: str = "", piecewise: bool = False) -> SharedBuffer:
        """Reserve ``size`` bytes. ``owner`` goes into the name, see :func:`remove_leftovers`.

        ``piecewise``: only look for room; the caller calls :meth:`reserve` before it writes a part. Reserving 100 MB at once takes 50 ms,
        too long for a user interface.

        Raises:
            OutputError: neither the shared memory nor the temporary folder has room for ``size`` bytes.
        """
        size = max(int(size), 1)
        tag = f"{PREFIX}{owner}{uuid.uuid4().hex[:12]}"
        if sys.platform == "win32":
            try:
                return cls(BufferName("", tag, size), mmap.mmap(-1, size, tagname=tag))
            except OSError as error:
                raise OutputError(
                    f"There is no room to hand {size / 2**20:.0f} MB to the engine ({error.strerror or error}); close other programs or enlarge the "
                    "page file and try again."
                ) from error
        reason = "no shared memory"
        for folder in _folders():
            path = folder / tag
            try:
                mapping, descriptor = _make(path, size, piecewise)
                return cls(BufferName(str(path), tag, size), mapping, descriptor)
            except OSError as error:
                with contextlib.suppress(OSError):
                    path.unlink()
                reason = error.strerror or str(error)
        raise OutputError(
            f"There is no room to hand {size / 2**20:.0f} MB to the engine ({reason} in {' and '.join(map(str, _folders()))}); "
            "free some memory or disk space and try again."
        )

    @classmethod
    def open(cls, name: BufferName) -> SharedBuffer:
        """Map what the other side created; FileNotFoundError if it is gone."""
        if sys.platform == "win32" and not name.path:
            with _existing_section(name.tag):
                return cls(name, mmap.mmap(-1, name.size, tagname=name.tag))
        with open(name.path, "r+b") as handle:
            return cls(name, mmap.mmap(handle.fileno(), name.size))

    def array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """View of the bytes; must be dropped before :meth:`close`."""
        import numpy as np

        if self._mapping is None:
            raise ValueError("The buffer is closed.")
        count = int(np.prod(shape, dtype=np.int64))
        if count * np.dtype(dtype).itemsize > self.name.size:
            raise ValueError(f"A {shape} array of {dtype} does not fit into {self.name.size} bytes.")
        return np.frombuffer(self._mapping, dtype=dtype, count=count).reshape(shape)

    def reserve(self, start: int, count: int) -> None:
        """Take the room for ``count`` bytes from ``start`` on, see ``piecewise``.

        Raises:
            OutputError: the device is full.
        """
        if self._descriptor < 0 or count <= 0:
            return
        try:
            _allocate(self._descriptor, start, count)
        except OSError as error:
            raise OutputError(
                f"There is no room to hand the volume to the engine ({error.strerror}); free some memory or disk space and try again."
            ) from error

    def close(self) -> None:
        """Drop this side's mapping. Views that are still alive keep the memory until they go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._mapping is not None:
            with contextlib.suppress(BufferError):  # a numpy view is alive: the mapping goes with it
                self._mapping.close()
            self._mapping = None

    def unlink(self) -> None:
        """Remove the name; both sides keep their mappings."""
        if self.name.path:
            with contextlib.suppress(OSError):
                os.unlink(self.name.path)

    def __enter__(self) -> SharedBuffer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


@contextlib.contextmanager
def _existing_section(tag: str) -> Iterator[None]:
    """Hold a Windows section open while it is mapped: mapping one that is gone would make a new one full of zeros, an empty result."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenFileMappingW.restype = ctypes.c_void_p
    kernel.CloseHandle.argtypes = [ctypes.c_void_p]
    handle = kernel.OpenFileMappingW(_FILE_MAP_READ, False, tag)
    if not handle:
        raise FileNotFoundError(errno.ENOENT, "the shared memory is gone", tag)
    try:
        yield
    finally:
        kernel.CloseHandle(handle)


def _folders() -> list[Path]:
    """Where a mapped file may lie, best first."""
    folders = [Path(tempfile.gettempdir())]
    if sys.platform.startswith("linux") and os.access(_MEMORY_FOLDER, os.W_OK):
        folders.insert(0, _MEMORY_FOLDER)
    return folders


def _make(path: Path, size: int, piecewise: bool) -> tuple[mmap.mmap, int]:
    """A file of ``size`` bytes, and its descriptor if parts must still be reserved, else -1."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    keep = False
    try:
        space = os.statvfs(path)
        if size > space.f_bavail * space.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, size)
        keep = piecewise and hasattr(os, "posix_fallocate")
        if not keep:
            _allocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size), descriptor if keep else -1
    finally:
        if not keep:
            os.close(descriptor)


def _allocate(descriptor: int, start: int, count: int) -> None:
    """Writing to a sparse file on a full device would kill the process (SIGBUS): take the room first, where the system can."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, count)


def remove_leftovers(owner: str) -> int:
    """Remove names that a killed process left behind; returns how many. ``owner`` as given to :meth:`SharedBuffer.create`."""
    if not owner or sys.platform == "win32":
        return 0
    removed = 0
    for folder in _folders():
        for path in folder.glob(f"{PREFIX}{owner}*"):
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def remove_orphans() -> int:
    """Remove names whose creating application (the number at the start of ``owner``) does not run any more; returns how many."""
    if sys.platform == "win32":
        return 0
    removed = 0
    for folder in _folders():
        for path in folder.glob(f"{PREFIX}*"):
            number = path.name[len(PREFIX) :].partition("-")[0]
            if number.isdigit() and not _is_running(int(number)):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += 1
    return removed


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
