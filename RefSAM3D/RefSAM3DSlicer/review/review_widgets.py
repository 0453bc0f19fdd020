"""The widgets of the Review section, laid out; what they do is in ``review_section``."""

from __future__ import annotations

from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from ..advanced import fillCombo
from ..results_table import percent
from .review_keys import NEXT, PREVIOUS
from .review_output import AGREEMENT_HEADERS

SHOW_TEXTS = (
    ("open", _("To review")),
    ("", _("All")),
    ("accept", _("Accepted")),
    ("accept_edited", _("Accepted with edits")),
    ("reject", _("Rejected")),
    ("skip", _("Skipped")),
    ("reprompt", _("Asked again")),
    ("changed", _("Changed since review")),
)
VERDICT_TEXTS = (
    ("", _("Any verdict")),
    ("failed", _("failed")),
    ("uncertain", _("uncertain")),
    ("unknown", _("unknown word")),
    ("present", _("present")),
    ("absent", _("absent")),
)
SORT_TEXTS = (("attention", _("Most urgent first")), ("case", _("By case")), ("structure", _("By structure")))


def button(text: str, tip: str) -> Any:
    """A push button that may become narrow."""
    made = qt.QPushButton(text)
    made.setToolTip(tip)
    made.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
    made.setMinimumWidth(40)
    return made


def combo(texts: Any, tip: str) -> Any:
    """A combo box with keys as user data."""
    made = qt.QComboBox()
    fillCombo(made, texts)
    made.setToolTip(tip)
    made.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(8)
    return made


def lineEdit(placeholder: str, tip: str) -> Any:
    """A line to type into."""
    made = qt.QLineEdit()
    made.setPlaceholderText(placeholder)
    made.setToolTip(tip)
    return made


def row(*widgets: Any) -> Any:
    """Side by side."""
    layout = qt.QHBoxLayout()
    for widget in widgets:
        layout.addWidget(widget)
    return layout


def aboutItem(item: Any) -> str:
    """What is known about an item, in a few lines."""
    numbers = [item.verdict, percent(item.presence), "" if item.volume_ml is None else f"{item.volume_ml:.1f} mL", item.status_words]
    lines = [f"{item.name or item.case} – {item.structure or item.prompt}", ", ".join(n for n in numbers if n), "; ".join(item.reasons)]
    if item.others:
        lines.append(_("Also reviewed by {names}.").format(names=", ".join(sorted(item.others))))
    return "\n".join(line for line in lines if line)


