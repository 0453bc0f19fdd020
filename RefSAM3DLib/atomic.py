"""Write aside, then rename: a reader sees the old file or the whole new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

_IS_WINDOWS = os.name == "nt"
#: Left by Windows' Explorer and macOS' Finder, in lower case.
SYSTEM_FILES = frozenset({".ds_store", "desktop.ini", "thumbs.db"})
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)


def check_output(path: Path, overwrite: bool = False) -> None:
    """Refuse an output that cannot be written before any work is done.

    Raises:
        OutputError: the folder is missing or read-only, the name is a folder, or the file exists and must not be replaced.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"The output folder '{folder}' does not exist; create it or choose another one.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"The output folder '{folder}' is read-only; choose another one.")
    if path.is_dir():
        raise OutputError(f"The output '{path}' is a folder; give a file name.")
    if path.exists() and not overwrite:
        raise OutputError(f"The output '{path}' exists already; give another name, or --overwrite to replace it.")


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty but for what the system writes into every folder that somebody looked at."""
    return all(entry.name.lower() in SYSTEM_FILES for entry in folder.iterdir())


def remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing, see :func:`holds_nothing`.

    Raises:
        OSError: it holds something of somebody's, which stays.
    """
    for entry in list(folder.iterdir()):
        if entry.name.lower() in SYSTEM_FILES:
            entry.unlink()
    folder.rmdir()


def rename(old: Path, new: Path) -> None:
    """As ``os.replace``; on Windows tried again for a second and a half, while a scanner or an indexer holds what was just written.

    Raises:
        OSError: it did not come free, or another reason.
    """
    for pause in _PAUSES_S:
        try:
            os.replace(old, new)
        except PermissionError:
            if not _IS_WINDOWS:
                raise
            time.sleep(pause)
        else:
            return
    os.replace(old, new)


def make_folder(folder: Path) -> None:
    """Make a folder for results, with those above it; it may exist.

    Raises:
        OutputError: it cannot be made, with the system's reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder '{folder}' cannot be made: {error.strerror or error}; choose another one.") from error


def with_usual_mode(path: Path) -> None:
    """Give a file the mode of any new file: some writers make theirs readable by its owner alone, and a colleague could not load it."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def is_full(error: BaseException | None) -> bool:
    """Whether the system refused a write since the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _next_step(error: OSError) -> str:
    if is_full(error):
        return "free some disk space or choose another folder"
    if _IS_WINDOWS and isinstance(error, FileNotFoundError):  # the folder was there
        return "its path is longer than the 260 characters that Windows allows; choose a folder nearer to the drive's root"
    if isinstance(error, PermissionError):  # on Windows also of a file that a spreadsheet holds open
        return "close it in other programs, check its permissions, and repeat"
    return "check the disk, or choose another folder"


@contextlib.contextmanager
def write_aside(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same ending, so that writers pick the same format) and rename it on success.

    On any failure the temporary file is removed and an existing ``path`` is untouched.

    Raises:
        OutputError: see :func:`check_output`; also a full disk or a failing write, with the system's reason.
    """
    path = Path(path)
    check_output(path, overwrite)
    # Short, and ASCII as SimpleITK needs it on Windows: only the ending tells writers the format.
    ending = "".join(suffix for suffix in path.suffixes[-2:] if suffix.isascii())
    aside = path.with_name(f".{uuid.uuid4().hex[:8]}.part{ending}")
    try:
        yield aside
        with open(aside, "rb+") as handle:
            os.fsync(handle.fileno())
        rename(aside, path)
    except OSError as error:
        raise OutputError(f"Could not write '{path}': {error.strerror or error}; {_next_step(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
