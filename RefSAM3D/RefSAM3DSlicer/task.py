"""One segmentation from the click to the segments: run the engine, then write the results a step per tick."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError, RefSAM3DError

from .failures import NOT_CHANGED, adviceFor
from .pythonqt import TickTimer
from .runner import COMPUTED, EngineRunner
from .runs import EngineChoice, EngineInfo, Failure, Run, RunOptions, RunResult, RunState
from .sequence_browser import browserOf, frameOf, showFrame
from .volume_bridge import VolumeSource

log = logging.getLogger("refsam3d.task")


class TaskState(enum.Enum):
    """Life of a task."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Outcome:
    """One result and where it went: ``segmentID`` is empty if nothing was drawn, ``note`` says why or what else.

    ``frame`` is the frame of a sequence, counted from 0, if there are several.
    """

    result: RunResult
    segmentID: str = ""
    note: str = ""
    frame: int | None = None


class Sink(Protocol):
    """Takes the results of a run into the scene."""

    def watchedNodeIDs(self) -> list[str]:
        """Nodes that the run makes no sense without."""

    def steps(self, run: Run, outcomes: list[Outcome]) -> Iterator[float]:
        """Write a little (at most 250 ms), yield the fraction done, repeat; fills ``outcomes``."""


def cancelledText(outcomes: list[Outcome]) -> str:
    """What a cancelled run left behind: nothing, unless it had begun to write, or frames were finished before."""
    written = sum(1 for outcome in outcomes if outcome.segmentID)
    if not written:
        return _("Cancelled; nothing was changed.")
    return _("Cancelled; {n} structures had been written before and stay.").format(n=written)


def failedText(failure: Failure | None, outcomes: list[Outcome]) -> str:
    """Why it failed, and what it left behind: frames that were finished before, or the first of several structures."""
    text, written = str(failure or ""), sum(1 for outcome in outcomes if outcome.segmentID)
    if not written:
        return text
    return _("{why} {n} structures had been written before and stay.").format(why=text.replace(NOT_CHANGED, "").replace("  ", " ").strip(), n=written)


