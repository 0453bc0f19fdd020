"""Is this an image of the kind that the checkpoint was trained on? What is not limits every verdict to "uncertain"."""

from __future__ import annotations

import numpy as np

from ..config import GridConfig, ModelConfig
from ..types import Modality

#: A field of view this much beyond what training saw is another kind of image, per axis.
TOLERANCE = 1.3
#: Voxels looked at, and below which value a CT has at least fat.
UNITS_SAMPLE, FAT_HU = 200_000, -30.0
#: Where soft tissue lies in a CT without its intercept of -1024, and which share of all but air there is no longer bone.
SHIFTED_HU, SHIFTED_SHARE = (900.0, 1200.0), 0.2
#: Brightest value of a CT that was made a picture of, and the least share of its air.
PICTURE_MAX, AIR_SHARE = 255.0, 0.01


def modality_warning(grid: GridConfig, modality: Modality) -> str | None:
    """A sentence if the grid was never trained on this modality."""
    if modality.value in grid.modalities:
        return None
    trained = " and ".join(m.upper() for m in grid.modalities)
    return f"This image is {modality.value.upper()}, but {', '.join(grid.structures[:3])} were learnt from {trained} alone; do not rely on the result."


def units_warning(array: np.ndarray) -> str | None:
    """A sentence if a CT's values cannot be Hounsfield units: nothing as dark as fat, and soft tissue where only bone is, or nothing brighter than a picture.

    A crop of soft tissue alone has darker voxels than this, since fat and noise are below water.
    """
    flat = array.reshape(-1)
    sample = flat[:: max(1, flat.size // UNITS_SAMPLE)].astype(np.float32)
    low, high = (float(v) for v in np.percentile(sample, (0.1, 99.9)))
    if low < FAT_HU:
        return None
    body = sample[sample > low + 100]
    shifted = body.size and ((body > SHIFTED_HU[0]) & (body < SHIFTED_HU[1])).mean() >= SHIFTED_SHARE
    # A crop of soft tissue has no such darkest value that many voxels share, as the air of a picture is.
    picture = low >= 0 and high <= PICTURE_MAX and (sample <= low).mean() >= AIR_SHARE
    if not (shifted or picture):
        return None
    return (
        f"The values of this CT ({low:.4g} to {high:.4g}) do not look like Hounsfield units, by which air is -1000 and water 0; export it with its "
        "rescale slope and intercept (often 1 and -1024), or do not rely on the result."
    )


def extent_warning(grid: GridConfig, extent_mm: tuple[float, float, float]) -> str | None:
    """A sentence if the field of view is larger than the training images were (smaller only hides structures)."""
    if any(e > hi * TOLERANCE for e, hi in zip(extent_mm, grid.extent_mm[1], strict=True)):
        seen = " x ".join(f"{v:.0f}" for v in grid.extent_mm[1])
        here = " x ".join(f"{v:.0f}" for v in extent_mm)
        return (
            f"The field of view is {here} mm, the images that {', '.join(grid.structures[:3])} were learnt from had at most {seen} mm (height x depth x "
            "width); crop the volume to the region, or check the result with care."
        )
    return None


def best_grid(config: ModelConfig, modality: Modality, extents_mm: dict[str, tuple[float, float, float]]) -> GridConfig:
    """The grid whose training images resemble this one most: modality first, then a field of view inside the trained range."""

    def mismatch(grid: GridConfig) -> tuple[bool, float]:
        low, high = grid.extent_mm
        extent = extents_mm[grid.name]
        excess = max(max(e / hi, lo / max(e, 1e-6)) for e, lo, hi in zip(extent, low, high, strict=True))
        return modality.value not in grid.modalities, excess

    return min(config.grids, key=mismatch)
