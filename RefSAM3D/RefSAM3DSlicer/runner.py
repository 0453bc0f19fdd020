"""Keep one engine process, hand it one run at a time, and never make the caller wait.

Everything happens in :meth:`EngineRunner.poll`, which a timer of the main thread calls: a worker thread would starve, for the application's
Python holds its lock while the event loop runs. There is no Qt in here: the timer is handed in.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from RefSAM3DLib import worker_protocol as protocol
from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.shared_buffer import SharedBuffer, remove_orphans

from .failures import adviceFor, deathFailure
from .result_reader import adoptResult
from .runs import EngineChoice, EngineInfo, Failure, Run, RunOptions, RunState
from .worker_process import WorkerProcess

log = logging.getLogger("refsam3d.runner")

#: A cancelled worker that has not answered by then is killed; with the poll interval and the kill this stays below one second.
CANCEL_GRACE_S = 0.7
#: Time that one poll may spend on copying, so that the event loop is never held for 50 ms.
COPY_BUDGET_S = 0.012
#: Shares of the percentage: sending the volume, then the engine, then (in the logic) writing the segments.
SENT, COMPUTED = 0.05, 0.95


class Timer(Protocol):
    """What the runner needs of a timer."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class VolumeSource(Protocol):
    """A volume as the runner sees it, see :mod:`~RefSAM3DSlicer.volume_bridge`."""

    shape: tuple[int, int, int]
    dtype: str
    ijkToRas: list[float]
    modality: str
    name: str

    def knownKey(self) -> str:
        """Content key of an earlier copy if nothing has changed since, else ""."""

    def copyInto(self, target: Any, reserve: Callable[[int, int], None]) -> Iterator[float]:
        """Copy a little, yield the fraction done, repeat; raises RefSAM3DError if the volume changes meanwhile.

        ``reserve(start, count)`` in bytes comes before each write.
        """

    def key(self) -> str:
        """Content key; after ``copyInto`` is exhausted."""


