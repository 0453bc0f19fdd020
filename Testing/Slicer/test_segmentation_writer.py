"""Writing results back over real MRML: voxels, geometry, terminology, tags, files, and nothing else touched."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")

import slicer_app

slicer_app.start()

import slicer  # noqa: E402
import vtk  # noqa: E402
from mrml_cases import addTransform, addVolume, bright  # noqa: E402
from RefSAM3DLib.errors import InputError  # noqa: E402
from RefSAM3DLib.text.vocabulary import Vocabulary  # noqa: E402
from RefSAM3DSlicer.labelmaps import isSameGrid, voxelsOf  # noqa: E402
from RefSAM3DSlicer.provenance import provenanceTags  # noqa: E402
from RefSAM3DSlicer.runs import EngineInfo, RunResult  # noqa: E402
from RefSAM3DSlicer.segmentation_writer import Existing, SegmentationWriter, createSegmentation, writeProbability  # noqa: E402
from RefSAM3DSlicer.terminology import terminologyTag  # noqa: E402
from RefSAM3DSlicer.volume_bridge import ijkToWorld  # noqa: E402

PAROTID = Vocabulary.default().structure("left parotid gland")
ENGINE = EngineInfo("refsam3d-tiny", "ab" * 32, "cpu")


@pytest.fixture(autouse=True)
def emptyScene():
    yield
    slicer.mrmlScene.Clear(0)


def boxOf(mask):
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(int(v) for span in spans for v in (span[0], span[-1] + 1))


def cut(mask, box):
    return mask[box[0] : box[1], box[2] : box[3], box[4] : box[5]]


def result(mask, prompt="the left parotid | gland"):
    return RunResult(prompt, PAROTID.name, "present", 0.97123, 0.9, 1.0, 0.1, boxOf(mask), cut(mask, boxOf(mask)))


def write(writer, mask, name=PAROTID.name, tags=None):
    box = boxOf(mask)
    return writer.write(cut(mask, box), box, name, PAROTID.colour, dict(PAROTID.terminology), tags or {})


def voxels(segmentation, segmentID, volume):
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segmentID, volume))


def tagsOf(segmentation, segmentID):
    segment, found = segmentation.GetSegmentation().GetSegment(segmentID), {}
    for key in provenanceTags(result(bright()[1]), ENGINE):
        value = vtk.reference("")
        assert segment.GetTag(key, value), key
        found[key] = str(value)
    return found


@pytest.mark.parametrize("underTransform", [False, True])
@pytest.mark.parametrize("existing", ["new", "own transform", "no transform"])
def test_voxels_land_where_they_belong_whatever_the_transforms_are(underTransform, existing):
    mask, volume = bright()[1], addVolume()
    if underTransform:
        volume.SetAndObserveTransformNodeID(addTransform(30).GetID())
    if existing == "new":
        node = createSegmentation(volume)
        assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    else:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
        node.CreateDefaultDisplayNodes()
        if existing == "own transform":
            node.SetAndObserveTransformNodeID(addTransform(-70, (40, 3, 1)).GetID())
    segmentID = write(SegmentationWriter(volume, node), mask)
    image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    node.GetBinaryLabelmapRepresentation(segmentID, image)
    image.GetImageToWorldMatrix(matrix)  # that "world" is the segmentation's own frame
    transform = node.GetParentTransformNode()
    toWorld = np.eye(4) if transform is None else slicer.util.arrayFromTransformMatrix(transform, toWorld=True)
    np.testing.assert_allclose(toWorld @ slicer.util.arrayFromVTKMatrix(matrix), ijkToWorld(volume), atol=1e-4)
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    found = np.zeros_like(mask)
    found[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = voxelsOf(image)
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("underTransform", [False, True])
def test_seg_nrrd_and_mrb_come_back_with_identical_voxels_tags_and_terminology(tmp_path, underTransform):
    mask, volume = bright()[1], addVolume()
    transform = addTransform(30)
    if underTransform:
        volume.SetAndObserveTransformNodeID(transform.GetID())
    node, other = createSegmentation(volume), np.zeros_like(mask)
    other[5:15, 12:22, 15:30] = 1  # overlaps: a second layer
    writer = SegmentationWriter(volume, node)
    ids = [
        write(writer, mask, tags=provenanceTags(result(mask), ENGINE)),
        write(writer, other, "larynx", provenanceTags(result(other), ENGINE)),
    ]
    before = tagsOf(node, ids[0])
    path = str(tmp_path / "ä result with spaces.seg.nrrd")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(path)
    assert storage.WriteData(node)
    back = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "back")
    reader = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    reader.SetFileName(path)
    assert reader.ReadData(back)
    back.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    for segmentID, expected in zip(ids, (mask, other), strict=True):
        np.testing.assert_array_equal(voxels(back, segmentID, volume), expected)
    assert tagsOf(back, ids[0]) == before
    segment = back.GetSegmentation().GetSegment(ids[0])
    assert segment.GetName() == "left parotid gland"
    assert "SCT^45289007^Parotid gland~SCT^7771000^Left" in segment.GetTerminology()
    assert np.round(np.array(segment.GetColor()) * 255).astype(int).tolist() == list(PAROTID.colour)
    bundle = str(tmp_path / "scene.mrb")
    slicer.mrmlScene.SetRootDirectory(str(tmp_path))
    assert slicer.mrmlScene.WriteToMRB(bundle)
    cache, manager, scene = slicer.vtkCacheManager(), slicer.vtkDataIOManager(), slicer.vtkMRMLScene()
    cache.SetRemoteCacheDirectory(str(tmp_path / "cache"))
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    assert scene.ReadFromMRB(bundle)
    loaded = scene.GetFirstNodeByName(node.GetName())
    volumeBack = scene.GetFirstNodeByName("CT")
    # The reader makes the left-handed volume right-handed (its slices come in the other order): compare with the image itself.
    np.testing.assert_array_equal(voxels(loaded, ids[0], volumeBack), slicer.util.arrayFromVolume(volumeBack) > 400)
    assert tagsOf(loaded, ids[0]) == before
    assert (loaded.GetParentTransformNode() is not None) == underTransform


def test_tags_say_everything_and_contain_no_separator_and_no_folder():
    tags = provenanceTags(result(bright()[1]), ENGINE, adapter="/home/dr. x/models/prostate v2.safetensors", assisted=True)
    assert tags["RefSAM3D.Prompt"] == "the left parotid / gland"
    assert tags["RefSAM3D.Presence"] == "0.9712"
    assert tags["RefSAM3D.Adapter"] == "prostate v2.safetensors"
    others = dataclasses.replace(result(bright()[1]), details={"answered_by": "base"})
    assert provenanceTags(others, ENGINE, adapter="prostate v2.safetensors")["RefSAM3D.Adapter"] == ""
    assert tags["DICOM.SegmentAlgorithmType"] == "SEMIAUTOMATIC"
    assert tags["DICOM.SegmentAlgorithmName"] == "RefSAM3D refsam3d-tiny"
    assert all("|" not in value for value in tags.values())


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Existing.REPLACE, lambda old, new: new),
        (Existing.ADD, lambda old, new: old | new),
        (Existing.SUBTRACT, lambda old, new: old & ~new & 1),
        (Existing.INTERSECT, lambda old, new: old & new),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_existing_segment_is_combined_as_asked_and_its_neighbour_is_untouched(mode, expected, shared):
    new, volume = bright()[1], addVolume()
    old, neighbour = np.zeros_like(new), np.zeros_like(new)
    old[4:12, 10:20, 5:22], neighbour[14:20, 30:38, 30:48] = 1, 1
    node = createSegmentation(volume)
    segmentation = node.GetSegmentation()
    ids = [segmentation.AddEmptySegment("p", "Left Parotid Gland"), segmentation.AddEmptySegment("n", "neighbour")]
    for segmentID, array in zip(ids, (old, neighbour), strict=True):
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segmentID, volume)
    if not shared:
        segmentation.SeparateSegmentLabelmap("p")
    assert write(SegmentationWriter(volume, node, mode), new) == "p"
    np.testing.assert_array_equal(voxels(node, "p", volume), expected(old, new))
    np.testing.assert_array_equal(voxels(node, "n", volume), neighbour)
    assert segmentation.GetNumberOfSegments() == (2 if mode is Existing.ADD else 3), "what a person drew is kept where voxels go"


def test_new_leaves_the_segment_of_the_same_name_alone():
    mask, volume = bright()[1], addVolume()
    node = createSegmentation(volume)
    writer = SegmentationWriter(volume, node)
    first = write(writer, mask)
    second = write(writer, np.roll(mask, 2, axis=1))
    assert node.GetSegmentation().GetSegment(second).GetName() == "left parotid gland (2)"
    np.testing.assert_array_equal(voxels(node, first, volume), mask)


def test_subtracting_from_nothing_and_completed_segments_are_refused():
    mask, volume = bright()[1], addVolume()
    node = createSegmentation(volume)
    with pytest.raises(InputError, match="no segment 'left parotid gland' to subtract"):
        write(SegmentationWriter(volume, node, Existing.SUBTRACT), mask)
    segmentID = write(SegmentationWriter(volume, node), mask)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(node.GetSegmentation().GetSegment(segmentID), logic.Completed)
    with pytest.raises(InputError, match="marked as completed"):
        write(SegmentationWriter(volume, node, Existing.REPLACE), np.roll(mask, 1))
    np.testing.assert_array_equal(voxels(node, segmentID, volume), mask)


def test_surfaces_only_and_non_linear_transforms_are_refused():
    volume = addVolume()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surface")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball")
    with pytest.raises(InputError, match="Closed surface"):
        SegmentationWriter(volume, node)
    warped = createSegmentation(volume, "warped")
    warped.SetAndObserveTransformNodeID(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode").GetID())
    with pytest.raises(InputError, match="non-linear"):
        SegmentationWriter(volume, warped)


def test_a_segmentation_of_another_grid_gets_the_shape_on_its_own_grid():
    array, mask = bright()
    volume, coarse = (
        addVolume(array, np.diag([1.0, 1, 1, 1])),
        addVolume(np.zeros((12, 20, 25), np.int16), np.diag([2.0, 2, 2, 1]), "coarse"),
    )
    node = createSegmentation(coarse)
    assert not isSameGrid(volume, node)
    segmentID = write(SegmentationWriter(volume, node), mask)
    on = voxels(node, segmentID, coarse)
    assert on.sum() == pytest.approx(mask.sum() / 8, rel=0.05)
    np.testing.assert_array_equal(on, mask[::2, ::2, ::2])
    cropped = addVolume(array[4:20, 5:35, 6:40], np.array([[1.0, 0, 0, 6], [0, 1, 0, 5], [0, 0, 1, 4], [0, 0, 0, 1]]), "cropped")
    inner = createSegmentation(cropped)
    assert isSameGrid(volume, inner), "a shift by whole voxels is no resampling"
    segmentID = write(SegmentationWriter(volume, inner), mask)
    np.testing.assert_array_equal(voxels(inner, segmentID, cropped), mask[4:20, 5:35, 6:40])


def test_terminology_is_that_of_slicers_own_files_for_every_structure_of_the_vocabulary():
    logic, entry = slicer.modules.terminologies.logic(), slicer.vtkSlicerTerminologyEntry()
    for structure in Vocabulary.default().structures:
        tag, colour = terminologyTag(structure.terminology)
        assert logic.DeserializeTerminologyEntry(tag, entry), tag
        assert entry.GetTypeObject().GetCodeMeaning() == structure.terminology["type"][2]
        side = structure.terminology.get("modifier")
        assert not side or entry.GetTypeModifierObject().GetCodeMeaning() == side[2]
        assert colour is None or colour != (127, 127, 127)
    assert terminologyTag(Vocabulary.default().structure("spinal cord").terminology)[1] == (244, 214, 49)
    assert "General Anatomy" in terminologyTag(Vocabulary.default().structure("larynx").terminology)[0]
    assert terminologyTag({}) == ("", None)
    unknown = {"category": ("SCT", "123037004", "Anatomical Structure"), "type": ("SCT", "18234004", "Optic nerve")}
    assert logic.DeserializeTerminologyEntry(terminologyTag(unknown)[0], entry)


@pytest.mark.slow
def test_twenty_prompts_on_512_x_512_x_300_are_written_in_under_5_s_and_250_ms_each():
    volume = addVolume(np.zeros((300, 512, 512), np.int16), np.diag([-0.8, -0.8, 2.0, 1.0]))
    node, generator = createSegmentation(volume), np.random.default_rng(0)
    block = np.ones((100, 150, 150), np.uint8)
    writer, times = SegmentationWriter(volume, node), []
    for number in range(20):
        k, j, i = (int(v) for v in generator.integers(0, (200, 362, 362)))
        began = time.process_time()
        writer.write(block, (k, k + 100, j, j + 150, i, i + 150), f"structure {number}", (9, 9, 9), dict(PAROTID.terminology), {})
        times.append(time.process_time() - began)
    print(f"20 segments: {sum(times):.3f} s, slowest {max(times) * 1000:.0f} ms")
    assert sum(times) < 5.0
    assert max(times) < 0.25


def test_probability_volume_is_percent_on_the_grid_of_the_image():
    volume = addVolume()
    volume.SetAndObserveTransformNodeID(addTransform().GetID())
    probability = np.linspace(0, 1, 24 * 40 * 50).reshape(24, 40, 50).astype(np.float16)
    node = next(step for step in writeProbability(probability, volume, "larynx probability") if step is not None)
    assert slicer.util.arrayFromVolume(node)[-1, -1, -1] == 100
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    matrices = [vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()]
    node.GetIJKToRASMatrix(matrices[0])
    volume.GetIJKToRASMatrix(matrices[1])
    np.testing.assert_allclose(*(slicer.util.arrayFromVTKMatrix(m) for m in matrices))
