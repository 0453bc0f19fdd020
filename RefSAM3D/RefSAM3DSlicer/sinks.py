"""Where the results of a run go: a segmentation node (panel, scripts) or a sequence of them (all frames)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import ConfigError, InputError, PromptError
from RefSAM3DLib.text.prompts import resolve
from RefSAM3DLib.text.vocabulary import Vocabulary

from . import edit_watch
from .labelmaps import isSameGrid
from .provenance import provenanceTags
from .runs import Run, RunResult
from .segmentation_writer import Existing, SegmentationWriter, checkTarget, createSegmentation, writeProbability
from .task import Outcome


def codesOf(name: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """Terminology of a structure, of the structure that a difference starts from, or none for a union."""
    try:
        return dict(vocabulary.structure(name).terminology)
    except ConfigError:
        pass
    try:
        added = [term.structure for term in resolve(name, vocabulary)[0].terms if not term.subtract]
        return dict(vocabulary.structure(added[0]).terminology) if len(added) == 1 else {}
    except (ConfigError, PromptError):
        return {}


def vocabularyOf(run: Run) -> Vocabulary:
    """The checkpoint's own vocabulary."""
    return Vocabulary.from_json(run.engine.vocabulary) if run.engine.vocabulary else Vocabulary.default()


def saveForUndo(segmentationNode: Any) -> None:
    """The Segment Editor's undo goes back to the last state that was saved: without one, it would take our result away with the user's edit."""
    widget = getattr(slicer.modules, "SegmentEditorWidget", None)  # absent until the user's first visit
    editor = getattr(widget, "editor", None)
    if editor is not None and editor.segmentationNode() is segmentationNode:
        editor.saveStateForUndo()


class SegmentationSink:
    """Into one segmentation; a new one is only made when there is something to draw."""

    def __init__(self, volumeNode: Any, segmentationNode: Any, existing: Existing, adapter: str, probability: bool = False) -> None:
        """Raises InputError if the segmentation cannot take results."""
        if segmentationNode is not None:
            checkTarget(segmentationNode)
        self._volumeID = volumeNode.GetID()
        self.segmentationID = segmentationNode.GetID() if segmentationNode is not None else ""
        self._existing, self._adapter, self._probability = existing, adapter, probability
        self.probabilityIDs: list[str] = []

    def watchedNodeIDs(self) -> list[str]:
        """The segmentation, if it was there before."""
        return [self.segmentationID]

    @property
    def segmentationNode(self) -> Any:
        """The segmentation that was written to, or None."""
        return slicer.mrmlScene.GetNodeByID(self.segmentationID) if self.segmentationID else None

    def steps(self, run: Run, outcomes: list[Outcome]) -> Iterator[float]:
        """One segment a step."""
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volumeNode is None:
            raise InputError(_("The volume is not in the scene any more."))
        drawn, vocabulary, writer = [r for r in run.results if r.isDrawn], vocabularyOf(run), None
        if drawn:
            node = self.segmentationNode or createSegmentation(volumeNode)
            self.segmentationID = node.GetID()
            saveForUndo(node)
            writer = SegmentationWriter(volumeNode, node, self._existing)
        for index, result in enumerate(run.results):
            outcome = Outcome(result)
            outcomes.append(outcome)
            if writer is not None and result.isDrawn:
                self._writeOne(run, result, outcome, writer, volumeNode, vocabulary)
            if self._probability and result.probability is not None:
                yield from self._writeProbability(result, volumeNode)
            yield (index + 1) / len(run.results)

    def _writeOne(self, run: Run, result: RunResult, outcome: Outcome, writer: SegmentationWriter, volumeNode: Any, vocabulary: Vocabulary):
        name = result.resolved or result.prompt
        edit_watch.start().look()  # the last brush stroke may be younger than the watch's delay
        tags = provenanceTags(result, run.engine, self._adapter, assisted=self._existing not in (Existing.NEW, Existing.REPLACE))
        try:
            outcome.segmentID = writer.write(result.mask, result.box, name, result.colour, codesOf(name, vocabulary), tags)
        except InputError as error:
            outcome.note = str(error)
            return
        edit_watch.start().remember(writer.node, outcome.segmentID)
        notes = []
        if writer.kept:
            notes.append(_("'{name}' held voxels that a person drew; as it was it is kept as the hidden segment '{kept}'.").format(name=name, kept=writer.kept))
        if not isSameGrid(volumeNode, writer.node):
            notes.append(_("Written on the segmentation's own voxel grid, which differs from the image's."))
        outcome.note = " ".join(notes)

    def _writeProbability(self, result: RunResult, volumeNode: Any) -> Iterator[float]:
        for node in writeProbability(result.probability, volumeNode, f"{result.resolved or result.prompt} probability (%)"):
            if node is not None:
                self.probabilityIDs.append(node.GetID())
            yield 0.0
