"""The Review section through the real panel: clicked, typed and driven by keys, over the real scene and real batch folders."""

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
from review_panel import editSegment, goTo, table


def test_opening_sorts_by_need_and_shows_the_first_item(review, folder):
    rows = table(review.ui.table)
    assert rows[0][2] == "failed"
    assert [row[2] for row in rows[1:4]] == ["unknown word"] * 3
    assert len(rows) == 10
    assert review.view.item.label == 0
    assert review.ui.progressBar.format == "%v of %m decided"
    assert (review.ui.progressBar.value, review.ui.progressBar.maximum) == (0, 10)
    assert not review.ui.acceptButton.enabled
    assert review.ui.rejectButton.enabled
    assert "broken" in review.messages.text


def test_the_machine_mask_becomes_a_segment_in_its_place(review):
    shown = goTo(review, "case_1/1")
    machine, geometry = review.session.machine_mask(shown)
    np.testing.assert_array_equal(review.scene.mask(), machine)
    node = review.scene.segmentationNode
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "brainstem"
    np.testing.assert_allclose(np.array(segment.GetColor()) * 255, shown.colour, atol=1)
    centre = np.linalg.inv(geometry.ijk_to_ras) @ [*node.GetSegmentCenterRAS(review.scene.segmentID), 1.0]
    assert machine[tuple(round(float(v)) for v in centre[2::-1])]
    voxels = slicer.util.arrayFromVolume(review.scene.volumeNode)
    assert (voxels[machine] == 100).all()
    assert review.view.editedMask() is None


def test_the_hourglass_is_up_while_an_image_is_read_and_gone_after_it_could_not_be(review, monkeypatch):
    up = []

    def read(case, session, item):
        up.append(len(slicer.app.overrideCursors))
        raise OSError("The disk is gone.")

    monkeypatch.setattr(review.scene, "showVolume", read)
    goTo(review, "case_1/1")
    assert up == [1]
    assert slicer.app.overrideCursors == []
    assert "The disk is gone." in review.messages.text


def test_keys_walk_through_the_queue_and_jump(review):
    nodes = [slicer.vtkMRMLSliceNode() for _ in range(3)]
    for node, name in zip(nodes, ("Red", "Green", "Yellow"), strict=True):
        node.SetLayoutName(name)
        slicer.mrmlScene.AddNode(node)
    queue = [entry.id for entry in review.queue.items]
    goTo(review, "case_0/1")
    at = queue.index("case_0/1")
    review.ui.table.setFocus()
    press(review.ui.table, Qt.Key_N)
    assert review.view.item.id == queue[at + 1]
    press(review.ui.table, Qt.Key_P)
    press(review.ui.table, Qt.Key_P)
    assert review.view.item.id == queue[at - 1]
    press(review.ui.table, Qt.Key_Down)
    assert review.view.item.id == "case_0/1"
    item = review.view.item
    for key, place in ((Qt.Key_C, item.centre_ras), (Qt.Key_W, item.worst_ras)):
        press(review.ui.table, key)
        seen = [node.GetSliceToRAS().GetElement(axis, 3) for node, axis in zip(nodes, (2, 1, 0), strict=True)]
        toRas = nodes[0].GetSliceToRAS()
        np.testing.assert_allclose([toRas.GetElement(n, 3) for n in range(3)], place, atol=0.1, err_msg=str(seen))
    goTo(review, queue[0])
    press(review.ui.table, Qt.Key_P)
    assert "beginning" in review.messages.text
    enter(review.ui.commentEdit, "nnp")
    assert review.ui.commentEdit.text == "nnp"
    assert review.view.item.id == queue[0]


def test_filters(review):
    review.ui.verdictCombo.setCurrentIndex(2)
    settle(0.02)
    assert {row[2] for row in table(review.ui.table)} <= {"uncertain"}
    review.ui.verdictCombo.setCurrentIndex(0)
    enter(review.ui.searchEdit, "CASE_1")
    assert {row[0] for row in table(review.ui.table)} == {"case_1"}
    review.ui.searchEdit.text = ""
    goTo(review, "case_0/1")
    click(review.ui.acceptButton)
    assert len(table(review.ui.table)) == 9
    review.ui.showCombo.setCurrentIndex(2)
    settle(0.02)
    assert [row[5] for row in table(review.ui.table)] == ["accepted"]
    review.ui.showCombo.setCurrentIndex(1)
    review.ui.sortCombo.setCurrentIndex(1)
    settle(0.02)
    assert [row[0] for row in table(review.ui.table)] == sorted(row[0] for row in table(review.ui.table))


