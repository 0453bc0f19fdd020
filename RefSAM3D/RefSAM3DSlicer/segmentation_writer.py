"""Write results into a segmentation node: right place, right name, nothing else touched."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from RefSAM3DLib.errors import InputError

from .provenance import PREFIX
from .terminology import terminologyTag
from .volume_bridge import Box, ijkToWorld, shapeOf

BINARY_LABELMAP = "Binary labelmap"
REFERENCE_GEOMETRY = "Reference image geometry"


class Existing(enum.Enum):
    """What to do when the structure's segment is there already."""

    NEW = "new"
    REPLACE = "replace"
    ADD = "add"
    SUBTRACT = "subtract"
    INTERSECT = "intersect"


def createSegmentation(volumeNode: Any, name: str = "") -> Any:
    """A segmentation for ``volumeNode``, beside it in the subject hierarchy.

    The transform comes before the reference geometry: in the other order the saved file is resampled and its voxels change.
    """
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name or _("{volume} segmentation").format(volume=volumeNode.GetName()))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    if hierarchy:
        item, volumeItem = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(volumeNode)
        if item and volumeItem:
            hierarchy.SetItemParent(item, hierarchy.GetItemParent(volumeItem))
    return node


def checkTarget(segmentationNode: Any) -> None:
    """Refuse a segmentation that cannot take voxels.

    Raises:
        InputError: it holds surfaces only, or lies under a non-linear transform.
    """
    name = segmentationNode.GetName()
    transform = segmentationNode.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise InputError(
            _("The segmentation '{name}' lies under a non-linear transform; choose a new segmentation, or harden its transform.").format(name=name)
        )
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        raise InputError(
            _("The segmentation '{name}' is made of {what}; choose a new one, or convert it to a binary labelmap first.").format(
                name=name, what=segmentation.GetSourceRepresentationName()
            )
        )


def ijkToLocal(volumeNode: Any, segmentationNode: Any) -> np.ndarray:
    """(4, 4): the volume's voxels in the segmentation's own frame, whatever transforms the two are under."""
    transform, toWorld = segmentationNode.GetParentTransformNode(), vtk.vtkMatrix4x4()
    if transform is not None:
        transform.GetMatrixTransformToWorld(toWorld)
    local = np.array([[toWorld.GetElement(row, column) for column in range(4)] for row in range(4)])
    return np.linalg.inv(local) @ ijkToWorld(volumeNode)


def orientedMask(mask: np.ndarray, box: Box, matrix: np.ndarray) -> Any:
    """vtkOrientedImageData of the box alone: (k, j, i) uint8 voxels on the grid of ``matrix`` (IJK to the segmentation's frame)."""
    k0, k1, j0, j1, i0, i1 = box
    if mask.shape != (k1 - k0, j1 - j0, i1 - i0):
        raise ValueError(f"A mask of shape {mask.shape} does not fill the box {box}.")
    image = slicer.vtkOrientedImageData()
    image.SetExtent(i0, i1 - 1, j0, j1 - 1, k0, k1 - 1)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(mask.shape)[...] = mask
    image.SetImageToWorldMatrix(_vtkMatrix(matrix))
    return image


def _vtkMatrix(matrix: np.ndarray) -> Any:
    result = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            result.SetElement(row, column, float(matrix[row, column]))
    return result


