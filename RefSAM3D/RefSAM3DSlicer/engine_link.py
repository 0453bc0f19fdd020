"""The engine's process as the runner sees it: started when needed, asked, replaced when it died. Runs are none of its business."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from RefSAM3DLib import worker_protocol as protocol
from RefSAM3DLib.shared_buffer import remove_orphans

from .runs import EngineChoice, EngineInfo
from .worker_process import WorkerProcess

log = logging.getLogger("refsam3d.runner")

#: Gets a report; None if the engine died meanwhile; {"error": text} if it refused, {"cancelled": True} if it was told to stop.
Answer = Callable[[dict[str, Any] | None], None]


class EngineLink:
    """One process at a time.

    Attributes:
        greeted: it has said hello. heldKeys: images that it keeps. loaded: the model it holds, None while it holds none. info: about it.
    """

    def __init__(self, command: Callable[[str], tuple[list[str], dict[str, str]]], logPath: Path) -> None:
        """``command(owner)`` gives arguments and environment."""
        self._command, self.logPath = command, logPath
        self.worker: WorkerProcess | None = None
        self._dying: list[WorkerProcess] = []
        self._counter = 0
        self._questions: dict[int, tuple[Answer, Callable[[float], None] | None]] = {}
        self.greeted = False
        self.heldKeys: list[str] = []
        self.loaded: EngineChoice | None = None
        self.info = EngineInfo()

    @property
    def isAlive(self) -> bool:
        """True if a process is there."""
        return self.worker is not None and not self.worker.ended

    @property
    def isQuiet(self) -> bool:
        """True if no answer is awaited and no process is still ending."""
        return not self._questions and not self._dying

    def ensure(self) -> None:
        """Start a process unless one is alive.

        Raises:
            OSError: the program or the log file cannot be used.
        """
        if self.worker is not None and self.worker.hasExited():
            self.discard()
        if self.worker is None:
            remove_orphans()
            owner = f"{os.getpid()}-{uuid.uuid4().hex[:6]}-"
            command, environment = self._command(owner)
            self.worker = WorkerProcess(command, environment, self.logPath, owner)

    def send(self, kind: type, **fields: Any) -> int:
        """Send a request and return its number; a dead process is noticed at the next tick."""
        self._counter += 1
        if self.worker is not None:
            self.worker.send(kind(self._counter, **fields))
        return self._counter

    def cancel(self, number: int) -> None:
        """Ask it to stop working on a request."""
        if self.worker is not None:
            self.worker.send(protocol.Cancel(number))

    def load(self, choice: EngineChoice) -> int:
        """Ask for another model; what was known about the last one is forgotten."""
        self.loaded, self.info, self.heldKeys = None, EngineInfo(), []
        return self.send(protocol.Load, model=choice.model, adapter=choice.adapter, device=choice.device)

    # ---- questions beside the runs

    def ask(self, kind: type, answer: Answer, onProgress: Callable[[float], None] | None = None, duringRun: bool = False, **fields: Any) -> int:
        """Send ``Status``, ``Release``, ``Diagnose`` or ``Fetch``; only the last two start a process. Returns a number for ``cancelAsk``.

        ``duringRun``: a process that has died meanwhile is left to the tick, which ends the run and answers this question too.
        """
        if self.worker is None and kind not in (protocol.Diagnose, protocol.Fetch):
            answer(None)
            return 0
        try:
            if self.worker is None or not duringRun:
                self.ensure()
        except OSError as error:
            log.error("the engine could not be started: %s", error)
            answer(None)
            return 0
        number = self.send(kind, **fields)
        self._questions[number] = (answer, onProgress)
        if kind is protocol.Release:
            self.heldKeys = []
        return number

    def cancelAsk(self, number: int) -> None:
        """Ask to stop what ``ask`` began."""
        if number in self._questions:
            self.cancel(number)

    def takeAnswer(self, message: Any) -> bool:
        """Hand a message to the one who asked; False if it belongs to no question."""
        number = getattr(message, "id", 0)
        if number not in self._questions:
            return False
        if isinstance(message, protocol.Progress):
            onProgress = self._questions[number][1]
            if onProgress:
                onProgress(message.fraction)
            return True
        answer = self._questions.pop(number)[0]
        if isinstance(message, protocol.Report):
            answer(message.data)
        else:
            answer({"cancelled": True} if isinstance(message, protocol.Stopped) else {"error": getattr(message, "message", "")})
        return True

    # ---- the end

    def discard(self) -> None:
        """Kill the process without waiting for its end."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.kill()
            if not worker.reap():
                self._dying.append(worker)
        self._forget()

    def reap(self) -> None:
        """Clean up after processes that have ended since."""
        self._dying = [process for process in self._dying if not process.reap()]

    def stop(self) -> None:
        """Kill and wait: for the application's end."""
        worker, self.worker = self.worker, None
        self._forget()
        for process in [*self._dying, *([worker] if worker else [])]:
            process.stop()
        self._dying.clear()

    def _forget(self) -> None:
        self.greeted, self.heldKeys, self.loaded, self.info = False, [], None, EngineInfo()
        questions, self._questions = self._questions, {}
        for answer, _onProgress in questions.values():
            answer(None)
