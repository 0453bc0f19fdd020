"""A segment that a person changed after the machine drew it is no longer automatic: its DICOM tag follows the voxels.

Slicer's own editors know nothing of our tags, and its DICOM exporter writes what the tag says.
"""

from __future__ import annotations

import zlib
from typing import Any

import slicer
import vtk

from RefSAM3DLib.provenance import AUTOMATIC, SEMIAUTOMATIC

from .labelmaps import BINARY_LABELMAP, labelExtent, voxelsOf
from .pythonqt import TickTimer
from .sequence_browser import browserOf

TYPE_TAG = "DICOM.SegmentAlgorithmType"
#: Looked at so long after a change, so that no brush stroke waits for it.
DELAY_MS = 300


class EditWatch:
    """Of one scene."""

    def __init__(self) -> None:
        self._machine: dict[tuple[str, int, str], int] = {}  # (node, frame, segment) -> fingerprint of what the machine drew
        self._stamps: dict[tuple[str, int, str], int] = {}  # when it was looked at last
        self._observed: dict[str, tuple[Any, list[int]]] = {}
        self._changed: set[str] = set()
        self._timer = TickTimer(self.look, DELAY_MS)
        scene = slicer.mrmlScene
        self._tags = [scene.AddObserver(event, lambda *_a: self.lookAtAll()) for event in (scene.EndImportEvent, scene.StartSaveEvent)]
        self._tags.append(scene.AddObserver(scene.EndCloseEvent, lambda *_a: self._forget()))
        self.lookAtAll()

    def stop(self) -> None:
        """Look a last time, then no more."""
        self.lookAtAll()
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        for segmentation, tags in self._observed.values():
            for tag in tags:
                segmentation.RemoveObserver(tag)
        self._forget()

    def remember(self, node: Any, segmentID: str) -> None:
        """The voxels now are the machine's."""
        self._observe(node)
        if tagOf(node, segmentID) == AUTOMATIC:
            key = _keyOf(node, segmentID)
            self._machine[key], self._stamps[key] = _fingerprint(node, segmentID), _stamp(node, segmentID)

    def lookAtAll(self) -> None:
        """Every segmentation of the scene: after a file was loaded, before one is saved."""
        for nodeID in [nodeID for nodeID in self._observed if slicer.mrmlScene.GetNodeByID(nodeID) is None]:
            del self._observed[nodeID]
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            self._observe(node)
            self._changed.add(node.GetID())
        self.look()

    def look(self) -> None:
        """Set the tags of what has changed since the last look."""
        self._timer.stop()
        nodes = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in self._changed]
        self._changed.clear()
        for node in nodes:
            for number in range(node.GetSegmentation().GetNumberOfSegments() if node is not None else 0):
                self._lookAt(node, node.GetSegmentation().GetNthSegmentID(number))

    def _lookAt(self, node: Any, segmentID: str) -> None:
        key, stamp = _keyOf(node, segmentID), _stamp(node, segmentID)
        if self._stamps.get(key) == stamp:
            return
        self._stamps[key] = stamp
        if key in self._machine:
            kind = AUTOMATIC if _fingerprint(node, segmentID) == self._machine[key] else SEMIAUTOMATIC
            if tagOf(node, segmentID) != kind:
                node.GetSegmentation().GetSegment(segmentID).SetTag(TYPE_TAG, kind)
        elif tagOf(node, segmentID) == AUTOMATIC:  # it came with a file
            self._machine[key] = _fingerprint(node, segmentID)

    def _observe(self, node: Any) -> None:
        segmentation, nodeID = node.GetSegmentation(), node.GetID()
        if self._observed.get(nodeID, (None, []))[0] is not segmentation:
            for memory in (self._machine, self._stamps):  # IDs of nodes that are gone are given out again
                for key in [key for key in memory if key[0] == nodeID]:
                    del memory[key]
            # Editors fire the first; code that exchanges the labelmap of a segment only the second.
            events = (slicer.vtkSegmentation.SourceRepresentationModified, slicer.vtkSegmentation.SegmentModified)
            self._observed[nodeID] = (segmentation, [segmentation.AddObserver(event, lambda *_a: self._onChange(nodeID)) for event in events])

    def _onChange(self, nodeID: str) -> None:
        self._changed.add(nodeID)
        self._timer.start()

    def _forget(self) -> None:
        for memory in (self._machine, self._stamps, self._observed, self._changed):
            memory.clear()


_watch: list[EditWatch] = []


def start() -> EditWatch:
    """The one watch of the application, made when it is first asked for."""
    if not _watch:
        _watch.append(EditWatch())
    return _watch[0]


def stop() -> None:
    """The module is reloaded or Slicer quits; :func:`start` begins anew."""
    while _watch:
        _watch.pop().stop()


def tagOf(node: Any, segmentID: str) -> str:
    """Algorithm type of a segment, "" without one."""
    value = vtk.reference("")
    return str(value) if node.GetSegmentation().GetSegment(segmentID).GetTag(TYPE_TAG, value) else ""


def _keyOf(node: Any, segmentID: str) -> tuple[str, int, str]:
    """A node that shows the frames of a sequence shows other voxels in each."""
    browser = browserOf(node)
    return node.GetID(), browser.GetSelectedItemNumber() if browser is not None else -1, segmentID


def _stamp(node: Any, segmentID: str) -> int:
    image = node.GetSegmentation().GetSegment(segmentID).GetRepresentation(BINARY_LABELMAP)
    return image.GetMTime() if image is not None else 0


def _fingerprint(node: Any, segmentID: str) -> int:
    """Of place and voxels; segments may share a labelmap, so only the segment's own count."""
    segment = node.GetSegmentation().GetSegment(segmentID)
    image = segment.GetRepresentation(BINARY_LABELMAP)
    extent = labelExtent(node, segmentID, image) if image is not None else None
    if extent is None:
        return 0
    start = image.GetExtent()
    k, j, i = (slice(extent[n] - start[n], extent[n + 1] - start[n] + 1) for n in (4, 2, 0))
    return zlib.crc32((voxelsOf(image)[k, j, i] == segment.GetLabelValue()).tobytes(), zlib.crc32(repr(extent).encode()))
