"""Results that were written where no view shows them: say so, and offer to show them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from .segmentation_writer import isHidden, showSegments
from .task import Outcome


def hiddenMessage(segmentationNode: Any, outcomes: list[Outcome]) -> tuple[str, dict[str, Callable[[], None]]]:
    """A sentence and its link; empty if everything that was drawn can be seen."""
    if segmentationNode is None:
        return "", {}
    segmentation = segmentationNode.GetSegmentation()
    drawn = dict.fromkeys(outcome.segmentID for outcome in outcomes if outcome.segmentID)
    # Of a sequence, the frame on display may lack what another frame has: that is not hidden.
    hidden = [segmentID for segmentID in drawn if segmentation.GetSegment(segmentID) is not None and isHidden(segmentationNode, segmentID)]
    if not hidden:
        return "", {}
    names = ", ".join(segmentation.GetSegment(segmentID).GetName() for segmentID in hidden)
    nodeID = segmentationNode.GetID()

    def show() -> None:
        node = slicer.mrmlScene.GetNodeByID(nodeID)
        if node is not None:
            showSegments(node, hidden)

    text = _("The segmentation '{segmentation}' is hidden, and the result was written into it: {names}.")
    return text.format(segmentation=segmentationNode.GetName(), names=names), {_("Show it"): show}
