"""A review in which words are unknown, nodes are moved or removed, and people type while the engine works: nothing wrong is recorded, nothing lost."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from gui_cases import click, enter, settle, spin
from mrml_cases import addTransform
from RefSAM3DLib.errors import InputError
from review_cases import entries, makeBatch
from review_panel import closePanel, editSegment, goTo, openPanel, openReview


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A batch that was run once for all tests of this file."""
    return makeBatch(tmp_path_factory.mktemp("batch"))


@pytest.fixture
def folder(finished, tmp_path):
    """A batch folder of the test's own."""
    return shutil.copytree(finished, tmp_path / "results")


@pytest.fixture
def review(folder):
    """The Review section of a shown panel, with the folder opened."""
    widget = openPanel()
    yield openReview(widget, folder)
    closePanel(widget)


def ask(review, wording):
    """Type the words and press 'Ask again'; returns once the engine is at work."""
    enter(review.ui.wordingEdit, wording)
    click(review.ui.repromptButton)
    spin(lambda: review.reprompt.task is None or review.reprompt.task.fraction > 0.05)


def test_an_answer_to_words_that_the_engine_does_not_know_is_not_recorded(review, folder):
    item = goTo(review, "case_0/1")
    machine = review.session.machine_mask(item)[0]
    assert machine.any()
    ask(review, "unknown thing")
    spin(lambda: review.reprompt.task is None)
    assert "The engine does not know 'unknown thing'; nothing was recorded." in review.messages.text
    assert entries(folder) == []
    np.testing.assert_array_equal(review.session.machine_mask(item)[0], machine)
    np.testing.assert_array_equal(review.scene.mask(), machine)


def test_words_that_come_near_to_the_typed_ones_are_named():
    from RefSAM3DSlicer.review.reprompt import unknownText

    assert "'brain stem'" in unknownText("brian stem", ("brain stem", "brain", "a", "b"))
    assert "'b'" not in unknownText("brian stem", ("brain stem", "brain", "a", "b"))


@pytest.mark.parametrize("typed", ["", "seen by B"])
def test_a_comment_typed_while_the_question_runs_stays(review, folder, typed):
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    goTo(review, "case_0/1")
    enter(review.ui.commentEdit, typed)
    ask(review, "mandible")
    enter(review.ui.commentEdit, ", border unclear")
    spin(lambda: review.reprompt.task is None)
    assert len(entries(folder)) == 1
    assert review.ui.commentEdit.text == typed + ", border unclear"
    goTo(review, "case_0/2")
    goTo(review, "case_0/1")
    assert review.ui.commentEdit.text == typed + ", border unclear"
    click(review.ui.acceptButton)
    assert entries(folder)[1]["comment"] == typed + ", border unclear"


def test_a_comment_that_went_with_the_question_is_not_asked_to_be_decided_again(review, folder):
    gui.useFakeEngine(FAKE_STEP_S="0.01")
    goTo(review, "case_0/1")
    enter(review.ui.commentEdit, "seen by B")
    ask(review, "mandible")
    spin(lambda: review.reprompt.task is None)
    assert entries(folder)[0]["comment"] == "seen by B"
    assert review.ui.commentEdit.text == ""


def test_an_image_that_was_moved_away_from_its_mask_is_no_edit(review, folder):
    goTo(review, "case_0/1")
    transform = addTransform(0, (6, 0, 0))
    review.scene.volumeNode.SetAndObserveTransformNodeID(transform.GetID())
    for button in (review.ui.acceptButton, review.ui.acceptEditedButton):
        click(button)
        assert "moved by a transform" in review.messages.text
        assert entries(folder) == []
    review.scene.volumeNode.SetAndObserveTransformNodeID(None)
    click(review.ui.acceptButton)
    assert entries(folder)[0]["verdict"] == "accept"


def test_image_and_mask_may_be_moved_together(review, folder):
    item = goTo(review, "case_0/1")
    transform = addTransform(0, (6, 0, 0))
    for node in (review.scene.volumeNode, review.scene.segmentationNode):
        node.SetAndObserveTransformNodeID(transform.GetID())
    np.testing.assert_array_equal(review.scene.mask(), review.session.machine_mask(item)[0])
    edited = editSegment(review)
    click(review.ui.acceptEditedButton)
    (entry,) = entries(folder)
    np.testing.assert_array_equal(review.session.masks.read(folder / entry["mask_file"], item.structure, entry["mask"])[0], edited)


def removeSegment(scene):
    scene.segmentationNode.GetSegmentation().RemoveSegment(scene.segmentID)


@pytest.mark.parametrize("remove", [
    removeSegment, lambda scene: slicer.mrmlScene.RemoveNode(scene.segmentationNode), lambda scene: slicer.mrmlScene.RemoveNode(scene.volumeNode),
], ids=["segment", "segmentation", "image"])  # fmt: skip
def test_choosing_the_item_again_brings_back_what_was_removed(review, remove):
    item = goTo(review, "case_0/1")
    machine = review.session.machine_mask(item)[0]
    enter(review.ui.commentEdit, "upper border")
    remove(review.scene)
    with pytest.raises(InputError, match="choose the item again"):
        review.scene.mask()
    review.go(item)
    np.testing.assert_array_equal(review.scene.mask(), machine)
    assert review.ui.commentEdit.text == "upper border"
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_a_click_on_its_line_chooses_the_item_again(review):
    item = goTo(review, "case_0/1")
    removeSegment(review.scene)
    table, row = review.ui.table, next(n for n, other in enumerate(review.queue.items) if other is item)
    gui.QtTest.QTest.mouseClick(table.viewport(), gui.QtCore.Qt.LeftButton, pos=table.visualItemRect(table.item(row, 1)).center())
    settle()
    np.testing.assert_array_equal(review.scene.mask(), review.session.machine_mask(item)[0])


def test_choosing_an_item_that_is_there_again_changes_nothing(review):
    item = goTo(review, "case_0/1")
    edited = editSegment(review)
    node = review.scene.segmentationNode
    review.go(item)
    assert review.scene.segmentationNode is node
    np.testing.assert_array_equal(review.scene.mask(), edited)
