"""Results of the effect: into the segment that was selected at the start, through the editor's masks, as one undo step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from vtk.util import numpy_support

from RefSAM3DLib.errors import InputError

from .provenance import provenanceTags
from .runs import Run, RunResult
from .segmentation_writer import checkTarget, describe, ijkToLocal, isLocked, onGridOf, orientedMask
from .sinks import codesOf, vocabularyOf
from .task import Outcome

_SLICERS_OWN_NAME = re.compile(r"Segment(_\d+)?")


class EffectSink:
    """Remembers where the user was; what the user does meanwhile does not redirect the result."""

    def __init__(self, effect: Any, volumeNode: Any, segmentationNode: Any, segmentID: str) -> None:
        """Raises InputError if the segmentation or the segment cannot take the result."""
        checkTarget(segmentationNode)
        if segmentID and isLocked(segmentationNode, segmentID):
            name = segmentationNode.GetSegmentation().GetSegment(segmentID).GetName()
            raise InputError(_("The segment '{name}' is marked as completed; change its status or select another one.").format(name=name))
        self._effect = effect
        self._volumeID, self._segmentationID, self._segmentID = volumeNode.GetID(), segmentationNode.GetID(), segmentID

    def watchedNodeIDs(self) -> list[str]:
        """Without the segmentation there is nowhere to write."""
        return [self._segmentationID]

    @property
    def segmentationNode(self) -> Any:
        """The segmentation that is edited."""
        return slicer.mrmlScene.GetNodeByID(self._segmentationID)

    def steps(self, run: Run, outcomes: list[Outcome]) -> Iterator[float]:
        """All in one undo step; a run that found nothing makes none."""
        outcomes += [Outcome(result) for result in run.results]
        drawn = [outcome for outcome in outcomes if outcome.result.isDrawn]
        if not drawn:
            return
        node, volumeNode = self._checkedNodes()
        self._effect.saveStateForUndo()
        if self._segmentID:
            yield 0.1
            self._modify(node, volumeNode, self._segmentID, [outcome.result for outcome in drawn])
            self._nameIfFresh(node, drawn[0].result, run, several=len(drawn) > 1)
            for outcome in drawn:
                outcome.segmentID = self._segmentID
        else:
            for index, outcome in enumerate(drawn):
                outcome.segmentID = self._makeSegment(node, outcome.result, run)
                self._modify(node, volumeNode, outcome.segmentID, [outcome.result])
                yield (index + 1) / len(drawn)
            self._effect.parameterSetNode().SetSelectedSegmentID(drawn[-1].segmentID)
        for outcome in drawn:
            segment = node.GetSegmentation().GetSegment(outcome.segmentID)
            for key, value in provenanceTags(outcome.result, run.engine, assisted=True).items():
                segment.SetTag(key, value)

    def _checkedNodes(self) -> tuple[Any, Any]:
        """The nodes of the start, if the editor still shows them: masks and intensity range are those of the editor."""
        editor, node = self._effect.parameterSetNode(), self.segmentationNode
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if editor is None or node is None or volumeNode is None:
            raise InputError(_("The segmentation or the image is not in the scene any more; nothing was changed."))
        if editor.GetSegmentationNode() is not node or editor.GetSourceVolumeNode() is not volumeNode:
            raise InputError(_("The Segment Editor shows another segmentation or image now; nothing was changed. Apply again."))
        if self._segmentID and node.GetSegmentation().GetSegment(self._segmentID) is None:
            raise InputError(_("The segment was removed while it was being computed; nothing was changed."))
        return node, volumeNode

    def _modify(self, node: Any, volumeNode: Any, segmentID: str, results: list[RunResult]) -> None:
        """Set the segment to the union of results, through the editor's masks and overwrite mode."""
        labelmap = self._effect.defaultModifierLabelmap()
        e = labelmap.GetExtent()
        voxels = numpy_support.vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(e[5] - e[4] + 1, e[3] - e[2] + 1, e[1] - e[0] + 1)
        voxels[...] = 0
        matrix = ijkToLocal(volumeNode, node)
        for result in results:
            image = onGridOf(orientedMask(result.mask, result.box, matrix), labelmap)
            f = image.GetExtent()
            low, high = [max(e[n], f[n]) for n in (4, 2, 0)], [min(e[n], f[n]) for n in (5, 3, 1)]
            if any(lo > hi for lo, hi in zip(low, high, strict=True)):
                continue
            part = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(f[5] - f[4] + 1, f[3] - f[2] + 1, f[1] - f[0] + 1)
            target, source = (tuple(slice(lo - o[a], hi - o[a] + 1) for lo, hi, a in zip(low, high, (4, 2, 0), strict=True)) for o in (e, f))
            voxels[target] = np.maximum(voxels[target], part[source])
        labelmap.GetPointData().GetScalars().Modified()
        labelmap.Modified()
        self._effect.modifySegmentByLabelmap(node, segmentID, labelmap, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet)

    def _makeSegment(self, node: Any, result: RunResult, run: Run) -> str:
        segmentation, name = node.GetSegmentation(), result.resolved or result.prompt
        segmentID = segmentation.AddEmptySegment(segmentation.GenerateUniqueSegmentID(name), name)
        describe(segmentation.GetSegment(segmentID), name, result.colour, codesOf(name, vocabularyOf(run)), {})
        self._effect.parameterSetNode().SetSelectedSegmentID(segmentID)
        return segmentID

    def _nameIfFresh(self, node: Any, result: RunResult, run: Run, several: bool) -> None:
        """A segment that still has the name and colour that Slicer gave it gets those of the structure; the user's own stay."""
        segment = node.GetSegmentation().GetSegment(self._segmentID)
        if several or not (segment.GetNameAutoGenerated() and _SLICERS_OWN_NAME.fullmatch(segment.GetName())):
            return
        name = result.resolved or result.prompt
        describe(segment, name, result.colour, codesOf(name, vocabularyOf(run)), {})
