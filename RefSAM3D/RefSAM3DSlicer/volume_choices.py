"""What belongs to the chosen volume goes and comes with it: the output that the panel made for it, and its kind of image."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from .parameters import RefSAM3DParameterNode


class VolumeChoices:
    """Of one parameter node. An output that the user chose stays whatever the volume."""

    def __init__(self) -> None:
        self._volumeID = ""
        self._made: dict[str, str] = {}  # volume -> segmentation that a run on it made
        self._modality: dict[str, str] = {}
        self._ownID = ""  # the output, if the panel set it
        self._parameters: RefSAM3DParameterNode | None = None
        self._tag: int | None = None

    def forget(self) -> None:
        """The scene is closed; node IDs are given out again."""
        self._made.clear()
        self._modality.clear()
        self._volumeID = self._ownID = ""
        if self._tag is not None:
            slicer.mrmlScene.RemoveObserver(self._tag)
        self._parameters = self._tag = None

    def takeOver(self, parameters: RefSAM3DParameterNode) -> None:
        """What a scene brings holds. Whether a user chose its output is not known: one that was made on its volume goes with the volume."""
        self._parameters = parameters
        if self._tag is None:  # with a higher priority than the selector, which would choose a neighbour of the node that goes
            self._tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAboutToBeRemovedEvent, self._onNodeGoes, 1.0)
        volume, output = parameters.inputVolume, parameters.segmentation
        self._volumeID = _idOf(volume)
        if volume is not None and output is not None and output.GetNodeReference(output.GetReferenceImageGeometryReferenceRole()) is volume:
            self._ownID = self._made[self._volumeID] = output.GetID()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, _scene: Any, _event: str, node: Any) -> None:
        """Where the output is deleted the next run makes one of its own: what it would otherwise write into was chosen by nobody."""
        if self._parameters is not None and node is not None and not slicer.mrmlScene.IsClosing() and self._parameters.segmentation is node:
            self._parameters.segmentation = None

    def made(self, parameters: RefSAM3DParameterNode, volumeID: str, segmentationNode: Any) -> None:
        """A run on a volume wrote into this segmentation: the next one on that volume goes there too."""
        before = _idOf(parameters.segmentation)
        if before != segmentationNode.GetID() or before == self._ownID:
            self._made[volumeID] = segmentationNode.GetID()
        if _idOf(parameters.inputVolume) != volumeID:
            return  # the user went on to another volume while it ran
        if before != segmentationNode.GetID():
            self._ownID = segmentationNode.GetID()
            parameters.segmentation = segmentationNode

    def follow(self, parameters: RefSAM3DParameterNode) -> None:
        """The parameters changed: where that was the volume, give it what is its own."""
        volumeID, outputID = _idOf(parameters.inputVolume), _idOf(parameters.segmentation)
        if outputID != self._ownID:
            self._ownID = ""  # chosen by the user since
        if not volumeID or volumeID == self._volumeID or slicer.mrmlScene.IsImporting():
            return
        before, self._volumeID = self._volumeID, volumeID
        if not before:
            return
        self._modality[before] = parameters.modality
        own = slicer.mrmlScene.GetNodeByID(self._made[volumeID]) if volumeID in self._made else None
        if self._ownID or not outputID:
            self._ownID = _idOf(own)
            parameters.segmentation = own
        parameters.modality = self._modality.get(volumeID, "")


def _idOf(node: Any) -> str:
    return node.GetID() if node is not None else ""
