"""The Review section in its panel, opened by typing and clicking, over a real batch folder."""

from __future__ import annotations

import numpy as np
import slicer
from RefSAM3DSlicer import session as engineSession
from RefSAM3DSlicer.review import review_section

import gui_cases as gui
from gui_cases import click, enter, popups, settle


def openPanel():
    """The module's widget with the section unfolded; the reviewer's settings are empty."""
    for key in (review_section.REVIEWER_KEY, review_section.FOLDER_KEY, review_section.IDLE_KEY):
        slicer.app.userSettings().remove(key)
    gui.useFakeEngine()
    widget = gui.slicer_app.open_widget(gui.module)
    widget.parent.resize(460, 1400)
    widget.parent.show()
    widget.panel.ui.reviewCollapsibleButton.collapsed = False
    settle()
    return widget


def closePanel(widget):
    """At the end of a test: no pop-up was ever open."""
    assert popups() == []
    widget.cleanup()
    widget.parent.hide()
    engineSession.stop()
    slicer.mrmlScene.Clear(0)


def openReview(widget, folder, name="A. Muster"):
    """Opened by typing a name and clicking."""
    section = widget.panel.review
    section.ui.reviewerEdit.text = ""
    enter(section.ui.reviewerEdit, name)
    section.ui.folderEdit.currentPath = str(folder)
    click(section.ui.openButton)
    assert section.session is not None, widget.panel.messages.text
    return section


def table(widget):
    """Texts of a table."""
    return [[widget.item(r, c).text() for c in range(widget.columnCount)] for r in range(widget.rowCount)]


def goTo(review, itemID):
    """Open an item as a click on its line does."""
    review.go(review.session.find(itemID))
    settle(0.02)
    return review.view.item


def editSegment(review, shift=1):
    """What a stroke in the Segment Editor does: other voxels in the segment. Returns the mask that must come of it."""
    mask = np.roll(review.scene.mask(), shift, axis=2)
    node, segmentID = review.scene.segmentationNode, review.scene.segmentID
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segmentID, review.scene.volumeNode)
    return mask
