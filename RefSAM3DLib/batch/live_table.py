"""What a person sees while a batch runs: a line per finished case, the rate and the time left."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

#: Cases shown above the progress line on a terminal.
SHOWN = 8
_WORDS = {"done": "done", "recovered": "found done", "unchanged": "unchanged", "failed": "FAILED", "failed_before": "failed before"}


@dataclass
class Progress:
    """Counts of a run; ``clock`` is monotonic, so that a jump of the time of day changes nothing."""

    total: int
    clock: Callable[[], float] = time.monotonic
    counts: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    running: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def end(self, outcome: dict[str, Any]) -> None:
        """Count a case that came back."""
        self.counts[outcome["status"]] = self.counts.get(outcome["status"], 0) + 1
        self.computed += outcome["status"] in ("done", "failed")
        self.running.discard(outcome["case"])

    @property
    def finished(self) -> int:
        """Cases that came back."""
        return sum(self.counts.values())

    @property
    def seconds_left(self) -> float | None:
        """From the cases computed in this run (skipped ones cost nothing); None before the first."""
        if not self.computed:
            return None
        return (self.clock() - self.started) / self.computed * (self.total - self.finished)

    def line(self) -> str:
        """One line: how many, how fast, how long still."""
        elapsed = max(1e-3, self.clock() - self.started)
        left = self.seconds_left
        failed = self.counts.get("failed", 0) + self.counts.get("failed_before", 0)
        rate = f"{self.computed / elapsed * 60:.1f} cases/min" if self.computed else "- cases/min"
        return f"{self.finished}/{self.total} cases, {failed} failed, {rate}, {'-' if left is None else clock_text(left)} left"


def _moves_its_cursor(stream: TextIO) -> bool:
    """Whether escape sequences move the cursor rather than being shown. Windows' older console has to be told to read them."""
    if sys.platform != "win32":
        return True
    import ctypes
    import msvcrt

    kernel, mode = ctypes.windll.kernel32, ctypes.c_ulong()
    try:
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(stream.fileno()))
    except (OSError, ValueError):
        return False
    virtual_terminal = 4
    return bool(kernel.GetConsoleMode(handle, ctypes.byref(mode)) and kernel.SetConsoleMode(handle, mode.value | virtual_terminal))


class LiveTable:
    """Draws on a terminal in place; writes plain lines elsewhere; JSON lines if another program listens."""

    def __init__(self, stream: TextIO, total: int, as_json: bool = False, quiet: bool = False) -> None:
        self.stream, self.as_json, self.quiet = stream, as_json, quiet
        self.progress = Progress(total)
        self.terminal = stream.isatty() and not as_json and _moves_its_cursor(stream)
        self._rows: deque[str] = deque(maxlen=SHOWN)
        self._drawn = 0
        self._is_unread = False

    def start(self, key: str) -> None:
        """A case went to a worker."""
        self.progress.running.add(key)
        if self.as_json:
            self._json(event="start", case=key)
        elif self.terminal and not self.quiet:
            self._draw()

    def end(self, outcome: dict[str, Any]) -> None:
        """A case came back."""
        self.progress.end(outcome)
        if self.as_json:
            self._json(
                event="end", case=outcome["case"], status=outcome["status"], error=outcome.get("error", ""),
                finished=self.progress.finished, total=self.progress.total, seconds_left=self.progress.seconds_left,
            )  # fmt: skip
            return
        if self.quiet:
            return
        row = f"{outcome['case'][:36]:36}  {_WORDS[outcome['status']]:13}  {outcome.get('elapsed_s', 0):7.1f} s  {describe(outcome)}"
        if self.terminal:
            self._rows.append(row)
            self._draw()
        else:
            self._write(f"{row}\n  {self.progress.line()}\n")

    def note(self, text: str) -> None:
        """A sentence above the table."""
        if self.as_json:
            self._json(event="note", text=text)
        elif not self.quiet:
            self._write(self._above() + text + "\n")

    def _json(self, **values: Any) -> None:
        self._write(json.dumps(values) + "\n")

    def _above(self) -> str:
        """Moves to where the table begins and clears it."""
        drawn, self._drawn = self._drawn, 0
        return f"\x1b[{drawn}F\x1b[J" if drawn else ""

    def _draw(self) -> None:
        above, width = self._above(), self._columns() - 1  # a line that fills the last column wraps on some terminals, and one row would be two
        running = "running: " + ", ".join(sorted(self.progress.running)) if self.progress.running else ""
        lines = [" ".join(line.split("\n"))[:width] for line in (*self._rows, running, self.progress.line())]
        self._write(above + "\n".join(lines) + "\n")
        self._drawn = len(lines)

    def _columns(self) -> int:
        """Of the terminal written to: standard output may lead elsewhere."""
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or shutil.get_terminal_size().columns
        except (OSError, ValueError):
            return shutil.get_terminal_size().columns

    def _write(self, text: str) -> None:
        """The batch goes on when nobody reads its progress any more."""
        if self._is_unread:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            self._is_unread = True


def describe(outcome: dict[str, Any]) -> str:
    """The error, or the verdicts in short."""
    if outcome.get("error"):
        return str(outcome["error"])
    verdicts: dict[str, int] = {}
    for row in outcome.get("results", ()):
        verdicts[row["verdict"]] = verdicts.get(row["verdict"], 0) + 1
    return ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items()))


def clock_text(seconds: float) -> str:
    """``1:02:03`` or ``4:05``.

    >>> clock_text(245), clock_text(3723)
    ('4:05', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
