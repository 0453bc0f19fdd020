"""A batch as a child process: ``PythonSlicer -m RefSAM3DLib batch ... --json-progress``, polled by a timer of the main thread."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import ConfigError

from .. import session as engineSession
from ..pythonqt import TickTimer
from ..worker_process import makeReader

log = logging.getLogger("refsam3d.batch")

#: The command line of the engine; tests put another program there.
program: list[str] = [sys.executable, "-m", "RefSAM3DLib"]
#: A cancelled batch finishes its tables; one that does not end by then is killed. It loses nothing: finished cases are on the disk.
GRACE_S = 20.0
#: Workers of a killed batch may hold its pipe open a little longer.
DRAIN_S = 1.0
_FLAGS = {"allowUnknown": "--allow-unknown", "probability": "--probability", "retryFailed": "--retry-failed", "force": "--force",
          "breakLock": "--break-lock", "pseudonyms": "--pseudonyms", "showIdentifiers": "--show-identifiers"}  # fmt: skip
_VALUES = {"model": "--model", "adapter": "--adapter", "device": "--device", "modality": "--modality", "workers": "--workers", "ray": "--ray", "root": "--root"}
#: Those that run now: ended with the application.
_running: list[BatchTask] = []
_atQuit: list[bool] = []


class BatchState(enum.Enum):
    """Life of a batch."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


def batchArguments(source: Any, prompts: list[str] | str, outputFolder: Any, options: dict[str, Any]) -> list[str]:
    """Arguments of the command line.

    Raises:
        ConfigError: an option that a batch does not have.
    """
    arguments = ["batch", str(source), "-o", str(outputFolder), "--json-progress"]
    for text in [prompts] if isinstance(prompts, str) else prompts:
        arguments.append(f"--prompt={text}")
    splits = options.get("split") or ()
    arguments += [f"--split={name}" for name in ([splits] if isinstance(splits, str) else splits)]
    for name, value in options.items():
        if name in _FLAGS:
            arguments += [_FLAGS[name]] if value else []
        elif name in _VALUES:
            arguments += [f"{_VALUES[name]}={value}"] if value not in ("", None) else []
        elif name != "split":
            known = ", ".join(sorted([*_FLAGS, *_VALUES, "split"]))
            raise ConfigError(f"A batch has no option '{name}'; it has {known}.")
    return arguments


class BatchTask:
    """Begins when made. ``onProgress(task)`` after each case, ``onEnd(task)`` exactly once.

    Attributes:
        state: see :class:`BatchState`; FAILED if the batch could not run or any case failed. message: why, a sentence.
        folder: of the results. finished, total: cases. secondsLeft: None while unknown. statuses: of each finished case.
        errors: of the failed ones. notes: sentences that the batch said. exitCode: None while it runs.
    """

    def __init__(
        self,
        source: Any,
        prompts: list[str] | str,
        outputFolder: Any,
        options: dict[str, Any] | None = None,
        onProgress: Callable[[BatchTask], None] | None = None,
        onEnd: Callable[[BatchTask], None] | None = None,
    ) -> None:
        """Raises RefSAM3DError or OSError, and then nothing has begun."""
        arguments = batchArguments(source, prompts, outputFolder, options or {})
        self.folder = Path(outputFolder)
        self.state, self.message, self.exitCode = BatchState.RUNNING, "", None
        self.finished = self.total = 0
        self.secondsLeft: float | None = None
        self.statuses: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.notes: list[str] = []
        self._onProgress, self._onEnd = onProgress, onEnd
        self._cancelledAt: float | None = None
        self._deadSince: float | None = None
        self._rest = b""
        place = slicer.app.temporaryPath
        handle, name = tempfile.mkstemp(".log", "refsam3d-batch-", place if os.path.isdir(place) else None)
        self.logPath = Path(name)
        with os.fdopen(handle, "wb") as logFile:
            self._process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=logFile,  # a pipe that nobody reads would block the batch for ever
                env=engineSession.workerCommand("batch")[1],
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
        """True in every final state."""
        return self.state is not BatchState.RUNNING

    @property
    def fraction(self) -> float:
        """Share of the cases that are over."""
        return self.finished / self.total if self.total else 0.0

    def cancel(self) -> None:
        """Stop after writing the tables; the same call to ``logic.batch`` goes on from there."""
        if not self.isOver and self._cancelledAt is None:
            self._cancelledAt = time.monotonic()
            with contextlib.suppress(OSError):
                self._process.terminate()

    def wait(self) -> BatchTask:
        """Keep the application alive until the end."""
        while not self.isOver:
            self.tick()
            slicer.app.processEvents()
            time.sleep(0.01)
        return self

    def tick(self) -> None:
        """Read what the batch said; never waits."""
        if self.isOver:
            self._timer.stop()
            return
        data = self._reader.read()
        if data:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._onLine(line)
        if self._cancelledAt is not None and time.monotonic() - self._cancelledAt > GRACE_S:
            with contextlib.suppress(OSError):
                self._process.kill()
        if self._process.poll() is not None:
            self._deadSince = self._deadSince or time.monotonic()
            if data is None or (not data and time.monotonic() - self._deadSince > DRAIN_S):
                self._finish()

    def _onLine(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, KeyError, TypeError):
            log.info("the batch says: %s", line[:200])  # a library that prints
            return
        if kind == "note":
            self.notes.append(str(event.get("text", "")))
        elif kind == "end":
            case, status = str(event.get("case", "")), str(event.get("status", ""))
            self.finished, self.total, self.secondsLeft = int(event.get("finished", 0)), int(event.get("total", 0)), event.get("seconds_left")
            self.statuses[case] = status
            if event.get("error"):
                self.errors[case] = str(event["error"])
        if self._onProgress:
            self._onProgress(self)

    def _finish(self) -> None:
        self._timer.stop()
        self._reader.close()
        self.exitCode = self._process.returncode
        said = [line for line in self.logPath.read_text("utf-8", "replace").splitlines() if line.strip()] if self.logPath.exists() else []
        with contextlib.suppress(OSError):
            self.logPath.unlink()
        if self.exitCode == 0:
            self.state = BatchState.DONE
        elif self._cancelledAt is not None:
            self.state, self.message = BatchState.CANCELLED, _("The batch was stopped; it goes on when it is started again with the same folder.")
        else:
            self.state = BatchState.FAILED
            self.message = said[-1] if said else _("The batch ended with code {code}; start it again, it goes on.").format(code=self.exitCode)
        if self in _running:
            _running.remove(self)
        if self._onEnd:
            self._onEnd(self)

    def stop(self) -> None:
        """For the application's end: ask, and do not wait long. An interrupted case is done again next time."""
        self.cancel()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._process.kill()
        self._process.wait()
        self._finish()


def stopAll() -> None:
    """End every batch that this application started; idempotent."""
    for task in list(_running):
        task.stop()
