"""The effect in a Segment Editor host over Slicer's own editor logic: keys, clicks, undo, what happens meanwhile."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from effect_cases import BOX, MASK, PAROTID
from effect_host import EffectFactory
from gui_cases import click, press, settle, spin
from PySide6.QtCore import Qt


def test_registered_at_startup_without_torch_and_cloned_for_each_editor(bench):
    names = [effect.name for effect in EffectFactory.instance().registeredEffects()]
    assert names == ["RefSAM3D"]
    assert "torch" not in sys.modules
    one, two = bench(), bench()
    assert one.effect is not two.effect
    assert one.effect.self() is not two.effect.self()
    assert one.effect.calls[:3] == ["icon", "setupOptionsFrame", "setMRMLDefaults"]


def test_enter_applies_to_the_selected_segment_and_one_undo_takes_it_back(bench):
    b = bench()
    b.editor.node.SetOverwriteMode(b.editor.node.OverwriteNone)
    b.apply()
    np.testing.assert_array_equal(b.voxels(b.A), MASK)
    np.testing.assert_array_equal(b.voxels(b.B), BOX)
    assert b.node.GetSegmentation().GetSegment(b.A).GetName() == "mine", "a name that the user gave stays"
    assert "left parotid gland: present (97 %)" in b.controller.statusLabel.text
    assert b.effect.calls.count("saveStateForUndo") == 1
    b.editor.undo()
    assert (b.count(b.A), b.count(b.B)) == (0, BOX.sum())
    b.editor.redo()
    np.testing.assert_array_equal(b.voxels(b.A), MASK)


def test_without_a_segment_one_is_made_with_name_colour_and_terminology_and_undo_removes_it(bench):
    b = bench(segments=False)
    b.apply("Parotid_L")
    segmentation = b.node.GetSegmentation()
    (segmentID,) = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    segment = segmentation.GetSegment(segmentID)
    assert segment.GetName() == PAROTID
    assert "Parotid gland~SCT^7771000^Left" in segment.GetTerminology()
    assert b.editor.node.GetSelectedSegmentID() == segmentID
    np.testing.assert_array_equal(b.voxels(segmentID), MASK)
    value = vtk.reference("")
    assert segment.GetTag("DICOM.SegmentAlgorithmType", value)
    assert str(value) == "SEMIAUTOMATIC"
    b.editor.undo()
    assert segmentation.GetNumberOfSegments() == 0


def test_choice_of_the_module_holds_in_the_effect_and_is_said(bench, tmp_path):
    """A site's adapter is no use if typing in the Segment Editor silently asks the model without it."""
    from RefSAM3DSlicer.logic import RefSAM3DLogic

    b = bench()
    assert b.controller.choiceLabel.isHidden()
    parameters = RefSAM3DLogic().getParameterNode()
    parameters.adapter = str(tmp_path / "site.safetensors")
    b.apply()
    assert "adapter site.safetensors" in b.controller.choiceLabel.text
    assert str(tmp_path) not in b.controller.choiceLabel.text
    value = vtk.reference("")
    assert b.node.GetSegmentation().GetSegment(b.A).GetTag("RefSAM3D.Adapter", value)
    assert str(value) == "site.safetensors"
    b.controller.setVocabulary(b.controller.vocabulary.restricted_to(["larynx"]))
    parameters.adapter, parameters.device = "", "cuda"
    b.type("mandible")
    click(b.controller.applyButton)
    b.finish()
    assert "'cuda' is not available" in b.controller.messages.text
    assert "device cuda" in b.controller.choiceLabel.text
    assert "mandible" in b.controller.vocabulary.names, "the words of other weights are forgotten"


def test_a_fresh_segment_gets_the_name_of_the_structure(bench):
    b = bench(segments=False)
    segmentID = b.node.GetSegmentation().AddEmptySegment()
    b.editor.node.SetSelectedSegmentID(segmentID)
    b.apply()
    assert b.node.GetSegmentation().GetSegment(segmentID).GetName() == PAROTID


def test_absent_structure_draws_nothing_and_makes_no_undo_step(bench):
    b = bench()
    b.apply("larynx")
    assert "absent (3 %), nothing drawn" in b.controller.statusLabel.text
    assert b.effect.calls.count("saveStateForUndo") == 0
    assert b.count(b.A) == 0


