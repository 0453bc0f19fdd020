"""Which widget of the Review section does what."""

from __future__ import annotations

from typing import Any

from ..pythonqt import connect


def connectWidgets(section: Any) -> None:
    """Of a :class:`~.review_section.ReviewSection`; what its slots raise and a user can understand is shown in the panel."""
    ui = section.ui
    for button, slot in (
        (ui.openButton, lambda: section.open(ui.folderEdit.currentPath)),
        (ui.currentButton, section.openCurrent),
        (ui.closeButton, section.close),
        (ui.refreshButton, section.refresh),
        (ui.previousButton, lambda: section.step(-1)),
        (ui.nextButton, lambda: section.step(1)),
        (ui.centreButton, lambda: section.jump("centre_ras")),
        (ui.worstButton, lambda: section.jump("worst_ras")),
        (ui.editButton, section.edit),
        (ui.acceptButton, lambda: section.decisions.decide("accept")),
        (ui.acceptEditedButton, lambda: section.decisions.decide("accept_edited")),
        (ui.skipButton, lambda: section.decisions.decide("skip")),
        (ui.rejectButton, lambda: section.decisions.decide("reject")),
        (ui.repromptButton, section.reprompt.runOrCancel),
        (ui.reportButton, section.output.report),
        (ui.agreementButton, section.output.agreement),
        (ui.signOffButton, section.output.signOff),
        (ui.exportButton, section.output.export),
    ):
        connect(button, "clicked()", lambda slot=slot: section.attempt(slot))
    for combo in (ui.showCombo, ui.verdictCombo, ui.sortCombo):
        connect(combo, "currentIndexChanged(int)", lambda index: section.attempt(section.fill))
    connect(ui.searchEdit, "textChanged(QString)", lambda text: section.attempt(section.fill))
    connect(ui.probabilityCheckBox, "toggled(bool)", lambda on: section.attempt(section.showProbability))
    connect(ui.idleSpinBox, "valueChanged(int)", lambda value: section.setIdle(value))
    connect(ui.wordingEdit, "returnPressed()", lambda: section.attempt(section.reprompt.runOrCancel))
