"""The demo phantom in Slicer's Sample Data module: computed here, nothing is downloaded."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import slicer

SAMPLE_NAME = "RefSAM3DHeadAndNeck"
SEED = 100


def register() -> None:
    """At start-up. ``uris`` must be a text even though nothing is fetched: None is not accepted."""
    import SampleData

    from RefSAM3DLib.resources import resource_path

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="RefSAM3D",
        sampleName=SAMPLE_NAME,
        uris="file://phantom",
        thumbnailFileName=str(resource_path("Icons", "RefSAM3D.png")),
        customDownloader=load,
    )


def load(source: Any = None) -> list[Any]:
    """Make the phantom's volume node and show it."""
    return [loadPhantom()[0]]


def loadPhantom(seed: int = SEED, **arguments: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The volume node and the true masks (K, J, I)."""
    from RefSAM3DLib.phantoms import head_and_neck_ct

    volume, truth = head_and_neck_ct(seed, **arguments)
    node = slicer.util.addVolumeFromArray(np.ascontiguousarray(volume.array), ijkToRAS=volume.geometry.ijk_to_ras, name=SAMPLE_NAME)
    node.SetAttribute("DICOM.Modality", "CT")
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display is not None:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(400, 40)
    with contextlib.suppress(Exception):  # no views in tests
        slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node, truth