def test_the_user_moves_on_while_it_runs_and_the_result_goes_where_it_was_asked_for(bench):
    b = bench()
    b.editor.node.SetOverwriteMode(b.editor.node.OverwriteNone)
    b.type(PAROTID)
    click(b.controller.applyButton)
    b.editor.node.SetSelectedSegmentID(b.B)
    b.editor.leave()
    b.finish()
    assert (b.count(b.A), b.count(b.B)) == (MASK.sum(), BOX.sum())


@pytest.mark.parametrize("what", ["segment", "segmentation", "volume", "scene", "other segmentation"])
def test_what_the_run_was_for_disappears(bench, what):
    b = bench()
    gui.useFakeEngine(FAKE_STEP_S="0.03")
    b.type(PAROTID)
    click(b.controller.applyButton)
    spin(lambda: b.controller.task.fraction > 0.1)
    if what == "segment":
        b.node.GetSegmentation().RemoveSegment(b.A)
    elif what == "segmentation":
        slicer.mrmlScene.RemoveNode(b.node)
    elif what == "volume":
        slicer.mrmlScene.RemoveNode(b.volume)
    elif what == "scene":
        slicer.mrmlScene.Clear(0)
    else:
        b.editor.node.SetAndObserveSegmentationNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other"))
    b.finish()
    said = b.controller.messages.text + b.controller.statusLabel.text
    assert {
        "segment": "was removed while",
        "segmentation": "'Seg' was removed",
        "volume": "'CT' was removed",
        "scene": "scene was closed",
        "other segmentation": "shows another segmentation",
    }[what] in said
    if what in ("segment", "other segmentation"):
        assert b.count(b.B) == BOX.sum()


def test_escape_cancels_a_run_and_leaves_the_effect_active_and_deactivates_it_otherwise(bench):
    b = bench()
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    b.window.activateWindow()
    b.type(PAROTID)
    b.controller.completer.popup().hide()
    press(b.controller.promptEdit, Qt.Key_Return)
    spin(lambda: b.controller.task.fraction > 0.1)
    assert b.controller.applyButton.text == "Cancel"
    press(b.controller.promptEdit, Qt.Key_Escape)
    spin(lambda: not b.controller.isRunning, timeout=1.0)
    assert b.editor.effect is b.effect, "still active"
    assert b.controller.promptEdit.text == PAROTID
    assert "Cancelled" in b.controller.statusLabel.text
    assert b.count(b.A) == 0
    press(b.controller.promptEdit, Qt.Key_Escape)
    assert b.editor.effect is None, "the editor's own shortcut"


def test_reading_and_completion_are_those_of_the_panel(bench):
    b = bench()
    b.type("left parotd gland")
    assert "close to" in b.controller.readingLabel.text
    b.controller.readingLabel.linkActivated.emit(PAROTID)
    settle()
    assert b.controller.promptEdit.text == PAROTID
    assert b.effect.parameter("Prompt") == PAROTID
    b.type("mand")
    assert b.controller.completer.popup().isVisible()


def test_empty_prompt_and_missing_image(bench):
    b = bench()
    b.controller.promptEdit.clear()
    settle()
    assert not b.controller.applyButton.enabled
    b.editor.node.SetAndObserveSourceVolumeNode(None)
    b.type("mandible")
    click(b.controller.applyButton)
    assert "No volume" in b.controller.messages.text


def test_completed_segment_is_refused(bench):
    b = bench()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(b.node.GetSegmentation().GetSegment(b.A), logic.Completed)
    b.type(PAROTID)
    click(b.controller.applyButton)
    assert "marked as completed" in b.controller.messages.text


def test_engine_crash_leaves_the_segmentation_alone(bench):
    b = bench()
    before = b.node.GetSegmentation().GetMTime()
    b.type("crash")
    click(b.controller.applyButton)
    b.finish()
    assert "native library" in b.controller.messages.text
    assert b.node.GetSegmentation().GetMTime() == before


def test_editor_destroyed_during_a_run(bench):
    b = bench()
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    b.type(PAROTID)
    click(b.controller.applyButton)
    task = b.controller.task
    spin(lambda: task.fraction > 0.1)
    b.editor.close()
    spin(lambda: task.isOver, timeout=1.0)
    assert b.count(b.A) == 0
