"""Results of the effect: into the segment that was selected at the start, through the editor's masks, as one undo step.

A segment of another structure, and one that a person painted in meanwhile, is left as it is: the result gets a segment of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError

from .edit_watch import fingerprint
from .labelmaps import hasVoxels, ijkToLocal, labelExtent, onGridOf, orientedMask, referenceGrid, voxelsOf
from .provenance import provenanceTags
from .runs import Run, RunResult
from .segment_owner import freeName, isOfAnother
from .segmentation_writer import checkTarget, describe, isLocked
from .sinks import codesOf, vocabularyOf
from .task import Outcome

_SLICERS_OWN_NAME = re.compile(r"Segment(_\d+)?")


class EffectSink:
    """Remembers where the user was; what the user does meanwhile does not redirect the result."""

    def __init__(self, effect: Any, volumeNode: Any, segmentationNode: Any, segmentID: str, adapter: str = "") -> None:
        """Raises InputError if the segmentation or the segment cannot take the result."""
        checkTarget(segmentationNode)
        if segmentID and isLocked(segmentationNode, segmentID):
            name = segmentationNode.GetSegmentation().GetSegment(segmentID).GetName()
            raise InputError(_("The segment '{name}' is marked as completed; change its status or select another one.").format(name=name))
        self._effect, self._adapter = effect, adapter
        self._volumeID, self._segmentationID, self._segmentID = volumeNode.GetID(), segmentationNode.GetID(), segmentID
        segment = segmentationNode.GetSegmentation().GetSegment(segmentID) if segmentID else None
        self._atStart = fingerprint(segment) if segment is not None else 0

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
        placed = self._placed(node, volumeNode, drawn)
        if not placed:
            return
        editor = self._effect.parameterSetNode()
        selected = editor.GetSelectedSegmentID() or ""
        target, isPainted = self._target(node, [outcome.result for outcome, _image in placed], run)
        self._effect.saveStateForUndo()
        if target:
            yield 0.1
            self._modify(node, target, [image for _outcome, image in placed])
            self._nameIfFresh(node, placed[0][0].result, run, several=len(placed) > 1)
            for outcome, _image in placed:
                outcome.segmentID = target
        else:
            for index, (outcome, image) in enumerate(placed):
                outcome.segmentID = self._makeSegment(node, outcome.result, run)
                self._modify(node, outcome.segmentID, [image], isPainted)
                if isPainted:
                    outcome.note = " ".join(part for part in (self._keptText(node, outcome.segmentID), outcome.note) if part)
                yield (index + 1) / len(placed)
            made = [outcome.segmentID for outcome, _image in placed]
            # A segment that the user chose or paints in meanwhile stays selected.
            if not isPainted and selected == self._segmentID and (editor.GetSelectedSegmentID() or "") in ("", selected, *made):
                editor.SetSelectedSegmentID(made[-1])
        for outcome, _image in placed:
            segment = node.GetSegmentation().GetSegment(outcome.segmentID)
            for key, value in provenanceTags(outcome.result, run.engine, self._adapter, assisted=True).items():
                segment.SetTag(key, value)

    def _target(self, node: Any, results: list[RunResult], run: Run) -> tuple[str, bool]:
        """The segment that may take the results, or "" for a new one; and whether that is because a person changed it since Apply."""
        if not self._segmentID:
            return "", False
        segment = node.GetSegmentation().GetSegment(self._segmentID)
        if fingerprint(segment) != self._atStart:
            return "", True
        vocabulary, names = vocabularyOf(run), [result.resolved or result.prompt for result in results]
        isOthers = hasVoxels(segment) and isOfAnother(segment, {name: codesOf(name, vocabulary) for name in names})
        return "" if isOthers else self._segmentID, False

    def _keptText(self, node: Any, segmentID: str) -> str:
        kept, made = (node.GetSegmentation().GetSegment(one).GetName() for one in (self._segmentID, segmentID))
        text = _("The segment '{kept}' was changed while the result was computed and was left as it is; the result is in the new segment '{made}'.")
        return text.format(kept=kept, made=made)

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

    def _placed(self, node: Any, volumeNode: Any, drawn: list[Outcome]) -> list[tuple[Outcome, Any]]:
        """Outcomes with their voxels on the segmentation's grid, which may be a crop of the image: those that lie outside are left out."""
        grid, matrix, placed = self._emptyGrid(node), ijkToLocal(volumeNode, node), []
        for outcome in drawn:
            image = onGridOf(orientedMask(outcome.result.mask, outcome.result.box, matrix), grid)
            box, voxels = image.GetExtent(), voxelsOf(image)
            common = _commonExtent(grid.GetExtent(), [box])
            inside = np.count_nonzero(voxels[_slices(common, box)]) if common is not None else 0
            if inside:
                placed.append((outcome, image))
            outcome.note = _lossText(outcome.result.resolved or outcome.result.prompt, inside, np.count_nonzero(voxels))
        return placed

    def _emptyGrid(self, node: Any) -> Any:
        """What can be drawn on: the segmentation's own geometry, else that of the editor's image."""
        grid = referenceGrid(node)
        return grid if grid is not None else self._effect.defaultModifierLabelmap()

    def _modify(self, node: Any, segmentID: str, images: list[Any], spareOthers: bool = False) -> None:
        """Set the segment to the union of images, through the editor's masks and overwrite mode (``spareOthers``: overlap is allowed).

        Beyond the box of what was there and what comes, "set" changes nothing: only that box is handed over.
        """
        labelmap = self._emptyGrid(node)
        images = [onGridOf(image, labelmap) for image in images]  # themselves, unless the geometry was changed since they were placed
        boxes = [image.GetExtent() for image in images]
        before = labelExtent(node, segmentID, labelmap)
        extent = _commonExtent(labelmap.GetExtent(), [*boxes, *([before] if before is not None else [])])
        if extent is None:
            return  # outside the segmentation's grid: nothing can be drawn there
        labelmap.SetExtent(*extent)
        labelmap.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        voxels = voxelsOf(labelmap)
        voxels[...] = 0
        for image, box in zip(images, boxes, strict=True):
            common = _commonExtent(extent, [box])
            if common is not None:
                target, source = voxels[_slices(common, extent)], voxelsOf(image)[_slices(common, box)]
                np.maximum(target, source, out=target, casting="unsafe")
        labelmap.GetPointData().GetScalars().Modified()
        labelmap.Modified()
        self._write(node, segmentID, labelmap, spareOthers)

    def _write(self, node: Any, segmentID: str, labelmap: Any, spareOthers: bool) -> None:
        """Slicer writes to the segment that it is given, but masks as for the one that is selected: for that moment it is the same one."""
        editor = self._effect.parameterSetNode()
        before, overwrite, held = editor.GetSelectedSegmentID(), editor.GetOverwriteMode(), editor.StartModify()  # no widget hears of it
        editor.SetSelectedSegmentID(segmentID)
        if spareOthers:  # the strokes that the new segment was made to spare
            editor.SetOverwriteMode(editor.OverwriteNone)
        try:
            self._effect.modifySegmentByLabelmap(node, segmentID, labelmap, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet)
        finally:
            editor.SetSelectedSegmentID(before)
            editor.SetOverwriteMode(overwrite)
            editor.EndModify(held)

    def _makeSegment(self, node: Any, result: RunResult, run: Run) -> str:
        segmentation, name = node.GetSegmentation(), result.resolved or result.prompt
        free = freeName(segmentation, name)
        segmentID = segmentation.AddEmptySegment(segmentation.GenerateUniqueSegmentID(name), free)
        describe(segmentation.GetSegment(segmentID), free, result.colour, codesOf(name, vocabularyOf(run)), {})
        return segmentID

    def _nameIfFresh(self, node: Any, result: RunResult, run: Run, several: bool) -> None:
        """A segment that still has the name and colour that Slicer gave it gets those of the structure; the user's own stay."""
        segment = node.GetSegmentation().GetSegment(self._segmentID)
        if several or not (segment.GetNameAutoGenerated() and _SLICERS_OWN_NAME.fullmatch(segment.GetName())):
            return
        name = result.resolved or result.prompt
        describe(segment, name, result.colour, codesOf(name, vocabularyOf(run)), {})


