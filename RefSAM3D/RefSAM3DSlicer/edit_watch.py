"""A segment that a person changed after the machine drew it is no longer automatic: its DICOM tag follows the voxels.

Slicer's own editors know nothing of our tags, and its DICOM exporter writes what the tag says.
"""

from __future__ import annotations

import zlib
from typing import Any

import slicer
import vtk

from RefSAM3DLib.provenance import AUTOMATIC, SEMIAUTOMATIC

from .labelmaps import BINARY_LABELMAP, segmentExtent, segmentsOf, voxelsOf
from .pythonqt import TickTimer
from .segment_owner import TYPE_TAG, textOf
from .sequence_browser import browserOf, frameOf

#: Looked at so long after a change, so that no brush stroke waits for it.
DELAY_MS = 300

#: Node, frame, segment: a node that shows the frames of a sequence shows other voxels in each.
Key = tuple[str, int, str]


class EditWatch:
    """Of one scene. The nodes are observed, not their ``vtkSegmentation``: a node that follows a sequence gets another one for each frame."""

    def __init__(self) -> None:
        self._machine: dict[Key, set[int]] = {}  # fingerprints of all that the machine drew there: undo brings an earlier one back
        self._stamps: dict[Key, int] = {}  # when it was looked at last
        self._observed: dict[str, list[int]] = {}  # node -> its observers
        self._shown: dict[str, Any] = {}  # node -> the vtkSegmentation it held last
        self._changed: dict[tuple[str, int], Any] = {}  # node and frame -> the vtkSegmentation that was changed
        self._arrived: set[str] = set()  # nodes that got other segments while their sequence played
        self._timer = TickTimer(self.look, DELAY_MS)
        scene = slicer.mrmlScene
        self._tags = [scene.AddObserver(event, lambda *_a: self.lookAtAll()) for event in (scene.EndImportEvent, scene.StartSaveEvent)]
        self._tags += [
            scene.AddObserver(scene.EndCloseEvent, lambda *_a: self._forget()),
            scene.AddObserver(scene.NodeAddedEvent, lambda *_a: self._observeAll()),
            scene.AddObserver(scene.NodeRemovedEvent, lambda *_a: self._dropGone()),
        ]
        self.lookAtAll()

    def stop(self) -> None:
        """Look a last time, then no more."""
        self.lookAtAll()
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        for nodeID, tags in self._observed.items():
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            for tag in tags if node is not None else ():
                node.RemoveObserver(tag)
        self._forget()

    def remember(self, node: Any, segmentID: str) -> None:
        """The voxels now are the machine's."""
        self._observe(node)
        if tagOf(node, segmentID) == AUTOMATIC:
            self._learn(node.GetSegmentation().GetSegment(segmentID), (node.GetID(), _frame(node), segmentID))

    def lookAtAll(self) -> None:
        """Every segmentation of the scene: after a scene was loaded, before one is saved."""
        self._observeAll()
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            self._changed[node.GetID(), _frame(node)] = node.GetSegmentation()
        self.look()

    def look(self) -> None:
        """Set the tags of what has changed since the last look."""
        self._timer.stop()
        changed, self._changed = self._changed, {}
        for (nodeID, frame), segmentation in changed.items():
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is None or (segmentation is node.GetSegmentation() and frame != _frame(node)):
                continue  # the object was filled with another frame since: a browser that keeps no changes
            for segmentID, segment in segmentsOf(segmentation):
                self._lookAt(segment, (nodeID, frame, segmentID))
        arrived, self._arrived = self._arrived, set()
        for nodeID in arrived:
            self._onArrival(slicer.mrmlScene.GetNodeByID(nodeID))

    def _lookAt(self, segment: Any, key: Key) -> None:
        if key not in self._machine:
            self._meet(segment, key)
        elif not _typeOf(segment):  # undo took the machine's mask away: this is a person's own segment again
            del self._machine[key], self._stamps[key]
        elif self._stamps[key] != _stamp(segment):
            self._stamps[key] = _stamp(segment)
            kind = AUTOMATIC if fingerprint(segment) in self._machine[key] else SEMIAUTOMATIC
            if _typeOf(segment) != kind:
                segment.SetTag(TYPE_TAG, kind)

    def _meet(self, segment: Any, key: Key) -> None:
        """What says that the machine drew it is taken at its word when it comes: with a file, or with its frame."""
        if _typeOf(segment) == AUTOMATIC and segment.GetRepresentation(BINARY_LABELMAP) is not None:
            self._learn(segment, key)

    def _learn(self, segment: Any, key: Key) -> None:
        self._machine.setdefault(key, set()).add(fingerprint(segment))
        self._stamps[key] = _stamp(segment)

    # ---- events

    def _observeAll(self) -> None:
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            self._observe(node)

    def _observe(self, node: Any) -> None:
        nodeID, kinds = node.GetID(), slicer.vtkSegmentation
        if nodeID in self._observed:
            return
        self._shown[nodeID] = node.GetSegmentation()
        # Editors fire the first; code that exchanges the labelmap of a segment only the second.
        handlers = (
            (kinds.SourceRepresentationModified, self._onChange),
            (kinds.SegmentModified, self._onChange),
            (kinds.SegmentAdded, self._onArrival),
            (vtk.vtkCommand.ModifiedEvent, self._onModified),
        )
        self._observed[nodeID] = [node.AddObserver(event, lambda caller, _event, handler=handler: handler(caller)) for event, handler in handlers]

    def _onChange(self, node: Any) -> None:
        self._changed[node.GetID(), _frame(node)] = node.GetSegmentation()
        self._timer.start()

    def _onModified(self, node: Any) -> None:
        if node.GetSegmentation() is not self._shown.get(node.GetID()):
            self._shown[node.GetID()] = node.GetSegmentation()
            self._onArrival(node)

    def _onArrival(self, node: Any) -> None:
        """Other segments: at once, so that no edit comes first; but a sequence that plays is not slowed down."""
        if node is None or slicer.mrmlScene.IsImporting():
            return
        browser = browserOf(node)
        if browser is not None and browser.GetPlaybackActive():
            self._arrived.add(node.GetID())
            self._timer.start()
            return
        for segmentID, segment in segmentsOf(node.GetSegmentation()):
            key = (node.GetID(), _frame(node), segmentID)
            if key not in self._machine:
                self._meet(segment, key)
        self._onChange(node)

    def _dropGone(self) -> None:
        for nodeID in [nodeID for nodeID in self._observed if slicer.mrmlScene.GetNodeByID(nodeID) is None]:
            del self._observed[nodeID], self._shown[nodeID]
            for memory in (self._machine, self._stamps):
                for key in [key for key in memory if key[0] == nodeID]:
                    del memory[key]

    def _forget(self) -> None:
        for memory in (self._machine, self._stamps, self._observed, self._shown, self._changed, self._arrived):
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
    return _typeOf(node.GetSegmentation().GetSegment(segmentID))


def _typeOf(segment: Any) -> str:
    return textOf(segment, TYPE_TAG)


def _frame(node: Any) -> int:
    frame = frameOf(node)
    return -1 if frame is None else frame


def _stamp(segment: Any) -> int:
    image = segment.GetRepresentation(BINARY_LABELMAP)
    return image.GetMTime() if image is not None else 0


def fingerprint(segment: Any) -> int:
    """Of place and voxels; segments may share a labelmap, so only the segment's own count."""
    image = segment.GetRepresentation(BINARY_LABELMAP)
    extent = segmentExtent(segment, image) if image is not None else None
    if extent is None:
        return 0
    start = image.GetExtent()
    k, j, i = (slice(extent[n] - start[n], extent[n + 1] - start[n] + 1) for n in (4, 2, 0))
    return zlib.crc32((voxelsOf(image)[k, j, i] == segment.GetLabelValue()).tobytes(), zlib.crc32(repr(extent).encode()))
