"""Everything that the panel does, without a widget: for scripts, tests and the panel itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from RefSAM3DLib.errors import InputError, PromptError
from RefSAM3DLib.text.prompts import check_prompt

from . import session
from .parameters import RefSAM3DParameterNode
from .review.batch_task import BatchTask
from .runs import EngineChoice, RunOptions
from .segmentation_writer import Existing
from .sinks import SegmentationSink
from .task import SegmentTask
from .volume_bridge import Box, boxOfRoi, boxOfViews, checkVolume


class RefSAM3DLogic(ScriptedLoadableModuleLogic):
    """``logic = slicer.util.getModuleLogic("RefSAM3D")``."""

    def getParameterNode(self) -> RefSAM3DParameterNode:
        """The scene's parameters."""
        return RefSAM3DParameterNode(super().getParameterNode())

    def segment(
        self,
        volumeNode: Any,
        prompts: list[str] | str,
        segmentationNode: Any = None,
        wait: bool = True,
        existing: Existing | str = Existing.NEW,
        roi: Any = None,
        choice: EngineChoice = EngineChoice(),  # noqa: B008 - frozen
        probability: bool = False,
        allowUnknown: bool = False,
        modality: str = "",
        onProgress: Callable[[SegmentTask], None] | None = None,
        onEnd: Callable[[SegmentTask], None] | None = None,
    ) -> SegmentTask:
        """Find what ``prompts`` name in ``volumeNode`` and write it as segments.

        Args:
            prompts: texts, e.g. ``["left parotid gland", "spinal cord"]``.
            segmentationNode: where to write; None makes a new segmentation if there is something to draw.
            wait: return when it is over (the application stays alive), else at once.
            existing: what to do with a segment of that structure: "new", "replace", "add", "subtract", "intersect".
            roi: None for the whole volume, "view", a markups ROI node, or a native half-open box (k0, k1, j0, j1, i0, i1).
            choice: model, adapter and device. modality: "ct", "mr", "pet", or "" for what DICOM or the voxels say.

        Returns:
            The task: ``state``, ``outcomes`` (a result and its segment each), ``warnings``, ``failure``, ``sink.segmentationNode``.

        Raises:
            RefSAM3DError: a volume, prompt, region or segmentation that cannot be used, or another run under way. Nothing has changed then.
        """
        checkVolume(volumeNode)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise PromptError("No prompt is given; type the name of a structure, such as 'left parotid gland'.")
        texts = list(dict.fromkeys(check_prompt(text) for text in texts))
        sink = SegmentationSink(volumeNode, segmentationNode, Existing(existing), choice.adapter, probability)
        options = RunOptions(probability, allowUnknown, regionBox(volumeNode, roi))
        task = SegmentTask(session.engineRunner(), volumeNode, texts, sink, choice, options, modality, onProgress=onProgress, onEnd=onEnd)
        return task.wait() if wait else task

    def batch(
        self,
        input: Any,
        prompts: list[str] | str,
        outputFolder: Any,
        wait: bool = False,
        onProgress: Callable[[BatchTask], None] | None = None,
        onEnd: Callable[[BatchTask], None] | None = None,
        **options: Any,
    ) -> BatchTask:
        """Segment many cases into a folder, in a process of its own: ``refsam3d batch`` from the Python console.

        Args:
            input: folder, image, .csv or .json list, or datalist.json. prompts: for cases that bring none.
            wait: return when it is over (the application stays alive), else at once. The batch ends with the application.
            options: model, adapter, device, modality, allowUnknown, probability, workers, ray, root, split, retryFailed, force,
                breakLock, pseudonyms, showIdentifiers: as on the command line.

        Returns:
            The task: ``state``, ``finished``, ``total``, ``secondsLeft``, ``errors``, ``message``, ``cancel()``.

        Raises:
            ConfigError: an option that a batch does not have.
        """
        task = BatchTask(input, prompts, outputFolder, options, onProgress, onEnd)
        return task.wait() if wait else task

    def cancel(self) -> None:
        """Cancel what is running, if anything is."""
        if session.isBusy():
            session.engineRunner().cancel()


def regionBox(volumeNode: Any, roi: Any) -> Box | None:
    """Native box for what a caller gives as region of interest.

    Raises:
        InputError: it does not touch the volume, or is no region.
    """
    if roi is None:
        return None
    if isinstance(roi, str) and roi == "view":
        return boxOfViews(volumeNode)
    if isinstance(roi, tuple | list) and len(roi) == 6:
        return tuple(int(v) for v in roi)  # type: ignore[return-value]
    if hasattr(roi, "IsA") and roi.IsA("vtkMRMLMarkupsROINode"):
        return boxOfRoi(volumeNode, roi)
    raise InputError(f"The region of interest {roi!r} is none; give a markups ROI node, 'view', six numbers, or None.")


def firstVolume() -> Any:
    """The first image of the scene that is no label map, or None."""
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors():
            return node
    return None
