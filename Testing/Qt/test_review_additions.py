"""Segments that a reviewer adds beside the mask under review are not taken away with it; keys are there while a review is open."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import slicer
from gui_cases import click, qt, settle
from PySide6 import QtTest
from PySide6.QtCore import Qt
from review_panel import editSegment, goTo


def segmentations():
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def addIsland(review):
    """What splitting islands, or Add and a stroke, does in the Segment Editor. Returns the node, the new segment, and its voxels."""
    node, volume = review.scene.segmentationNode, review.scene.volumeNode
    island = np.zeros_like(review.scene.mask(), np.uint8)
    island[1:3, 1:3, 1:4] = 1
    segmentID = node.GetSegmentation().AddEmptySegment("", "other side")
    slicer.util.updateSegmentBinaryLabelmapFromArray(island, node, segmentID, volume)
    return node, segmentID, island


def test_added_segments_stay_when_the_next_item_is_shown_and_that_is_said(review):
    goTo(review, "case_1/1")
    edited = editSegment(review)
    node, segmentID, island = addIsland(review)
    volume = review.scene.volumeNode
    goTo(review, "case_1/2")
    assert node in segmentations()
    assert [node.GetSegmentation().GetNthSegment(n).GetName() for n in range(node.GetSegmentation().GetNumberOfSegments())] == ["other side"]
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume), island)
    assert f"They stay in the scene, in '{node.GetName()}'" in review.messages.text
    np.testing.assert_array_equal(review.session.draft(review.session.find("case_1/1")).mask, edited)
    assert len(segmentations()) == 2


@pytest.mark.parametrize("how", ["decided", "closed", "edits dropped"])
def test_added_segments_stay_however_the_item_is_left(review, how):
    goTo(review, "case_1/1")
    if how == "edits dropped":
        editSegment(review)
    node, _segmentID, _island = addIsland(review)
    if how == "decided":
        click(review.ui.acceptButton)
    elif how == "closed":
        click(review.ui.closeButton)
    else:
        click(review.ui.rejectButton)
        review.messages._onLink("Drop the edits")
        settle()
    assert node in segmentations()
    assert "They stay in the scene" in review.messages.text


def test_an_empty_segment_is_no_reason_to_keep_the_node(review):
    goTo(review, "case_1/1")
    node = review.scene.segmentationNode
    node.GetSegmentation().AddEmptySegment("", "nothing")
    goTo(review, "case_1/2")
    assert node not in segmentations()
    assert "stay in the scene" not in review.messages.text


def test_keys_from_other_modules_are_not_the_sequence_toolbar_s_and_go_with_the_review(widget, folder, monkeypatch):
    """Slicer's toolbar has Ctrl+Shift with the arrows: of two equal shortcuts neither fires."""
    from review_panel import openReview

    window = qt.QMainWindow()
    editor = qt.QLineEdit()
    window.setCentralWidget(editor)
    turned = []
    toolbar = [qt.QShortcut(qt.QKeySequence(f"Ctrl+Shift+{key}"), window) for key in ("Right", "Left", "Down")]
    for shortcut in toolbar:
        shortcut.connect("activated()", lambda: turned.append(1))
    monkeypatch.setattr(slicer.util, "mainWindow", lambda *_a, **_k: window)
    window.show()
    review = openReview(widget, folder)
    queue = [entry.id for entry in review.queue.items]
    goTo(review, queue[1])
    window.activateWindow()
    editor.setFocus()
    both = Qt.ControlModifier | Qt.ShiftModifier

    def type_(key):
        QtTest.QTest.keyClick(editor, key, both)
        settle(0.05)

    type_(Qt.Key_PageDown)
    assert review.view.item.id == queue[2]
    type_(Qt.Key_PageUp)
    type_(Qt.Key_PageUp)
    assert review.view.item.id == queue[0]
    type_(Qt.Key_Down)
    assert turned == [1], "the toolbar's own keys are its own"
    assert "Ctrl+Shift+PgDown" in review.ui.nextButton.toolTip

    def keys():
        return sorted(shortcut.key.toString() for shortcut in window.findChildren(qt.QShortcut) if shortcut.enabled)

    during = keys()
    click(review.ui.closeButton)
    assert keys() == ["Ctrl+Shift+Down", "Ctrl+Shift+Left", "Ctrl+Shift+Right"]
    click(review.ui.openButton)
    assert keys() == during
    click(review.ui.closeButton)
    window.hide()


def test_editing_takes_slicer_s_own_editor_node(review):
    goTo(review, "case_1/1")
    click(review.ui.editButton)
    click(review.ui.editButton)
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")
    assert [node.GetSingletonTag() for node in nodes] == ["SegmentEditor"]
    assert nodes[0].GetSegmentationNode() is review.scene.segmentationNode


def test_going_to_the_segment_editor_leaves_no_stray_node(review, monkeypatch):
    """The module brings a node of its own."""
    goTo(review, "case_1/1")
    chosen = []

    class Editor:
        def __getattr__(self, name):
            return lambda value: chosen.append((name, value))

    class Module:
        editor = Editor()

        def widgetRepresentation(self):
            return self

        def self(self):
            return self

    monkeypatch.setattr(slicer.modules, "segmenteditor", Module(), raising=False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda *_a, **_k: object())
    monkeypatch.setattr(slicer.util, "selectModule", lambda _name: None)
    before = slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")
    review.scene.edit()
    assert chosen[0] == ("setSegmentationNode", review.scene.segmentationNode)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode") == before
