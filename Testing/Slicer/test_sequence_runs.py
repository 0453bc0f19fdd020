"""Runs on sequences that cannot begin, take their time, or are overtaken by another frame."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from mrml_cases import addVolume, bright
from panel_cases import run, table
from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DSlicer import sequences, session
from RefSAM3DSlicer.logic import RefSAM3DLogic
from RefSAM3DSlicer.segmentation_writer import Existing, SegmentationWriter
from RefSAM3DSlicer.sequence_browser import showFrame
from RefSAM3DSlicer.task import TaskState


@pytest.fixture
def series():
    """Three frames; frame 2 (of 1 to 3) is shown."""
    gui.useFakeEngine()
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    for frame in range(3):
        node = addVolume(np.roll(bright()[0], 2 * frame, axis=0))
        sequence.SetDataNodeAtValue(node, str(frame))
        slicer.mrmlScene.RemoveNode(node)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic = slicer.modules.sequences.logic()
    browser.SetSelectedItemNumber(1)
    logic.UpdateProxyNodesFromSequences(browser)
    tag = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_a: logic.UpdateProxyNodesFromSequences(browser))
    yield browser, browser.GetProxyNode(sequence)
    browser.RemoveObserver(tag)
    session.stop()
    slicer.mrmlScene.Clear(0)


def test_a_run_over_all_frames_that_cannot_begin_leaves_the_frame_that_was_shown(series):
    browser, proxy = series
    with pytest.raises(RefSAM3DError):
        sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"], roi=object())
    assert browser.GetSelectedItemNumber() == 1


def test_seconds_of_all_frames_are_counted(series):
    gui.useFakeEngine(FAKE_STEP_S="0.02")
    _browser, proxy = series
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"])
    gui.spin(lambda: task.isOver, timeout=400)
    assert task.elapsedS > 2 * task.run.elapsedS > 0


@pytest.mark.parametrize("existing", [Existing.SUBTRACT, Existing.INTERSECT, Existing.ADD])
def test_every_frame_is_drawn_whatever_is_to_become_of_existing_segments(series, existing):
    """The panel keeps that choice, but there are none in the segmentation that a frame gets."""
    _browser, proxy = series
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"], existing=existing)
    gui.spin(lambda: task.isOver, timeout=400)
    assert [bool(outcome.segmentID) for outcome in task.outcomes] == [True] * 3, [outcome.note for outcome in task.outcomes]
    value = vtk.reference("")
    for outcome in task.outcomes:
        showFrame(proxy, outcome.frame)
        assert task.segmentationNode.GetSegmentation().GetSegment(outcome.segmentID).GetTag("DICOM.SegmentAlgorithmType", value)
        assert str(value) == "AUTOMATIC"


def test_all_frames_make_no_pile_of_probability_volumes_and_say_so(series):
    _browser, proxy = series
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"], probability=True)
    gui.spin(lambda: task.isOver, timeout=400)
    assert task.state is TaskState.DONE
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == before
    assert "Probability volumes are made of one frame only: choose 'Current frame' for one." in task.warnings


@pytest.mark.parametrize(("what", "during"), [("sequence", 0), ("sequence", 1), ("sequence", 2), ("browser", 1), ("results", 1), ("results", 2)])
def test_a_run_over_all_frames_whose_nodes_are_deleted_ends(series, what, during):
    gui.useFakeEngine(FAKE_STEP_S="0.02")
    browser, proxy = series
    ends = []
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"], onEnd=ends.append)
    gui.spin(lambda: task.frame == during and task.fraction > during / 3 + 0.02)
    results = [node for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode") if node is not browser.GetMasterSequenceNode()]
    slicer.mrmlScene.RemoveNode({"sequence": browser.GetMasterSequenceNode(), "browser": browser, "results": results and results[0]}[what])
    gui.spin(lambda: task.isOver, timeout=20)
    assert ends == [task]
    assert task.state is TaskState.FAILED
    assert ("of results was removed" if what == "results" else "not in the scene any more") in str(task.failure)
    assert not session.isBusy()
    gone = during if what == "results" else 0
    assert [bool(outcome.segmentID) for outcome in task.outcomes] == [False] * gone + [True] * (during + 1 - gone), "what was deleted does not stay"


def test_a_frame_that_cannot_be_stored_ends_the_run(series, monkeypatch):
    _browser, proxy = series
    ends = []
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"], onEnd=ends.append)
    monkeypatch.setattr(task, "_store", lambda node: 1 / 0)
    gui.spin(lambda: task.isOver, timeout=20)
    assert ends == [task]
    assert "Frame 1 could not be stored or begun: division by zero" in str(task.failure)


def killEngine():
    """As the operating system does when the memory is full."""
    os.kill(session.engineRunner().processId, signal.SIGKILL)


def test_frames_that_were_finished_before_a_failure_are_shown_and_counted(series):
    _browser, proxy = series
    with gui.shownPanel(430, 900) as panel:
        gui.useFakeEngine(FAKE_STEP_S="0.05")
        panel.ui.inputSelector.setCurrentNode(proxy)
        panel.prompts.add("mandible")
        panel.parameters.frames = "all"
        gui.click(panel.ui.segmentButton)
        gui.spin(lambda: panel.task.frame == 1 and panel.task.fraction > 0.36, timeout=60)
        killEngine()
        gui.spin(lambda: not panel.isRunning)
        assert "The engine stopped unexpectedly." in panel.messages.text
        assert "1 structures had been written before and stay." in panel.messages.text
        assert "not changed" not in panel.messages.text
        assert panel.messages.kind == "error"
        assert "fake-default" in panel.ui.modelCardLabel.text, "the card of the model that answered for the first frame"
        assert [row[0] for row in table(panel)] == ["mandible, frame 1"]
        assert panel.parameters.segmentation is slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]


def test_the_first_of_several_structures_stays_when_the_second_cannot_be_written(series, monkeypatch):
    written = []

    def write(self, *arguments):
        if written:
            raise ValueError("no space")
        written.append(original(self, *arguments))
        return written[0]

    original = SegmentationWriter.write
    monkeypatch.setattr(SegmentationWriter, "write", write)
    with gui.shownPanel(430, 900) as panel:
        panel.ui.inputSelector.setCurrentNode(addVolume())
        panel.prompts.add("mandible")
        panel.prompts.add("left parotid gland")
        run(panel)
        assert "no space" in panel.messages.text
        assert "1 structures had been written before and stay." in panel.messages.text
        assert [row[0] for row in table(panel)] == ["mandible", "left parotid gland"]
        assert [bool(row[3]) for row in table(panel)] == [True, False]


def test_a_frame_turned_meanwhile_is_said(series):
    browser, proxy = series
    task = RefSAM3DLogic().segment(proxy, "mandible", wait=False)
    browser.SetSelectedItemNumber(2)
    gui.spin(lambda: task.isOver)
    assert "The result is that of frame 2, but frame 3 is shown now; turn back to compare, or choose all frames." in task.warnings
    again = RefSAM3DLogic().segment(proxy, "mandible")
    assert not any("is shown now" in text for text in again.warnings)


@pytest.fixture
def following(series):
    """The segmentation of a run over all frames, which follows the sequence; the voxels that each frame has."""
    _browser, proxy = series
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"])
    gui.spin(lambda: task.isOver, timeout=400)
    return task.segmentationNode, [np.roll(bright()[1], 2 * frame, axis=0) for frame in range(3)]


def framesOf(node, proxy):
    """Voxels of the only segment of each frame, beside what was kept of one that a person changed."""
    found = []
    for frame in range(3):
        showFrame(proxy, frame)
        segmentation = node.GetSegmentation()
        names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
        assert [name.endswith("(before)") for name in names] in ([False], [False, True])
        found.append(np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), proxy)))
    return found


def test_the_result_of_one_frame_is_not_written_into_another_s_segments(series, following):
    """A segmentation that follows the sequence: the frame that is shown when the engine is done may be another one."""
    browser, proxy = series
    node, expected = following
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.roll(expected[1], 5, axis=2), node, node.GetSegmentation().GetNthSegmentID(0), proxy)
    gui.settle(0.5)
    task = RefSAM3DLogic().segment(proxy, "mandible", node, existing=Existing.REPLACE, wait=False)
    browser.SetSelectedItemNumber(2)
    gui.spin(lambda: task.isOver)
    assert task.state is TaskState.DONE, task.failure
    assert browser.GetSelectedItemNumber() == 1
    assert "The sequence was turned back to frame 2: the segmentation follows it, and the result is that of this frame." in task.warnings
    assert not any("turn back to compare" in text for text in task.warnings)
    for got, voxels in zip(framesOf(node, proxy), expected, strict=True):
        np.testing.assert_array_equal(got, voxels)


def test_a_run_that_draws_nothing_turns_no_sequence(series, following):
    browser, proxy = series
    task = RefSAM3DLogic().segment(proxy, "larynx", following[0], wait=False)
    browser.SetSelectedItemNumber(2)
    gui.spin(lambda: task.isOver)
    assert not any(outcome.segmentID for outcome in task.outcomes)
    assert browser.GetSelectedItemNumber() == 2
    assert not any("turned back" in text for text in task.warnings)


def test_nothing_is_written_into_a_sequence_that_plays(series, following):
    browser, proxy = series
    node, expected = following
    task = RefSAM3DLogic().segment(proxy, "mandible", node, existing=Existing.REPLACE, wait=False)
    browser.SetSelectedItemNumber(2)
    browser.SetPlaybackActive(True)
    gui.spin(lambda: task.isOver)
    browser.SetPlaybackActive(False)
    assert task.state is TaskState.FAILED
    assert "The result of frame 2 cannot be written while the sequence plays" in str(task.failure)
    for got, voxels in zip(framesOf(node, proxy), expected, strict=True):
        np.testing.assert_array_equal(got, voxels)


def test_the_panel_says_it_and_names_the_seconds_of_all_frames(series):
    browser, proxy = series
    with gui.shownPanel(430, 900) as panel:
        panel.ui.inputSelector.setCurrentNode(proxy)
        panel.prompts.add("mandible")
        gui.click(panel.ui.segmentButton)
        browser.SetSelectedItemNumber(0)
        gui.spin(lambda: not panel.isRunning)
        assert "frame 1 is shown now" in panel.messages.text
        panel.parameters.frames = "all"
        seen = []
        show = panel._showResults
        panel._showResults = lambda task: (seen.append(task), show(task))
        run(panel)
        assert f"{seen[0].elapsedS:.1f} s" in panel.ui.statusLabel.text
        assert "is shown now" not in panel.messages.text
