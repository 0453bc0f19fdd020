# ruff: noqa: PT009 - Slicer's test classes are unittest's
"""The end-to-end scenario of ``RefSAM3DTest``: the same in the desktop application and in our own tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

from . import sample_data, session
from .logic import RefSAM3DLogic
from .task import TaskState

#: Below this the default weights do not do what the model card says (0.7 and more on phantoms never seen in training).
MIN_DICE = 0.5


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks."""
    a, b = a.astype(bool), b.astype(bool)
    total = int(a.sum() + b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def run(test: Any, minDice: float = MIN_DICE) -> None:
    """Phantom, three prompts, place, tags, a prompt again without encoding again, the end of the process."""
    test.assertTrue(hasattr(slicer.modules, "refsam3d"))
    names = [effect.name for effect in slicer.qSlicerSegmentEditorEffectFactory.instance().registeredEffects()]
    test.assertIn("RefSAM3D", names)
    test.delayDisplay("Generating the phantom")
    volume, truth = sample_data.loadPhantom()
    logic = RefSAM3DLogic()
    test.delayDisplay("Segmenting two structures, and one that is unknown")
    task = logic.segment(volume, ["left parotid gland", "mandible", "flux capacitor"])
    test.assertEqual(task.state, TaskState.DONE, str(task.failure))
    node = task.sink.segmentationNode
    for outcome in task.outcomes[:2]:
        test.assertIn(outcome.result.verdict, ("present", "uncertain"))
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, outcome.segmentID, volume)
        overlap = dice(array, truth[outcome.result.resolved])
        test.delayDisplay(f"{outcome.result.resolved}: Dice {overlap:.3f}")
        test.assertGreater(overlap, minDice)
        value = vtk.reference("")
        test.assertTrue(node.GetSegmentation().GetSegment(outcome.segmentID).GetTag("RefSAM3D.ModelSHA256", value))
    test.assertEqual(task.outcomes[2].result.verdict, "unknown")
    test.delayDisplay("Asking for a structure again")
    again = logic.segment(volume, "left parotid gland", node)
    test.assertEqual(again.state, TaskState.DONE, str(again.failure))
    first, second = (outcome.result.details["encoding_s"] for outcome in (task.outcomes[0], again.outcomes[0]))
    test.assertLess(second, first / 10, "the engine encoded the image again")
    test.delayDisplay(f"First run {task.run.elapsedS:.1f} s with the start of the engine, second {again.run.elapsedS:.1f} s")
    session.stop()
    test.assertFalse(session.engineRunner().isAlive)