class ReviewWidgets:
    """Made once into the layout of ``container``."""

    def __init__(self, container: Any) -> None:
        self.reviewerEdit = lineEdit(_("Your name"), _("Each decision is recorded with it"))
        self.folderEdit = ctk.ctkPathLineEdit()
        self.folderEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.folderEdit.setToolTip(_("Output folder of a batch; or an empty folder for the record of the current segmentation's review"))
        self.openButton = button(_("Open batch"), _("Review the results in this folder"))
        self.currentButton = button(_("Review current segmentation"), _("Review the output chosen above; its record goes into this folder"))
        self.closeButton = button(_("Close review"), _("Edits that are not decided are kept and offered again"))
        self.progressBar = qt.QProgressBar()
        self.progressBar.setFormat(_("%v of %m decided"))

        self.showCombo = combo(SHOW_TEXTS, _("Which items the table shows"))
        self.verdictCombo = combo(VERDICT_TEXTS, _("Only items with this verdict of the engine"))
        self.sortCombo = combo(SORT_TEXTS, _("Order of the table"))
        self.searchEdit = lineEdit(_("Case or structure"), _("Only items whose case, structure or prompt has this text"))
        self.refreshButton = button(_("Refresh"), _("Read results and the other reviewers' decisions again"))
        self.table = qt.QTableWidget()
        self.table.setMinimumHeight(150)
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)

        self.infoLabel = qt.QLabel()
        self.infoLabel.setWordWrap(True)
        self.infoLabel.setTextFormat(qt.Qt.PlainText)
        self.previousButton = button(_("◀ Previous"), _("Key P; {key} from any module").format(key=PREVIOUS))
        self.nextButton = button(_("Next ▶"), _("Key N; {key} from any module").format(key=NEXT))
        self.centreButton = button(_("Centre"), _("Key C: centre the slice views on the structure"))
        self.worstButton = button(_("Worst slice"), _("Key W: go to the slice whose border is least certain"))
        self.probabilityCheckBox = qt.QCheckBox(_("Probability"))
        self.probabilityCheckBox.setToolTip(_("Lay the probability over the image, if the batch kept it"))
        self.editButton = button(_("Edit…"), _("Change the mask in the Segment Editor, then come back and accept with edits"))

        self.commentEdit = lineEdit(_("Comment (may be empty)"), _("Recorded with the decision"))
        self.acceptButton = button(_("Accept"), _("The mask is right as the machine drew it"))
        self.acceptEditedButton = button(_("Accept with edits"), _("The mask is right as you changed it"))
        self.skipButton = button(_("Skip"), _("Decide later; it waits at the end of the list"))
        self.reasonCombo = qt.QComboBox()
        self.reasonCombo.setEditable(True)
        self.reasonCombo.setToolTip(_("Choose a reason or type your own"))
        self.reasonCombo.lineEdit().setPlaceholderText(_("Reason for a rejection"))
        self.reasonCombo.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self.rejectButton = button(_("Reject"), _("The result is wrong; needs the reason beside it"))
        self.wordingEdit = lineEdit(_("Other words for the structure"), _("Asks the engine again at once"))
        self.repromptButton = button(_("Ask again"), _("Run the engine on this image with the words beside it"))
        self.idleSpinBox = qt.QSpinBox()
        self.idleSpinBox.setRange(0, 3600)
        self.idleSpinBox.setSuffix(_(" s"))
        self.idleSpinBox.setSpecialValueText(_("never"))
        self.idleSpinBox.setToolTip(_("The time on an item stands still after so long without a sign of you"))
        self._makeOutput()
        self._layOut(container)

    def _makeOutput(self) -> None:
        self.outputButton = ctk.ctkCollapsibleButton()
        self.outputButton.text = _("Report, agreement, sign-off")
        self.outputButton.collapsed = True
        self.reportButton = button(_("Report"), _("Write report.html of the folder anew, with the decisions, and show it in the browser"))
        self.identifiersBox = qt.QCheckBox(_("with patients' names"))
        self.identifiersBox.setToolTip(_("Without it the report names nobody"))
        self.agreementButton = button(_("Agreement of the reviewers"), _("Cohen's kappa of the verdicts, Dice of the masks, for each pair of reviewers"))
        self.agreementTable = qt.QTableWidget()
        self.agreementTable.setColumnCount(len(AGREEMENT_HEADERS))
        self.agreementTable.setHorizontalHeaderLabels(list(AGREEMENT_HEADERS))
        self.agreementTable.verticalHeader().hide()
        self.agreementTable.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.agreementTable.setMinimumHeight(110)
        self.agreementTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column, width in ((1, 110), (2, 44), (3, 44), (4, 50), (5, 50)):
            self.agreementTable.setColumnWidth(column, width)
        self.agreementTable.setVisible(False)
        self.targetEdit = ctk.ctkPathLineEdit()
        self.targetEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.targetEdit.setToolTip(_("Signed-off studies go to its folder 'signed-off', training data to 'training'"))
        self.signOffButton = button(_("Sign off study"), _("Result of the study that is open: JSON, and DICOM SEG for DICOM images, with the reviewer's name"))
        self.exportButton = button(_("Export for training"), _("Accepted cases as a manifest that the training package takes"))
        self.mineOnlyBox = qt.QCheckBox(_("only my decisions"))
        self.mineOnlyBox.setToolTip(_("Otherwise the last decision of anybody counts"))

    def _layOut(self, container: Any) -> None:
        layout = container.layout()
        form = qt.QFormLayout()
        form.addRow(_("Reviewer:"), self.reviewerEdit)
        form.addRow(_("Folder:"), self.folderEdit)
        form.addRow(_("Stop clock after:"), self.idleSpinBox)
        layout.addLayout(form)
        layout.addLayout(row(self.openButton, self.currentButton, self.closeButton))
        self.body = qt.QWidget()
        body = qt.QVBoxLayout(self.body)
        body.setContentsMargins(0, 0, 0, 0)
        body.addWidget(self.progressBar)
        body.addLayout(row(self.showCombo, self.verdictCombo, self.sortCombo))
        body.addLayout(row(self.searchEdit, self.refreshButton))
        body.addWidget(self.table)
        body.addWidget(self.infoLabel)
        body.addLayout(row(self.previousButton, self.nextButton, self.centreButton, self.worstButton))
        body.addLayout(row(self.probabilityCheckBox, self.editButton))
        body.addWidget(self.commentEdit)
        body.addLayout(row(self.acceptButton, self.acceptEditedButton, self.skipButton))
        body.addLayout(row(self.reasonCombo, self.rejectButton))
        body.addLayout(row(self.wordingEdit, self.repromptButton))
        body.addWidget(self.outputButton)
        output = qt.QVBoxLayout(self.outputButton)
        output.addLayout(row(self.reportButton, self.identifiersBox))
        output.addWidget(self.agreementButton)
        output.addWidget(self.agreementTable)
        target = qt.QFormLayout()
        target.addRow(_("Results go to:"), self.targetEdit)
        output.addLayout(target)
        output.addWidget(self.signOffButton)
        output.addLayout(row(self.exportButton, self.mineOnlyBox))
        layout.addWidget(self.body)

    def setOpen(self, isOpen: bool) -> None:
        """Show what a review needs, or what is needed to open one."""
        self.body.setVisible(isOpen)
        self.closeButton.setVisible(isOpen)
        for widget in (self.openButton, self.currentButton):
            widget.setVisible(not isOpen)
        for widget in (self.reviewerEdit, self.folderEdit):
            widget.setEnabled(not isOpen)

    def update(self, item: Any, asking: bool, writing: bool) -> None:
        """Enable what can be done with ``item``; ``asking``: the engine answers, ``writing``: a report or an export is made."""
        drawn = item is not None and item.label != 0
        for widget in (self.skipButton, self.rejectButton, self.reasonCombo, self.commentEdit):
            widget.setEnabled(item is not None)
        for widget in (self.acceptButton, self.acceptEditedButton, self.editButton, self.centreButton, self.worstButton, self.wordingEdit):
            widget.setEnabled(drawn)
        self.repromptButton.setEnabled(drawn or asking)
        self.repromptButton.text = _("Cancel") if asking else _("Ask again")
        self.probabilityCheckBox.setEnabled(item is not None and bool(item.probability))
        for widget in (self.reportButton, self.agreementButton, self.exportButton):
            widget.setEnabled(not writing)
        self.signOffButton.setEnabled(item is not None and not writing)
        if not asking:
            self.infoLabel.setText(aboutItem(item) if item is not None else "")
