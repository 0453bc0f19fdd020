"""Into which segment the effect writes: never over another structure, nor over what a person painted meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from effect_cases import BOX, MASK, PAROTID

LIVER = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~~^^~^^"


def names(b):
    segmentation = b.node.GetSegmentation()
    return [segmentation.GetNthSegment(number).GetName() for number in range(segmentation.GetNumberOfSegments())]


def tag(b, segmentID, name):
    value = vtk.reference("")
    return str(value) if b.node.GetSegmentation().GetSegment(segmentID).GetTag(name, value) else ""


def test_a_second_prompt_makes_a_second_segment(bench):
    b = bench(segments=False)
    b.editor.node.SetOverwriteMode(b.editor.node.OverwriteNone)
    b.apply()
    first = b.editor.node.GetSelectedSegmentID()
    entry = b.node.GetSegmentation().GetSegment(first).GetTerminology()
    b.apply("mandible")
    second = b.editor.node.GetSelectedSegmentID()
    assert names(b) == [PAROTID, "mandible"]
    assert second == b.node.GetSegmentation().GetNthSegmentID(1), "the new one is selected"
    np.testing.assert_array_equal(b.voxels(first), MASK)
    assert (tag(b, first, "RefSAM3D.Resolved"), tag(b, second, "RefSAM3D.Resolved")) == (PAROTID, "mandible")
    assert b.node.GetSegmentation().GetSegment(first).GetTerminology() == entry
    b.editor.undo()
    assert names(b) == [PAROTID]


def test_the_same_structure_again_replaces_its_own_result(bench):
    b = bench(segments=False)
    b.apply()
    b.apply("Left parotid gland ")
    assert names(b) == [PAROTID]
    np.testing.assert_array_equal(b.voxels(b.editor.node.GetSelectedSegmentID()), MASK)


@pytest.mark.parametrize(("terminology", "kept"), [(LIVER, True), ("", False), ("garbage", False)])
def test_a_segment_that_a_person_gave_another_structure_is_kept(bench, terminology, kept):
    b = bench()
    slicer.util.updateSegmentBinaryLabelmapFromArray(BOX, b.node, b.A, b.volume)
    if terminology:
        b.node.GetSegmentation().GetSegment(b.A).SetTerminology(terminology)
    b.editor.node.SetOverwriteMode(b.editor.node.OverwriteNone)
    b.apply()
    np.testing.assert_array_equal(b.voxels(b.A), BOX if kept else MASK)
    assert names(b) == ["mine", "keep", *([PAROTID] if kept else [])]


def test_an_empty_segment_of_another_structure_takes_the_result_as_before(bench):
    b = bench()
    b.node.GetSegmentation().GetSegment(b.A).SetTerminology(LIVER)
    b.apply()
    np.testing.assert_array_equal(b.voxels(b.A), MASK)


@pytest.mark.parametrize("empty", [False, True])
def test_what_is_painted_into_the_segment_during_the_run_stays_and_is_said(bench, empty):
    b = bench()
    if not empty:
        slicer.util.updateSegmentBinaryLabelmapFromArray(MASK, b.node, b.A, b.volume)
    b.editor.node.SetOverwriteMode(b.editor.node.OverwriteAllSegments)
    b.type(PAROTID)
    gui.click(b.controller.applyButton)
    slicer.util.updateSegmentBinaryLabelmapFromArray(BOX, b.node, b.A, b.volume)
    b.finish()
    np.testing.assert_array_equal(b.voxels(b.A), BOX)
    np.testing.assert_array_equal(b.voxels(b.node.GetSegmentation().GetNthSegmentID(2)), MASK)
    assert b.editor.node.GetSelectedSegmentID() == b.A, "the user paints in it"
    assert b.editor.node.GetOverwriteMode() == b.editor.node.OverwriteAllSegments
    assert "The segment 'mine' was changed while the result was computed" in b.controller.messages.text
    assert "new segment 'left parotid gland'" in b.controller.messages.text


def test_an_image_that_got_another_grid_during_the_run_is_refused(bench):
    b = bench()
    b.type(PAROTID)
    gui.click(b.controller.applyButton)
    b.volume.SetSpacing(1.0, 2.0, 3.0)
    b.finish()
    assert b.count(b.A) == 0
    assert "got another voxel grid" in b.controller.messages.text
    assert b.effect.calls.count("saveStateForUndo") == 0
