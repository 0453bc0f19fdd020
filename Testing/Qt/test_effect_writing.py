"""What the effect writes: masks, overwrite modes, other grids and transforms; and that only the box of the change is touched."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from effect_cases import BOX, MASK, PAROTID
from effect_host import SegmentEditorHost
from mrml_cases import addVolume


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


def test_another_segment_that_is_clicked_meanwhile_is_not_erased(bench):
    """The mask is made for the segment that is selected: the one that was asked for, not the one that the user looks at."""
    b = bench()
    b.editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    b.type(PAROTID)
    gui.click(b.controller.applyButton)
    b.editor.node.SetSelectedSegmentID(b.B)
    b.finish()
    np.testing.assert_array_equal(b.voxels(b.B), BOX)
    np.testing.assert_array_equal(b.voxels(b.A), MASK & ~BOX & 1)
    assert b.editor.node.GetSelectedSegmentID() == b.B


def test_a_segment_that_is_added_meanwhile_stays_selected(bench):
    b = bench(segments=False)
    b.type(PAROTID)
    gui.click(b.controller.applyButton)
    mine = b.node.GetSegmentation().AddEmptySegment("mine")
    b.editor.node.SetSelectedSegmentID(mine)
    selections = []
    b.editor.node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_a: selections.append(b.editor.node.GetSelectedSegmentID()))
    b.finish()
    assert b.node.GetSegmentation().GetNumberOfSegments() == 2
    np.testing.assert_array_equal(b.voxels(b.node.GetSegmentation().GetNthSegmentID(1)), MASK)
    assert set(selections) <= {mine}, "the user paints in it"
    assert b.editor.node.GetSelectedSegmentID() == mine


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
    assert "geometry" not in b.controller.messages.text
    np.testing.assert_array_equal(b.voxels(b.A), MASK[::2, ::2, ::2])


def cropTo(b, firstSlice, slices):
    """The segmentation's geometry: some slices of the image."""
    from RefSAM3DSlicer.labelmaps import REFERENCE_GEOMETRY

    matrix = vtk.vtkMatrix4x4()
    b.volume.GetIJKToRASMatrix(matrix)
    shift = np.eye(4)
    shift[2, 3] = firstSlice
    crop = addVolume(np.zeros((slices, *MASK.shape[1:]), np.int16), slicer.util.arrayFromVTKMatrix(matrix) @ shift, "crop")
    b.node.GetSegmentation().SetConversionParameter(REFERENCE_GEOMETRY, "")
    b.node.SetReferenceImageGeometryParameterFromVolumeNode(crop)
    b.reference = crop


@pytest.mark.parametrize("selected", [False, True])
def test_a_structure_outside_the_segmentation_s_geometry_is_said_and_changes_nothing(bench, selected):
    b = bench(segments=False)
    cropTo(b, 0, int(np.argwhere(MASK)[:, 0].min()))
    old = np.ones((b.reference.GetImageData().GetDimensions()[2], *MASK.shape[1:]), np.uint8)
    if selected:
        mine = b.node.GetSegmentation().AddEmptySegment("mine", "mine")
        slicer.util.updateSegmentBinaryLabelmapFromArray(old, b.node, mine, b.reference)
        b.editor.node.SetSelectedSegmentID(mine)
    b.apply()
    assert b.node.GetSegmentation().GetNumberOfSegments() == int(selected)
    if selected:
        np.testing.assert_array_equal(b.voxels("mine"), old)
    assert b.controller.statusLabel.text.endswith("nothing drawn")
    assert "100 % of 'left parotid gland' lies outside the segmentation's geometry and was not drawn; choose" in b.controller.messages.text
    assert b.effect.calls.count("saveStateForUndo") == 0


def test_a_structure_that_the_segmentation_s_geometry_cuts_is_said(bench):
    b = bench(segments=False)
    first = int(np.argwhere(MASK)[:, 0].min())
    cropTo(b, 0, first + 2)
    b.apply()
    np.testing.assert_array_equal(b.voxels(b.node.GetSegmentation().GetNthSegmentID(0)), MASK[: first + 2])
    outside = round(100 * (1 - MASK[: first + 2].sum() / MASK.sum()))
    assert f"{outside} % of 'left parotid gland' lies outside" in b.controller.messages.text


def test_a_structure_that_falls_between_the_voxels_of_a_coarser_geometry_is_said(bench):
    b = bench(coarse=True)
    speck = np.zeros(MASK.shape, np.int16)
    speck[9, 15, 21] = 1000
    slicer.util.updateVolumeFromArray(b.volume, speck)
    b.apply()
    assert b.count(b.A) == 0
    assert b.controller.statusLabel.text.endswith("nothing drawn")
    assert "'left parotid gland' is smaller than the voxels of the segmentation's geometry and was not drawn; choose" in b.controller.messages.text
    assert "outside" not in b.controller.messages.text


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


