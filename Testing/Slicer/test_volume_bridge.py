"""Volume nodes to the engine: real MRML, every refusal, transforms, content keys, regions."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")

import slicer_app

slicer_app.start()

import slicer  # noqa: E402
import vtk  # noqa: E402
from mrml_cases import addTransform, addVolume, oblique  # noqa: E402
from RefSAM3DLib.errors import InputError  # noqa: E402
from RefSAM3DSlicer import volume_bridge as bridge  # noqa: E402


@pytest.fixture(autouse=True)
def emptyScene():
    yield
    slicer.mrmlScene.Clear(0)


def copyAll(source):
    target = np.zeros(source.shape, source.dtype)
    steps = list(source.copyInto(target))
    return target, steps


def refuses(node, text):
    with pytest.raises(InputError, match=text):
        bridge.checkVolume(node)


def test_no_volume_label_map_vector_volume_and_empty_volume_are_refused_by_name():
    refuses(None, "No volume")
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    refuses(label, "'labels' is a label map")
    refuses(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"), "'empty' has no voxels")
    colour = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5, 3), np.uint8), name="photo", nodeClassName="vtkMRMLVectorVolumeNode")
    refuses(colour, "'photo' has 3 values per voxel")


def test_non_linear_transform_is_refused_and_linear_is_not():
    node = addVolume()
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    node.SetAndObserveTransformNodeID(grid.GetID())
    refuses(node, "non-linear transform 'warp'")
    node.SetAndObserveTransformNodeID(addTransform().GetID())
    bridge.checkVolume(node)


def test_matrix_is_ijk_to_world_through_two_parent_transforms():
    node, inner, outer = addVolume(), addTransform(20), addTransform(-50)
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    expected = slicer.util.arrayFromVTKMatrix
    toWorld = expected(outer.GetMatrixTransformToParent()) @ expected(inner.GetMatrixTransformToParent())
    np.testing.assert_allclose(bridge.ijkToWorld(node), toWorld @ oblique(), atol=1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_voxel_type_arrives_unchanged(dtype):
    array = np.random.default_rng(0).integers(0, 200, (9, 11, 13)).astype(dtype)
    source = bridge.VolumeSource(addVolume(array))
    copied, steps = copyAll(source)
    np.testing.assert_array_equal(copied, array)
    assert source.dtype == np.dtype(dtype).str[1:]
    assert steps[-1] == 1.0


def test_key_survives_scrolling_and_window_level_but_no_edit_and_no_move():
    node = addVolume()
    node.CreateDefaultDisplayNodes()
    source = bridge.VolumeSource(node)
    copyAll(source)
    key = source.key()
    assert key
    sliceNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    sliceNode.SetSliceOffset(12.0)
    node.GetDisplayNode().SetWindowLevel(77, 11)
    node.SetName("renamed")
    assert bridge.VolumeSource(node).knownKey() == key
    slicer.util.arrayFromVolume(node)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(node)
    edited = bridge.VolumeSource(node)
    assert edited.knownKey() == ""
    copyAll(edited)
    assert edited.key() != key
    slicer.util.arrayFromVolume(node)[0, 0, 0] -= 1
    slicer.util.arrayFromVolumeModified(node)
    undone = bridge.VolumeSource(node)
    copyAll(undone)
    assert undone.key() == key, "the same voxels again are the same image"
    node.SetAndObserveTransformNodeID(addTransform().GetID())
    assert bridge.VolumeSource(node).knownKey() == ""


def test_a_volume_deleted_while_it_is_copied_does_no_harm():
    array = np.random.default_rng(1).integers(0, 99, (40, 300, 300)).astype(np.int16)
    node = addVolume(array)
    source = bridge.VolumeSource(node)
    target = np.zeros(source.shape, source.dtype)
    steps = source.copyInto(target)
    next(steps)
    slicer.mrmlScene.RemoveNode(node)
    del node
    for _ in steps:
        pass
    np.testing.assert_array_equal(target, array)


def test_a_volume_edited_while_it_is_copied_is_refused():
    node = addVolume()
    source = bridge.VolumeSource(node)
    steps = source.copyInto(np.zeros(source.shape, source.dtype))
    slicer.util.arrayFromVolumeModified(node)
    with pytest.raises(InputError, match="changed while"):
        list(steps)
    assert source.knownKey() == ""


def test_modality_comes_from_dicom():
    node = addVolume()
    assert bridge.modalityOf(node) == ""
    node.SetAttribute("DICOM.Modality", "MR")
    assert bridge.modalityOf(node) == "mr"
    assert bridge.VolumeSource(node).stated == "", "known: nothing has to be said"


def test_a_modality_that_no_model_reads_is_handed_on_unless_the_user_names_one():
    node = addVolume()
    assert bridge.VolumeSource(node).stated == ""
    node.SetAttribute("DICOM.Modality", "US")
    source = bridge.VolumeSource(node)
    assert (source.modality, source.stated) == ("", "US")
    named = bridge.VolumeSource(node, "mr")
    assert (named.modality, named.stated) == ("mr", "")
    for each in (source, named):
        list(each.copyInto(np.zeros(each.shape, each.dtype)))
    assert source.key() != named.key(), "an image of another kind is another question to the engine"


def test_roi_box_covers_exactly_the_voxels_that_it_touches():
    node = addVolume(np.zeros((10, 20, 30), np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "ROI")
    roi.SetCenter(10, 5, 8)
    roi.SetSize(5, 3, 4)  # i 7.5..12.5, j 3.5..6.5, k 3..5
    assert bridge.boxOfRoi(node, roi) == (3, 6, 4, 7, 8, 13)
    roi.SetCenter(500, 0, 0)
    with pytest.raises(InputError, match="does not touch"):
        bridge.boxOfRoi(node, roi)
    with pytest.raises(InputError, match="No region"):
        bridge.boxOfRoi(node, None)


def test_current_view_is_what_the_three_views_show_together():
    node = addVolume(np.zeros((40, 60, 50), np.int16), np.eye(4))
    views = []
    for name in ("Axial", "Coronal", "Sagittal"):
        view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
        view.SetOrientation(name)
        view.SetDimensions(100, 100, 1)
        view.SetFieldOfView(20, 20, 1)
        view.JumpSliceByCentering(25, 30, 20)
        views.append(view)
    box = bridge.boxOfViews(node, views)
    assert [high - low for low, high in zip(box[::2], box[1::2], strict=True)] == pytest.approx([20, 20, 20], abs=2)
    assert box[0] <= 20 < box[1]
    for view in views:  # tilted a little, each still says nothing of the axis that it looks along
        turned = vtk.vtkTransform()
        turned.SetMatrix(view.GetSliceToRAS())
        turned.RotateX(8)
        turned.RotateY(8)
        view.GetSliceToRAS().DeepCopy(turned.GetMatrix())
        view.UpdateMatrices()
    box = bridge.boxOfViews(node, views)
    assert min(high - low for low, high in zip(box[::2], box[1::2], strict=True)) >= 15
    for view in views:
        view.JumpSliceByCentering(900, 900, 900)
    with pytest.raises(InputError, match="do not show"):
        bridge.boxOfViews(node, views)
