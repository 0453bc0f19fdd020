"""All frames of a 4D volume, one after the other, into a sequence of segmentations."""

from __future__ import annotations

import logging
from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError, RefSAM3DError

from .failures import adviceFor
from .runs import EngineInfo, Failure
from .segmentation_writer import Existing, createSegmentation
from .sequence_browser import browserOf
from .task import Outcome, SegmentTask, TaskState

log = logging.getLogger("refsam3d.sequences")


class AllFrames:
    """A task over every frame; like a task to the panel. The results are a sequence of segmentations that follows the volume's browser:
    one segmentation node shows those of the frame that is shown. Frames that are finished stay when it is cancelled."""

    def __init__(self, logic: Any, volumeNode: Any, prompts: list[str], onProgress: Any = None, onEnd: Any = None, **arguments: Any) -> None:
        self._browser = browserOf(volumeNode)
        self._logic, self._volumeID, self._prompts = logic, volumeNode.GetID(), prompts
        # Each frame gets a segmentation of its own, which has nothing to replace, subtract from or share with. A probability volume of each
        # would be a pile of volumes that follow no frame.
        self._arguments = {**arguments, "existing": Existing.NEW, "probability": False}
        self._dropped = (_("Probability volumes are made of one frame only: choose 'Current frame' for one."),) if arguments.get("probability") else ()
        self._onProgress, self._onEnd = onProgress, onEnd
        self.frames, self.frame = self._browser.GetNumberOfItems(), 0
        self._before = self._browser.GetSelectedItemNumber()
        self.outcomes: list[Outcome] = []
        self.state, self.failure = TaskState.RUNNING, None
        self._sequenceID, self._elapsedS, self._engine = "", 0.0, EngineInfo()
        try:
            self._next()
        except Exception:  # a region or a segmentation that cannot be used: nothing has begun
            self._browser.SetSelectedItemNumber(self._before)
            raise

    @property
    def volumeID(self) -> str:
        """The node that shows the frames."""
        return self._volumeID

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
        """Of the last frame that has an answer: a run that failed or was cancelled names none."""
        return self._engine

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self._task.run.warnings, *self._dropped)

    @property
    def elapsedS(self) -> float:
        """Seconds of all frames."""
        return self._elapsedS

    @property
    def sink(self) -> Any:
        """Has ``segmentationNode``, as the sink of a task."""
        return self

    @property
    def segmentationNode(self) -> Any:
        """Shows the segments of the frame that is shown; None if nothing was drawn in any."""
        sequence = slicer.mrmlScene.GetNodeByID(self._sequenceID) if self._sequenceID else None
        return self._browser.GetProxyNode(sequence) if sequence is not None and slicer.mrmlScene.IsNodePresent(self._browser) else None

    @property
    def run(self) -> Any:
        return self._task.run

    def cancel(self, reason: str = "") -> None:
        """Frames that are finished stay."""
        self._task.cancel(reason)

    def _next(self) -> None:
        volume = self._checkedVolume()
        self._browser.SetSelectedItemNumber(self.frame)
        self._task: SegmentTask = self._logic.segment(
            volume, self._prompts, None, wait=False, onProgress=self._report, onEnd=self._frameEnded, **self._arguments
        )

    def _report(self, task: SegmentTask) -> None:
        if self._onProgress:
            self._task = task
            self._onProgress(self)

    def _frameEnded(self, task: SegmentTask) -> None:
        self._task = task
        self._elapsedS += task.elapsedS
        if task.state is TaskState.DONE:
            self._engine = task.engine
        if self._sequenceID and slicer.mrmlScene.GetNodeByID(self._sequenceID) is None:
            for outcome in self.outcomes:
                outcome.segmentID = ""  # it went with the sequence of results, and is not said to stay
        for outcome in task.outcomes:
            outcome.frame = self.frame
        self.outcomes += task.outcomes
        end = self._goOn(task)
        if end is None:
            return  # the next frame is under way, or has already ended all of it
        self.state, self.failure = end
        if slicer.mrmlScene.IsNodePresent(self._browser):
            self._browser.SetSelectedItemNumber(self._before)
            self._show()
        if self._onEnd:
            self._onEnd(self)

    def _goOn(self, task: SegmentTask) -> tuple[TaskState, Failure | None] | None:
        """Store the frame and begin the next one; else how it ends. Whatever goes wrong ends the run: nobody else would."""
        if task.state is not TaskState.DONE:
            return task.state, task.failure
        try:
            self._store(task.sink.segmentationNode)
            if self.frame + 1 >= self.frames:
                return TaskState.DONE, None
            self.frame += 1
            self._next()
            return None
        except RefSAM3DError as error:
            return TaskState.FAILED, Failure("input", str(error))
        except Exception as error:
            log.exception("frame %d could not be stored, or the one after it not begun", self.frame + 1)
            text = _("Frame {number} could not be stored or begun: {error}").format(number=self.frame + 1, error=error)
            return TaskState.FAILED, Failure("internal", text, adviceFor("internal"))

    def _checkedVolume(self) -> Any:
        """The volume, if all that a frame needs is still there."""
        volume = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volume is None or not slicer.mrmlScene.IsNodePresent(self._browser) or self._browser.GetMasterSequenceNode() is None:
            raise InputError(_("The sequence is not in the scene any more; load it again and segment the frames that are missing."))
        if self._sequenceID and slicer.mrmlScene.GetNodeByID(self._sequenceID) is None:
            raise InputError(_("The sequence of results was removed while the other frames were computed; segment all frames again."))
        return volume

    def _store(self, segmentation: Any) -> None:
        """The frame's segmentation into the sequence, an empty one where nothing was drawn: else the browser would show a neighbour's."""
        volume, master = self._checkedVolume(), self._browser.GetMasterSequenceNode()
        node = segmentation if segmentation is not None else createSegmentation(volume)
        if not self._sequenceID:
            sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", node.GetName())
            sequence.SetIndexType(master.GetIndexType())
            sequence.SetIndexName(master.GetIndexName())
            sequence.SetIndexUnit(master.GetIndexUnit())
            self._sequenceID = sequence.GetID()
        slicer.mrmlScene.GetNodeByID(self._sequenceID).SetDataNodeAtValue(node, master.GetNthIndexValue(self.frame))
        slicer.mrmlScene.RemoveNode(node)

    def _show(self) -> None:
        """One segmentation in the scene that follows the browser; edits of a frame stay with it."""
        sequence = slicer.mrmlScene.GetNodeByID(self._sequenceID) if self._sequenceID else None
        if sequence is None:
            return
        if not any(outcome.segmentID for outcome in self.outcomes):
            slicer.mrmlScene.RemoveNode(sequence)
            return
        self._browser.AddSynchronizedSequenceNode(sequence)
        self._browser.SetSaveChanges(sequence, True)
        self._browser.SetMissingItemMode(sequence, self._browser.MissingItemDisplayHidden)  # frames that were not reached
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(self._browser)
        volume, proxy = slicer.mrmlScene.GetNodeByID(self._volumeID), self._browser.GetProxyNode(sequence)
        if proxy is not None and volume is not None:
            proxy.SetAndObserveTransformNodeID(volume.GetTransformNodeID())  # a sequence stores no parent transforms
            proxy.CreateDefaultDisplayNodes()
