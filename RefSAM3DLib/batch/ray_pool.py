"""Cases on the machines of a Ray cluster. Optional: ``pip install ray``.

One actor per GPU, or per ``workers`` CPU shares where the cluster has none; an actor loads the model once and keeps it.
The journal stays with the process that the user started: an actor only returns an outcome, so a case that was under way
on a machine that died is given to another one, and what that machine had finished on disk is recognised, not repeated.
The output folder and the images must be on a file system that all machines see under the same path; this is checked.
"""

from __future__ import annotations

import importlib
import importlib.util
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import Cancelled, ConfigError, DeviceError, OutputError, RefSAM3DError
from ..types import Cancel
from .case_work import work_on
from .cases import Case
from .options import BatchOptions, describe_engine, load_factory
from .worker_pool import MAX_ATTEMPTS, POLL_S, Event, Task, lost_case


class RayWorker:
    """What runs in an actor: one engine."""

    def __init__(self, options: dict[str, Any], output: str, threads: int) -> None:
        self.options = BatchOptions.from_dict(options)
        self.output = Path(output)
        self.engine = load_factory(self.options.engine)(**self.options.engine_arguments)
        import sys

        self.description = describe_engine(self.engine, self.options.engine_arguments)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(threads)

    def info(self, mark: str) -> dict[str, Any]:
        """Engine's description; ``shared`` tells whether this machine sees the file ``mark`` of the output folder."""
        return {**self.description, "shared": (self.output / mark).exists()}

    def work(self, case: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
        """Outcome of one case."""
        return work_on(self.engine, self.description, Case.from_dict(case), self.options, self.output, known)


class RayPool:
    """Pool over a Ray cluster: ``options.ray_address`` is "auto", "local" or host:port."""

    def __init__(self, options: BatchOptions, output: Path) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError('--ray needs the package ray; install it with: pip install ray.')
        self.ray: Any = importlib.import_module("ray")
        self.options, self.output = options, output.resolve()
        address = None if options.ray_address == "local" else options.ray_address
        if not self.ray.is_initialized():
            try:
                self.ray.init(address=address, log_to_driver=False, include_dashboard=False)
            except Exception as error:  # Ray raises many kinds here
                raise DeviceError(f"The Ray cluster '{options.ray_address}' cannot be reached ({error}); check the address with 'ray status'.") from error
        resources = self.ray.cluster_resources()
        self.gpus = int(resources.get("GPU", 0))
        count = self.gpus or max(1, min(options.workers, int(resources.get("CPU", 1))))
        self.threads = max(1, int(resources.get("CPU", 1)) // count)
        remote = self.ray.remote(RayWorker).options(num_gpus=1 if self.gpus else 0, num_cpus=1, max_restarts=0)
        self._make = lambda: remote.remote(options.as_dict(), str(self.output), self.threads)
        self._actors = [self._make() for _ in range(count)]
        self._mark = f".ray-{uuid.uuid4().hex[:8]}"
        self._info: dict[str, Any] = {}

    def info(self) -> dict[str, Any]:
        """See :class:`~.worker_pool.Pool`."""
        if not self._info:
            mark = self.output / self._mark
            mark.touch()
            try:
                found = self.ray.get([actor.info.remote(self._mark) for actor in self._actors])
            except self.ray.exceptions.RayError as error:
                raise _cause(error) from error
            finally:
                mark.unlink(missing_ok=True)
            if not all(one.pop("shared") for one in found):
                raise OutputError(f"Some machines of the cluster do not see '{self.output}'; use a folder on a drive that all share under the same path.")
            self._info = found[0]
        return self._info

    def run(self, tasks: Iterable[Task], cancel: Cancel | None = None) -> Iterator[Event]:
        """See :class:`~.worker_pool.Pool`."""
        source, again = iter(tasks), deque[Task]()
        idle = deque(self._actors)
        under_way: dict[Any, tuple[Any, Task]] = {}
        attempts: dict[str, int] = {}
        while True:
            while idle and (task := again.popleft() if again else next(source, None)) is not None:
                yield "start", task
                actor = idle.popleft()
                under_way[actor.work.remote(task.case.as_dict(), task.known)] = (actor, task)
            if not under_way:
                return
            if cancel is not None and cancel():
                raise Cancelled("The batch was stopped.")
            done, _ = self.ray.wait(list(under_way), num_returns=1, timeout=POLL_S)
            for future in done:
                actor, task = under_way.pop(future)
                try:
                    outcome = self.ray.get(future)
                except self.ray.exceptions.RayError as error:
                    key = task.case.key
                    attempts[key] = attempts.get(key, 0) + 1
                    self._actors[self._actors.index(actor)] = actor = self._make()
                    if attempts[key] < MAX_ATTEMPTS:
                        again.append(task)
                    else:
                        yield "end", lost_case(self.options, self._info, task, type(error).__name__)
                else:
                    yield "end", outcome
                idle.append(actor)

    def close(self) -> None:
        """See :class:`~.worker_pool.Pool`. The cluster stays as it was found."""
        for actor in self._actors:
            self.ray.kill(actor)


def _cause(error: Any) -> Exception:
    """The sentence of our own error inside Ray's, or one about Ray's."""
    inner = getattr(error, "cause", None) or error
    while inner is not None:
        if isinstance(inner, RefSAM3DError):
            return type(inner)(str(inner).strip().splitlines()[-1])
        inner = getattr(inner, "cause", None)
    return DeviceError(f"The workers of the cluster could not start ({type(error).__name__}): {str(error).strip().splitlines()[-1]}")
