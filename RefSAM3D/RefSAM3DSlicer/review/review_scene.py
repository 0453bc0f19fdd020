"""What the scene shows of the item under review: its image, its mask as one segment, its probability; and back to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.places import box_of

from ..segmentation_writer import SegmentationWriter, createSegmentation, describe, writeProbability
from ..volume_bridge import ijkToWorld, shapeOf

#: Opacity of the probability over the image.
PROBABILITY_OPACITY = 0.4


def geometryOf(volumeNode: Any) -> Geometry:
    """The volume's grid in the world, parent transforms included."""
    return Geometry(shapeOf(volumeNode), ijkToWorld(volumeNode))


def isOnGrid(volumeNode: Any, geometry: Geometry) -> bool:
    """True if the volume's voxels are those of a mask: to a hundredth of a voxel, since some formats store coarse numbers."""
    if volumeNode is None or volumeNode.GetImageData() is None or shapeOf(volumeNode) != tuple(geometry.shape_dhw):
        return False
    k, j, i = geometry.shape_dhw
    corners = np.array([[x, y, z, 1.0] for x in (0, i) for y in (0, j) for z in (0, k)]).T
    apart = (ijkToWorld(volumeNode) - geometry.ijk_to_ras) @ corners
    return bool(np.abs(apart).max() < 0.01 * min(geometry.spacing_xyz_mm))