class EngineRunner:
    """One engine process, started on first use and kept."""

    def __init__(
        self,
        command: Callable[[str], tuple[list[str], dict[str, str]]],
        makeTimer: Callable[[Callable[[], None]], Timer] | None = None,
        logFolder: str | None = None,
    ) -> None:
        """``command(owner)`` gives arguments and environment; without ``makeTimer`` the caller polls."""
        self._command = command
        self._timer = makeTimer(self.poll) if makeTimer else None
        self.logPath = Path(logFolder or tempfile.gettempdir()) / f"RefSAM3D-engine-{os.getpid()}.log"
        self._worker: WorkerProcess | None = None
        self._dying: list[WorkerProcess] = []
        self._greeted = False
        self._heldKeys: list[str] = []
        self.info = EngineInfo()
        self._run: Run | None = None
        self._options = RunOptions()
        self._source: VolumeSource | None = None
        self._copy: Iterator[float] | None = None
        self._buffer: SharedBuffer | None = None
        self._counter = self._request = 0  # requests so far; the one that belongs to the run
        self._loaded: EngineChoice | None = None
        self._choice = EngineChoice()
        self._sent = False
        self._deadline = 0.0
        self.lastUsed = time.monotonic()
        self._polling = False
        self._reports: dict[int, tuple[Callable[[dict[str, Any] | None], None], Callable[[float], None] | None]] = {}

    # ---- what the application asks for

    @property
    def isBusy(self) -> bool:
        """True while a run is not over."""
        return self._run is not None

    @property
    def isAlive(self) -> bool:
        """True if an engine process is there."""
        return self._worker is not None and not self._worker.ended

    @property
    def processId(self) -> int:
        """Of the process that computes; 0 without one."""
        return self._worker.pid if self._worker else 0

    def segment(self, source: VolumeSource, run: Run, choice: EngineChoice, options: RunOptions) -> None:
        """Begin ``run``; it ends through its callbacks.

        Raises:
            RefSAM3DError: another run is not over yet.
        """
        if self._run is not None:
            raise RefSAM3DError("A segmentation is running already; wait for it or cancel it first.")
        self._run, self._source, self._choice, self._options = run, source, choice, options
        self._sent, self._copy, self._deadline = False, None, 0.0
        try:
            self._ensureWorker()
            if self._loaded != choice:
                self._loaded, self.info, self._heldKeys = None, EngineInfo(), []
                self._request = self._ask(protocol.Load, model=choice.model, adapter=choice.adapter, device=choice.device)
                run.advance(0.0, "loading the model" if self._greeted else "starting the engine")
        except (OSError, RefSAM3DError) as error:
            self._endRun(RunState.FAILED, Failure("packages", f"The engine could not be started: {error}", adviceFor("packages")))
            return
        self._resume()

    def cancel(self) -> None:
        """Ask the run to stop; if it does not, its process is killed within a second."""
        run = self._run
        if run is None or run.state is RunState.CANCELLING:
            return
        run.state = RunState.CANCELLING
        run.advance(run.fraction, "cancelling")
        if not self._sent:  # the worker knows nothing of the run yet; one that is still loading a model cannot be asked
            if self._loaded is None:
                self._discardWorker()
            self._endRun(RunState.CANCELLED)
            return
        if self._worker is not None:
            self._worker.send(protocol.Cancel(self._request))
        self._deadline = time.monotonic() + CANCEL_GRACE_S
        self._resume()

    def ask(
        self,
        kind: type,
        answer: Callable[[dict[str, Any] | None], None],
        onProgress: Callable[[float], None] | None = None,
        **fields: Any,
    ) -> int:
        """Send ``Status``, ``Release``, ``Diagnose`` or ``Fetch``; only the last two start an engine. Returns a number for ``cancelAsk``.

        ``answer`` gets the report; None if the engine died meanwhile; {"error": text} if it refused, {"cancelled": True} if it was told to stop.
        """
        if self._worker is None and kind not in (protocol.Diagnose, protocol.Fetch):
            answer(None)
            return 0
        try:
            self._ensureWorker()
        except OSError as error:
            log.error("the engine could not be started: %s", error)
            answer(None)
            return 0
        number = self._ask(kind, **fields)
        self._reports[number] = (answer, onProgress)
        if kind is protocol.Release:
            self._heldKeys = []
        self._resume()
        return number

    def cancelAsk(self, number: int) -> None:
        """Ask to stop what ``ask`` began."""
        if self._worker is not None and number in self._reports:
            self._worker.send(protocol.Cancel(number))

    def stop(self) -> None:
        """End the engine now; safe to call at any time, any number of times. A run that is under way ends as cancelled."""
        if self._timer:
            self._timer.stop()
        worker, self._worker = self._worker, None
        self._forgetWorker()
        for process in [*self._dying, *([worker] if worker else [])]:
            process.stop()
        self._dying.clear()
        if self._run is not None:
            self._endRun(RunState.CANCELLED)

    def wait(self, run: Run, processEvents: Callable[[], None] | None = None, timeout: float | None = None) -> None:
        """Poll until ``run`` is over: for scripts and tests."""
        limit = time.monotonic() + timeout if timeout else None
        while not run.isOver and (limit is None or time.monotonic() < limit):
            self.poll()
            if processEvents:
                processEvents()
            time.sleep(0.005)

    # ---- the timer's tick

    def poll(self) -> None:
        """One tick: read messages, copy a little, watch the clock. Never waits; a callback that processes events does not re-enter it."""
        if self._polling:
            return
        self._polling = True
        try:
            self._tick()
        finally:
            self._polling = False

    def _tick(self) -> None:
        worker = self._worker
        if worker is not None:
            for message in worker.messages():
                self._dispatch(message)
                if self._worker is not worker:
                    break
            if worker.ended and self._worker is worker:
                self._onDeath(worker)
        self._dying = [process for process in self._dying if not process.reap()]
        if self._run is not None:
            if self._run.state is RunState.CANCELLING:
                if self._deadline and time.monotonic() > self._deadline:
                    self._discardWorker()
                    self._endRun(RunState.CANCELLED)
            elif not self._sent:
                self._copySome()
        if self._timer and self._run is None and not self._reports and not self._dying:
            self._timer.stop()

    # ---- inside

    def _resume(self) -> None:
        if self._timer:
            self._timer.start()

    def _ask(self, kind: type, **fields: Any) -> int:
        self._counter += 1
        if self._worker is not None:
            self._worker.send(kind(self._counter, **fields))  # a dead worker is noticed at the next tick
        return self._counter

    def _ensureWorker(self) -> None:
        if self._worker is not None and not self._worker.ended:
            self._worker.messages()  # notice a death since the last tick
        if self._worker is not None and self._worker.ended:
            self._discardWorker()
        if self._worker is None:
            remove_orphans()
            owner = f"{os.getpid()}-{uuid.uuid4().hex[:6]}-"
            command, environment = self._command(owner)
            self._worker = WorkerProcess(command, environment, self.logPath, owner)

    def _forgetWorker(self) -> None:
        self._greeted, self._heldKeys, self._loaded, self.info = False, [], None, EngineInfo()
        self._dropBuffer()
        reports, self._reports = self._reports, {}
        for answer, _onProgress in reports.values():
            answer(None)

    def _discardWorker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            if not worker.reap():
                self._dying.append(worker)
        self._forgetWorker()

    def _dropBuffer(self) -> None:
        self._copy = None
        if self._buffer is not None:
            self._buffer.unlink()
            self._buffer.close()
            self._buffer = None

    def _endRun(self, state: RunState, failure: Failure | None = None) -> None:
        run, self._run = self._run, None
        self.lastUsed = time.monotonic()
        self._source = None
        self._dropBuffer()
        if run is not None:
            run.end(state, failure)

    def _onDeath(self, worker: WorkerProcess) -> None:
        failure = deathFailure(worker.causeOfDeath(), worker.logTail())
        log.error("the engine's process ended: %s", failure.message)
        cancelling = self._run is not None and self._run.state is RunState.CANCELLING
        self._discardWorker()
        if self._run is not None:
            self._endRun(RunState.CANCELLED if cancelling else RunState.FAILED, None if cancelling else failure)

    def _copySome(self) -> None:
        """Bring the volume across, a few milliseconds a tick, unless the worker holds it already; then send the request."""
        source, run = self._source, self._run
        assert source is not None
        assert run is not None
        try:
            if self._copy is None and self._buffer is None and source.knownKey() not in self._heldKeys:
                size = math.prod(source.shape) * np.dtype(source.dtype).itemsize
                self._buffer = SharedBuffer.create(size, f"{os.getpid()}-", piecewise=True)
                self._copy = source.copyInto(self._buffer.array(source.shape, source.dtype), self._buffer.reserve)
            end = time.monotonic() + COPY_BUDGET_S
            while self._copy is not None and time.monotonic() < end:
                fraction = next(self._copy, None)
                if fraction is None:
                    self._copy = None
                else:
                    run.advance(SENT * fraction, "sending the volume")
        except RefSAM3DError as error:
            self._endRun(RunState.FAILED, Failure("input", str(error)))
            return
        if self._copy is None and self._loaded is not None:
            self._sendRequest(source, run)
        elif self._copy is None:
            stage = "loading the model" if self._greeted else "starting the engine"
            if run.stage != stage:
                run.advance(SENT, stage)

    def _sendRequest(self, source: VolumeSource, run: Run) -> None:
        key = source.key()
        held = key in self._heldKeys
        self._sent = True
        self._request = self._ask(
            protocol.Segment,
            key=key,
            shape=list(source.shape),
            dtype=source.dtype,
            ijk_to_ras=source.ijkToRas,
            prompts=run.prompts,
            buffer=self._buffer.name.as_dict() if self._buffer is not None and not held else {},
            modality=source.modality,
            source=source.name,
            probability=self._options.probability,
            allow_unknown=self._options.allowUnknown,
            roi=list(self._options.roi or ()),
        )
        if held:
            self._dropBuffer()

    def _dispatch(self, message: protocol.Message) -> None:
        if isinstance(message, protocol.Hello):
            self._onHello(message)
        elif getattr(message, "id", 0) in self._reports:
            self._onAnswer(message)
        elif self._run is None or getattr(message, "id", 0) != self._request:
            return  # the tail of something that is over
        elif isinstance(message, protocol.Loaded):
            self._loaded = self._choice
            self.info = EngineInfo(message.model_name, message.model_sha256, message.device, message.card, message.vocabulary, tuple(message.warnings))
        elif isinstance(message, protocol.Progress):
            self._dropBuffer()  # the worker has opened it: the name can go
            if self._run.state is RunState.RUNNING:
                self._run.advance(SENT + (COMPUTED - SENT) * message.fraction, message.stage, computing=True)
        elif isinstance(message, protocol.Found):
            self._onFound(self._run, message)
        elif isinstance(message, protocol.Stopped):
            self._endRun(RunState.CANCELLED)
        elif isinstance(message, protocol.Done):
            self._onDone(self._run, message)
        elif isinstance(message, protocol.Failed):
            self._onFailed(message)

    def _onAnswer(self, message: Any) -> None:
        """To a question of ``ask``."""
        if isinstance(message, protocol.Progress):
            onProgress = self._reports[message.id][1]
            if onProgress:
                onProgress(message.fraction)
            return
        answer = self._reports.pop(message.id)[0]
        if isinstance(message, protocol.Report):
            answer(message.data)
        else:
            answer({"cancelled": True} if isinstance(message, protocol.Stopped) else {"error": getattr(message, "message", "")})

    def _onHello(self, message: protocol.Hello) -> None:
        if message.protocol != protocol.PROTOCOL:
            self._discardWorker()
            text = f"The engine speaks version {message.protocol} of the protocol, this panel version {protocol.PROTOCOL}."
            self._endRun(RunState.FAILED, Failure("internal", text, "Install the extension again and restart Slicer."))
            return
        self._greeted = True

    def _onFound(self, run: Run, message: protocol.Found) -> None:
        shape = self._source.shape if self._source is not None else (0, 0, 0)
        try:
            run.results.append(adoptResult(run, message, shape))
        except (OSError, ValueError, KeyError) as error:
            self._discardWorker()
            self._endRun(RunState.FAILED, Failure("internal", f"A result could not be read: {error}", adviceFor("internal")))

    def _onDone(self, run: Run, message: protocol.Done) -> None:
        self._heldKeys = [str(key) for key in message.keys]
        run.engine = self.info
        run.warnings = tuple(dict.fromkeys([*self.info.warnings, *message.warnings]))
        self._endRun(RunState.CANCELLED if run.state is RunState.CANCELLING else RunState.DONE)

    def _onFailed(self, message: protocol.Failed) -> None:
        self._heldKeys = []  # it may have dropped images to get out of trouble
        cancelling = self._run is not None and self._run.state is RunState.CANCELLING
        failure = Failure(message.category, message.message, adviceFor(message.category), message.details)
        self._endRun(RunState.CANCELLED if cancelling else RunState.FAILED, None if cancelling else failure)
