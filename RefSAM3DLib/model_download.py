"""Fetch a weights file: resumable, checked by size and SHA-256, whole or not at all. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .errors import Cancelled, CheckpointError, OutputError
from .types import Cancel, Progress

#: Bytes a step: progress and cancel are looked at after each.
STEP_BYTES = 1 << 18
TIMEOUT_S = 30.0
#: Opens a request; tests give their own.
Opener = Callable[[urllib.request.Request], IO[bytes]]


def _open(request: urllib.request.Request) -> IO[bytes]:
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def download(
    url: str, target: Path, size_bytes: int, sha256: str, progress: Progress | None = None, cancel: Cancel | None = None, opener: Opener = _open
) -> Path:
    """Fetch ``url`` to ``target``. What arrived before an interruption is kept in ``target.part`` and continued next time.

    Raises:
        CheckpointError: the server does not answer, the connection breaks, or it sent other bytes than expected (those are removed).
        OutputError: the disk is full or the folder read-only.
        Cancelled: asked to stop; the part stays.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.is_file() else 0
        if have > size_bytes:
            part.unlink()
            have = 0
        if shutil.disk_usage(target.parent).free < size_bytes - have:
            raise OutputError(f"The download needs {size_bytes / 1e6:.0f} MB in '{target.parent}'; free some disk space first.")
        if have < size_bytes:
            _fetch(url, part, have, size_bytes, progress, cancel, opener)
        _check(part, size_bytes, sha256, url)
        os.replace(part, target)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error.strerror or error}; free some space or check the folder's rights.") from error
    return target


@contextlib.contextmanager
def _network(url: str) -> Iterator[None]:
    """Faults of the connection in words: most of them are OSErrors, as those of the disk are, and must not be taken for these."""
    try:
        yield
    except urllib.error.URLError as error:
        reason = getattr(error, "reason", error)
        raise CheckpointError(f"'{url}' cannot be fetched ({reason}); check the connection, or download it elsewhere and choose 'From file'.") from error
    except TimeoutError as error:
        raise CheckpointError(f"'{url}' did not answer within {TIMEOUT_S:.0f} s; try again, the part that arrived is kept.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"The connection to '{url}' broke ({reason}); try again, the part that arrived is kept.") from error


def _fetch(url: str, part: Path, have: int, size_bytes: int, progress: Progress | None, cancel: Cancel | None, opener: Opener) -> None:
    headers = {"User-Agent": "RefSAM3D"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _network(url):
        opened = opener(urllib.request.Request(url, headers=headers))
    with contextlib.closing(opened) as answer:
        continued = have > 0 and getattr(answer, "status", 200) == 206
        if not continued:
            have = 0  # a server that cannot continue sends everything again
        with open(part, "ab" if continued else "wb") as handle:
            while data := _read(answer, url):
                handle.write(data)
                have += len(data)
                if have > size_bytes:
                    break
                if progress is not None:
                    progress(min(have / size_bytes, 1.0), "downloading")
                if cancel is not None and cancel():
                    raise Cancelled


def _read(answer: IO[bytes], url: str) -> bytes:
    with _network(url):
        return answer.read(STEP_BYTES)


def _check(part: Path, size_bytes: int, sha256: str, url: str) -> None:
    found = part.stat().st_size
    if found < size_bytes:
        raise CheckpointError(f"The download of '{url}' stopped at {found} of {size_bytes} bytes; start it again, it continues there.")
    digest = hashlib.sha256()
    with open(part, "rb") as handle:
        while data := handle.read(1 << 20):
            digest.update(data)
    if found != size_bytes or digest.hexdigest() != sha256:
        part.unlink()
        raise CheckpointError(f"What '{url}' sent is not the expected file (wrong size or checksum); nothing was installed, try again.")