def _lossText(name: str, inside: int, voxels: int) -> str:
    """What the segmentation's geometry cannot hold of a structure that has ``voxels`` on its grid; empty where that is nothing."""
    advice = _("choose the image under 'Specify geometry' (the button beside it in the Segment Editor) and apply again.")
    if not voxels:
        return _("'{name}' is smaller than the voxels of the segmentation's geometry and was not drawn; {advice}").format(name=name, advice=advice)
    percent = round(100.0 * (1.0 - inside / voxels))
    if not percent:
        return ""
    text = _("{percent} % of '{name}' lies outside the segmentation's geometry and was not drawn; {advice}")
    return text.format(name=name, percent=min(percent, 99) if inside else 100, advice=advice)


def _slices(part: tuple[int, ...], whole: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """Where extent ``part`` lies in the array of extent ``whole``."""
    k, j, i = (slice(part[n] - whole[n], part[n + 1] - whole[n] + 1) for n in (4, 2, 0))
    return k, j, i


def _commonExtent(limit: tuple[int, ...], extents: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Extent around all ``extents``, cut to ``limit``; None if nothing is left."""
    result: list[int] = []
    for n in (0, 2, 4):
        low, high = max(limit[n], min(e[n] for e in extents)), min(limit[n + 1], max(e[n + 1] for e in extents))
        if low > high:
            return None
        result += [low, high]
    return tuple(result)