def addVolumeNode(array: np.ndarray, geometry: Geometry, name: str) -> Any:
    """A volume node of an array (k, j, i)."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(geometry.ijk_to_ras, float)))
    slicer.util.updateVolumeFromArray(node, array)
    node.CreateDefaultDisplayNodes()
    return node


def jumpTo(point: tuple[float, float, float] | None) -> bool:
    """Centre the slice views on a place in the world; False if there is none."""
    if point is None:
        return False
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *(float(v) for v in point), slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    return True


def segmentArray(segmentationNode: Any, segmentID: str, volumeNode: Any) -> np.ndarray:
    """Bool voxels of a segment on the volume's grid.

    Raises:
        InputError: the segment was removed.
    """
    segment = segmentationNode.GetSegmentation().GetSegment(segmentID)
    if segment is None:
        raise InputError(_("The segment under review was removed; choose the item again."))
    if isEmpty(segment):
        return np.zeros(shapeOf(volumeNode), bool)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentID, volumeNode) != 0


def isEmpty(segment: Any) -> bool:
    """True without a labelmap or with one that has no extent."""
    image = segment.GetRepresentation("Binary labelmap")
    return image is None or image.IsEmpty() or image.GetPointData().GetScalars() is None


class ReviewScene:
    """The nodes of one item at a time. Those that this class loaded go with it; the user's own stay."""

    def __init__(self) -> None:
        self._volumes: dict[str, str] = {}  # case -> node that was in the scene before
        self._case = ""
        self._loadedID = self._volumeID = self._segmentationID = self._probabilityID = ""
        self.segmentID = ""
        self._stamp = 0
        self.started: np.ndarray | None = None

    # ---- nodes

    @property
    def volumeNode(self) -> Any:
        """The image, or None."""
        return slicer.mrmlScene.GetNodeByID(self._volumeID) if self._volumeID else None

    @property
    def segmentationNode(self) -> Any:
        """Holds the mask as its one segment; None if nothing is shown."""
        return slicer.mrmlScene.GetNodeByID(self._segmentationID) if self._segmentationID else None

    @property
    def probabilityNode(self) -> Any:
        """The probability volume if there is one."""
        return slicer.mrmlScene.GetNodeByID(self._probabilityID) if self._probabilityID else None

    def useVolume(self, case: str, volumeNode: Any) -> None:
        """The image of a case is in the scene already."""
        self._volumes[case] = volumeNode.GetID()

    def showVolume(self, case: str, session: Any, item: Any) -> Any:
        """The case's image; it is loaded unless it is there.

        Raises:
            RefSAM3DError: it is not where it was.
        """
        if case == self._case and self.volumeNode is not None:
            return self.volumeNode
        self.clear()
        node = slicer.mrmlScene.GetNodeByID(self._volumes.get(case, "")) if self._volumes.get(case) else None
        if node is None:
            volume = session.volume(item)
            node = addVolumeNode(volume.array, volume.geometry, item.name or case)
            self._loadedID = node.GetID()
        self._case, self._volumeID = case, node.GetID()
        slicer.util.setSliceViewerLayers(background=node, foreground=None, fit=True)
        return node

    def adoptVolume(self, case: str, volumeNode: Any) -> None:
        """Show the item over a volume that the user loaded, since the recorded one is gone."""
        self.clear()
        self._case, self._volumeID = case, volumeNode.GetID()

    def showMask(self, item: Any, mask: np.ndarray) -> None:
        """The mask as the one segment of a new segmentation: the undo steps of the last item's cannot reach this one."""
        volumeNode, before = self.volumeNode, self.segmentationNode
        name = item.structure or item.prompt or _("structure")
        node = createSegmentation(volumeNode, _("Review: {case}, {structure}").format(case=item.name or item.case, structure=name))
        box = box_of(mask)
        if box is None:
            self.segmentID = node.GetSegmentation().AddEmptySegment("", name)
            describe(node.GetSegmentation().GetSegment(self.segmentID), name, item.colour, {}, {})
        else:
            part = mask[box[0] : box[1], box[2] : box[3], box[4] : box[5]].astype(np.uint8)
            self.segmentID = SegmentationWriter(volumeNode, node).write(part, box, name, item.colour, {}, {})
        self._segmentationID = node.GetID()
        self._turnEditorsTo(node, before)
        if before is not None:
            slicer.mrmlScene.RemoveNode(before)
        self.started = mask
        self._stamp = self._stampNow()

    def showProbability(self, array: np.ndarray, item: Any) -> Any:
        """Over the image, in per cent; below 5 % it is transparent."""
        self.hideProbability()
        name = _("{structure} probability (%)").format(structure=item.structure)
        node = next(made for made in writeProbability(array, self.volumeNode, name) if made is not None)
        self._probabilityID = node.GetID()
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileHotToColdRainbow.txt")
        if display.GetColorNode() is None:
            display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0, 100)
        display.SetThreshold(5, 100)
        display.SetApplyThreshold(True)
        slicer.util.setSliceViewerLayers(foreground=node, foregroundOpacity=PROBABILITY_OPACITY)
        return node

    def hideProbability(self) -> None:
        """Nothing over the image."""
        if self.probabilityNode is not None:
            slicer.util.setSliceViewerLayers(foreground=None)
            slicer.mrmlScene.RemoveNode(self.probabilityNode)
        self._probabilityID = ""

    def clearItem(self) -> None:
        """Take the mask away; the image stays for the next item of the case."""
        self.hideProbability()
        if self.segmentationNode is not None:
            slicer.mrmlScene.RemoveNode(self.segmentationNode)
        self.forgetItem()

    def forgetItem(self) -> None:
        """Leave the mask's node in the scene, as the user's own from now on."""
        self._segmentationID = self.segmentID = ""
        self.started = None

    def clear(self) -> None:
        """Take away all that this class brought."""
        self.clearItem()
        if self._loadedID and slicer.mrmlScene.GetNodeByID(self._loadedID) is not None:
            slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetNodeByID(self._loadedID))
        self._case = self._loadedID = self._volumeID = ""

    def sceneClosed(self) -> None:
        """All nodes are going; node IDs are given out again later."""
        self._volumes.clear()
        self.forgetItem()
        self._case = self._loadedID = self._volumeID = self._probabilityID = ""

    # ---- the edit

    def mask(self) -> np.ndarray | None:
        """The voxels of the segment now, None if no mask is shown.

        Raises:
            InputError: the segmentation or its segment was removed.
        """
        if not self._segmentationID:
            return None
        if self.segmentationNode is None or self.volumeNode is None:
            raise InputError(_("The image or the segmentation under review was removed from the scene; choose the item again."))
        return segmentArray(self.segmentationNode, self.segmentID, self.volumeNode)

    def wasTouched(self) -> bool:
        """True if the segment may have changed since it was shown or last saved; costs nothing."""
        return bool(self._segmentationID) and self._stampNow() != self._stamp

    def markSaved(self) -> None:
        """The state now is on the disk."""
        self._stamp = self._stampNow()

    def _stampNow(self) -> tuple[int, int]:
        node = self.segmentationNode
        segment = node.GetSegmentation().GetSegment(self.segmentID) if node is not None else None
        image = segment.GetRepresentation("Binary labelmap") if segment is not None else None
        return (image.GetMTime(), segment.GetLabelValue()) if image is not None else (0, 0)

    def _turnEditorsTo(self, node: Any, before: Any) -> None:
        """Segment Editors that edited the last item go on with this one."""
        for editor in slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode"):
            if before is not None and editor.GetSegmentationNode() is before:
                editor.SetAndObserveSegmentationNode(node)
                editor.SetAndObserveSourceVolumeNode(self.volumeNode)
                editor.SetSelectedSegmentID(self.segmentID)

    def edit(self) -> None:
        """Open the Segment Editor on the mask. Without a main window only its node is set."""
        if self.segmentationNode is None:
            raise InputError(_("There is no mask to edit."))
        editors = slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")
        editor = editors[0] if editors else slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        module = getattr(slicer.modules, "segmenteditor", None)
        if module is not None and slicer.util.mainWindow() is not None:
            slicer.util.selectModule("SegmentEditor")
            widget = module.widgetRepresentation().self().editor
            widget.setSegmentationNode(self.segmentationNode)
            widget.setSourceVolumeNode(self.volumeNode)
            widget.setCurrentSegmentID(self.segmentID)
            return
        editor.SetAndObserveSegmentationNode(self.segmentationNode)
        editor.SetAndObserveSourceVolumeNode(self.volumeNode)
        editor.SetSelectedSegmentID(self.segmentID)


