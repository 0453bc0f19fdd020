"""The algorithm type of a segment follows its voxels: automatic as the machine drew it, half automatic once a person changed it."""

from __future__ import annotations

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
from RefSAM3DSlicer.labelmaps import voxelsOf
from RefSAM3DSlicer.logic import RefSAM3DLogic


@pytest.fixture
def drawn():
    """Two segments by the machine."""
    gui.useFakeEngine()
    volume = addVolume()
    task = RefSAM3DLogic().segment(volume, ["left parotid gland", "mandible"])
    node = task.sink.segmentationNode
    yield volume, node, [outcome.segmentID for outcome in task.outcomes]
    session.stop()
    slicer.mrmlScene.Clear(0)


def kinds(node, ids):
    return [edit_watch.tagOf(node, segmentID) for segmentID in ids]


def edit(volume, node, segmentID, mask):
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segmentID, volume)


def test_only_the_edited_segment_changes_and_going_back_undoes_it(drawn):
    volume, node, ids = drawn
    settle(0.5)
    assert kinds(node, ids) == ["AUTOMATIC", "AUTOMATIC"]
    edit(volume, node, ids[0], np.roll(bright()[1], 1, axis=2))
    spin(lambda: kinds(node, ids) == ["SEMIAUTOMATIC", "AUTOMATIC"], timeout=20)
    edit(volume, node, ids[0], bright()[1])
    spin(lambda: kinds(node, ids) == ["AUTOMATIC", "AUTOMATIC"], timeout=20)


def test_an_edit_in_the_segment_editor_counts(drawn):
    volume, node, ids = drawn
    editor = SegmentEditorHost(node, volume)
    effect = editor.setActiveEffectByName("RefSAM3D")
    labelmap = effect.defaultModifierLabelmap()
    voxelsOf(labelmap)[2:4, 3:5, 6:9] = 1
    labelmap.GetPointData().GetScalars().Modified()
    effect.saveStateForUndo()
    effect.modifySegmentByLabelmap(node, ids[1], labelmap, effect.ModificationModeAdd)
    spin(lambda: kinds(node, ids)[1] == "SEMIAUTOMATIC", timeout=20)
    editor.undo()
    spin(lambda: kinds(node, ids)[1] == "AUTOMATIC", timeout=20)
    editor.close()


def test_merging_labelmaps_is_no_edit(drawn):
    """Slicer puts segments that do not overlap into one labelmap when it saves."""
    _volume, node, ids = drawn
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    settle(0.6)
    assert kinds(node, ids) == ["AUTOMATIC", "AUTOMATIC"]


def test_a_stroke_just_before_saving_counts(drawn, tmp_path):
    volume, node, ids = drawn
    edit(volume, node, ids[1], np.roll(bright()[1], 1, axis=1))
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.StartSaveEvent)
    assert kinds(node, ids) == ["AUTOMATIC", "SEMIAUTOMATIC"]


def test_segments_of_a_loaded_file_are_watched_too(drawn, tmp_path):
    volume, node, ids = drawn
    path = str(tmp_path / "saved.seg.nrrd")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(path)
    assert storage.WriteData(node)
    slicer.mrmlScene.RemoveNode(node)
    loaded = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "loaded")
    storage.ReadData(loaded)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.EndImportEvent)
    assert kinds(loaded, ids) == ["AUTOMATIC", "AUTOMATIC"]
    edit(volume, loaded, ids[0], np.roll(bright()[1], 2, axis=2))
    spin(lambda: kinds(loaded, ids)[0] == "SEMIAUTOMATIC", timeout=20)


def test_what_a_person_drew_alone_is_left_alone(drawn):
    volume, node, _ids = drawn
    own = node.GetSegmentation().AddEmptySegment("mine", "mine")
    edit(volume, node, own, bright()[1])
    settle(0.6)
    assert kinds(node, [own]) == [""]