class Change:
    """Three random segments, a random result, and an editor; written by the effect, or over the whole grid as Slicer's own effects do."""

    SHAPE = (10, 14, 12)

    def __init__(self, seed, overwrite, maskMode, intensities):
        self.random = np.random.default_rng(seed)
        self.volume = addVolume(self.random.integers(0, 1000, self.SHAPE).astype(np.int16))
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "random")
        self.node.CreateDefaultDisplayNodes()
        self.node.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        self.ids = [self.node.GetSegmentation().AddEmptySegment(name, name) for name in "ABC"]
        for segmentID in self.ids:
            slicer.util.updateSegmentBinaryLabelmapFromArray(self.blob(), self.node, segmentID, self.volume)
        self.result = self.blob()
        self.editor = SegmentEditorHost(self.node, self.volume)
        self.effect = self.editor.setActiveEffectByName("RefSAM3D")
        parameters = self.editor.node
        parameters.SetSelectedSegmentID(self.ids[0])
        parameters.SetOverwriteMode(overwrite)
        parameters.SetMaskSegmentID(self.ids[1])
        parameters.SetMaskMode(maskMode)
        parameters.SetSourceVolumeIntensityMask(intensities)
        parameters.SetSourceVolumeIntensityMaskRange(200, 800)

    def blob(self):
        mask = np.zeros(self.SHAPE, np.uint8)
        low = [self.random.integers(0, size - 4) for size in self.SHAPE]
        part = tuple(slice(start, self.random.integers(start + 2, size)) for start, size in zip(low, self.SHAPE, strict=True))
        mask[part] = self.random.integers(0, 2, mask[part].shape)
        mask[tuple(low)] = 1
        return mask

    def write(self):
        from RefSAM3DSlicer.effect_sink import EffectSink

        sink = EffectSink(self.effect, self.volume, self.node, self.ids[0])
        list(sink.steps(oneResult(self.result, (0, self.SHAPE[0], 0, self.SHAPE[1], 0, self.SHAPE[2])), []))

    def writeWholeGrid(self):
        labelmap = self.effect.defaultModifierLabelmap()
        from RefSAM3DSlicer.labelmaps import voxelsOf

        voxelsOf(labelmap)[...] = self.result
        labelmap.GetPointData().GetScalars().Modified()
        self.effect.saveStateForUndo()
        self.effect.modifySegmentByLabelmap(self.node, self.ids[0], labelmap, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet)

    def voxels(self):
        return [np.array(slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segmentID, self.volume)) for segmentID in self.ids]


def oneResult(mask, box):
    from RefSAM3DSlicer.runs import EngineInfo, Run, RunResult

    run = Run(["x"])
    run.results = [RunResult("x", "left parotid gland", "present", 0.9, 0.9, 1.0, 0.1, box, mask)]
    run.engine = EngineInfo()
    return run


EVERY_RULE = list(itertools.product((0, 1, 2), (0, 1, 2, 3, 4, 5), (False, True)))


@pytest.mark.parametrize("part", range(3))
def test_writing_the_box_alone_is_the_same_as_writing_the_whole_grid(part):
    """All overwrite modes, all mask modes, with and without an intensity range; then undo."""
    for seed, rule in enumerate(EVERY_RULE[part::3]):
        ours, whole = Change(seed, *rule), Change(seed, *rule)
        before = ours.voxels()
        ours.write()
        whole.writeWholeGrid()
        for got, expected in zip(ours.voxels(), whole.voxels(), strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=str(rule))
        ours.editor.undo()
        np.testing.assert_array_equal(ours.voxels()[0], before[0], err_msg=str(rule))
        slicer.mrmlScene.Clear(0)


@pytest.mark.slow
def test_writing_into_a_big_grid_takes_less_than_250_ms_a_segment():
    """512 x 512 x 300, 100 x 150 x 150 voxels of it, into an empty segment and into one that has voxels; against the whole grid."""
    from RefSAM3DSlicer.effect_sink import EffectSink

    volume = addVolume(np.zeros((300, 512, 512), np.int16), np.diag([-0.8, -0.8, 2.0, 1.0]))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "big")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    editor = SegmentEditorHost(node, volume)
    effect = editor.setActiveEffectByName("RefSAM3D")
    run = oneResult(np.ones((100, 150, 150), np.uint8), (50, 150, 100, 250, 100, 250))
    own, wall = {}, {}
    for name in ("empty segment", "segment with voxels", "the same again"):
        steps = EffectSink(effect, volume, node, editor.node.GetSelectedSegmentID() or "").steps(run, [])
        own[name] = wall[name] = 0.0
        while True:
            began, clock = time.process_time(), time.perf_counter()
            done = next(steps, None)
            own[name] = max(own[name], time.process_time() - began)  # other work on the machine is not ours
            wall[name] = max(wall[name], time.perf_counter() - clock)
            if done is None:
                break
    began = time.process_time()
    labelmap = effect.defaultModifierLabelmap()
    effect.modifySegmentByLabelmap(node, editor.node.GetSelectedSegmentID(), labelmap, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet)
    whole = time.process_time() - began
    for name in own:
        print(f"longest step into {name}: {own[name] * 1000:.0f} ms of our own, {wall[name] * 1000:.0f} ms by the clock")
    print(f"the whole grid at once: {whole * 1000:.0f} ms")
    editor.close()
    slicer.mrmlScene.Clear(0)
    assert max(own.values()) < 0.25
    assert max(own.values()) < 0.6 * whole, "only the box of the change may be touched"
