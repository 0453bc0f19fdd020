"""The effect in a Segment Editor host over Slicer's own editor logic: keys, clicks, masks, overwrite modes, undo."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
gui = pytest.importorskip("gui_cases")

import slicer  # noqa: E402
import vtk  # noqa: E402
from effect_host import EffectFactory, SegmentEditorHost  # noqa: E402
from gui_cases import click, enter, press, settle, spin  # noqa: E402
from mrml_cases import addTransform, addVolume, bright  # noqa: E402
from PySide6.QtCore import Qt  # noqa: E402

PAROTID = "left parotid gland"
MASK = bright()[1]
BOX = np.zeros_like(MASK)
BOX[8:12, 14:22, 16:26] = 1


class Bench:
    """A volume, a segmentation with segments A (empty) and B (a box inside the structure), and an open editor."""

    def __init__(self, moved="", coarse=False, segments=True):
        gui.useFakeEngine()
        self.volume = addVolume()
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Seg")
        self.node.CreateDefaultDisplayNodes()
        if moved:
            self.volume.SetAndObserveTransformNodeID(addTransform().GetID())
        if moved == "both":
            self.node.SetAndObserveTransformNodeID(self.volume.GetTransformNodeID())
        reference = self.volume if not coarse else addVolume(np.zeros((12, 20, 25), np.int16), coarseMatrix(self.volume), "coarse")
        self.node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        self.reference = reference
        self.A = self.B = ""
        if segments:
            self.A = self.node.GetSegmentation().AddEmptySegment("A", "mine", (1, 0, 0))
            self.B = self.node.GetSegmentation().AddEmptySegment("B", "keep")
            if not coarse:
                slicer.util.updateSegmentBinaryLabelmapFromArray(BOX, self.node, self.B, self.volume)
        self.editor = SegmentEditorHost(self.node, self.volume)
        if segments:
            self.editor.node.SetSelectedSegmentID(self.A)
        self.effect = self.editor.setActiveEffectByName("RefSAM3D")
        self.window = self.editor.show()
        self.controller = self.effect.self().controller
        settle()

    def voxels(self, segmentID):
        return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segmentID, self.reference))

    def count(self, segmentID):
        return int(self.voxels(segmentID).sum())

    def type(self, text):
        self.controller.promptEdit.clear()
        enter(self.controller.promptEdit, text)

    def apply(self, text=PAROTID):
        self.type(text)
        self.controller.completer.popup().hide()
        press(self.controller.promptEdit, Qt.Key_Return)
        assert self.controller.isRunning, self.controller.messages.text
        self.finish()

    def finish(self):
        spin(lambda: not self.controller.isRunning)


def coarseMatrix(volume):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix) @ np.diag([2.0, 2, 2, 1])


@pytest.fixture
def bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.window.hide()
        one.editor.close()
    slicer.mrmlScene.Clear(0)


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


def test_overwrite_mode_and_masks_hold(bench):
    b = bench()
    b.editor.node.SetOverwriteMode(b.editor.node.OverwriteAllSegments)
    b.apply()
    assert (b.count(b.A), b.count(b.B)) == (MASK.sum(), 0)
    b.editor.undo()
    b.editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    b.apply()
    np.testing.assert_array_equal(b.voxels(b.A), MASK & ~BOX & 1)
    np.testing.assert_array_equal(b.voxels(b.B), BOX)


def test_editable_intensity_range_holds(bench):
    b = bench()
    b.editor.node.SetSourceVolumeIntensityMask(True)
    b.editor.node.SetSourceVolumeIntensityMaskRange(-10, 500)
    b.apply()
    assert b.count(b.A) == 0
    b.editor.node.SetSourceVolumeIntensityMaskRange(500, 2000)
    b.apply()
    assert b.count(b.A) == MASK.sum()


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


def test_a_fresh_segment_gets_the_name_of_the_structure(bench):
    b = bench(segments=False)
    segmentID = b.node.GetSegmentation().AddEmptySegment()
    b.editor.node.SetSelectedSegmentID(segmentID)
    b.apply()
    assert b.node.GetSegmentation().GetSegment(segmentID).GetName() == PAROTID


@pytest.mark.parametrize("moved", ["volume", "both"])
def test_segmentation_under_the_same_or_another_transform(bench, moved):
    b = bench(moved=moved, segments=False)
    b.apply()
    segmentID = b.node.GetSegmentation().GetNthSegmentID(0)
    bounds = [0.0] * 6
    b.node.GetRASBounds(bounds)
    from RefSAM3DSlicer.volume_bridge import ijkToWorld

    ijk = np.argwhere(MASK)[:, ::-1]
    world = (np.column_stack([ijk, np.ones(len(ijk))]) @ ijkToWorld(b.volume).T)[:, :3]
    middle = (world.min(axis=0) + world.max(axis=0)) / 2
    np.testing.assert_allclose((np.array(bounds[::2]) + np.array(bounds[1::2])) / 2, middle, atol=3.0)
    if moved == "both":
        np.testing.assert_array_equal(b.voxels(segmentID), MASK)


def test_segmentation_of_another_geometry(bench):
    b = bench(coarse=True)
    b.apply()
    np.testing.assert_array_equal(b.voxels(b.A), MASK[::2, ::2, ::2])


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


def test_shortcut_override_that_arrives_without_a_key_is_swallowed_while_running_only():
    """PythonQt knows the key of KeyPress events for certain; of other event types perhaps not."""
    from RefSAM3DSlicer.effect import EscapeFilter

    class Event:
        accepted = False

        def type(self):
            return gui.qt.QEvent.ShortcutOverride

        def accept(self):
            self.accepted = True

    one, event, hits = EscapeFilter(), Event(), []
    assert not one.eventFilter(None, event)
    one.onEscape = lambda: hits.append(1)
    assert one.eventFilter(None, event)
    assert (event.accepted, hits) == (True, [])


def test_a_segment_that_has_voxels_is_set_anew_and_not_added_to(bench):
    b = bench()
    old = np.zeros_like(MASK)
    old[0:3, 0:5, 40:48] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(old, b.node, b.A, b.volume)
    b.editor.node.SetOverwriteMode(b.editor.node.OverwriteNone)
    b.apply()
    np.testing.assert_array_equal(b.voxels(b.A), MASK)
    b.editor.undo()
    np.testing.assert_array_equal(b.voxels(b.A), old)


@pytest.mark.slow
def test_writing_into_a_big_grid_takes_less_than_250_ms():
    """512 x 512 x 300, a structure of 100 x 150 x 150 voxels, into an empty segment; 1 s into one that has voxels."""
    import time

    from RefSAM3DSlicer.effect_sink import EffectSink
    from RefSAM3DSlicer.runs import EngineInfo, Run, RunResult

    volume = addVolume(np.zeros((300, 512, 512), np.int16), np.diag([-0.8, -0.8, 2.0, 1.0]))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "big")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    editor = SegmentEditorHost(node, volume)
    effect = editor.setActiveEffectByName("RefSAM3D")
    run, times = Run(["x"]), []
    mask = np.ones((100, 150, 150), np.uint8)
    run.results = [RunResult("x", PAROTID, "present", 0.9, 0.9, 1.0, 0.1, (50, 150, 100, 250, 100, 250), mask)]
    run.engine = EngineInfo()
    for segmentID in ("", "again"):
        sink = EffectSink(effect, volume, node, editor.node.GetSelectedSegmentID() or "" if segmentID else "")
        steps = sink.steps(run, [])
        worst = 0.0
        while True:
            began = time.process_time()  # other work on the machine is not ours
            done = next(steps, None)
            worst = max(worst, time.process_time() - began)
            if done is None:
                break
        times.append(worst)
    print(f"into an empty segment {times[0] * 1000:.0f} ms, into one with voxels {times[1] * 1000:.0f} ms")
    editor.close()
    slicer.mrmlScene.Clear(0)
    assert times[0] < 0.25
