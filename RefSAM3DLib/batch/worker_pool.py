"""Processes on this machine that each keep one engine and take one case after the other.

Not ``concurrent.futures``: there one killed worker ends the pool. Here a worker that dies (out of memory, a crash in a
reader) costs its case one attempt; the case is given to a fresh worker once more and then counts as failed. Workers end
with their parent, however that ends, so a killed batch leaves nobody behind who still writes.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from ..errors import Cancelled, DeviceError, RefSAM3DError
from ..types import Cancel
from .case_work import work_on
from .cases import Case
from .content_hash import hash_files
from .inputs import case_files
from .options import BatchOptions, describe_engine, load_factory

log = logging.getLogger(__name__)

#: A case is begun at most this often in one run when workers die over it.
MAX_ATTEMPTS = 2
#: Seconds between two questions whether to stop; the wait itself costs nothing.
POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Task:
    """One case and what the journal knows of it: the fingerprints under ``done`` and ``failed``."""

    case: Case
    known: dict[str, str]


#: ``("start", task)`` when a case goes to a worker, ``("end", outcome)`` when it comes back.
Event = tuple[str, Any]


class Pool(Protocol):
    """Where cases are worked on: this process, several processes, or a cluster."""

    def info(self) -> dict[str, Any]:
        """What the engine is; waits for the first one that is ready."""

    def run(self, tasks: Iterable[Task], cancel: Cancel | None = None) -> Iterator[Event]:
        """Work on all tasks, in any order."""

    def close(self) -> None:
        """End at once what is running."""


class InlinePool:
    """Works in the calling process: for tests, and for callers that are a child process already."""

    def __init__(self, options: BatchOptions, output: Path) -> None:
        self.options, self.output = options, output
        self.engine = load_factory(options.engine)(**options.engine_arguments)

    def info(self) -> dict[str, Any]:
        """See :class:`Pool`."""
        return describe_engine(self.engine, self.options.engine_arguments)

    def run(self, tasks: Iterable[Task], cancel: Cancel | None = None) -> Iterator[Event]:
        """See :class:`Pool`."""
        info = self.info()
        for task in tasks:
            if cancel is not None and cancel():
                raise Cancelled("The batch was stopped.")
            yield "start", task
            yield "end", work_on(self.engine, info, task.case, self.options, self.output, task.known)

    def close(self) -> None:
        """See :class:`Pool`."""


class _Worker:
    def __init__(self, options: BatchOptions, output: Path, index: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.task: Task | None = None
        self.ready = False
        self.process = context.Process(target=serve, args=(theirs, options.as_dict(), str(output), index, threads), daemon=True)
        with _environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads)):
            self.process.start()
        theirs.close()

    def end(self) -> None:
        self.process.kill()
        self.process.join(5)
        self.connection.close()


class ProcessPool:
    """``options.workers`` processes, the torch threads of the machine divided among them."""

    def __init__(self, options: BatchOptions, output: Path) -> None:
        self.options, self.output = options, output
        self.threads = max(1, (os.cpu_count() or 1) // max(1, options.workers))
        self.workers = [_Worker(options, output, index, self.threads) for index in range(max(1, options.workers))]
        self._info: dict[str, Any] = {}
        self._attempts: dict[str, int] = {}

    def info(self) -> dict[str, Any]:
        """See :class:`Pool`.

        Raises:
            RefSAM3DError: the engine cannot be made (no such checkpoint, no such device).
        """
        while not self._info:
            self._collect(None)
        return self._info

    def run(self, tasks: Iterable[Task], cancel: Cancel | None = None) -> Iterator[Event]:
        """See :class:`Pool`."""
        source, again = iter(tasks), deque[Task]()
        exhausted = False
        while True:
            for worker in self.workers:
                if worker.task is not None or not worker.ready:
                    continue
                task = again.popleft() if again else next(source, None)
                if task is None:
                    exhausted = True
                    break
                yield "start", task
                worker.task = task
                with contextlib.suppress(OSError):  # it died meanwhile: found below
                    worker.connection.send((task.case.as_dict(), task.known))
            busy = any(worker.task is not None for worker in self.workers)
            if exhausted and not busy and not again:
                return
            if cancel is not None and cancel():
                raise Cancelled("The batch was stopped.")
            yield from self._collect(again)

    def _collect(self, again: deque[Task] | None) -> list[Event]:
        """Wait for any worker to say something or to die."""
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self.workers}
        events: list[Event] = []
        for connection in wait(list(by_connection), timeout=POLL_S):
            worker = by_connection[connection]
            try:
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                events += self._replace(worker, again)
                continue
            if kind == "ready":
                worker.ready, self._info = True, self._info or content
            elif kind == "broken":
                raise _as_error(content)
            else:
                worker.task = None
                events.append(("end", content))
        return events

    def _replace(self, worker: _Worker, again: deque[Task] | None) -> list[Event]:
        """A worker died: start another one and repeat its case, or give the case up."""
        worker.process.join(5)
        how, task, index = _exit_words(worker.process.exitcode), worker.task, self.workers.index(worker)
        was_ready = worker.ready
        worker.end()
        if not was_ready and (again is None or not any(w.ready for w in self.workers)):
            raise DeviceError(f"A worker process ended while the model was loading ({how}); see its own words above, or use fewer workers or another device.")
        self.workers[index] = _Worker(self.options, self.output, index, self.threads)
        if task is None or again is None:
            return []
        attempts = self._attempts[task.case.key] = self._attempts.get(task.case.key, 0) + 1
        log.warning("the worker of case %s ended (%s), attempt %d", task.case.key, how, attempts)
        if attempts < MAX_ATTEMPTS:
            again.append(task)
            return []
        return [("end", lost_case(self.options, self._info, task, how))]

    def close(self) -> None:
        """See :class:`Pool`."""
        for worker in self.workers:
            worker.end()


def lost_case(options: BatchOptions, info: dict[str, Any], task: Task, how: str) -> dict[str, Any]:
    """Outcome of a case over which a worker died each time."""
    case, digest = task.case, ""
    with contextlib.suppress(RefSAM3DError):
        digest = hash_files(case_files(case))
    return {
        "case": case.key,
        "status": "failed",
        "input_sha256": digest,
        "fingerprint": options.fingerprint(digest, case.prompts or options.prompts, case, info),
        "error": f"The worker process ended {MAX_ATTEMPTS} times over this case ({how}); it may need more memory: use fewer workers and --retry-failed.",
        "elapsed_s": 0.0,
    }


def serve(connection: Connection, options_dict: dict[str, Any], output: str, index: int, threads: int) -> None:
    """Body of a worker process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    options = BatchOptions.from_dict(options_dict)
    try:
        arguments = _spread_over_gpus(options.engine_arguments, index)
        engine = load_factory(options.engine)(**arguments)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(threads)
        info = describe_engine(engine, arguments)
    except Exception as error:  # the border of the process: said in words on the other side
        connection.send(("broken", (type(error).__name__, str(error), isinstance(error, RefSAM3DError))))
        return
    connection.send(("ready", info))
    while True:
        try:
            case, known = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(("end", work_on(engine, info, Case.from_dict(case), options, Path(output), known)))


def end_with_parent() -> None:
    """Let this process die with its parent, also when that is killed with -9."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _spread_over_gpus(arguments: dict[str, Any], index: int) -> dict[str, Any]:
    """Worker n takes GPU n of several; with "auto", a card that computes nothing useful is left to the choice of the engine, which says why."""
    if arguments.get("device", "auto") not in ("auto", "cuda") or "device" not in arguments:
        return arguments
    import torch

    from ..device import self_check

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < 2:
        return arguments
    card = f"cuda:{index % count}"
    return arguments if arguments.get("device") == "auto" and not self_check(card).passed else {**arguments, "device": card}


def _as_error(content: tuple[str, str, bool]) -> Exception:
    name, text, is_ours = content
    if is_ours:
        from .. import errors

        return getattr(errors, name, RefSAM3DError)(text)
    return DeviceError(f"The engine could not be started ({name}: {text}); run 'refsam3d doctor' and check --model and --device.")


def _exit_words(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
