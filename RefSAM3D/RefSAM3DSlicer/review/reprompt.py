"""Ask the engine about an item in other words; the answer is recorded, then shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.types import PromptResult, Verdict

from .. import installer
from .. import session as engineSession
from ..parameters import engineChoice
from ..provenance import engineValues
from ..runs import EngineChoice, Run, RunOptions, RunResult
from ..task import Outcome, SegmentTask, TaskState
from ..volume_bridge import shapeOf
from .scene_arrays import isOnGrid


class RepromptSink:
    """Takes the answer into the record of the review; the scene is left alone."""

    def __init__(
        self, session: Any, item: Any, volumeNode: Any, wording: str, seconds: float, comment: str, adapter: str = "",
        isOpen: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """Raises RefSAM3DError if the image is not on the mask's grid. isOpen: whether the item is still shown, its edits in the scene."""
        if not isOnGrid(volumeNode, session.machine_mask(item)[1]):
            raise InputError(_("The image in the scene has another voxel grid than the result under review; load the case's own image."))
        self.session, self.item, self.wording = session, item, wording
        self.seconds, self.comment, self._adapter = seconds, comment, adapter
        self._volumeID, self._isOpen = volumeNode.GetID(), isOpen

    def watchedNodeIDs(self) -> list[str]:
        """Only the image, which the task watches anyway."""
        return []

    def steps(self, run: Run, outcomes: list[Outcome]) -> Iterator[float]:
        """One answer: that about the item's structure, or the only one."""
        from RefSAM3DLib.review.session import answer_of

        outcomes += [Outcome(result) for result in run.results]
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volumeNode is None or not run.results:
            raise InputError(_("The image is not in the scene any more; nothing was recorded."))
        asked = self.session.find(self.item.id)
        answer = answer_of(run.results, asked.structure)
        if answer.verdict == Verdict.UNKNOWN.value:  # no answer at all: its empty mask would take the place of the one under review
            raise InputError(unknownText(self.wording, answer.suggestions))
        result = asPromptResult(answer, shapeOf(volumeNode))
        yield 0.5
        if not self._isOpen() and self.session.draft(asked) is not None:  # an edit of the mask that the answer would replace
            raise InputError(
                _("'{structure}' was edited while the question ran, so the answer was not recorded; decide about the edit, then ask again.").format(
                    structure=asked.structure
                )
            )
        self.session.record_reprompt(asked, self.wording, result, self.seconds + run.elapsedS, self.comment, engineValues(run.engine, self._adapter))
        yield 1.0


def unknownText(wording: str, suggestions: tuple[str, ...]) -> str:
    """What is said of words that the engine does not know."""
    text = _("The engine does not know '{wording}'; nothing was recorded.").format(wording=wording)
    if suggestions:
        return text + " " + _("Did you mean {names}?").format(names=", ".join(f"'{name}'" for name in suggestions[:3]))
    return text + " " + _("Ask in other words, or decide about the mask as it is.")


def asPromptResult(result: RunResult, shape: tuple[int, int, int]) -> PromptResult:
    """The answer on the whole grid."""
    mask = np.zeros(shape, bool)
    if result.isDrawn:
        k0, k1, j0, j1, i0, i1 = result.box
        mask[k0:k1, j0:j1, i0:i1] = result.mask != 0
    nan = float("nan")
    return PromptResult(
        prompt=result.prompt,
        resolved=result.resolved,
        verdict=Verdict(result.verdict),
        presence=nan if result.presence is None else result.presence,
        confidence=nan if result.confidence is None else result.confidence,
        mask=mask,
        volume_ml=result.volumeMl,
        box=result.box if result.isDrawn else None,
        elapsed_s=result.elapsedS,
        colour=result.colour,
        details=result.details,
    )


class Reprompting:
    """Runs the engine for the item that is open in a :class:`~.review_section.ReviewSection`, one run at a time."""

    def __init__(self, section: Any) -> None:
        self._section = section
        self.task: SegmentTask | None = None

    @property
    def isRunning(self) -> bool:
        """True until the answer is recorded."""
        return self.task is not None and not self.task.isOver

    def cancel(self) -> None:
        """Stop; nothing is recorded then."""
        if self.isRunning:
            self.task.cancel()

    def cancelFor(self, item: Any) -> None:
        """The item was decided meanwhile: its answer would open it again."""
        if self.isRunning and self.task.sink.item.id == item.id:
            self.task.cancel()

    def runOrCancel(self) -> None:
        """Run the engine at once, or stop it."""
        if self.isRunning:
            self.cancel()
            return
        section = self._section
        item = section.view.item if section.view is not None else None
        wording = section.ui.wordingEdit.text.strip()
        if item is None or section.scene.volumeNode is None:
            raise InputError(_("No item with an image is open; choose one in the table."))
        if not wording:
            raise InputError(_("Type other words for the structure first."))
        if section.view.editedMask() is not None:
            drop = {_("Drop the edits and ask"): lambda: section.attempt(lambda: self._dropAndRun(wording))}
            section.messages.show("warning", _("The mask was changed; decide about that first, since the answer replaces it."), drop)
            return
        missing = installer.missingPackages()
        if missing:
            installer.offer(missing, section.messages, lambda: section.attempt(self.runOrCancel), section.ui.infoLabel.setText)
            return
        installer.checkVersions()
        p, volumeNode = section.parameters(), section.scene.volumeNode
        choice = engineChoice(p) if p is not None else EngineChoice()
        sink = RepromptSink(
            section.session, item, volumeNode, wording, section.view.seconds, section.ui.commentEdit.text, choice.adapter,
            lambda: section.view is not None and section.view.item is not None and section.view.item.id == item.id,
        )  # fmt: skip
        section.messages.clear()
        self.task = SegmentTask(
            engineSession.engineRunner(),
            volumeNode,
            [wording],
            sink,
            choice,
            RunOptions(False, p.allowUnknown if p is not None else False, None),
            item.modality or (p.modality if p is not None and p.inputVolume is volumeNode else ""),
            onProgress=self._onProgress,
            onEnd=self._onEnd,
        )
        section.update()

    def _dropAndRun(self, wording: str) -> None:
        self._section.decisions.dropEdits()
        self._section.ui.wordingEdit.text = wording
        self.runOrCancel()

    def _onProgress(self, task: Any) -> None:
        self._section.ui.infoLabel.setText(f"{int(100 * task.fraction)} % – {task.stage}")

    def _onEnd(self, task: Any) -> None:
        self.task, section = None, self._section
        if section.session is None:
            return
        section.fill()
        if task.state is not TaskState.DONE:
            section.messages.show("error" if task.state is TaskState.FAILED else "info", str(task.failure) if task.failure else _("Cancelled."))
            return
        section.messages.clear()
        answer = task.outcomes[0].result
        text = _("'{wording}': {verdict}, {ml:.1f} mL; recorded.").format(wording=task.sink.wording, verdict=answer.verdict, ml=answer.volumeMl)
        item, current = section.session.find(task.sink.item.id), section.view.item
        if current is not None and current.id == item.id:
            if section.scene.isChanged():  # edited while the engine ran
                text += " " + _("Your edit of the mask before is kept in the segmentation '{name}'.").format(name=section.scene.segmentationNode.GetName())
                section.scene.forgetItem()
            sent, typed = task.sink.comment, section.ui.commentEdit.text
            section.view.item = None
            section.show(item)
            if typed != sent:  # typed while the engine ran: not in the record yet
                section.ui.commentEdit.text = typed
        section.addMessage("info", text)
