"""Writing into a segmentation that a person works on: whose segment is whose, what is seen, and what one undo takes back."""

from __future__ import annotations

import types

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from effect_host import SegmentEditorHost
from mrml_cases import addVolume, bright
from RefSAM3DLib.provenance import PREFIX
from RefSAM3DSlicer import session
from RefSAM3DSlicer.logic import RefSAM3DLogic
from RefSAM3DSlicer.runs import Run, RunResult
from RefSAM3DSlicer.segmentation_writer import Existing, SegmentationWriter, createSegmentation, findSegment
from RefSAM3DSlicer.sinks import SegmentationSink

MASK = bright()[1]
MINE = np.zeros_like(MASK)
MINE[1:3, 1:4, 1:5] = 1
WHOLE = (0, 24, 0, 40, 0, 50)


@pytest.fixture
def volume():
    gui.useFakeEngine()
    yield addVolume()
    session.stop()
    slicer.mrmlScene.Clear(0)


def add(node, name, resolved="", mask=MINE):
    segmentID = node.GetSegmentation().AddEmptySegment("", name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segmentID, slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0])
    if resolved:
        node.GetSegmentation().GetSegment(segmentID).SetTag(PREFIX + "Resolved", resolved)
    return segmentID


def voxels(node, segmentID, volume):
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume))


def write(node, volume, mode, mask=MASK):
    tags = {PREFIX + "Resolved": "mandible"}
    return SegmentationWriter(volume, node, mode).write(mask, WHOLE, "mandible", (1, 2, 3), {}, tags)


def test_a_renamed_segment_is_its_owner_s(volume):
    node = createSegmentation(volume)
    tooth = add(node, "tooth 38, corrected by hand", "mandible")
    mandible = add(node, "mandible", "mandible")
    assert write(node, volume, Existing.REPLACE) == mandible
    np.testing.assert_array_equal(voxels(node, tooth, volume), MINE)
    np.testing.assert_array_equal(voxels(node, mandible, volume), MASK)


def test_without_one_of_that_name_a_new_segment_is_made_beside_the_renamed_one(volume):
    node = createSegmentation(volume)
    tooth = add(node, "tooth 38", "mandible")
    made = write(node, volume, Existing.REPLACE)
    assert made != tooth
    np.testing.assert_array_equal(voxels(node, tooth, volume), MINE)
    assert node.GetSegmentation().GetSegment(made).GetName() == "mandible"


@pytest.mark.parametrize(("name", "resolved", "found"), [
    ("mandible", "", True),
    ("Mandible ", "larynx", True),
    ("mandible (2)", "mandible", True),
    ("mandible (2)", "", False),
    ("mandible (left)", "mandible", False),
    ("tooth 38", "mandible", False),
])  # fmt: skip
def test_what_counts_as_the_structure_s_segment(volume, name, resolved, found):
    node = createSegmentation(volume)
    segmentID = add(node, name, resolved)
    assert findSegment(node, "mandible") == (segmentID if found else "")


def test_the_name_goes_before_the_tag(volume):
    node = createSegmentation(volume)
    add(node, "mandible (2)", "mandible")
    named = add(node, "mandible")
    assert findSegment(node, "mandible") == named


def test_a_segmentation_without_display_gets_one(volume):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by selector")
    assert node.GetDisplayNode() is None
    write(node, volume, Existing.NEW)
    assert node.GetDisplayNode() is not None
    first = node.GetDisplayNode()
    write(node, volume, Existing.NEW)
    assert node.GetDisplayNode() is first


@pytest.fixture
def editing(volume, monkeypatch):
    """The Segment Editor's module after the user's first visit, over Slicer's own editor logic."""
    node = createSegmentation(volume)
    segmentID = add(node, "mine")
    host = SegmentEditorHost(node, volume)
    editor = types.SimpleNamespace(segmentationNode=host.node.GetSegmentationNode, saveStateForUndo=host.logic.SaveStateForUndo)
    monkeypatch.setattr(slicer.modules, "SegmentEditorWidget", types.SimpleNamespace(editor=editor), raising=False)
    return node, segmentID, host


