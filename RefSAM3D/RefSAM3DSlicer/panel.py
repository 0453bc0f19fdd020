"""The module's panel: puts the parts together and tells the user what is going on. Everything it does is also in the logic."""

from __future__ import annotations

from typing import Any

import qt
import vtk
from slicer.i18n import tr as _

from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.worker_protocol import Status

from . import diagnostics, edit_watch, installer, prompt_box, pythonqt, sequences, session
from .advanced import AdvancedSection
from .hidden_segments import hiddenMessage
from .logic import RefSAM3DLogic, firstVolume
from .message_strip import MessageStrip
from .models_section import ModelsSection
from .parameters import RefSAM3DParameterNode, engineChoice
from .pythonqt import connect
from .results_table import ResultsTable
from .review.compare_section import CompareSection
from .review.review_section import ReviewSection
from .sequence_browser import browserOf
from .task import SegmentTask, TaskState, cancelledText, failedText
from .volume_bridge import checkVolume
from .volume_choices import VolumeChoices


def remainingText(seconds: float | None) -> str:
    """ "about 12 s left"; nothing while it is unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return _("about {n} s left").format(n=max(round(seconds), 1))
    return _("about {n} min left").format(n=round(seconds / 60))


class Panel:
    """Owns the widgets of the ``.ui`` file."""

    def __init__(self, ui: Any, logic: RefSAM3DLogic) -> None:
        self.ui, self.logic = ui, logic
        self.parameters: RefSAM3DParameterNode | None = None
        self.task: SegmentTask | sequences.AllFrames | None = None
        self._tag: Any = None
        self._observer: int | None = None
        self._installAsked = False
        self.choices = VolumeChoices()
        edit_watch.start()
        self.messages = MessageStrip(ui.messageFrame, ui.messageLabel, ui.messageCloseButton)
        self._showError = lambda text: self.messages.show("error", text)
        pythonqt.errorDisplay.append(self._showError)
        self.prompts = prompt_box.PromptBox(ui.promptLineEdit, ui.addPromptButton, ui.recentButton, ui.promptList, self._onPrompts)
        self.prompts.onEnterWithNothingTyped = lambda: self.onSegment() if ui.segmentButton.enabled and not self.isRunning else None
        self.prompts.onTyping = self.updateButton
        self.results = ResultsTable(ui.resultsTable)
        self.advanced = AdvancedSection(ui, self.updateButton)
        self.models = ModelsSection(ui, self.messages, self._onModel)
        self.review = ReviewSection(ui.reviewCollapsibleButton, self.messages, lambda: self.parameters)
        self.compare = CompareSection(ui.compareCollapsibleButton, self.messages, lambda: self.parameters)
        connect(ui.segmentButton, "clicked()", self.onSegmentOrCancel)
        connect(ui.releaseButton, "clicked()", self.onRelease)
        connect(ui.diagnosticsButton, "clicked()", lambda: diagnostics.makeReport(ui.diagnosticsTextEdit.setPlainText))
        connect(ui.copyReportButton, "clicked()", lambda: qt.QApplication.clipboard().setText(ui.diagnosticsTextEdit.toPlainText()))
        connect(ui.inputSelector, "currentNodeChanged(vtkMRMLNode*)", lambda node: self._onVolume(node))
        ui.runProgressBar.setVisible(False)
        self._onVolume(None)

    @property
    def isRunning(self) -> bool:
        """True while a task of this panel is not over."""
        return self.task is not None and not self.task.isOver

    # ---- life cycle

    def enter(self) -> None:
        """The module is shown: a volume that was loaded since then is not chosen by the selector itself."""
        if self.parameters is None:
            self.setParameterNode(self.logic.getParameterNode())
        session.stopIdleWatch()
        self._chooseVolume()
        self.refreshMemory()

    def exit(self) -> None:
        """Another module is shown; a run goes on."""
        session.startIdleWatch()

    def cleanup(self) -> None:
        """The widget goes away or Slicer quits."""
        self.review.cleanup()
        self.compare.cleanup()
        edit_watch.stop()
        self.setParameterNode(None)
        if self._showError in pythonqt.errorDisplay:
            pythonqt.errorDisplay.remove(self._showError)
        session.stop()

    def setParameterNode(self, parameters: RefSAM3DParameterNode | None) -> None:
        """Drop the old node first: after a scene close it still answers with removed nodes."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self._tag)
            self.parameters.parameterNode.RemoveObserver(self._observer)
        self.parameters = parameters
        self.advanced.setParameterNode(parameters)
        self.models.setParameterNode(parameters)
        self.choices.forget()
        if parameters is None:
            self.prompts.setTexts([])
            self.results.clear()
            self.updateButton()
            return
        self.choices.takeOver(parameters)
        self._tag = parameters.connectGui(self.ui)
        self._observer = parameters.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onParameters)
        self._chooseVolume()
        self._onParameters()

    def sceneImported(self) -> None:
        """Its volume, output and model may be others than those before."""
        if self.parameters is not None:
            self.choices.takeOver(self.parameters)
            self._onParameters()

    def _chooseVolume(self) -> None:
        if self.parameters is not None and not self.parameters.inputVolume:
            volume = firstVolume()
            if volume is not None:
                self.parameters.inputVolume = volume

    def _onParameters(self, *_arguments: Any) -> None:
        if self.parameters is not None:
            self.choices.follow(self.parameters)
            self.prompts.setTexts(list(self.parameters.prompts))
            self.models.follow()
            self.advanced.update()
            self.updateButton()

    def _onPrompts(self, texts: list[str]) -> None:
        if self.parameters is not None:
            self.parameters.prompts = texts
        self.updateButton()

    def _onVolume(self, node: Any) -> None:
        isFrame = node is not None and browserOf(node) is not None
        for widget in (self.ui.framesLabel, self.ui.framesComboBox):
            widget.setVisible(isFrame)
        if node is not None and self.messages.kind in ("", "error") and not self.isRunning:
            problem = self._problemOf(node)
            self.messages.show("error", problem) if problem else self.messages.clear()
        self.updateButton()

    @staticmethod
    def _problemOf(node: Any) -> str:
        try:
            checkVolume(node)
        except RefSAM3DError as error:
            return str(error)
        return ""

    def _onModel(self) -> None:
        self.prompts.setVocabulary(Vocabulary.default())

    # ---- running

    def updateButton(self) -> None:
        """One button: Segment, or Cancel while something runs. Its tool tip says what is missing."""
        button, p = self.ui.segmentButton, self.parameters
        if self.isRunning:
            button.text, button.enabled = _("Cancel"), True
            button.toolTip = _("Stop; nothing more is written")
            return
        missing = ""
        if p is None or p.inputVolume is None:
            missing = _("Choose a volume first.")
        elif not self.prompts.texts and not self.prompts.typed:
            missing = _("Type what to segment.")
        if missing and installer.missingPackages():
            # A fresh Slicer: what the engine needs can be had before there is an image to try it on.
            button.text, button.enabled = _("Install what is missing"), True
            button.toolTip = _("Python packages of the engine are missing; nothing is installed before you have seen which")
            return
        button.text, button.enabled = _("Segment"), not missing
        button.toolTip = missing or _("Search the structures in the volume")
        if missing and not self.ui.runProgressBar.visible:
            self.ui.statusLabel.text = missing
        elif self.ui.statusLabel.text in (_("Choose a volume first."), _("Type what to segment.")):
            self.ui.statusLabel.text = ""

    def onSegmentOrCancel(self) -> None:
        """The button."""
        if self.isRunning:
            self.task.cancel()
        else:
            self.onSegment()

    def _onInstalled(self) -> None:
        """Go on with what was asked for, where anything was."""
        self.updateButton()
        if self.ui.segmentButton.enabled:
            self.onSegment()

    def onSegment(self) -> None:
        """Start, or say inside the panel why not."""
        self.prompts.acceptTyped()
        missing = installer.missingPackages()
        if missing:
            installer.offer(missing, self.messages, self._onInstalled, self.setStatus)
            return
        p = self.parameters
        self.messages.clear()
        roi = {"roi": p.roi, "view": "view"}.get(p.region)
        try:
            installer.checkVersions()
            if p.region == "roi" and roi is None:
                raise RefSAM3DError(_("No region of interest is chosen; choose one under Advanced, or search the whole volume."))
            arguments = {
                "existing": p.existing,
                "roi": roi,
                "choice": engineChoice(p),
                "probability": p.probability,
                "allowUnknown": p.allowUnknown,
                "modality": p.modality,
                "onProgress": self._onProgress,
                "onEnd": self._onEnd,
            }
            texts = list(self.prompts.texts)
            if p.frames == "all" and browserOf(p.inputVolume) is not None:
                self.task = sequences.AllFrames(self.logic, p.inputVolume, texts, **arguments)
            else:
                self.task = self.logic.segment(p.inputVolume, texts, p.segmentation, wait=False, **arguments)
        except RefSAM3DError as error:
            self.messages.show("error", str(error))
            self.updateButton()
            return
        prompt_box.rememberPrompts(texts)
        if not self.task.isOver:
            self.ui.runProgressBar.setValue(0)
            self.ui.runProgressBar.setVisible(True)
        self.updateButton()

    def setStatus(self, text: str) -> None:
        """The line under the button."""
        self.ui.statusLabel.text = text

    def _onProgress(self, task: Any) -> None:
        self.ui.runProgressBar.setValue(int(1000 * task.fraction))
        parts = [f"{int(100 * task.fraction)} %", task.stage, remainingText(task.remainingS)]
        self.setStatus(" – ".join(part for part in parts if part))

    def _onEnd(self, task: Any) -> None:
        self.ui.runProgressBar.setVisible(False)
        if task.state is TaskState.DONE:
            self._showResults(task)
        elif task.state is TaskState.FAILED:
            if any(outcome.segmentID for outcome in task.outcomes):
                self._showResults(task)
            self.setStatus("")
            self.messages.show("error", failedText(task.failure, task.outcomes), {_("Diagnostics"): self.openDiagnostics})
        else:
            if any(outcome.segmentID for outcome in task.outcomes):
                self._showResults(task)
            self.setStatus(cancelledText(task.outcomes))
            if task.failure is not None:
                self.messages.show("warning", str(task.failure))
        self.task = None
        self.updateButton()
        self.refreshMemory()

    def _showResults(self, task: Any) -> None:
        node = task.sink.segmentationNode
        if self.parameters is not None and node is not None:
            self.choices.made(self.parameters, task.volumeID, node)
        self.results.fill(task.outcomes, node)
        drawn = sum(1 for outcome in task.outcomes if outcome.segmentID)
        self.setStatus(_("{drawn} of {all} structures drawn in {s:.1f} s.").format(drawn=drawn, all=len(task.outcomes), s=task.elapsedS))
        self.advanced.showCard(task.engine)
        if task.engine.vocabulary:
            self.prompts.setVocabulary(Vocabulary.from_json(task.engine.vocabulary))
        notes = [*task.warnings, *(w for o in task.outcomes for w in (*o.result.warnings, o.note) if w)]
        text, actions = hiddenMessage(node, task.outcomes)
        if notes or text:
            self.messages.show("warning", "\n".join(dict.fromkeys([*notes, *([text] if text else [])])), actions)

    # ---- the rest

    def openDiagnostics(self) -> None:
        """From the link of an error message."""
        self.ui.diagnosticsCollapsibleButton.collapsed = False
        diagnostics.makeReport(self.ui.diagnosticsTextEdit.setPlainText)

    def onRelease(self) -> None:
        """End the engine; its memory goes with it. One that works for the effect or a review is left alone."""
        if self.isRunning or not session.release():
            self.messages.show("info", _("A segmentation is running; wait for it or cancel it, then release the memory."))
            return
        self.refreshMemory()

    def refreshMemory(self) -> None:
        """Ask the engine, if there is one."""
        session.engineRunner().ask(Status, self.advanced.showMemory)
