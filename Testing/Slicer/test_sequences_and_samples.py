"""4D volumes frame by frame, the Sample Data source, and the self test of the module with the fake engine."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from mrml_cases import addTransform, addVolume, bright
from RefSAM3DSlicer import edit_watch, sample_data, sequence_browser, sequences, session
from RefSAM3DSlicer.hidden_segments import hiddenMessage
from RefSAM3DSlicer.logic import RefSAM3DLogic
from RefSAM3DSlicer.task import TaskState, cancelledText


@pytest.fixture(autouse=True)
def emptyScene():
    gui.useFakeEngine()
    yield
    session.stop()
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def series():
    """Three frames; the structure moves by two voxels a frame. Frame 2 is shown."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    sequence.SetIndexType(sequence.NumericIndex)
    for frame in range(3):
        node = addVolume(np.roll(bright()[0], 2 * frame, axis=0), name=f"frame{frame}")
        sequence.SetDataNodeAtValue(node, str(frame))
        slicer.mrmlScene.RemoveNode(node)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic = slicer.modules.sequences.logic()
    browser.SetSelectedItemNumber(1)
    logic.UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)

    def follow(caller, event):
        logic.UpdateProxyNodesFromSequences(browser)

    tag = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, follow)  # in the application the module's own logic does this
    yield browser, proxy
    browser.RemoveObserver(tag)


def test_current_frame_by_default(series):
    browser, proxy = series
    assert sequence_browser.browserOf(proxy) is browser
    assert sequence_browser.browserOf(addVolume()) is None
    task = RefSAM3DLogic().segment(proxy, "mandible")
    array = slicer.util.arrayFromSegmentBinaryLabelmap(task.sink.segmentationNode, task.outcomes[0].segmentID, proxy)
    np.testing.assert_array_equal(array, np.roll(bright()[1], 2, axis=0))


def test_all_frames_by_choice_and_the_shown_frame_comes_back(series):
    browser, proxy = series
    seen, ends = [], []
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"], onProgress=lambda t: seen.append(t.fraction), onEnd=ends.append)
    gui.spin(lambda: task.isOver, timeout=400)
    assert task.state is TaskState.DONE, task.failure
    assert ends == [task]
    assert seen == sorted(seen)
    assert browser.GetSelectedItemNumber() == 1
    node = task.sink.segmentationNode
    assert sequence_browser.browserOf(node) is browser
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [node], "one node that follows the browser"
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    for frame, outcome in enumerate(task.outcomes):
        sequence_browser.showFrame(proxy, frame)
        assert outcome.frame == frame
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, outcome.segmentID, proxy)
        np.testing.assert_array_equal(array, np.roll(bright()[1], 2 * frame, axis=0))


def test_a_frame_without_the_structure_shows_no_neighbour_s_and_edits_stay_with_their_frame(series):
    browser, proxy = series
    master = browser.GetMasterSequenceNode()
    empty = addVolume(np.zeros_like(bright()[0]), name="empty")
    master.SetDataNodeAtValue(empty, "1")
    slicer.mrmlScene.RemoveNode(empty)
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"])
    gui.spin(lambda: task.isOver, timeout=400)
    node, segmentID = task.sink.segmentationNode, task.outcomes[0].segmentID
    counts = []
    for frame in range(3):
        sequence_browser.showFrame(proxy, frame)
        counts.append(node.GetSegmentation().GetNumberOfSegments())
        assert hiddenMessage(node, task.outcomes) == ("", {}), "what another frame has is not hidden"
    assert counts == [1, 0, 1]
    changed = np.roll(bright()[1], 5, axis=2)
    slicer.util.updateSegmentBinaryLabelmapFromArray(changed, node, segmentID, proxy)
    gui.settle(0.5)
    sequence_browser.showFrame(proxy, 0)
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, proxy), bright()[1])
    gui.settle(0.5)
    assert edit_watch.tagOf(node, segmentID) == "AUTOMATIC"


@pytest.mark.parametrize("moved", [False, True])
def test_results_table_leads_to_the_frame(series, moved):
    from RefSAM3DSlicer.results_table import ResultsTable

    browser, proxy = series
    if moved:
        proxy.SetAndObserveTransformNodeID(addTransform().GetID())
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"])
    gui.spin(lambda: task.isOver, timeout=400)
    node = task.sink.segmentationNode
    assert node.GetTransformNodeID() == proxy.GetTransformNodeID()
    widget = gui.qt.QTableWidget()
    table = ResultsTable(widget)
    table.fill(task.outcomes, node)
    assert [widget.item(row, 1).text() for row in range(3)] == ["mandible, frame 1", "mandible, frame 2", "mandible, frame 3"]
    table.jump(2)
    assert browser.GetSelectedItemNumber() == 2


def test_all_frames_can_be_cancelled(series):
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    _browser, proxy = series
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"])
    gui.spin(lambda: task.fraction > 0.05)
    task.cancel()
    gui.spin(lambda: task.isOver, timeout=1.0)
    assert task.state is TaskState.CANCELLED
    assert cancelledText(task.outcomes) == "Cancelled; nothing was changed."
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_frames_that_were_finished_before_a_cancel_stay_and_are_counted(series):
    gui.useFakeEngine(FAKE_STEP_S="0.05")
    _browser, proxy = series
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"])
    gui.spin(lambda: task.frame == 1 and task.fraction > 0.36, timeout=60)
    task.cancel()
    gui.spin(lambda: task.isOver, timeout=1.0)
    assert cancelledText(task.outcomes) == "Cancelled; 1 structures had been written before and stay."
    assert task.segmentationNode is not None


def test_sample_data_is_registered_with_a_text_as_address_and_makes_a_volume(monkeypatch):
    registered = []

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(**arguments):
            len(arguments["uris"])  # the application does this: None would raise
            registered.append(arguments)

    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=SampleDataLogic))
    gui.module.registerSampleData()
    (source,) = registered
    monkeypatch.setattr(sample_data, "loadPhantom", lambda: (addVolume(), {}))
    (node,) = source["customDownloader"](None)
    assert node.IsA("vtkMRMLScalarVolumeNode")
    assert source["category"] == "RefSAM3D"


def test_phantom_node_has_voxels_place_modality_and_truth_on_the_same_grid():
    from RefSAM3DSlicer.volume_bridge import VolumeSource

    node, truth = sample_data.loadPhantom(spacing_xyz_mm=(6.0, 6.0, 6.0))
    source = VolumeSource(node)
    assert source.modality == "ct"
    assert all(mask.shape == source.shape for mask in truth.values())
    assert "left parotid gland" in truth
    left, right = (np.argwhere(truth[f"{side} parotid gland"]).mean(axis=0) for side in ("left", "right"))
    matrix = np.array(source.ijkToRas).reshape(4, 4)
    assert (matrix @ [*left[::-1], 1])[0] < (matrix @ [*right[::-1], 1])[0], "R grows to the patient's right"
