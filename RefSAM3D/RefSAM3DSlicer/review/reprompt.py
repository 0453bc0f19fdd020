"""Ask the engine about an item in other words; the answer is recorded, then shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.types import PromptResult, Verdict

from ..runs import Run, RunResult
from ..task import Outcome
from ..volume_bridge import shapeOf
from .scene_arrays import isOnGrid


class RepromptSink:
    """Takes the answer into the record of the review; the scene is left alone."""

    def __init__(self, session: Any, item: Any, volumeNode: Any, wording: str, seconds: float, comment: str) -> None:
        """Raises RefSAM3DError if the image is not on the mask's grid."""
        if not isOnGrid(volumeNode, session.machine_mask(item)[1]):
            raise InputError(_("The image in the scene has another voxel grid than the result under review; load the case's own image."))
        self.session, self.item, self.wording = session, item, wording
        self.seconds, self.comment = seconds, comment
        self._volumeID = volumeNode.GetID()

    def watchedNodeIDs(self) -> list[str]:
        """Only the image, which the task watches anyway."""
        return []

    def steps(self, run: Run, outcomes: list[Outcome]) -> Iterator[float]:
        """One answer: the first."""
        outcomes += [Outcome(result) for result in run.results]
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volumeNode is None or not run.results:
            raise InputError(_("The image is not in the scene any more; nothing was recorded."))
        result = asPromptResult(run.results[0], shapeOf(volumeNode))
        yield 0.5
        self.session.record_reprompt(self.item, self.wording, result, self.seconds + run.elapsedS, self.comment)
        yield 1.0


def asPromptResult(result: RunResult, shape: tuple[int, int, int]) -> PromptResult:
    """The answer on the whole grid."""
    mask = np.zeros(shape, bool)
    if result.isDrawn:
        k0, k1, j0, j1, i0, i1 = result.box
        mask[k0:k1, j0:j1, i0:i1] = result.mask != 0
    nan = float("nan")
    return PromptResult(
        prompt=result.prompt,
        resolved=result.resolved,
        verdict=Verdict(result.verdict),
        presence=nan if result.presence is None else result.presence,
        confidence=nan if result.confidence is None else result.confidence,
        mask=mask,
        volume_ml=result.volumeMl,
        box=result.box if result.isDrawn else None,
        elapsed_s=result.elapsedS,
        colour=result.colour,
    )
