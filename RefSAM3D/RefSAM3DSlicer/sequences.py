"""4D volumes: the frame that is shown, or all of them one after the other."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError, RefSAM3DError

from .runs import EngineInfo, Failure
from .task import Outcome, SegmentTask, TaskState


def browserOf(volumeNode: Any) -> Any:
    """The sequence browser that shows one frame at a time in ``volumeNode``, or None."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if browser.IsProxyNode(volumeNode.GetID()):
            return browser
    return None


class AllFrames:
    """A task over every frame. Each frame gets segments of its own, the frame's number in the name; like a task to the panel."""

    def __init__(self, logic: Any, volumeNode: Any, prompts: list[str], onProgress: Any = None, onEnd: Any = None, **arguments: Any) -> None:
        self._browser = browserOf(volumeNode)
        self._logic, self._volumeID, self._prompts, self._arguments = logic, volumeNode.GetID(), prompts, arguments
        self._onProgress, self._onEnd = onProgress, onEnd
        self.frames, self.frame = self._browser.GetNumberOfItems(), 0
        self._before = self._browser.GetSelectedItemNumber()
        self.outcomes: list[Outcome] = []
        self.state, self.failure = TaskState.RUNNING, None
        self._segmentation: Any = None
        self._next()

    @property
    def isOver(self) -> bool:
        return self.state is not TaskState.RUNNING

    @property
    def fraction(self) -> float:
        return (self.frame + self._task.fraction) / max(self.frames, 1)

    @property
    def remainingS(self) -> float | None:
        rest = self._task.remainingS
        return None if rest is None else rest + (self.frames - self.frame - 1) * (self._task.run.elapsedS or rest)

    @property
    def stage(self) -> str:
        return f"{self.frame + 1}/{self.frames}: {self._task.stage}"

    @property
    def engine(self) -> EngineInfo:
        return self._task.engine

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._task.warnings

    @property
    def sink(self) -> Any:
        return self._task.sink

    @property
    def run(self) -> Any:
        return self._task.run

    def cancel(self, reason: str = "") -> None:
        """Frames that are finished stay."""
        self._task.cancel(reason)

    def _next(self) -> None:
        volume = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volume is None or not slicer.mrmlScene.IsNodePresent(self._browser):
            raise InputError(_("The sequence is not in the scene any more."))
        self._browser.SetSelectedItemNumber(self.frame)
        self._task: SegmentTask = self._logic.segment(
            volume, self._prompts, self._segmentation, wait=False, onProgress=self._report, onEnd=self._frameEnded, **self._arguments
        )

    def _report(self, task: SegmentTask) -> None:
        if self._onProgress:
            self._task = task
            self._onProgress(self)

    def _frameEnded(self, task: SegmentTask) -> None:
        self._task = task
        node = task.sink.segmentationNode
        for outcome in task.outcomes:
            segment = node.GetSegmentation().GetSegment(outcome.segmentID) if outcome.segmentID else None
            if segment is not None:
                segment.SetName(f"{outcome.result.resolved or outcome.result.prompt} (frame {self.frame + 1})")
                segment.SetTag("RefSAM3D.Frame", str(self.frame + 1))
        self.outcomes += task.outcomes
        self._segmentation = node or self._segmentation
        if task.state is TaskState.DONE and self.frame + 1 < self.frames:
            self.frame += 1
            try:
                self._next()
                return
            except RefSAM3DError as error:
                self.state, self.failure = TaskState.FAILED, Failure("input", str(error))
        else:
            self.state, self.failure = task.state, task.failure
        if slicer.mrmlScene.IsNodePresent(self._browser):
            self._browser.SetSelectedItemNumber(self._before)
        if self._onEnd:
            self._onEnd(self)
