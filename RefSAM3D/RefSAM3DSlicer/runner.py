"""Keep one engine process, hand it one run at a time, and never make the caller wait.

Everything happens in :meth:`EngineRunner.poll`, which a timer of the main thread calls: a worker thread would starve, for the application's
Python holds its lock while the event loop runs. There is no Qt in here: the timer is handed in.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from RefSAM3DLib import worker_protocol as protocol
from RefSAM3DLib.errors import RefSAM3DError

from .engine_link import Answer, EngineLink
from .failures import adviceFor, deathFailure
from .result_reader import adoptResult
from .runs import EngineChoice, EngineInfo, Failure, Run, RunOptions, RunState
from .volume_transfer import VolumeSource, VolumeTransfer
from .worker_process import WorkerProcess

log = logging.getLogger("refsam3d.runner")

#: A cancelled worker that has not answered by then is killed; with the poll interval and the kill this stays below one second.
CANCEL_GRACE_S = 0.7
#: Shares of the percentage: sending the volume, then the engine, then (in the logic) writing the segments.
SENT, COMPUTED = 0.05, 0.95


class EngineRunner:
    """One engine process, started on first use and kept."""

    def __init__(
        self,
        command: Callable[[str], tuple[list[str], dict[str, str]]],
        makeTimer: Callable[[Callable[[], None]], Any] | None = None,
        logFolder: str | None = None,
    ) -> None:
        """``command(owner)`` gives arguments and environment.

        ``makeTimer(tick)`` gives something with ``start()`` and ``stop()``; without it the caller polls.
        """
        self._link = EngineLink(command, Path(logFolder or tempfile.gettempdir()) / f"RefSAM3D-engine-{os.getpid()}.log")
        self._timer = makeTimer(self.poll) if makeTimer else None
        self._run: Run | None = None
        self._options = RunOptions()
        self._choice = EngineChoice()
        self._transfer: VolumeTransfer | None = None
        self._request = 0
        self._sent = False
        self._deadline = 0.0
        self.lastUsed = time.monotonic()
        self._polling = False
        self._ended: list[tuple[Run, RunState, Failure | None]] = []  # in this tick; their callbacks come after it

    # ---- what the application asks for

    @property
    def isBusy(self) -> bool:
        """True while a run is not over."""
        return self._run is not None

    @property
    def isAlive(self) -> bool:
        """True if an engine process is there."""
        return self._link.isAlive

    @property
    def processId(self) -> int:
        """Of the process that computes; 0 without one."""
        return self._link.worker.pid if self._link.worker else 0

    @property
    def info(self) -> EngineInfo:
        """About the model that is loaded."""
        return self._link.info

    @property
    def logPath(self) -> Path:
        """What the process writes to its standard error."""
        return self._link.logPath

    @logPath.setter
    def logPath(self, path: Path) -> None:
        self._link.logPath = path

    def segment(self, source: VolumeSource, run: Run, choice: EngineChoice, options: RunOptions) -> None:
        """Begin ``run``; it ends through its callbacks.

        Raises:
            RefSAM3DError: another run is not over yet.
        """
        if self._run is not None:
            raise RefSAM3DError("A segmentation is running already; wait for it or cancel it first.")
        choice = choice.stamped()
        self._run, self._transfer, self._choice, self._options = run, VolumeTransfer(source), choice, options
        self._sent, self._deadline = False, 0.0
        try:
            self._link.ensure()
            if self._link.loaded != choice:
                self._request = self._link.load(choice)
                run.advance(0.0, self._startingStage())
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
            if self._link.loaded is None:
                self._link.discard()
            self._endRun(RunState.CANCELLED)
            return
        self._link.cancel(self._request)
        self._deadline = time.monotonic() + CANCEL_GRACE_S
        self._resume()

    def ask(self, kind: type, answer: Answer, onProgress: Callable[[float], None] | None = None, **fields: Any) -> int:
        """Send ``Status``, ``Release``, ``Diagnose`` or ``Fetch``; see :meth:`EngineLink.ask`. Returns a number for ``cancelAsk``."""
        number = self._link.ask(kind, answer, onProgress, self._run is not None, **fields)
        if number:
            self._resume()
        return number

    def cancelAsk(self, number: int) -> None:
        """Ask to stop what ``ask`` began."""
        self._link.cancelAsk(number)

    def stop(self) -> None:
        """End the engine now; safe to call at any time, any number of times. A run that is under way ends as cancelled."""
        if self._timer:
            self._timer.stop()
        self._dropBuffer()
        self._link.stop()
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
        """One tick: read messages, copy a little, watch the clock. Never waits; a callback that processes events does not re-enter it.

        Runs that ended are told so afterwards: a callback may begin the next run and wait for it, which polls.
        """
        if self._polling:
            return
        self._polling = True
        try:
            self._tick()
        finally:
            self._polling = False
            while self._ended:
                run, state, failure = self._ended.pop(0)
                run.end(state, failure)

    def _tick(self) -> None:
        link, worker = self._link, self._link.worker
        if worker is not None:
            for message in worker.messages():
                self._dispatch(message)
                if link.worker is not worker:
                    break
            if worker.ended and link.worker is worker:
                self._onDeath(worker)
        link.reap()
        if self._run is not None:
            if self._run.state is RunState.CANCELLING:
                if self._deadline and time.monotonic() > self._deadline:
                    link.discard()
                    self._endRun(RunState.CANCELLED)
            elif not self._sent and self._transfer is not None:
                self._copySome(self._transfer, self._run)
        if self._timer and self._run is None and link.isQuiet:
            self._timer.stop()

    # ---- inside

    def _resume(self) -> None:
        if self._timer:
            self._timer.start()

    def _startingStage(self) -> str:
        return "loading the model" if self._link.greeted else "starting the engine"

    def _dropBuffer(self) -> None:
        if self._transfer is not None:
            self._transfer.drop()

    def _endRun(self, state: RunState, failure: Failure | None = None) -> None:
        self._dropBuffer()
        run, self._run, self._transfer = self._run, None, None
        self.lastUsed = time.monotonic()
        if run is not None and self._polling:
            self._ended.append((run, state, failure))
        elif run is not None:
            run.end(state, failure)

    def _onDeath(self, worker: WorkerProcess) -> None:
        failure = deathFailure(worker.causeOfDeath(), worker.logTail())
        log.error("the engine's process ended: %s", failure.message)
        cancelling = self._run is not None and self._run.state is RunState.CANCELLING
        self._link.discard()
        if self._run is not None:
            self._endRun(RunState.CANCELLED if cancelling else RunState.FAILED, None if cancelling else failure)

    def _copySome(self, transfer: VolumeTransfer, run: Run) -> None:
        """Bring the volume across, a few milliseconds a tick, unless the worker holds it already; then send the request."""
        try:
            transfer.advance(self._link.heldKeys, lambda fraction: run.advance(SENT * fraction, "sending the volume"))
            if self._run is not run:
                return  # a progress callback cancelled it
        except RefSAM3DError as error:
            self._endRun(RunState.FAILED, Failure("input", str(error)))
            return
        except (OSError, MemoryError) as error:
            text = f"The volume could not be handed to the engine: {error or 'no memory is left'}."
            self._endRun(RunState.FAILED, Failure("memory", text, adviceFor("memory")))
            return
        if transfer.isDone and self._link.loaded is not None:
            self._sendRequest(transfer, run)
        elif transfer.isDone and run.stage != self._startingStage():
            run.advance(SENT, self._startingStage())

    def _sendRequest(self, transfer: VolumeTransfer, run: Run) -> None:
        source = transfer.source
        held = (key := source.key()) in self._link.heldKeys
        self._sent = True
        self._request = self._link.send(
            protocol.Segment,
            key=key,
            shape=list(source.shape),
            dtype=source.dtype,
            ijk_to_ras=source.ijkToRas,
            prompts=run.prompts,
            buffer={} if held else transfer.bufferName,
            modality=source.modality,
            stated=source.stated,
            source=source.name,
            probability=self._options.probability,
            allow_unknown=self._options.allowUnknown,
            roi=list(self._options.roi or ()),
        )
        if held:
            transfer.drop()

    def _dispatch(self, message: protocol.Message) -> None:
        if isinstance(message, protocol.Hello):
            self._onHello(message)
        elif self._link.takeAnswer(message):
            return
        elif self._run is None or getattr(message, "id", 0) != self._request:
            return  # the tail of something that is over
        elif isinstance(message, protocol.Loaded):
            self._link.loaded = self._choice
            warnings = tuple(message.warnings)
            self._link.info = EngineInfo(
                message.model_name, message.model_sha256, message.device, message.adapter_sha256, message.card, message.vocabulary, warnings
            )
        elif isinstance(message, protocol.Progress):
            self._dropBuffer()  # the worker has opened it: the name can go
            if self._run.state is RunState.RUNNING:
                self._run.advance(SENT + (COMPUTED - SENT) * message.fraction, message.stage, computing=True)
        elif isinstance(message, protocol.Found):
            self._onFound(self._run, message)
        elif isinstance(message, protocol.Stopped):
            self._link.heldKeys = []  # it may have given up an older image for the one that was cancelled
            self._endRun(RunState.CANCELLED)
        elif isinstance(message, protocol.Done):
            self._onDone(self._run, message)
        elif isinstance(message, protocol.Failed):
            self._onFailed(message)

    def _onHello(self, message: protocol.Hello) -> None:
        if message.protocol != protocol.PROTOCOL:
            self._link.discard()
            text = f"The engine speaks version {message.protocol} of the protocol, this panel version {protocol.PROTOCOL}."
            self._endRun(RunState.FAILED, Failure("internal", text, "Install the extension again and restart Slicer."))
            return
        self._link.greeted = True

    def _onFound(self, run: Run, message: protocol.Found) -> None:
        shape = self._transfer.source.shape if self._transfer is not None else (0, 0, 0)
        try:
            run.results.append(adoptResult(run, message, shape))
        except (OSError, ValueError, KeyError) as error:
            self._link.discard()
            self._endRun(RunState.FAILED, Failure("internal", f"A result could not be read: {error}", adviceFor("internal")))

    def _onDone(self, run: Run, message: protocol.Done) -> None:
        self._link.heldKeys = [str(key) for key in message.keys]
        run.engine = replace(self.info, device=message.device)  # it may have had to change to the CPU
        run.warnings = tuple(dict.fromkeys([*self.info.warnings, *message.warnings]))
        self._endRun(RunState.CANCELLED if run.state is RunState.CANCELLING else RunState.DONE)

    def _onFailed(self, message: protocol.Failed) -> None:
        self._link.heldKeys = []  # it may have dropped images to get out of trouble
        cancelling = self._run is not None and self._run.state is RunState.CANCELLING
        failure = Failure(message.category, message.message, adviceFor(message.category), message.details)
        self._endRun(RunState.CANCELLED if cancelling else RunState.FAILED, None if cancelling else failure)
