"""Report, agreement, sign-off and export of a review, clicked in the panel; and the clock that stands still in a pause."""

from __future__ import annotations

import csv
import json
import os
import shutil

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from gui_cases import click, settle, spin
from RefSAM3DSlicer.review import review_output
from RefSAM3DSlicer.review.work_clock import WorkClock
from review_cases import entries, makeBatch
from review_panel import editSegment, goTo, openReview, table


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return makeBatch(tmp_path_factory.mktemp("batch"), prompts=("brainstem", "mandible"), count=2, broken=False)


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "Ergebnisse ä 1")


@pytest.fixture
def review(widget, folder, monkeypatch):
    opened = []
    monkeypatch.setattr(review_output, "openFile", lambda path: opened.append(path) or True)
    section = openReview(widget, folder)
    section.opened = opened
    section.ui.outputButton.collapsed = False
    settle()
    return section


def press(review, button):
    """Click and wait for the command."""
    click(button)
    spin(lambda: not review.output.isRunning, timeout=400)


def link(review, name):
    review.messages._onLink(name)
    spin(lambda: not review.output.isRunning, timeout=400)


def decideCase(review, case, edit=()):
    for item in [i for i in review.session.items if i.case == case]:
        goTo(review, item.id)
        if item.id in edit:
            editSegment(review)
            click(review.ui.acceptEditedButton)
        else:
            click(review.ui.acceptButton)


def test_report_is_written_with_the_decisions_and_opened(review, folder):
    goTo(review, "case_0/1")
    click(review.ui.acceptButton)
    (folder / "report.html").unlink()
    click(review.ui.reportButton)
    assert review.output.isRunning
    assert not review.ui.reportButton.enabled
    assert "Writing the report" in review.messages.text
    spin(lambda: not review.output.isRunning, timeout=400)
    assert review.opened == [folder / "report.html"]
    assert "accepted" in (folder / "report.html").read_text(encoding="utf-8")
    with open(folder / "summary.csv", encoding="utf-8", newline="") as handle:
        assert [row["review"] for row in csv.DictReader(handle)].count("accepted") == 1
    assert review.ui.reportButton.enabled


def picture(review, tmp_path):
    """To Docs/images with REFSAM3D_SCREENSHOTS=1. All that it shows is generated."""
    review.ui.targetEdit.currentPath = "/studies/results-reviewed"
    review.ui.body.window().resize(600, 1500)
    settle(0.3)
    folder = gui.slicer_app.ROOT / "Docs" / "images" if os.environ.get("REFSAM3D_SCREENSHOTS") else tmp_path
    gui.grab(review.ui.outputButton, folder / "review_output.png")


def test_agreement_of_two_reviewers(review, folder, tmp_path):
    from RefSAM3DLib.review import ReviewSession

    press(review, review.ui.agreementButton)
    assert "Fewer than two reviewers" in review.messages.text
    assert review.ui.agreementTable.isHidden()
    other = ReviewSession(folder, "B. Zweit")
    for item in other.items:
        other.decide(item, "reject" if item.id == "case_0/1" else "accept", reason="wrong side" if item.id == "case_0/1" else "")
    decideCase(review, "case_0", edit=("case_0/2",))
    press(review, review.ui.agreementButton)
    rows = table(review.ui.agreementTable)
    assert not review.ui.agreementTable.isHidden()
    assert rows[0][:4] == ["A. Muster / B. Zweit", "all structures", "2", "0"]
    (shown,) = [row for row in rows if row[1] == "mandible"]
    truth = next(row for row in review.session.agreement() if row["structure"] == "mandible")
    assert shown[5] == f"{truth['dice']:.2f}"
    picture(review, tmp_path)
    assert 0 < truth["dice"] < 1


def test_study_is_signed_off_once_it_is_decided_and_not_replaced_unasked(review, folder):
    goTo(review, "case_0/1")
    press(review, review.ui.signOffButton)
    assert "not reviewed completely" in review.messages.text
    decideCase(review, "case_0", edit=("case_0/2",))
    goTo(review, "case_0/1")
    target = folder.with_name(folder.name + "-reviewed") / "signed-off"
    press(review, review.ui.signOffButton)
    assert "Signed off: case_0.reviewed.json" in review.messages.text
    result = json.loads((target / "case_0.reviewed.json").read_text(encoding="utf-8"))
    assert {(f["structure"], f["review"]["verdict"], f["review"]["reviewer"]) for f in result["findings"]} == {
        ("brainstem", "accept", "A. Muster"),
        ("mandible", "accept_edited", "A. Muster"),
    }
    link(review, "Open folder")
    assert review.opened == [target]
    before = (target / "case_0.reviewed.json").read_text(encoding="utf-8")
    press(review, review.ui.signOffButton)
    assert "was signed off before" in review.messages.text
    assert (target / "case_0.reviewed.json").read_text(encoding="utf-8") == before
    link(review, "Replace it")
    assert "Signed off" in review.messages.text
    assert (target / "case_0.reviewed.json").read_text(encoding="utf-8") != before


