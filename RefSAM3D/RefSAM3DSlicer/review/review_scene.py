"""What the scene shows of the item under review: its image, its mask as one segment, its probability; and back to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.places import box_of

from .. import edit_watch
from ..labelmaps import hasVoxels, ijkToLocal, segmentsOf
from ..segmentation_writer import SegmentationWriter, createSegmentation, describe, writeProbability
from .scene_arrays import addVolumeNode, segmentArray, tagsOf

#: Opacity of the probability over the image.
PROBABILITY_OPACITY = 0.4
#: The Segment Editor looks for its node by this.
EDITOR_TAG = "SegmentEditor"


def jumpTo(point: tuple[float, float, float] | None) -> bool:
    """Centre the slice views on a place in the world; False if there is none."""
    if point is None:
        return False
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *(float(v) for v in point), slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    return True


class ReviewScene:
    """The nodes of one item at a time. Those that this class loaded go with it; the user's own stay."""

    def __init__(self) -> None:
        self._volumes: dict[str, str] = {}  # case -> node that was in the scene before
        self._case = ""
        self._loadedID = self._volumeID = self._segmentationID = self._probabilityID = ""
        self.segmentID = ""
        self._saved = (0, 0)
        self._place = np.eye(4)  # of the image's voxels in the mask's frame when the mask was shown
        self._retired: list[str] = []  # nodes of the item before, until the next one is shown
        self.kept: list[str] = []  # names of segmentations that were left in the scene, since the user has added to them
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
        known = self._volumes.get(case)
        node = slicer.mrmlScene.GetNodeByID(known) if known else None
        loadedID = ""
        if node is None:
            volume = session.volume(item)
            node = addVolumeNode(volume.array, volume.geometry, item.name or case)
            loadedID = node.GetID()
        self._takeVolume(case, node, loadedID)
        return node

    def adoptVolume(self, case: str, volumeNode: Any) -> None:
        """Show the item over a volume that the user loaded, since the recorded one is gone."""
        self._takeVolume(case, volumeNode, "")

    def _takeVolume(self, case: str, node: Any, loadedID: str) -> None:
        if self._loadedID:
            self._retired.append(self._loadedID)
        self._case, self._volumeID, self._loadedID = case, node.GetID(), loadedID
        slicer.util.setSliceViewerLayers(background=node, foreground=None, fit=True)

    def showMask(self, item: Any, mask: np.ndarray, isMachines: bool = True) -> None:
        """The mask as the one segment of a new segmentation: the undo steps of the last item's cannot reach this one.

        ``isMachines``: nobody has changed it yet.
        """
        volumeNode, before, beforeID = self.volumeNode, self.segmentationNode, self.segmentID
        name = item.structure or item.prompt or _("structure")
        node = createSegmentation(volumeNode, _("Review: {case}, {structure}").format(case=item.name or item.case, structure=name))
        box = box_of(mask)
        if box is None:
            self.segmentID = node.GetSegmentation().AddEmptySegment("", name)
            describe(node.GetSegmentation().GetSegment(self.segmentID), name, item.colour, {}, {})
        else:
            part = mask[box[0] : box[1], box[2] : box[3], box[4] : box[5]].astype(np.uint8)
            self.segmentID = SegmentationWriter(volumeNode, node).write(part, box, name, item.colour, {}, tagsOf(item, isMachines))
            edit_watch.start().remember(node, self.segmentID)
        self._segmentationID, self._place = node.GetID(), ijkToLocal(volumeNode, node)
        self._turnEditorsTo(node, before)
        if before is not None:
            self._takeAway(before, beforeID)
        self._removeRetired()
        self.started = mask
        self._saved = self.stamp()

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
            self._takeAway(self.segmentationNode, self.segmentID)
        self.forgetItem()
        self._removeRetired()

    def _takeAway(self, node: Any, segmentID: str) -> None:
        """The mask goes; segments that the user added (a second one, islands that were split off) are nobody else's: they stay."""
        segmentation = node.GetSegmentation()
        others = [segment for otherID, segment in segmentsOf(segmentation) if otherID != segmentID and hasVoxels(segment)]
        if not others:
            slicer.mrmlScene.RemoveNode(node)
            return
        if segmentation.GetSegment(segmentID) is not None:
            segmentation.RemoveSegment(segmentID)
        self.kept.append(node.GetName())

    def forgetItem(self) -> None:
        """Leave the mask's node in the scene, as the user's own from now on."""
        self._segmentationID = self.segmentID = ""
        self.started = None

    def clear(self) -> None:
        """Take away all that this class brought."""
        if self._loadedID:
            self._retired.append(self._loadedID)
        self.clearItem()
        self._case = self._loadedID = self._volumeID = ""

    def sceneClosed(self) -> None:
        """All nodes are going; node IDs are given out again later."""
        self._volumes.clear()
        self._retired.clear()
        self.forgetItem()
        self._case = self._loadedID = self._volumeID = self._probabilityID = ""

    def _removeRetired(self) -> None:
        for nodeID in self._retired:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
        self._retired.clear()

    # ---- the edit

    @property
    def isLost(self) -> bool:
        """True if a mask was shown and its image, its segmentation or its segment was removed; costs nothing."""
        node = self.segmentationNode
        return bool(self._segmentationID) and (node is None or self.volumeNode is None or node.GetSegmentation().GetSegment(self.segmentID) is None)

    def mask(self) -> np.ndarray | None:
        """The voxels of the segment now, None if no mask is shown.

        Raises:
            InputError: the segmentation or its segment was removed, or lies elsewhere in the image than it did.
        """
        if not self._segmentationID:
            return None
        if self.segmentationNode is None or self.volumeNode is None:
            raise InputError(_("The image or the segmentation under review was removed from the scene; choose the item again."))
        if not np.allclose(ijkToLocal(self.volumeNode, self.segmentationNode), self._place, atol=1e-4):  # every voxel would seem to be edited
            raise InputError(_("The image or its mask was moved by a transform; put both back under the same one."))
        return segmentArray(self.segmentationNode, self.segmentID, self.volumeNode)

    def wasTouched(self) -> bool:
        """True if the segment may have changed since it was shown or last saved; costs nothing."""
        return bool(self._segmentationID) and self.stamp() != self._saved

    def isChanged(self) -> bool:
        """True if the segment is not what was shown at first, or may be: one that was moved cannot be compared."""
        try:
            mask = self.mask()
        except InputError:
            return not self.isLost
        return mask is not None and not np.array_equal(mask, self.started)

    def markSaved(self) -> None:
        """The state now is on the disk."""
        self._saved = self.stamp()

    def stamp(self) -> tuple[int, int]:
        """Changes with every change of the segment; costs nothing."""
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
        module = getattr(slicer.modules, "segmenteditor", None)
        if module is not None and slicer.util.mainWindow() is not None:
            slicer.util.selectModule("SegmentEditor")
            widget = module.widgetRepresentation().self().editor
            widget.setSegmentationNode(self.segmentationNode)
            widget.setSourceVolumeNode(self.volumeNode)
            widget.setCurrentSegmentID(self.segmentID)
            return
        editor = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if editor is None:
            editor = slicer.vtkMRMLSegmentEditorNode()
            editor.SetSingletonTag(EDITOR_TAG)
            editor = slicer.mrmlScene.AddNode(editor)
        editor.SetAndObserveSegmentationNode(self.segmentationNode)
        editor.SetAndObserveSourceVolumeNode(self.volumeNode)
        editor.SetSelectedSegmentID(self.segmentID)
