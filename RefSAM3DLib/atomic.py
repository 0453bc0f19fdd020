"""Write aside, then rename: a reader sees the old file or the whole new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError


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
    aside = path.with_name(f".{uuid.uuid4().hex[:8]}.part.{path.name}")
    try:
        yield aside
        with open(aside, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise OutputError(f"Could not write '{path}': {error.strerror or error}; {_next_step(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
