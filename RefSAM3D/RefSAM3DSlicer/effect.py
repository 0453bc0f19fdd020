"""The widgets and the behaviour of the Segment Editor effect."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.text.prompts import check_prompt
from RefSAM3DLib.text.vocabulary import Vocabulary

from . import installer, prompt_box, session
from .effect_sink import EffectSink
from .hidden_segments import hiddenMessage
from .logic import RefSAM3DLogic
from .message_strip import MessageStrip
from .panel import remainingText
from .parameters import engineChoice
from .prompt_status import readPrompt
from .pythonqt import connect
from .results_table import percent, verdictText
from .runs import EngineChoice, RunOptions
from .task import SegmentTask, TaskState, cancelledText, failedText
from .volume_bridge import checkVolume


def nameOf(path: str) -> str:
    """File name of a path of any system."""
    return path.replace("\\", "/").rpartition("/")[2]


class EscapeFilter(qt.QObject):
    """Takes the Escape that is pressed in the watched widget or in one inside it."""

    onEscape = None

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """True stops the event."""
        if not self.onEscape or event.type() != qt.QEvent.KeyPress or event.key() != qt.Qt.Key_Escape:
            return False
        event.accept()
        self.onEscape()
        return True


class EffectController:
    """One per editor."""

    def __init__(self, scriptedEffect: Any) -> None:
        self.effect = scriptedEffect
        self.task: SegmentTask | None = None
        self.vocabulary = Vocabulary.default()
        self.completer: Any = None
        self._choice = EngineChoice()
        # The editor has a shortcut on Escape, which deactivates the effect. Qt asks with ShortcutOverride before it triggers one, but PythonQt
        # hands that event over without its key. An item delegate is Qt's own filter that answers it: for Escape, and for no other key.
        self._filter, self._override, self._watchedFrame = EscapeFilter(), qt.QStyledItemDelegate(), None
        self._buildWidgets()
        self.updateButton()

    def _buildWidgets(self) -> None:
        self.messageFrame, layout = qt.QFrame(), qt.QHBoxLayout()
        self.messageFrame.setLayout(layout)
        label, close = qt.QLabel(), qt.QToolButton()
        label.setWordWrap(True)
        label.setTextFormat(qt.Qt.RichText)
        close.setText("✕")
        close.setAutoRaise(True)
        layout.addWidget(label, 1)
        layout.addWidget(close)
        self.promptEdit = qt.QLineEdit()
        self.promptEdit.objectName = "RefSAM3DPromptLineEdit"
        self.promptEdit.placeholderText = _("e.g. left parotid gland")
        self.promptEdit.clearButtonEnabled = True
        self.setVocabulary(self.vocabulary)
        self.choiceLabel = qt.QLabel()
        self.choiceLabel.setWordWrap(True)
        self.choiceLabel.setVisible(False)
        self.readingLabel = qt.QLabel()
        self.readingLabel.setTextFormat(qt.Qt.RichText)
        self.readingLabel.setWordWrap(True)
        self.applyButton = qt.QPushButton(_("Apply"))
        self.applyButton.objectName = "RefSAM3DApplyButton"
        self.progressBar = qt.QProgressBar()
        self.progressBar.setRange(0, 1000)
        self.progressBar.setVisible(False)
        self.statusLabel = qt.QLabel()
        self.statusLabel.setWordWrap(True)
        self.effect.addOptionsWidget(self.messageFrame)
        self.effect.addLabeledOptionsWidget(_("Structure:"), self.promptEdit)
        for widget in (self.readingLabel, self.choiceLabel, self.applyButton, self.progressBar, self.statusLabel):
            self.effect.addOptionsWidget(widget)
        self.messages = MessageStrip(self.messageFrame, label, close)
        connect(self.promptEdit, "textChanged(QString)", lambda text: self._onText())
        connect(self.promptEdit, "editingFinished()", self.updateParameters)
        connect(self.promptEdit, "returnPressed()", self.onReturn)
        connect(self.readingLabel, "linkActivated(QString)", self._takeSuggestion)
        connect(self.applyButton, "clicked()", self.onApplyOrCancel)

    # ---- parameters

    def updateFromParameters(self) -> None:
        """Parameter node to widgets; what is being typed is not overwritten by what it was."""
        text = self.effect.parameter("Prompt")
        if text != self.promptEdit.text and not self.promptEdit.hasFocus():
            self.promptEdit.setText(text)
        self.updateButton()

    def updateParameters(self) -> None:
        """Widgets to parameter node."""
        self.effect.setParameter("Prompt", self.promptEdit.text)

    def activate(self) -> None:
        """Chosen by the user."""
        self.updateFromParameters()
        self._showChoice()
        self._onText()

    def _showChoice(self) -> EngineChoice:
        """The module's choice of weights and device, which holds here too; said where it is not the one that Slicer starts with."""
        choice = engineChoice(RefSAM3DLogic().getParameterNode())
        if (choice.model, choice.adapter) != (self._choice.model, self._choice.adapter):
            self.setVocabulary(Vocabulary.default())  # what the chosen weights know is heard from them with their first answer
            self._onText()
        self._choice = choice
        parts = [(_("model"), nameOf(choice.model)), (_("adapter"), nameOf(choice.adapter)), (_("device"), "" if choice.device == "auto" else choice.device)]
        said = ", ".join(f"{title} {value}" for title, value in parts if value)
        self.choiceLabel.setText(_("As chosen in the module RefSAM3D: {choice}.").format(choice=said) if said else "")
        self.choiceLabel.setVisible(bool(said))
        return choice

    def setVocabulary(self, vocabulary: Vocabulary) -> None:
        """Another model, or an adapter, may know other words."""
        self.vocabulary = vocabulary
        self.completer = prompt_box.makeCompleter(self.promptEdit, vocabulary)

    # ---- what is asked for

    @property
    def isRunning(self) -> bool:
        """True while a run of this effect is not over."""
        return self.task is not None and not self.task.isOver

    def _onText(self) -> None:
        text = self.promptEdit.text.strip()
        self.readingLabel.setText(readPrompt(text, self.vocabulary).asHtml() if text else "")
        self.updateButton()

    def _takeSuggestion(self, name: str) -> None:
        self.promptEdit.setText(name)
        self.updateParameters()

    def updateButton(self) -> None:
        """Apply or Cancel."""
        if self.isRunning:
            self.applyButton.text, self.applyButton.enabled = _("Cancel"), True
        else:
            self.applyButton.text, self.applyButton.enabled = _("Apply"), bool(self.promptEdit.text.strip())

    # ---- running

    def onReturn(self) -> None:
        """Enter applies. Accepting a completion with Enter applies too: the word was chosen."""
        if not self.isRunning and self.promptEdit.text.strip():
            self.onApply()

    def onApplyOrCancel(self) -> None:
        """The button."""
        if self.isRunning:
            self.cancel()
        else:
            self.onApply()

    def cancel(self) -> None:
        """Stop the run; nothing more is written."""
        if self.task is not None:
            self.task.cancel()

    def onApply(self) -> None:
        """Start, or say why not."""
        missing = installer.missingPackages()
        if missing:
            installer.offer(missing, self.messages, self.onApply, self.statusLabel.setText)
            return
        self.messages.clear()
        self.updateParameters()
        editor = self.effect.parameterSetNode()
        volumeNode, segmentationNode = editor.GetSourceVolumeNode(), editor.GetSegmentationNode()
        try:
            installer.checkVersions()
            prompt = check_prompt(self.promptEdit.text)
            checkVolume(volumeNode)
            if segmentationNode is None:
                raise RefSAM3DError(_("No segmentation is chosen; choose one above."))
            segmentID = editor.GetSelectedSegmentID() or ""
            if segmentID and not self._confirmVisible():
                return
            choice, p = self._showChoice(), RefSAM3DLogic().getParameterNode()
            sink = EffectSink(self.effect, volumeNode, segmentationNode, segmentID, choice.adapter)
            self.task = SegmentTask(
                session.engineRunner(),
                volumeNode,
                [prompt],
                sink,
                choice,
                RunOptions(allowUnknown=p.allowUnknown),
                p.modality if p.inputVolume is volumeNode else "",  # chosen for that image alone
                onProgress=self._onProgress,
                onEnd=self._onEnd,
            )
        except RefSAM3DError as error:
            self.messages.show("error", str(error))
            return
        prompt_box.rememberPrompts([prompt])
        if self.isRunning:
            self.progressBar.setValue(0)
            self.progressBar.setVisible(True)
            self._watchEscape(True)
        self.updateButton()

    def _confirmVisible(self) -> bool:
        """Slicer asks whether to show a hidden segment; only ever from the user's own click."""
        return bool(self.effect.confirmCurrentSegmentVisible())

    def _watchEscape(self, on: bool) -> None:
        """While a run goes on, Escape in the options cancels it; anywhere else it is Slicer's, as is every other key."""
        self._filter.onEscape = self.cancel if on else None
        if on:
            self._watchedFrame = self.effect.optionsFrame()
            self._watchedFrame.installEventFilter(self._override)
            self._watchedFrame.installEventFilter(self._filter)
        elif self._watchedFrame is not None:
            self._watchedFrame.removeEventFilter(self._filter)
            self._watchedFrame.removeEventFilter(self._override)
            self._watchedFrame = None

    def _onProgress(self, task: SegmentTask) -> None:
        self.progressBar.setValue(int(1000 * task.fraction))
        parts = [f"{int(100 * task.fraction)} %", task.stage, remainingText(task.remainingS)]
        self.statusLabel.setText(" – ".join(part for part in parts if part))

    def _onEnd(self, task: SegmentTask) -> None:
        self._watchEscape(False)
        self.progressBar.setVisible(False)
        self.task = None
        self.updateButton()
        if task.state is TaskState.DONE:
            if task.engine.vocabulary:
                self.setVocabulary(Vocabulary.from_json(task.engine.vocabulary))
                self._onText()
            self.statusLabel.setText("\n".join(self._describe(outcome) for outcome in task.outcomes))
            notes = [*task.warnings, *(w for outcome in task.outcomes for w in (*outcome.result.warnings, outcome.note) if w)]
            text, actions = hiddenMessage(task.sink.segmentationNode, task.outcomes)
            if notes or text:
                self.messages.show("warning", "\n".join(dict.fromkeys([*notes, *([text] if text else [])])), actions)
        elif task.state is TaskState.FAILED:
            self.statusLabel.setText("")
            self.messages.show("error", failedText(task.failure, task.outcomes))
        else:
            self.statusLabel.setText(str(task.failure) if task.failure else cancelledText(task.outcomes))

    @staticmethod
    def _describe(outcome: Any) -> str:
        result = outcome.result
        text = f"{result.resolved or result.prompt}: {verdictText(outcome)}"
        if not outcome.segmentID:
            return text + ", " + _("nothing drawn")
        return f"{text}, {result.volumeMl:.1f} mL, " + _("confidence {c}").format(c=percent(result.confidence))

    def cleanup(self) -> None:
        """The editor goes away."""
        self._watchEscape(False)
        if self.task is not None:
            self.task.cancel()
        self.task = None