def readProbability(path: Any) -> np.ndarray:
    """(k, j, i), 0 to 1, of a batch's probability volume."""
    from RefSAM3DLib.image_files import read_image_file

    return read_image_file(path)[0]


def exportCurrent(volumeNode: Any, segmentationNode: Any, folder: Any) -> tuple[Any, Any]:
    """Image and segmentation of the scene as files, both in the world's frame: a segmentation under its image's transform stays on it.

    Raises:
        InputError: the segmentation has no voxels on the image's grid.
    """
    from RefSAM3DLib.segmentation_io import write_segmentation
    from RefSAM3DLib.types import PromptResult, Verdict, Volume

    geometry, results, tags = geometryOf(volumeNode), [], {}
    segmentation = segmentationNode.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segmentID, segment = segmentation.GetNthSegmentID(index), segmentation.GetNthSegment(index)
        mask = segmentArray(segmentationNode, segmentID, volumeNode)
        if not mask.any():
            continue
        tags = {key: _tag(segment, f"RefSAM3D.{key}") for key in ("Prompt", "Verdict", "Presence", "Confidence", "Model", "ModelSHA256")}
        verdict = tags["Verdict"].lower()
        results.append(
            PromptResult(
                prompt=tags["Prompt"] or segment.GetName(),
                resolved=segment.GetName(),
                verdict=Verdict(verdict) if verdict in ("present", "uncertain") else Verdict.PRESENT,
                presence=_number(tags["Presence"]),
                confidence=_number(tags["Confidence"]),
                mask=mask,
                volume_ml=float(mask.sum()) * geometry.voxel_volume_ml,
                box=box_of(mask),
                elapsed_s=0.0,
                colour=tuple(round(255 * part) for part in segment.GetColor()),
            )
        )
    if not results:
        raise InputError(_("The segmentation '{name}' has nothing inside the image; choose another one.").format(name=segmentationNode.GetName()))
    folder.mkdir(parents=True, exist_ok=True)
    image, path = folder / "image.nrrd", folder / "segmentation.seg.nrrd"
    clone = slicer.vtkMRMLScalarVolumeNode()
    clone.SetAndObserveImageData(volumeNode.GetImageData())
    clone.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(geometry.ijk_to_ras, float)))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(image))
    storage.SetUseCompression(True)
    if not storage.WriteData(clone):
        raise InputError(_("The image could not be written to '{path}'; choose another folder.").format(path=image))
    volume = Volume(slicer.util.arrayFromVolume(volumeNode), geometry, source=volumeNode.GetName())
    info = {"name": tags.get("Model", ""), "sha256": tags.get("ModelSHA256", ""), "device": "", "version": ""}
    write_segmentation(path, results, volume, info, overwrite=True)
    return image, path


def _tag(segment: Any, name: str) -> str:
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