def test_accept_is_on_the_disk_with_seconds_and_comment_and_goes_on(review, folder):
    item = goTo(review, "case_0/1")
    now = [100.0]
    review.view.clock.now = lambda: now[0]
    review.view.item = None
    review.go(item)
    now[0] = 107.5
    enter(review.ui.commentEdit, "clear border")
    click(review.ui.acceptButton)
    (entry,) = entries(folder)
    assert (entry["verdict"], entry["reviewer"], entry["comment"], entry["seconds"]) == ("accept", "A. Muster", "clear border", 7.5)
    assert review.view.item is not item
    assert review.ui.commentEdit.text == ""
    assert review.ui.progressBar.value == 1


def test_edits_are_read_back_and_measured(review, folder):
    item = goTo(review, "case_1/1")
    machine = review.session.machine_mask(item)[0]
    click(review.ui.editButton)
    editor = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode() is review.scene.segmentationNode
    assert editor.GetSelectedSegmentID() == review.scene.segmentID
    edited = editSegment(review)
    click(review.ui.acceptButton)
    assert "was changed" in review.messages.text
    assert entries(folder) == []
    click(review.ui.acceptEditedButton)
    (entry,) = entries(folder)
    gone = int((machine & ~edited).sum())
    assert entry["metrics"]["dice"] == pytest.approx(1 - gone / machine.sum(), abs=1e-4)
    np.testing.assert_array_equal(review.session.masks.read(folder / entry["mask_file"], "brainstem", entry["mask"])[0], edited)
    assert review.view.item is not item
    assert review.scene.segmentationNode is not None
    assert editor.GetSegmentationNode() is review.scene.segmentationNode, "the editor goes on with the next item"
    goTo(review, "case_1/1")
    np.testing.assert_array_equal(review.scene.mask(), edited)
    assert review.session.drafts() == []


def test_accept_with_edits_without_edits(review, folder):
    goTo(review, "case_1/1")
    click(review.ui.acceptEditedButton)
    assert "as the machine drew it" in review.messages.text
    assert entries(folder) == []


def test_drawing_into_an_absent_structure(review, folder):
    item = goTo(review, "case_2/2")
    assert item.verdict == "absent"
    assert not review.scene.mask().any()
    array = np.zeros(review.scene.mask().shape, np.uint8)
    array[5:8, 6:9, 7:10] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, review.scene.segmentationNode, review.scene.segmentID, review.scene.volumeNode)
    click(review.ui.acceptEditedButton)
    assert entries(folder)[0]["metrics"]["added_ml"] > 0
    assert entries(folder)[0]["metrics"]["dice"] == 0


def test_reject_needs_a_reason_of_the_list_or_typed(review, folder):
    goTo(review, "case_0/1")
    click(review.ui.rejectButton)
    assert "reason" in review.messages.text
    assert [review.ui.reasonCombo.itemText(n) for n in range(2)] == ["wrong structure", "wrong side"]
    review.ui.reasonCombo.setCurrentIndex(1)
    click(review.ui.rejectButton)
    goTo(review, "case_0/2")
    assert review.ui.reasonCombo.currentText == ""
    enter(review.ui.reasonCombo, "metal artefact, no border")
    click(review.ui.rejectButton)
    assert [e["reason"] for e in entries(folder)] == ["wrong side", "metal artefact, no border"]


def test_skip_keeps_the_edit_and_waits_at_the_end(review, folder):
    goTo(review, "case_0/1")
    edited = editSegment(review)
    click(review.ui.skipButton)
    assert entries(folder)[0]["verdict"] == "skip"
    assert review.queue.items[-1].id == "case_0/1"
    goTo(review, "case_0/1")
    np.testing.assert_array_equal(review.scene.mask(), edited)


def test_dropping_edits_by_the_link(review, folder):
    goTo(review, "case_0/1")
    editSegment(review)
    review.ui.reasonCombo.setCurrentIndex(2)
    click(review.ui.rejectButton)
    assert entries(folder) == []
    review.messages._onLink("Drop the edits")
    settle()
    assert entries(folder)[0]["verdict"] == "reject"


def test_probability_overlay(review):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    item = goTo(review, "case_0/1")
    assert review.ui.probabilityCheckBox.enabled
    click(review.ui.probabilityCheckBox)
    node = review.scene.probabilityNode
    voxels = slicer.util.arrayFromVolume(node)
    machine = review.session.machine_mask(item)[0]
    assert voxels[machine].max() == 95
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert composite.GetForegroundVolumeID() == node.GetID()
    goTo(review, "case_0/2")
    assert slicer.mrmlScene.GetNodeByID(node.GetID()) is not node
    click(review.ui.probabilityCheckBox)
    assert review.scene.probabilityNode is None