def test_accepted_cases_become_a_training_manifest(review, folder, tmp_path):
    review.ui.targetEdit.currentPath = ""
    press(review, review.ui.exportButton)
    assert "No folder for the results" in review.messages.text
    review.ui.targetEdit.currentPath = str(tmp_path / "out ü")
    press(review, review.ui.exportButton)
    assert "nothing to export" in review.messages.text
    decideCase(review, "case_0", edit=("case_0/2",))
    press(review, review.ui.exportButton)
    assert "Exported: 1 cases, 2 labelled structures" in review.messages.text
    manifest = json.loads((tmp_path / "out ü" / "training" / "datalist.json").read_text(encoding="utf-8"))
    assert len(manifest["training"]) == 1
    press(review, review.ui.exportButton)
    assert "not empty" in review.messages.text


def test_export_of_my_decisions_alone(review, folder):
    from RefSAM3DLib.review import ReviewSession

    other = ReviewSession(folder, "B. Zweit")
    other.decide(other.find("case_1/1"), "accept")
    click(review.ui.mineOnlyBox)
    press(review, review.ui.exportButton)
    assert "accepted by A. Muster" in review.messages.text


def test_writing_can_be_stopped_and_a_second_one_waits(review):
    click(review.ui.reportButton)
    with pytest.raises(Exception, match="already"):
        review.output.agreement()
    link(review, "Stop")
    assert "Stopped" in review.messages.text
    assert review.opened == []


def test_review_closed_while_a_report_is_written(review):
    click(review.ui.reportButton)
    click(review.ui.closeButton)
    spin(lambda: not review.output.isRunning, timeout=400)
    assert review.opened == []


def test_edited_segment_says_who_had_a_share(review, folder):
    """The file of an accepted edit names machine and reviewer, and is no longer automatic."""
    from RefSAM3DLib.segmentation_io import read_segmentation
    from RefSAM3DSlicer.edit_watch import tagOf

    goTo(review, "case_0/2")
    node, segmentID = review.scene.segmentationNode, review.scene.segmentID
    assert tagOf(node, segmentID) == "AUTOMATIC"
    editSegment(review)
    spin(lambda: tagOf(node, segmentID) == "SEMIAUTOMATIC", timeout=20)  # in the scene, before any decision
    click(review.ui.acceptEditedButton)
    (entry,) = entries(folder)
    ((_name, _mask, tags),) = read_segmentation(folder / entry["mask_file"])[0]
    assert tags["DICOM.SegmentAlgorithmType"] == "SEMIAUTOMATIC"
    assert tags["RefSAM3D.Reviewer"] == "A. Muster"
    assert tags["DICOM.SegmentAlgorithmName"].startswith("RefSAM3D")


def test_work_clock_counts_a_pause_up_to_the_idle_time_only():
    now = [0.0]
    clock = WorkClock(60.0, lambda: now[0])
    now[0] = 30
    clock.touch()
    now[0] = 80
    assert clock.seconds == 80
    now[0] = 1000  # coffee
    assert clock.seconds == 90
    clock.touch()
    assert clock.seconds == 90
    now[0] = 1010
    assert clock.seconds == 100
    clock.idleS = 0
    now[0] = 5000
    assert clock.seconds == 4090


def test_a_reviewer_who_goes_for_coffee_is_not_counted(review, folder):
    now = [0.0]
    review.ui.idleSpinBox.setValue(20)
    assert review.view.clock.idleS == 20
    review.view.clock.now = lambda: now[0]
    review.view.item = None
    goTo(review, "case_0/1")
    now[0] = 10
    editSegment(review)
    review.presence.look()  # the mask has changed: somebody is there
    now[0] = 1000
    review.presence.look()  # nothing has
    now[0] = 2000
    editSegment(review)
    review.presence.look()
    now[0] = 2005
    click(review.ui.acceptEditedButton)
    assert entries(folder)[0]["seconds"] == 10 + 20 + 5
    assert int(slicer.app.userSettings().value("RefSAM3D/ReviewIdleSeconds")) == 20


def test_mouse_and_views_are_signs_of_life(review, monkeypatch):
    from RefSAM3DSlicer.review import presence_watch

    seen = []
    watch = presence_watch.PresenceWatch(lambda: seen.append(1), lambda: ())
    watch.start()
    watch.look()
    assert seen == []
    node = slicer.mrmlScene.AddNode(slicer.vtkMRMLSliceNode())
    watch.look()
    node.SetSliceOffset(3.0)
    watch.look()
    assert len(seen) == 2
    gui.qt.QCursor.setPos(gui.qt.QCursor.pos().x() + 5, 7)
    watch.look()
    assert len(seen) == 3
    watch.look()
    assert len(seen) == 3
    watch.stop()


def test_settings_survive_a_closed_review(widget, review, folder):
    review.ui.idleSpinBox.setValue(45)
    click(review.ui.closeButton)
    again = gui.slicer_app.open_widget(gui.module)
    assert again.panel.review.ui.idleSpinBox.value == 45
    again.cleanup()
    assert review.session is None
