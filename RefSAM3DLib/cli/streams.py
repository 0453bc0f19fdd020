"""Standard output and error that fall silent when their reader leaves, so that ``refsam3d batch ... | head`` ends as it would without the pipe."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def is_closed_pipe(error: OSError) -> bool:
    """Whether nobody reads any more; Windows has no error of its own for it."""
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)


class Tolerant:
    """A text stream that swallows what is written after its reader has left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's own."""
        with self._until_closed():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream's own."""
        with self._until_closed():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not is_closed_pipe(error):
                raise
            with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # for what waits in the buffer: the interpreter's last flush would fail


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Standard output and error as :class:`Tolerant`; a console that lacks a letter shows "?", and a closed stream swallows everything."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
        setattr(sys, name, Tolerant(stream))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = before