def test_reprompt_runs_at_once_and_is_recorded(review, folder):
    gui.useFakeEngine(FAKE_STEP_S="0.01")
    item = goTo(review, "case_0/1")
    click(review.ui.repromptButton)
    assert "Type other words" in review.messages.text
    enter(review.ui.wordingEdit, "Mandible")
    press(review.ui.wordingEdit, Qt.Key_Return)
    assert review.ui.repromptButton.text == "Cancel"
    spin(lambda: review.reprompt.task is None)
    (entry,) = entries(folder)
    assert (entry["verdict"], entry["wording"], entry["answer_structure"]) == ("reprompt", "Mandible", "mandible")
    assert review.view.item is item
    np.testing.assert_array_equal(review.scene.mask(), review.session.machine_mask(item)[0])
    assert "recorded" in review.messages.text
    assert item.prompt == "Mandible"
    assert item.is_open
    click(review.ui.acceptButton)
    assert entries(folder)[1]["verdict"] == "accept"


def test_two_reviewers(widget, review, folder):
    from RefSAM3DLib.review import ReviewSession

    other = ReviewSession(folder, "B")
    other.decide(other.find("case_0/1"), "accept")
    goTo(review, "case_0/1")
    click(review.ui.refreshButton)
    assert review.view.item.id == "case_0/1"
    assert "B" in review.ui.infoLabel.text
    click(review.ui.acceptButton)
    assert [e["reviewer"] for e in entries(folder)] == ["B", "A. Muster"]
    assert review.session.agreement()


def test_current_segmentation_under_a_transform(widget, tmp_path):
    from mrml_cases import addTransform, addVolume

    volume = addVolume()
    volume.SetAndObserveTransformNodeID(addTransform().GetID())
    panel = widget.panel
    panel.enter()
    panel.prompts.add("left parotid gland")
    click(panel.ui.segmentButton)
    spin(lambda: not panel.isRunning)
    section = panel.review
    enter(section.ui.reviewerEdit, "A")
    section.ui.folderEdit.currentPath = str(tmp_path / "record")
    click(section.ui.currentButton)
    assert section.session is not None, panel.messages.text
    assert section.scene.volumeNode is volume
    assert section.view.item.structure == "left parotid gland"
    node = panel.parameters.segmentation
    truth = slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), volume)
    np.testing.assert_array_equal(section.scene.mask(), truth)
    edited = editSegment(section)
    click(section.ui.acceptEditedButton)
    (entry,) = entries(tmp_path / "record")
    np.testing.assert_array_equal(section.session.masks.read(tmp_path / "record" / entry["mask_file"], "left parotid gland", entry["mask"])[0], edited)
    click(section.ui.closeButton)
    assert slicer.mrmlScene.GetNodeByID(volume.GetID()) is volume
    first = section.ui.folderEdit.currentPath
    node.SetName("second opinion")
    click(section.ui.currentButton)
    assert (section.ui.folderEdit.currentPath, len(section.session.items)) == (first, 2)
    assert len({entry.image for entry in section.session.items}) == 2  # one never writes over the other's image
    click(section.ui.closeButton)
    decisions = (tmp_path / "record" / "review.jsonl").read_bytes()
    slicer.util.arrayFromVolume(volume)[0, 0, 0] += 1  # another patient's, of the same name
    volume.GetImageData().GetPointData().GetScalars().Modified()
    click(section.ui.currentButton)
    assert len({entry.image for entry in section.session.items}) == 3
    assert (tmp_path / "record" / "review.jsonl").read_bytes() == decisions
    assert sum(entry.status == "accept_edited" for entry in section.session.items) == 1


def test_a_batch_is_not_overwritten_by_the_review_of_the_current_segmentation(widget, review, folder):
    from mrml_cases import addVolume

    before = (folder / "batch.json").read_bytes()
    click(review.ui.closeButton)
    addVolume()
    panel = widget.panel
    panel.enter()
    panel.prompts.add("mandible")
    click(panel.ui.segmentButton)
    spin(lambda: not panel.isRunning)
    click(review.ui.currentButton)
    assert "is the output of a batch" in panel.messages.text
    assert (folder / "batch.json").read_bytes() == before


def test_picture(review, tmp_path):
    """To Docs/images with REFSAM3D_SCREENSHOTS=1. All that it shows is generated."""
    import os

    goTo(review, "case_0/1")
    click(review.ui.acceptButton)
    goTo(review, "case_1/2")
    review.ui.folderEdit.currentPath = "/studies/results"
    enter(review.ui.commentEdit, "upper border checked against coronal view")
    parent = review.ui.table.window()
    for name in ("resultsTable", "promptList", "segmentButton", "statusLabel"):
        parent.findChild(gui.qt.QWidget, name).setVisible(False)
    parent.resize(600, 820)
    folder = gui.slicer_app.ROOT / "Docs" / "images" if os.environ.get("REFSAM3D_SCREENSHOTS") else tmp_path
    gui.grab(review.ui.table.parentWidget().parentWidget(), folder / "review.png")
