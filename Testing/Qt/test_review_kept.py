"""A review that is left, closed, interrupted, or meets bad luck: nothing is lost, and the panel says what happened."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from gui_cases import click, enter, press, settle, spin
from PySide6.QtCore import Qt
from review_cases import entries
from review_panel import editSegment, goTo


def reviewNodes():
    return [n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]


def test_edits_are_kept_when_an_item_is_left_and_offered_back_in_another_session(widget, review, folder):
    goTo(review, "case_1/1")
    edited = editSegment(review)
    enter(review.ui.commentEdit, "not done")
    review.ui.table.setFocus()
    press(review.ui.table, Qt.Key_N)
    left = review.view.item.id
    click(review.ui.closeButton)
    assert review.session is None
    assert reviewNodes() == []
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    click(review.ui.openButton)
    assert review.view.item.id == left
    assert "not decided" in review.messages.text
    review.messages._onLink("case_1, brainstem")
    settle()
    np.testing.assert_array_equal(review.scene.mask(), edited)
    assert review.ui.commentEdit.text == "not done"
    review.messages._onLink("Back to the machine's mask")
    settle()
    assert review.view.editedMask() is None
    assert review.session.drafts() == []


def test_timer_scene_close_and_quit_store_the_edit(widget, review, folder):
    goTo(review, "case_1/1")
    edited = editSegment(review)
    review._drafts._callback()
    np.testing.assert_array_equal(review.session.draft(review.view.item).mask, edited)
    again = editSegment(review, 2)
    slicer.mrmlScene.Clear(0)
    settle()
    np.testing.assert_array_equal(review.session.draft(review.session.find("case_1/1")).mask, again)
    assert review.view.item is None
    assert review.ui.progressBar.maximum == 10
    goTo(review, "case_1/1")
    np.testing.assert_array_equal(review.scene.mask(), again)
    last = editSegment(review, 1)
    widget.panel.cleanup()
    np.testing.assert_array_equal(review.session.draft(review.view.item).mask, last)


def test_an_edit_that_cannot_be_stored_stays(review, folder, monkeypatch):
    goTo(review, "case_1/1")
    edited = editSegment(review)

    def full(*_arguments, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(review.session, "store_draft", full)
    review.ui.table.setFocus()
    press(review.ui.table, Qt.Key_N)
    assert review.view.item.id == "case_1/1"
    assert "No space left" in review.messages.text
    np.testing.assert_array_equal(review.scene.mask(), edited)
    review.messages._onLink("Leave the edit in the scene and go on")
    settle()
    goTo(review, "case_0/1")
    assert len(reviewNodes()) == 2


def test_read_only_audit_file_is_said_and_nothing_is_lost(review, folder, monkeypatch, tmp_path):
    from RefSAM3DLib.batch.append_log import AppendLog
    from RefSAM3DLib.errors import OutputError

    goTo(review, "case_0/1")
    append = AppendLog.append

    def refuse(self, entry):
        if self.path.name == "review.jsonl":
            raise OutputError(f"'{self.path}' is read-only.")
        return append(self, entry)

    monkeypatch.setattr(AppendLog, "append", refuse)
    edited = editSegment(review)
    click(review.ui.acceptEditedButton)
    assert "is read-only" in review.messages.text
    assert "kept in" in review.messages.text
    assert review.view.item.id == "case_0/1"
    assert review.ui.progressBar.value == 1
    monkeypatch.undo()
    click(review.ui.closeButton)
    click(review.ui.openButton)
    (entry,) = entries(folder)
    assert entry["verdict"] == "accept_edited"
    np.testing.assert_array_equal(review.session.masks.read(folder / entry["mask_file"], "brainstem", entry["mask"])[0], edited)
    assert "now in the record" in review.messages.text


@pytest.mark.parametrize("name", ["", "   "])
def test_without_a_name_nothing_opens(widget, folder, name):
    section = widget.panel.review
    section.ui.reviewerEdit.text = name
    section.ui.folderEdit.currentPath = str(folder)
    click(section.ui.openButton)
    assert "name is empty" in widget.panel.messages.text
    assert section.session is None


def test_a_folder_without_a_batch(widget, tmp_path):
    section = widget.panel.review
    enter(section.ui.reviewerEdit, "A")
    click(section.ui.openButton)
    assert "No folder" in widget.panel.messages.text
    section.ui.folderEdit.currentPath = str(tmp_path)
    click(section.ui.openButton)
    assert "holds no batch" in widget.panel.messages.text


def test_images_that_are_gone(widget, review, folder, finished, monkeypatch):
    item = goTo(review, "case_1/1")
    image = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, review.scene.volumeNode, "loaded by hand")
    goTo(review, "case_0/1")
    monkeypatch.setattr(review.session, "_volume", None)
    item.image = str(folder / "moved.nii.gz")
    goTo(review, "case_1/1")
    assert "moved.nii.gz" in review.messages.text
    assert review.scene.segmentationNode is None
    review.ui.reasonCombo.setCurrentIndex(6)
    widget.panel.parameters.inputVolume = image
    goTo(review, "case_0/1")
    goTo(review, "case_1/1")
    np.testing.assert_array_equal(review.scene.mask(), review.session.machine_mask(item)[0])
    click(review.ui.acceptButton)
    assert entries(folder)[0]["verdict"] == "accept"
    assert slicer.mrmlScene.GetNodeByID(image.GetID()) is not None


def test_reprompt_with_edits_asks_first_and_can_be_cancelled(review, folder):
    gui.useFakeEngine(FAKE_STEP_S="0.2")
    goTo(review, "case_0/1")
    editSegment(review)
    enter(review.ui.wordingEdit, "mandible")
    click(review.ui.repromptButton)
    assert "was changed" in review.messages.text
    assert review.reprompt.task is None
    review.messages._onLink("Drop the edits and ask")
    assert review.reprompt.task is not None
    spin(lambda: review.reprompt.task.fraction > 0.05)
    click(review.ui.repromptButton)
    spin(lambda: review.reprompt.task is None, timeout=2)
    assert entries(folder) == []
    assert review.ui.repromptButton.text == "Ask again"


def test_engine_that_fails_is_said(review, folder):
    goTo(review, "case_0/1")
    enter(review.ui.wordingEdit, "crash")
    click(review.ui.repromptButton)
    spin(lambda: review.reprompt.task is None)
    assert "native library" in review.messages.text
    assert entries(folder) == []


def test_an_edit_made_while_the_engine_runs_is_not_buried_by_its_answer(review, folder):
    gui.useFakeEngine(FAKE_STEP_S="0.2")
    item = goTo(review, "case_0/1")
    enter(review.ui.wordingEdit, "mandible")
    click(review.ui.repromptButton)
    spin(lambda: review.reprompt.task.fraction > 0.05)
    edited = editSegment(review)
    goTo(review, "case_0/2")
    spin(lambda: review.reprompt.task is None, timeout=30)
    assert "was edited while the question ran, so the answer was not recorded" in review.messages.text
    assert entries(folder) == []
    np.testing.assert_array_equal(review.session.draft(item).mask, edited)


def test_new_words_are_asked_of_the_kind_of_image_that_the_case_is(review, folder):
    gui.useFakeEngine(FAKE_STEP_S="0.01")
    item = goTo(review, "case_0/1")
    item.modality = "mr"
    enter(review.ui.wordingEdit, "mandible")
    click(review.ui.repromptButton)
    task = review.reprompt.task
    spin(lambda: review.reprompt.task is None)
    assert any("MR images" in text for text in task.warnings)
