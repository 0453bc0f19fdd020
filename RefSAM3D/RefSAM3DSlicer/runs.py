"""What is asked of the engine and what came of it: plain values between logic, runner and widgets."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from RefSAM3DLib.shared_buffer import SharedBuffer
from RefSAM3DLib.worker_protocol import file_stamp


@dataclass(frozen=True)
class EngineChoice:
    """Which engine a run needs. Empty ``model`` is the one that comes with the extension."""

    model: str = ""
    adapter: str = ""
    device: str = "auto"
    #: of the files as they are now, see :meth:`stamped`
    stamps: tuple[str, str] = ("", "")

    def stamped(self) -> EngineChoice:
        """The same choice with the state of its files: one that was trained anew under the same name is another choice."""
        return replace(self, stamps=(file_stamp(self.model), file_stamp(self.adapter)))


@dataclass(frozen=True)
class EngineInfo:
    """The engine that answered."""

    modelName: str = ""
    modelSha256: str = ""
    device: str = ""
    adapterSha256: str = ""
    card: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunOptions:
    """How to search. ``roi`` is a native half-open box (k0, k1, j0, j1, i0, i1) or None."""

    probability: bool = False
    allowUnknown: bool = False
    roi: tuple[int, int, int, int, int, int] | None = None


@dataclass
class RunResult:
    """One structure. ``mask`` holds the uint8 voxels of ``box`` only, still in shared memory: release the run when done."""

    prompt: str
    resolved: str
    verdict: str
    presence: float | None
    confidence: float | None
    volumeMl: float
    elapsedS: float
    box: tuple[int, int, int, int, int, int] | None
    mask: np.ndarray | None
    probability: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    colour: tuple[int, int, int] = (127, 127, 127)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def isDrawn(self) -> bool:
        """True if there are voxels to write."""
        return self.box is not None and self.mask is not None


@dataclass(frozen=True)
class Failure:
    """Why a run did not succeed, in a sentence; what to do, in another; the rest for a bug report."""

    category: str
    message: str
    advice: str = ""
    details: str = ""

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class RunState(enum.Enum):
    """Life of a run."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Run:
    """One request to the engine. Callbacks are called on the thread that polls the runner, which is the main thread."""

    #: Below this share of the work an extrapolation is a guess.
    MIN_FRACTION = 0.04
    MIN_ELAPSED_S = 0.5

    def __init__(self, prompts: list[str], onProgress: Callable[[Run], None] | None = None, onEnd: Callable[[Run], None] | None = None):
        self.prompts = list(prompts)
        self.state = RunState.RUNNING
        self.fraction = 0.0
        self.stage = "starting"
        self.results: list[RunResult] = []
        self.warnings: tuple[str, ...] = ()
        self.engine = EngineInfo()
        self.failure: Failure | None = None
        self.buffers: list[SharedBuffer] = []
        self.started = time.monotonic()
        self.elapsedS = 0.0
        self._onProgress, self._onEnd = onProgress, onEnd
        self._computing: tuple[float, float] | None = None

    @property
    def isOver(self) -> bool:
        """True in every final state."""
        return self.state in (RunState.DONE, RunState.FAILED, RunState.CANCELLED)

    @property
    def remainingS(self) -> float | None:
        """Seconds left, from the pace since computing began; None while there is nothing to judge by."""
        if self._computing is None:
            return None
        since, first = self._computing
        elapsed, done = time.monotonic() - since, self.fraction - first
        if elapsed < self.MIN_ELAPSED_S or done < self.MIN_FRACTION:
            return None
        return elapsed * (1.0 - self.fraction) / done

    def advance(self, fraction: float, stage: str, computing: bool = False) -> None:
        """Called by the runner; a percentage never goes back."""
        self.fraction = min(max(self.fraction, fraction), 1.0)
        self.stage = stage
        if computing and self._computing is None:
            self._computing = (time.monotonic(), self.fraction)
        if self._onProgress:
            self._onProgress(self)

    def end(self, state: RunState, failure: Failure | None = None) -> None:
        """Called by the runner, once."""
        if self.isOver:
            return
        self.state, self.failure = state, failure
        self.elapsedS = time.monotonic() - self.started
        if state is RunState.DONE:
            self.fraction = 1.0
        else:
            self.release()
        if self._onEnd:
            self._onEnd(self)

    def release(self) -> None:
        """Forget the voxels; the numbers stay."""
        for result in self.results:
            result.mask = result.probability = None
        for buffer in self.buffers:
            buffer.close()
        self.buffers.clear()
