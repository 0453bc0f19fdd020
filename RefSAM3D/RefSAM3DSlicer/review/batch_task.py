"""A batch as a child process: ``PythonSlicer -m RefSAM3DLib batch ... --json-progress``."""

from __future__ import annotations

import enum
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import ConfigError

from .cli_task import CliTask

log = logging.getLogger("refsam3d.batch")

_FLAGS = {"allowUnknown": "--allow-unknown", "probability": "--probability", "retryFailed": "--retry-failed", "force": "--force",
          "breakLock": "--break-lock", "pseudonyms": "--pseudonyms", "showIdentifiers": "--show-identifiers"}  # fmt: skip
_VALUES = {"model": "--model", "adapter": "--adapter", "device": "--device", "modality": "--modality", "workers": "--workers", "ray": "--ray", "root": "--root"}


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


class BatchTask(CliTask):
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
        self.state, self.message = BatchState.RUNNING, ""
        self.finished = self.total = 0
        self.secondsLeft: float | None = None
        self.statuses: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.notes: list[str] = []
        self._onProgress, self._onEnd = onProgress, onEnd
        super().__init__(arguments)

    @property
    def fraction(self) -> float:
        """Share of the cases that are over."""
        return self.finished / self.total if self.total else 0.0

    def cancel(self) -> None:
        """Stop after writing the tables; the same call to ``logic.batch`` goes on from there. Nothing is lost: finished cases are on the disk."""
        super().cancel()

    def wait(self) -> BatchTask:
        """Keep the application alive until the end."""
        while not self.isOver:
            self.tick()
            slicer.app.processEvents()
            time.sleep(0.01)
        return self

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

    def _onOver(self, said: list[str]) -> None:
        if self.exitCode == 0:
            self.state = BatchState.DONE
        elif self.wasCancelled:
            self.state, self.message = BatchState.CANCELLED, _("The batch was stopped; it goes on when it is started again with the same folder.")
        else:
            self.state = BatchState.FAILED
            self.message = said[-1] if said else _("The batch ended with code {code}; start it again, it goes on.").format(code=self.exitCode)
        if self._onEnd:
            self._onEnd(self)