def stroke(node, segmentID, volume, host):
    host.logic.SaveStateForUndo()
    mask = np.roll(MINE, 5, axis=2)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segmentID, volume)
    return mask


@pytest.mark.parametrize("existing", ["new", "replace"])
def test_one_undo_takes_the_result_back_and_the_user_s_stroke_stays(volume, editing, existing):
    node, segmentID, host = editing
    stroked = stroke(node, segmentID, volume, host)
    task = RefSAM3DLogic().segment(volume, ["mandible", "left parotid gland"], node, existing=existing)
    assert [outcome.segmentID != "" for outcome in task.outcomes] == [True, True]
    host.undo()
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    np.testing.assert_array_equal(voxels(node, segmentID, volume), stroked)
    host.undo()
    np.testing.assert_array_equal(voxels(node, segmentID, volume), MINE)
    host.redo()
    host.redo()
    assert node.GetSegmentation().GetNumberOfSegments() == 3


def test_an_editor_of_another_segmentation_saves_nothing(volume, editing):
    node, segmentID, host = editing
    stroke(node, segmentID, volume, host)
    RefSAM3DLogic().segment(volume, "mandible")
    host.undo()
    np.testing.assert_array_equal(voxels(node, segmentID, volume), MINE)


def test_without_a_segment_editor_the_result_is_written_all_the_same(volume):
    assert not hasattr(slicer.modules, "SegmentEditorWidget")
    task = RefSAM3DLogic().segment(volume, "mandible", createSegmentation(volume))
    assert task.outcomes[0].segmentID


def hiddenCopies(node):
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(number) for number in range(segmentation.GetNumberOfSegments())]
    return [one for one in ids if not node.GetDisplayNode().GetSegmentVisibility(one)]


@pytest.mark.parametrize("existing", ["replace", "subtract", "intersect"])
def test_what_a_person_drew_is_kept_hidden_and_that_is_said(volume, existing):
    node = createSegmentation(volume)
    own = add(node, "mandible")
    add(node, "neighbour", mask=np.roll(MINE, 9, axis=1))  # shares the labelmap
    node.GetSegmentation().GetSegment(own).SetColor(0.1, 0.2, 0.3)
    (outcome,) = RefSAM3DLogic().segment(volume, "mandible", node, existing=existing).outcomes
    assert outcome.segmentID == own
    (kept,) = hiddenCopies(node)
    segment = node.GetSegmentation().GetSegment(kept)
    assert (segment.GetName(), segment.GetColor()) == ("mandible (before)", (0.1, 0.2, 0.3))
    np.testing.assert_array_equal(voxels(node, kept, volume), MINE)
    assert outcome.note == "'mandible' held voxels that a person drew; as it was it is kept as the hidden segment 'mandible (before)'."


def test_a_correction_of_a_moment_ago_is_kept_and_the_machine_s_own_result_is_not(volume):
    logic, node = RefSAM3DLogic(), createSegmentation(volume)
    (first,) = logic.segment(volume, "mandible", node, existing="replace").outcomes
    (again,) = logic.segment(volume, "mandible", node, existing="replace").outcomes
    assert (again.segmentID, again.note, hiddenCopies(node)) == (first.segmentID, "", [])
    steps = SegmentationSink(volume, node, Existing.REPLACE, "")
    slicer.util.updateSegmentBinaryLabelmapFromArray(MINE, node, first.segmentID, volume)
    run = Run(["mandible"])
    run.results = [RunResult("mandible", "mandible", "present", 0.9, 0.9, 1.0, 0.1, WHOLE, MASK)]
    list(steps.steps(run, []))  # before the watch has looked by itself
    (kept,) = hiddenCopies(node)
    np.testing.assert_array_equal(voxels(node, kept, volume), MINE)
    np.testing.assert_array_equal(voxels(node, first.segmentID, volume), MASK)


@pytest.mark.parametrize("mode", [Existing.NEW, Existing.ADD])
def test_nothing_is_copied_where_no_voxel_is_lost(volume, mode):
    node = createSegmentation(volume)
    own = add(node, "mandible")
    write(node, volume, mode)
    assert hiddenCopies(node) == []
    assert (voxels(node, own, volume) >= MINE).all()