def _npMatrix(image: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def onGridOf(image: Any, reference: Any) -> Any:
    """``image`` on the grid of ``reference``: itself if the voxels coincide, else the nearest voxels."""
    toReference = np.linalg.inv(_npMatrix(reference)) @ _npMatrix(image)
    expected = np.eye(4)
    expected[:3, 3] = np.round(toReference[:3, 3])
    if np.allclose(toReference, expected, atol=1e-4):
        shift = expected[:3, 3].astype(int)
        if not shift.any():
            return image
        moved = slicer.vtkOrientedImageData()
        moved.DeepCopy(image)
        extent = image.GetExtent()
        moved.SetExtent(*(int(extent[n] + shift[n // 2]) for n in range(6)))
        moved.SetImageToWorldMatrix(_vtkMatrix(_npMatrix(reference)))
        return moved
    extent = image.GetExtent()
    corners = np.array([[i, j, k, 1.0] for i in extent[0:2] for j in extent[2:4] for k in extent[4:6]]) @ toReference.T
    low, high = np.floor(corners[:, :3].min(axis=0)).astype(int) - 1, np.ceil(corners[:, :3].max(axis=0)).astype(int) + 1
    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(int(low[0]), int(high[0]), int(low[1]), int(high[1]), int(low[2]), int(high[2]))
    grid.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    grid.SetImageToWorldMatrix(_vtkMatrix(_npMatrix(reference)))
    result = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, grid, result, False)
    return result


def referenceGrid(segmentationNode: Any) -> Any:
    """The segmentation's reference geometry as an empty image, or None if it has none."""
    text = segmentationNode.GetSegmentation().GetConversionParameter(REFERENCE_GEOMETRY)
    grid = slicer.vtkOrientedImageData()
    return grid if text and slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, grid, False) else None


def isSameGrid(volumeNode: Any, segmentationNode: Any) -> bool:
    """True if results land on the segmentation's reference grid without being resampled."""
    grid = referenceGrid(segmentationNode)
    if grid is None:
        return True
    shift = np.linalg.inv(_npMatrix(grid)) @ ijkToLocal(volumeNode, segmentationNode)
    expected = np.eye(4)
    expected[:3, 3] = np.round(shift[:3, 3])
    return bool(np.allclose(shift, expected, atol=1e-4))


def findSegment(segmentationNode: Any, name: str) -> str:
    """ID of the segment of a structure: by our own tag first, by its name else; "" if there is none."""
    segmentation = segmentationNode.GetSegmentation()
    byName = ""
    for index in range(segmentation.GetNumberOfSegments()):
        segmentID = segmentation.GetNthSegmentID(index)
        segment = segmentation.GetSegment(segmentID)
        value = vtk.reference("")
        if segment.GetTag(PREFIX + "Resolved", value) and str(value).casefold() == name.casefold():
            return segmentID
        if segment.GetName().strip().casefold() == name.casefold():
            byName = byName or segmentID
    return byName


def isLocked(segmentationNode: Any, segmentID: str) -> bool:
    """True for a segment that its owner marked as completed."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    return logic.GetSegmentStatus(segmentationNode.GetSegmentation().GetSegment(segmentID)) == logic.Completed


def describe(segment: Any, name: str, colour: tuple[int, int, int], codes: dict[str, Any], tags: dict[str, str]) -> None:
    """Name, recommended colour, terminology and tags. ``SetTerminology`` changes neither name nor colour, so both are set."""
    entry, recommended = terminologyTag(codes)
    red, green, blue = (int(part) / 255.0 for part in (recommended or colour))
    segment.SetName(name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(red, green, blue)
    segment.SetColorAutoGenerated(False)
    if entry:
        segment.SetTerminology(entry)
    for key, value in tags.items():
        segment.SetTag(key, value)


class SegmentationWriter:
    """Writes into one segmentation; every call of :meth:`write` is one segment and takes some milliseconds to 250 ms."""

    def __init__(self, volumeNode: Any, segmentationNode: Any, mode: Existing = Existing.NEW) -> None:
        checkTarget(segmentationNode)
        self.node, self.mode = segmentationNode, mode
        self._matrix = ijkToLocal(volumeNode, segmentationNode)
        if not segmentationNode.GetSegmentation().GetConversionParameter(REFERENCE_GEOMETRY):
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        self._grid = referenceGrid(segmentationNode)

    def write(self, mask: np.ndarray, box: Box, name: str, colour: tuple[int, int, int], codes: dict[str, Any], tags: dict[str, str]) -> str:
        """Write one structure and return its segment's ID.

        Raises:
            InputError: the segment is marked as completed, or there is none to subtract from or intersect with.
        """
        image = orientedMask(mask, box, self._matrix)
        if self._grid is not None:
            image = onGridOf(image, self._grid)
        target = "" if self.mode is Existing.NEW else findSegment(self.node, name)
        if not target:
            if self.mode in (Existing.SUBTRACT, Existing.INTERSECT):
                raise InputError(_("There is no segment '{name}' to {mode}; choose 'new segment'.").format(name=name, mode=self.mode.value))
            return self._add(image, name, colour, codes, tags)
        if isLocked(self.node, target):
            raise InputError(_("The segment '{name}' is marked as completed; change its status, or choose 'new segment'.").format(name=name))
        self._change(target, image)
        segment = self.node.GetSegmentation().GetSegment(target)
        for key, value in tags.items():
            segment.SetTag(key, value)
        return target

    def _add(self, image: Any, name: str, colour: tuple[int, int, int], codes: dict[str, Any], tags: dict[str, str]) -> str:
        """A segment with a labelmap of its own, cropped to its box: 1 ms, where merging into shared layers takes up to 5 s."""
        segmentation = self.node.GetSegmentation()
        segment = slicer.vtkSegment()
        describe(segment, self._freeName(name), colour, codes, tags)
        segment.AddRepresentation(BINARY_LABELMAP, image)
        segment.SetLabelValue(1)
        segmentID = segmentation.GenerateUniqueSegmentID(name)
        segmentation.AddSegment(segment, segmentID)
        return segmentID

    def _freeName(self, name: str) -> str:
        segmentation = self.node.GetSegmentation()
        taken = {segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())}
        return next(n for n in (name, *(f"{name} ({count})" for count in range(2, len(taken) + 3))) if n not in taken)

    def _change(self, segmentID: str, image: Any) -> None:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        if self.mode is Existing.REPLACE:
            done = logic.SetBinaryLabelmapToSegment(image, self.node, segmentID, logic.MODE_REPLACE)
        elif self.mode is Existing.ADD:
            done = logic.SetBinaryLabelmapToSegment(image, self.node, segmentID, logic.MODE_MERGE_MAX)
        else:
            current = slicer.vtkOrientedImageData()
            self.node.GetBinaryLabelmapRepresentation(segmentID, current)
            _combine(current, onGridOf(image, current), self.mode is Existing.SUBTRACT)
            done = logic.SetBinaryLabelmapToSegment(current, self.node, segmentID, logic.MODE_REPLACE)
        if not done:
            raise InputError(_("The segment could not be changed; choose 'new segment'."))


def _combine(current: Any, mask: Any, subtract: bool) -> None:
    """In place: ``current`` without ``mask``, or inside ``mask`` only."""
    if current.IsEmpty():
        return
    a, b = current.GetExtent(), mask.GetExtent()
    low, high = [max(a[n], b[n]) for n in (0, 2, 4)], [min(a[n], b[n]) for n in (1, 3, 5)]
    voxels = numpy_support.vtk_to_numpy(current.GetPointData().GetScalars()).reshape(a[5] - a[4] + 1, a[3] - a[2] + 1, a[1] - a[0] + 1)
    inside = np.zeros(voxels.shape, bool)
    if all(lo <= hi for lo, hi in zip(low, high, strict=True)):
        other = numpy_support.vtk_to_numpy(mask.GetPointData().GetScalars()).reshape(b[5] - b[4] + 1, b[3] - b[2] + 1, b[1] - b[0] + 1)
        there, here = (tuple(slice(low[n] - e[2 * n], high[n] - e[2 * n] + 1) for n in (2, 1, 0)) for e in (b, a))
        inside[here] = other[there] != 0
    voxels[inside if subtract else ~inside] = 0
    current.GetPointData().GetScalars().Modified()


def writeProbability(probability: np.ndarray, volumeNode: Any, name: str) -> Iterator[Any]:
    """A volume of percent (uint8: a quarter of the memory of float), some slices a step; yields None until the node is there."""
    image = vtk.vtkImageData()
    image.SetDimensions(*shapeOf(volumeNode)[::-1])
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(probability.shape)
    step = max((4 << 20) // max(probability[0].size, 1), 1)
    for start in range(0, len(probability), step):
        part = probability[start : start + step].astype(np.float32)
        voxels[start : start + step] = np.rint(np.clip(part, 0.0, 1.0) * 100.0)
        yield None
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.CopyOrientation(volumeNode)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    yield node
