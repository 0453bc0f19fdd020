"""A command of ``refsam3d`` as a child process: ``PythonSlicer -m RefSAM3DLib ...``, polled by a timer of the main thread."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import slicer

from RefSAM3DLib.cli.input_end import VARIABLE as STOP_WITH_STDIN

from .. import session as engineSession
from ..pythonqt import TickTimer
from ..worker_process import makeReader

#: The command line of the engine; tests put another program there.
program: list[str] = [sys.executable, "-m", "RefSAM3DLib"]
#: One that was told to stop finishes its files; one that does not end by then is killed.
GRACE_S = 20.0
#: Workers of a killed command may hold its pipe open a little longer.
DRAIN_S = 1.0
#: Those that run now: ended with the application.
_running: list[CliTask] = []
_atQuit: list[bool] = []


class CliTask:
    """Begins when made and polls itself. A subclass says what lines mean (``_onLine``) and what the end means (``_onOver``).

    Attributes:
        exitCode: None while it runs.
    """

    def __init__(self, arguments: list[str]) -> None:
        """Raises OSError, and then nothing has begun."""
        self.exitCode: int | None = None
        self._cancelledAt: float | None = None
        self._deadSince: float | None = None
        self._rest = b""
        place = slicer.app.temporaryPath
        handle, name = tempfile.mkstemp(".log", f"refsam3d-{arguments[0]}-", place if os.path.isdir(place) else None)
        self.logPath = Path(name)
        with os.fdopen(handle, "wb") as logFile:
            self._process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.PIPE,  # says nothing; its end tells the command to stop
                stdout=subprocess.PIPE,
                stderr=logFile,  # a pipe that nobody reads would block the command for ever
                env={**engineSession.workerCommand("cli")[1], STOP_WITH_STDIN: "1"},
                bufsize=0,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        self._reader = makeReader(self._process.stdout)
        if not _atQuit:
            _atQuit.append(slicer.app.connect("aboutToQuit()", stopAll))
        _running.append(self)
        self._timer = TickTimer(self.tick, 50)
        self._timer.start()

    @property
    def isOver(self) -> bool:
        """True once it has ended and everything that it said is read."""
        return self.exitCode is not None

    @property
    def wasCancelled(self) -> bool:
        """True if it was told to stop."""
        return self._cancelledAt is not None

    def _onLine(self, line: bytes) -> None:
        raise NotImplementedError

    def _onOver(self, said: list[str]) -> None:
        """``said``: lines on standard error."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Tell it to stop: by the end of its input, which a launcher hands on to the Python behind it; a signal would end the launcher alone."""
        if not self.isOver and self._cancelledAt is None:
            self._cancelledAt = time.monotonic()
            self._closeInput()

    def _closeInput(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def tick(self) -> None:
        """Read what it said; never waits."""
        if self.isOver:
            self._timer.stop()
            return
        data = self._reader.read()
        if data:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._onLine(line.rstrip(b"\r"))
        if self._cancelledAt is not None and time.monotonic() - self._cancelledAt > GRACE_S:
            with contextlib.suppress(OSError):
                self._process.kill()
        if self._process.poll() is not None:
            self._deadSince = self._deadSince or time.monotonic()
            if data is None or (not data and time.monotonic() - self._deadSince > DRAIN_S):
                self._finish()

    def _finish(self) -> None:
        self._timer.stop()
        self._reader.close()
        self._closeInput()
        self.exitCode = self._process.returncode
        said = [line for line in self.logPath.read_text("utf-8", "replace").splitlines() if line.strip()] if self.logPath.exists() else []
        with contextlib.suppress(OSError):
            self.logPath.unlink()
        if self in _running:
            _running.remove(self)
        self._onOver(said)

    def stop(self) -> None:
        """For the application's end: ask, and do not wait long."""
        self.cancel()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._process.kill()
        self._process.wait()
        self._finish()


class CommandTask(CliTask):
    """A command whose output counts at its end. ``onEnd(task)`` is called once.

    Attributes:
        lines: what it printed. notes: what it said on standard error. failure: its last sentence if it failed, "" if it did not.
    """

    def __init__(self, arguments: list[str], onEnd: Callable[[CommandTask], None]) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.failure = ""
        self._onEnd = onEnd
        super().__init__(arguments)

    def _onLine(self, line: bytes) -> None:
        self.lines.append(line.decode("utf-8", "replace"))

    def _onOver(self, said: list[str]) -> None:
        self.notes = said
        if self.exitCode and not self.wasCancelled:
            self.failure = said[-1] if said else f"The command ended with code {self.exitCode}."
        self._onEnd(self)


def stopAll() -> None:
    """End every command that this application started; idempotent."""
    for task in list(_running):
        task.stop()
