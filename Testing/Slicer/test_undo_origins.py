"""Undo of a result of the panel: the segment's algorithm type is that of the voxels that come back, not that of what was taken away."""

from __future__ import annotations

import types

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from effect_host import SegmentEditorHost
from gui_cases import settle, spin
from mrml_cases import addVolume, bright
from RefSAM3DSlicer import edit_watch, session
from RefSAM3DSlicer.logic import RefSAM3DLogic
from RefSAM3DSlicer.segmentation_writer import createSegmentation

AUTOMATIC, EDITED = "AUTOMATIC", "SEMIAUTOMATIC"
MINE = np.zeros_like(bright()[1])
MINE[1:3, 1:4, 1:5] = 1
#: Longer than the watch waits before it looks.
LOOKED_S = 3 * edit_watch.DELAY_MS / 1000


@pytest.fixture
def editing(monkeypatch):
    """A volume, an empty segmentation, and the Segment Editor's module after the user's first visit, over Slicer's own editor logic."""
    gui.useFakeEngine()
    volume = addVolume()
    node = createSegmentation(volume)
    host = SegmentEditorHost(node, volume)
    editor = types.SimpleNamespace(segmentationNode=host.node.GetSegmentationNode, saveStateForUndo=host.logic.SaveStateForUndo)
    monkeypatch.setattr(slicer.modules, "SegmentEditorWidget", types.SimpleNamespace(editor=editor), raising=False)
    yield volume, node, host
    session.stop()
    slicer.mrmlScene.Clear(0)


def replace(volume, node):
    """A run of the panel with Replace; the watch has looked afterwards."""
    (outcome,) = RefSAM3DLogic().segment(volume, "mandible", node, existing="replace").outcomes
    settle(LOOKED_S)
    assert edit_watch.tagOf(node, outcome.segmentID) == AUTOMATIC
    return outcome.segmentID


def draw(volume, node, segmentID, mask):
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segmentID, volume)
    settle(LOOKED_S)


def voxels(volume, node, segmentID):
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume))


def test_the_user_s_own_segment_comes_back_without_an_algorithm(editing):
    volume, node, host = editing
    own = node.GetSegmentation().AddEmptySegment("mandible", "mandible")
    draw(volume, node, own, MINE)
    assert replace(volume, node) == own
    host.undo()
    settle(LOOKED_S)
    np.testing.assert_array_equal(voxels(volume, node, own), MINE)
    assert edit_watch.tagOf(node, own) == ""
    host.redo()
    settle(LOOKED_S)
    assert edit_watch.tagOf(node, own) == AUTOMATIC
    draw(volume, node, own, MINE)
    spin(lambda: edit_watch.tagOf(node, own) == EDITED, timeout=20)


def test_an_earlier_mask_of_the_machine_comes_back_as_automatic(editing):
    volume, node, host = editing
    segmentID = replace(volume, node)
    first = voxels(volume, node, segmentID)
    slicer.util.arrayFromVolume(volume)[2:6] = 0  # another image, another mask
    slicer.util.arrayFromVolumeModified(volume)
    assert replace(volume, node) == segmentID
    assert not np.array_equal(voxels(volume, node, segmentID), first)
    host.undo()
    settle(LOOKED_S)
    np.testing.assert_array_equal(voxels(volume, node, segmentID), first)
    assert edit_watch.tagOf(node, segmentID) == AUTOMATIC
    draw(volume, node, segmentID, np.roll(first, 1, axis=2))
    spin(lambda: edit_watch.tagOf(node, segmentID) == EDITED, timeout=20)


def test_an_edit_of_the_machine_s_mask_comes_back_as_an_edit(editing):
    volume, node, host = editing
    segmentID = replace(volume, node)
    draw(volume, node, segmentID, MINE)
    spin(lambda: edit_watch.tagOf(node, segmentID) == EDITED, timeout=20)
    replace(volume, node)
    host.undo()
    settle(LOOKED_S)
    np.testing.assert_array_equal(voxels(volume, node, segmentID), MINE)
    assert edit_watch.tagOf(node, segmentID) == EDITED
