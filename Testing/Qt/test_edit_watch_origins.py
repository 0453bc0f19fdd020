"""Edits count wherever the segments came from: each frame of a sequence, a file loaded alone, a session without the panel."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from effect_host import SegmentEditorHost
from gui_cases import settle, spin
from mrml_cases import addVolume, bright
from RefSAM3DSlicer import edit_watch
from RefSAM3DSlicer.labelmaps import voxelsOf
from RefSAM3DSlicer.segmentation_writer import SegmentationWriter, createSegmentation

AUTOMATIC, EDITED = "AUTOMATIC", "SEMIAUTOMATIC"
WHOLE = (0, 24, 0, 40, 0, 50)


@pytest.fixture(autouse=True)
def emptyScene():
    edit_watch.start()
    yield
    slicer.mrmlScene.Clear(0)


def machines(volume, shift=0):
    """A segmentation as the machine leaves it."""
    node = createSegmentation(volume)
    tags = {edit_watch.TYPE_TAG: AUTOMATIC}
    segmentID = SegmentationWriter(volume, node).write(np.roll(bright()[1], shift, axis=0), WHOLE, "mandible", (1, 2, 3), {}, tags)
    return node, segmentID


def edit(volume, node, segmentID, shift=1):
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.roll(mask, shift, axis=2).astype(np.uint8), node, segmentID, volume)


class Series:
    """Three frames of a volume and of a segmentation, turned by one browser, as a scene brings them."""

    def __init__(self, keepsChanges):
        logic = slicer.modules.sequences.logic()
        self.sequences = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name) for name in ("images", "masks")]
        for frame in range(3):
            volume = addVolume(np.roll(bright()[0], frame, axis=0))
            node, self.segmentID = machines(volume, frame)
            for sequence, data in zip(self.sequences, (volume, node), strict=True):
                sequence.SetDataNodeAtValue(data, str(frame))
                slicer.mrmlScene.RemoveNode(data)
        self.browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
        self.browser.SetAndObserveMasterSequenceNodeID(self.sequences[0].GetID())
        self.browser.AddSynchronizedSequenceNode(self.sequences[1])
        self.browser.SetSaveChanges(self.sequences[1], keepsChanges)
        follow = lambda *_a: logic.UpdateProxyNodesFromSequences(self.browser)  # noqa: E731 - in the application the module's logic does this
        self.tag = self.browser.AddObserver(vtk.vtkCommand.ModifiedEvent, follow)
        follow()
        self.volume, self.node = (self.browser.GetProxyNode(sequence) for sequence in self.sequences)

    def turn(self, frame):
        self.browser.SetSelectedItemNumber(frame)

    @property
    def kind(self):
        return edit_watch.tagOf(self.node, self.segmentID)

    def kinds(self):
        return [(self.turn(frame), self.kind)[1] for frame in range(3)]


@pytest.fixture
def series():
    made = Series(keepsChanges=True)
    yield made
    made.browser.RemoveObserver(made.tag)


def test_an_edit_of_any_frame_counts_and_only_there(series):
    for frame in (1, 2):
        series.turn(frame)
        edit(series.volume, series.node, series.segmentID)
        spin(lambda: series.kind == EDITED, timeout=20)
    assert series.kinds() == [AUTOMATIC, EDITED, EDITED]
    series.turn(1)
    edit(series.volume, series.node, series.segmentID, -1)
    spin(lambda: series.kind == AUTOMATIC, timeout=20)
    assert series.kinds() == [AUTOMATIC, AUTOMATIC, EDITED]


def test_an_edit_in_the_segment_editor_of_another_frame_counts(series):
    series.turn(2)
    editor = SegmentEditorHost(series.node, series.volume)
    effect = editor.setActiveEffectByName("RefSAM3D")
    labelmap = effect.defaultModifierLabelmap()
    voxelsOf(labelmap)[2:4, 3:5, 6:9] = 1
    labelmap.GetPointData().GetScalars().Modified()
    effect.modifySegmentByLabelmap(series.node, series.segmentID, labelmap, effect.ModificationModeAdd)
    spin(lambda: series.kind == EDITED, timeout=20)
    editor.close()


def test_turning_on_or_saving_at_once_loses_no_edit(series):
    series.turn(1)
    edit(series.volume, series.node, series.segmentID)
    series.turn(2)
    edit(series.volume, series.node, series.segmentID)
    series.turn(0)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.StartSaveEvent)
    assert series.kinds() == [AUTOMATIC, EDITED, EDITED]


def test_turning_is_no_edit():
    for keepsChanges in (True, False):
        series = Series(keepsChanges)
        for frame in (1, 2, 0, 1):
            series.turn(frame)
            settle(0.4)
        assert series.kinds() == [AUTOMATIC] * 3
        series.browser.RemoveObserver(series.tag)
        slicer.mrmlScene.Clear(0)


def test_a_browser_that_keeps_no_changes_takes_edit_and_tag_back_together():
    series = Series(keepsChanges=False)
    series.turn(1)
    edit(series.volume, series.node, series.segmentID)
    spin(lambda: series.kind == EDITED, timeout=20)
    edit(series.volume, series.node, series.segmentID)
    series.turn(2)
    settle(0.5)
    assert series.kinds() == [AUTOMATIC] * 3
    series.browser.RemoveObserver(series.tag)


def test_a_sequence_that_plays_is_looked_at_when_it_stops(series, monkeypatch):
    looked = []
    settle(0.5)
    monkeypatch.setattr(edit_watch, "fingerprint", lambda segment, own=edit_watch.fingerprint: looked.append(1) or own(segment))
    series.browser.SetPlaybackActive(True)
    for frame in (1, 2):
        series.turn(frame)
        settle(0.4)
    assert looked == []
    series.browser.SetPlaybackActive(False)
    spin(lambda: looked, timeout=20)
    edit(series.volume, series.node, series.segmentID)
    spin(lambda: series.kind == EDITED, timeout=20)


def test_a_file_loaded_alone_is_watched_at_once(tmp_path):
    """Such a file brings no event of an imported scene."""
    volume = addVolume()
    node, segmentID = machines(volume)
    path = str(tmp_path / "mine.seg.nrrd")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(path)
    assert storage.WriteData(node)
    slicer.mrmlScene.RemoveNode(node)
    slicer.util.loadSegmentation(path)
    (loaded,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    edit(volume, loaded, segmentID)
    spin(lambda: edit_watch.tagOf(loaded, segmentID) == EDITED, timeout=20)
    edit(volume, loaded, segmentID, -1)
    spin(lambda: edit_watch.tagOf(loaded, segmentID) == AUTOMATIC, timeout=20)


def test_a_tag_that_comes_after_its_segment_is_heeded():
    """DICOM readers set it last."""
    volume = addVolume()
    node = createSegmentation(volume)
    segmentID = SegmentationWriter(volume, node).write(bright()[1], WHOLE, "mandible", (1, 2, 3), {}, {})
    settle(0.5)
    node.GetSegmentation().GetSegment(segmentID).SetTag(edit_watch.TYPE_TAG, AUTOMATIC)
    settle(0.5)
    edit(volume, node, segmentID)
    spin(lambda: edit_watch.tagOf(node, segmentID) == EDITED, timeout=20)


def test_the_watch_begins_with_the_application_and_needs_no_panel():
    edit_watch.stop()
    volume = addVolume()
    node, segmentID = machines(volume)
    assert gui.module.watchEdits in slicer.app.signals._slots["startupCompleted()"]
    gui.module.watchEdits()
    edit(volume, node, segmentID)
    spin(lambda: edit_watch.tagOf(node, segmentID) == EDITED, timeout=20)
    slicer.app.signals.emit("aboutToQuit()")
    assert edit_watch._watch == []


def test_nodes_that_are_gone_leave_nothing_behind():
    volume = addVolume()
    node, _segmentID = machines(volume)
    watch = edit_watch.start()
    assert node.GetID() in watch._observed
    slicer.mrmlScene.RemoveNode(node)
    assert (watch._observed, watch._shown, watch._machine, watch._stamps) == ({}, {}, {}, {})
