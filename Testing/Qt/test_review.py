"""The Review section through the real panel: clicked, typed and driven by keys, over the real scene and real batch folders."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
gui = pytest.importorskip("gui_cases")

import slicer  # noqa: E402
from gui_cases import click, enter, popups, press, settle, spin  # noqa: E402
from PySide6.QtCore import Qt  # noqa: E402
from RefSAM3DSlicer import session as engineSession  # noqa: E402
from RefSAM3DSlicer.review import review_section  # noqa: E402
from review_cases import entries, makeBatch  # noqa: E402


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return makeBatch(tmp_path_factory.mktemp("batch"), probability=True)


@pytest.fixture
def folder(finished, tmp_path):
    import shutil

    return shutil.copytree(finished, tmp_path / "results")


def openPanel():
    gui.useFakeEngine()
    widget = gui.slicer_app.open_widget(gui.module)
    widget.parent.resize(460, 1400)
    widget.parent.show()
    widget.panel.ui.reviewCollapsibleButton.collapsed = False
    settle()
    return widget


@pytest.fixture
def widget():
    for key in (review_section.REVIEWER_KEY, review_section.FOLDER_KEY):
        slicer.app.userSettings().remove(key)
    made = openPanel()
    yield made
    assert popups() == []
    made.cleanup()
    made.parent.hide()
    engineSession.stop()
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def review(widget, folder):
    """Opened by typing a name and clicking."""
    section = widget.panel.review
    enter(section.ui.reviewerEdit, "A. Muster")
    section.ui.folderEdit.currentPath = str(folder)
    click(section.ui.openButton)
    assert section.session is not None, widget.panel.messages.text
    return section


def messages(review):
    return review.messages


def table(review):
    t = review.ui.table
    return [[t.item(r, c).text() for c in range(t.columnCount)] for r in range(t.rowCount)]


def goTo(review, itemID):
    review.go(review.session.find(itemID))
    settle(0.02)
    return review.view.item


def editSegment(review, shift=1):
    """What a stroke in the Segment Editor does: other voxels in the segment. Returns the mask that must come of it."""
    mask = np.roll(review.scene.mask(), shift, axis=2)
    node, segmentID = review.scene.segmentationNode, review.scene.segmentID
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segmentID, review.scene.volumeNode)
    return mask


def reviewNodes():
    return [n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]


def test_opening_sorts_by_need_and_shows_the_first_item(review, folder):
    rows = table(review)
    assert rows[0][2] == "failed"
    assert [row[2] for row in rows[1:4]] == ["unknown word"] * 3
    assert len(rows) == 10
    assert review.view.item.label == 0
    assert review.ui.progressBar.format == "%v of %m decided"
    assert (review.ui.progressBar.value, review.ui.progressBar.maximum) == (0, 10)
    assert not review.ui.acceptButton.enabled
    assert review.ui.rejectButton.enabled
    assert "broken" in messages(review).text


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
    assert "beginning" in messages(review).text
    enter(review.ui.commentEdit, "nnp")
    assert review.ui.commentEdit.text == "nnp"
    assert review.view.item.id == queue[0]


def test_filters(review):
    review.ui.verdictCombo.setCurrentIndex(2)
    settle(0.02)
    assert {row[2] for row in table(review)} <= {"uncertain"}
    review.ui.verdictCombo.setCurrentIndex(0)
    enter(review.ui.searchEdit, "CASE_1")
    assert {row[0] for row in table(review)} == {"case_1"}
    review.ui.searchEdit.text = ""
    goTo(review, "case_0/1")
    click(review.ui.acceptButton)
    assert len(table(review)) == 9
    review.ui.showCombo.setCurrentIndex(2)
    settle(0.02)
    assert [row[5] for row in table(review)] == ["accepted"]
    review.ui.showCombo.setCurrentIndex(1)
    review.ui.sortCombo.setCurrentIndex(1)
    settle(0.02)
    assert [row[0] for row in table(review)] == sorted(row[0] for row in table(review))


def test_accept_is_on_the_disk_with_seconds_and_comment_and_goes_on(review, folder):
    item = goTo(review, "case_0/1")
    ticks = iter([100.0, 107.5, 200.0, 200.0, 200.0, 200.0])
    review.view.clock = lambda: next(ticks)
    review.view.item = None
    review.go(item)
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
    assert "was changed" in messages(review).text
    assert entries(folder) == []
    click(review.ui.acceptEditedButton)
    (entry,) = entries(folder)
    gone = int((machine & ~edited).sum())
    assert entry["metrics"]["dice"] == pytest.approx(1 - gone / machine.sum(), abs=1e-4)
    np.testing.assert_array_equal(review.session.masks.read(folder / entry["mask_file"], "brainstem", entry["mask"])[0], edited)
    assert editor.GetSegmentationNode() is review.scene.segmentationNode or review.scene.segmentationNode is None
    goTo(review, "case_1/1")
    np.testing.assert_array_equal(review.scene.mask(), edited)
    assert review.session.drafts() == []


def test_accept_with_edits_without_edits(review, folder):
    goTo(review, "case_1/1")
    click(review.ui.acceptEditedButton)
    assert "as the machine drew it" in messages(review).text
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
    assert "reason" in messages(review).text
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
    messages(review)._onLink("Drop the edits")
    settle()
    assert entries(folder)[0]["verdict"] == "reject"


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
    assert "not decided" in messages(review).text
    messages(review)._onLink("case_1, brainstem")
    settle()
    np.testing.assert_array_equal(review.scene.mask(), edited)
    assert review.ui.commentEdit.text == "not done"
    messages(review)._onLink("Back to the machine's mask")
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
    assert "No space left" in messages(review).text
    np.testing.assert_array_equal(review.scene.mask(), edited)
    messages(review)._onLink("Leave the edit in the scene and go on")
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
    assert "is read-only" in messages(review).text
    assert "kept in" in messages(review).text
    assert review.view.item.id == "case_0/1"
    assert review.ui.progressBar.value == 1
    monkeypatch.undo()
    click(review.ui.closeButton)
    click(review.ui.openButton)
    (entry,) = entries(folder)
    assert entry["verdict"] == "accept_edited"
    np.testing.assert_array_equal(review.session.masks.read(folder / entry["mask_file"], "brainstem", entry["mask"])[0], edited)
    assert "now in the record" in messages(review).text


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
    assert "moved.nii.gz" in messages(review).text
    assert review.scene.segmentationNode is None
    review.ui.reasonCombo.setCurrentIndex(6)
    widget.panel.parameters.inputVolume = image
    goTo(review, "case_0/1")
    goTo(review, "case_1/1")
    np.testing.assert_array_equal(review.scene.mask(), review.session.machine_mask(item)[0])
    click(review.ui.acceptButton)
    assert entries(folder)[0]["verdict"] == "accept"
    assert slicer.mrmlScene.GetNodeByID(image.GetID()) is not None


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
    assert "Type other words" in messages(review).text
    enter(review.ui.wordingEdit, "Mandible")
    press(review.ui.wordingEdit, Qt.Key_Return)
    assert review.ui.repromptButton.text == "Cancel"
    spin(lambda: review.reprompt.task is None)
    (entry,) = entries(folder)
    assert (entry["verdict"], entry["wording"], entry["answer_structure"]) == ("reprompt", "Mandible", "mandible")
    assert review.view.item is item
    np.testing.assert_array_equal(review.scene.mask(), review.session.machine_mask(item)[0])
    assert "recorded" in messages(review).text
    assert item.prompt == "Mandible"
    assert item.is_open
    click(review.ui.acceptButton)
    assert entries(folder)[1]["verdict"] == "accept"


def test_reprompt_with_edits_asks_first_and_can_be_cancelled(review, folder):
    gui.useFakeEngine(FAKE_STEP_S="0.2")
    goTo(review, "case_0/1")
    editSegment(review)
    enter(review.ui.wordingEdit, "mandible")
    click(review.ui.repromptButton)
    assert "was changed" in messages(review).text
    assert review.reprompt.task is None
    messages(review)._onLink("Drop the edits and ask")
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
    assert "native library" in messages(review).text
    assert entries(folder) == []


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
    parent.resize(600, 780)
    folder = gui.slicer_app.ROOT / "Docs" / "images" if os.environ.get("REFSAM3D_SCREENSHOTS") else tmp_path
    gui.grab(review.ui.table.parentWidget().parentWidget(), folder / "review.png")