class SegmentTask:
    """Begins when made. ``onEnd`` is called exactly once; nothing is written unless the run succeeded."""

    def __init__(
        self,
        runner: EngineRunner,
        volumeNode: Any,
        prompts: list[str],
        sink: Sink,
        choice: EngineChoice,
        options: RunOptions,
        modality: str = "",
        onProgress: Callable[[SegmentTask], None] | None = None,
        onEnd: Callable[[SegmentTask], None] | None = None,
    ) -> None:
        """Raises RefSAM3DError, and then nothing has begun: unusable volume, another run under way."""
        self.state = TaskState.RUNNING
        self.outcomes: list[Outcome] = []
        self.failure: Failure | None = None
        self.choice, self.options, self.sink = choice, options, sink
        self.volumeID = volumeNode.GetID()
        self._frame = frameOf(volumeNode)
        self._runner, self._onProgress, self._onEnd = runner, onProgress, onEnd
        self._writing: Iterator[float] | None = None
        self._stepping, self._turnedBack, self._turned = False, False, ()
        self._timer = TickTimer(self.tick)
        self._source = source = VolumeSource(volumeNode, modality)
        nodes = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in (self.volumeID, *sink.watchedNodeIDs()) if nodeID]
        self._watched = {node.GetID(): node.GetName() for node in nodes if node is not None}
        self.run = Run(prompts, lambda run: self._report(), self._onRunEnd)
        self._tags: list[int] = []
        runner.segment(source, self.run, choice, options)
        if self.state is TaskState.RUNNING:
            scene = slicer.mrmlScene
            self._tags = [
                scene.AddObserver(scene.StartCloseEvent, lambda *a: self.cancel(_("The scene was closed."))),
                scene.AddObserver(scene.NodeRemovedEvent, self._onNodeRemoved),
            ]

    @property
    def isOver(self) -> bool:
        """True in every final state."""
        return self.state is not TaskState.RUNNING

    @property
    def engine(self) -> EngineInfo:
        """The engine that answered."""
        return self.run.engine

    @property
    def warnings(self) -> tuple[str, ...]:
        """About the whole run."""
        return (*self.run.warnings, *self._turned)

    @property
    def elapsedS(self) -> float:
        """Seconds that the engine took."""
        return self.run.elapsedS

    @property
    def fraction(self) -> float:
        """Share of the work done, [0, 1]."""
        return self.run.fraction if self.run.state is not RunState.DONE else self._written

    _written = COMPUTED

    @property
    def remainingS(self) -> float | None:
        """Seconds left; None while unknown."""
        return self.run.remainingS if not self.run.isOver else None

    @property
    def stage(self) -> str:
        """What is going on, for the progress bar."""
        return self.run.stage if not self.run.isOver else _("writing the segments")

    def cancel(self, reason: str = "") -> None:
        """Stop; what is not written yet will not be."""
        if self.isOver:
            return
        if reason and self.failure is None:  # closing the scene also removes its nodes: the first reason is the true one
            self.failure = Failure("cancelled", reason, _("The segmentation was cancelled."))
        if self.run.isOver:
            self._finish(TaskState.CANCELLED)
        else:
            self._runner.cancel()

    def wait(self) -> SegmentTask:
        """Keep the application alive until the end: for scripts and tests."""
        while not self.isOver:
            self._runner.wait(self.run, slicer.app.processEvents)
            if not self.isOver:
                self.tick()
                slicer.app.processEvents()
        return self

    # ---- inside

    def _report(self) -> None:
        if self._onProgress:
            self._onProgress(self)

    def _onNodeRemoved(self, *_arguments: Any) -> None:
        for nodeID, name in self._watched.items():
            if slicer.mrmlScene.GetNodeByID(nodeID) is None:
                self.cancel(_("'{name}' was removed while it was being segmented.").format(name=name))
                return

    def _onRunEnd(self, run: Run) -> None:
        if run.state is RunState.DONE:
            self._writing = self.sink.steps(run, self.outcomes)
            self._report()
            self._timer.start()
            return
        self.failure = run.failure or self.failure
        self._finish(TaskState.FAILED if run.state is RunState.FAILED else TaskState.CANCELLED)

    def tick(self) -> None:
        """One step of writing; a callback that processes events does not re-enter it."""
        if self._writing is None or self.isOver:
            self._timer.stop()
            return
        if self._stepping:
            return
        self._stepping = True
        try:
            self._step()
        finally:
            self._stepping = False

    def _step(self) -> None:
        assert self._writing is not None
        try:
            self._turnBack()
            volumeNode = slicer.mrmlScene.GetNodeByID(self.volumeID)
            if volumeNode is not None:
                self._source.checkGrid(volumeNode)
            fraction = next(self._writing, None)
        except RefSAM3DError as error:
            self.failure = Failure("input", str(error))
            self._finish(TaskState.FAILED)
            return
        except Exception as error:
            log.exception("writing the results failed")
            self.failure = Failure("internal", _("The results could not be written: {error}").format(error=error), adviceFor("internal"))
            self._finish(TaskState.FAILED)
            return
        if fraction is None:
            self._finish(TaskState.DONE)
        else:
            self._written = max(self._written, COMPUTED + (1.0 - COMPUTED) * fraction)  # a percentage never goes back
            self._report()

    def _finish(self, state: TaskState) -> None:
        self._timer.stop()
        self._writing = None
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        self._tags = []
        self._turned = self._otherFrame()
        self.state = state
        self.run.release()
        if self._onEnd:
            self._onEnd(self)

    def _turnBack(self) -> None:
        """A segmentation that follows the volume's sequence holds the segments of the frame that is shown: that must be the run's own."""
        volumeNode = slicer.mrmlScene.GetNodeByID(self.volumeID)
        target = getattr(self.sink, "segmentationNode", None)  # a sink that draws only later has none
        if self._frame is None or volumeNode is None or target is None or frameOf(volumeNode) in (None, self._frame):
            return
        browser = browserOf(volumeNode)
        if browserOf(target) is not browser or not any(result.isDrawn for result in self.run.results):
            return
        if browser.GetPlaybackActive():
            text = _("The result of frame {number} cannot be written while the sequence plays; stop it, turn to that frame and segment again.")
            raise InputError(text.format(number=self._frame + 1))
        showFrame(volumeNode, self._frame)
        if frameOf(volumeNode) != self._frame:
            text = _("Frame {number} is not in the sequence any more, so its result cannot be written; turn to another frame and segment again.")
            raise InputError(text.format(number=self._frame + 1))
        self._turnedBack = True

    def _otherFrame(self) -> tuple[str, ...]:
        """The result is of the frame that was shown at the start, and stays where it is when the sequence is turned."""
        volumeNode = slicer.mrmlScene.GetNodeByID(self.volumeID)
        shown = frameOf(volumeNode) if volumeNode is not None else None
        if self._frame is None or shown is None or not any(outcome.segmentID for outcome in self.outcomes):
            return ()
        if shown == self._frame:
            text = _("The sequence was turned back to frame {number}: the segmentation follows it, and the result is that of this frame.")
            return (text.format(number=self._frame + 1),) if self._turnedBack else ()
        text = _("The result is that of frame {number}, but frame {shown} is shown now; turn back to compare, or choose all frames.")
        return (text.format(number=self._frame + 1, shown=shown + 1),)
