"""Write results into a segmentation node: right place, right name, nothing else touched."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.provenance import PREFIX

from .labelmaps import BINARY_LABELMAP, REFERENCE_GEOMETRY, combine, ijkToLocal, onGridOf, orientedMask, referenceGrid
from .segment_owner import freeName, isEdited, keepCopy
from .terminology import terminologyTag
from .volume_bridge import Box, shapeOf


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


def findSegment(segmentationNode: Any, name: str) -> str:
    """ID of the segment of a structure: by its name, else by our own tag; "" if there is none.

    A segment that was renamed is its owner's: the tag counts only where the name is still one that the writer gave.
    """
    segmentation, wanted = segmentationNode.GetSegmentation(), name.casefold()
    byTag = ""
    for index in range(segmentation.GetNumberOfSegments()):
        segmentID, segment = segmentation.GetNthSegmentID(index), segmentation.GetNthSegment(index)
        present, value = segment.GetName().strip().casefold(), vtk.reference("")
        if present == wanted:
            return segmentID
        isTagged = segment.GetTag(PREFIX + "Resolved", value) and str(value).casefold() == wanted
        if isTagged and re.fullmatch(re.escape(wanted) + r" \(\d+\)", present):
            byTag = byTag or segmentID
    return byTag


def isHidden(segmentationNode: Any, segmentID: str) -> bool:
    """True if no view shows the segment: its own eye is closed, or the segmentation's."""
    display = segmentationNode.GetDisplayNode()
    return display is not None and not (display.GetVisibility() and display.GetSegmentVisibility(segmentID))


def showSegments(segmentationNode: Any, segmentIDs: list[str]) -> None:
    """Open the eyes of the segmentation and of these segments; the others stay as they are."""
    display = segmentationNode.GetDisplayNode()
    if display is not None:
        display.SetVisibility(True)
        for segmentID in segmentIDs:
            display.SetSegmentVisibility(segmentID, True)


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
    """Writes into one segmentation; every call of :meth:`write` is one segment and takes some milliseconds to 250 ms.

    Attributes:
        kept: name of the hidden copy of what the last :meth:`write` took voxels from, "" if that was the machine's own or nothing.
    """

    def __init__(self, volumeNode: Any, segmentationNode: Any, mode: Existing = Existing.NEW) -> None:
        checkTarget(segmentationNode)
        segmentationNode.CreateDefaultDisplayNodes()  # one that was made with a node selector has none: nothing would be seen
        self.node, self.mode, self.kept = segmentationNode, mode, ""
        self._matrix = ijkToLocal(volumeNode, segmentationNode)
        if not segmentationNode.GetSegmentation().GetConversionParameter(REFERENCE_GEOMETRY):
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        self._grid = referenceGrid(segmentationNode)

    def write(self, mask: np.ndarray, box: Box, name: str, colour: tuple[int, int, int], codes: dict[str, Any], tags: dict[str, str]) -> str:
        """Write one structure and return its segment's ID.

        Raises:
            InputError: the segment is marked as completed, or there is none to subtract from or intersect with.
        """
        self.kept = ""
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
        if self.mode is not Existing.ADD and isEdited(self.node.GetSegmentation().GetSegment(target)):
            self.kept = keepCopy(self.node, target)
        self._change(target, image)
        segment = self.node.GetSegmentation().GetSegment(target)
        for key, value in tags.items():
            segment.SetTag(key, value)
        return target

    def _add(self, image: Any, name: str, colour: tuple[int, int, int], codes: dict[str, Any], tags: dict[str, str]) -> str:
        """A segment with a labelmap of its own, cropped to its box: 1 ms, where merging into shared layers takes up to 5 s."""
        segmentation = self.node.GetSegmentation()
        segment = slicer.vtkSegment()
        describe(segment, freeName(segmentation, name), colour, codes, tags)
        segment.AddRepresentation(BINARY_LABELMAP, image)
        segment.SetLabelValue(1)
        segmentID = segmentation.GenerateUniqueSegmentID(name)
        segmentation.AddSegment(segment, segmentID)
        return segmentID

    def _change(self, segmentID: str, image: Any) -> None:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        if self.mode is Existing.REPLACE:
            done = logic.SetBinaryLabelmapToSegment(image, self.node, segmentID, logic.MODE_REPLACE)
        elif self.mode is Existing.ADD:
            done = logic.SetBinaryLabelmapToSegment(image, self.node, segmentID, logic.MODE_MERGE_MAX)
        else:
            current = slicer.vtkOrientedImageData()
            self.node.GetBinaryLabelmapRepresentation(segmentID, current)
            combine(current, onGridOf(image, current), self.mode is Existing.SUBTRACT)
            done = logic.SetBinaryLabelmapToSegment(current, self.node, segmentID, logic.MODE_REPLACE)
        if not done:
            raise InputError(_("The segment could not be changed; choose 'new segment'."))


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
