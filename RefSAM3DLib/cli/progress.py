"""How far a run is: a bar on a terminal, a line per stage in a log file, nothing with ``--quiet``."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, TextIO


class ProgressBar:
    """A :data:`~RefSAM3DLib.types.Progress` that shows itself on stderr; a context manager, so that an error finds a clean line."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bar: Any = None
        self._stage = ""
        self._part = ""

    def part(self, name: str) -> None:
        """Begin another part of the run, whose fractions start at 0 again."""
        self.close()
        self._part, self._stage = name, ""

    def __call__(self, fraction: float, stage: str) -> None:
        if self._quiet:
            return
        if not self._stream.isatty():
            if stage != self._stage:
                self._stream.write(f"{self._part}{stage}\n")
                self._stage = stage
            return
        if self._bar is None:
            from tqdm import tqdm

            layout = "{percentage:3.0f}%|{bar:30}| {elapsed}<{remaining} {desc}"
            self._bar = tqdm(total=1.0, file=self._stream, leave=False, bar_format=layout, mininterval=0.1)
        self._bar.set_description_str(f"{self._part}{stage}"[:50], refresh=False)
        self._bar.n = min(max(fraction, 0.0), 1.0)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class ProgressLine:
    """A :data:`~RefSAM3DLib.types.Progress` as one line that fills up, on a terminal only; it needs no other package."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream if stream.isatty() else None

    def __call__(self, fraction: float, stage: str) -> None:
        if self._stream:
            self._stream.write(f"\r{fraction:4.0%} {stage[:40]:40}")
            self._stream.flush()

    def close(self) -> None:
        """Remove the line."""
        if self._stream:
            self._stream.write("\r" + " " * 46 + "\r")
            self._stream.flush()
