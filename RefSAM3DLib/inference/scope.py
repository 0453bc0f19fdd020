"""Is this an image of the kind that the checkpoint was trained on? What is not limits every verdict to "uncertain"."""

from __future__ import annotations

from ..config import GridConfig, ModelConfig
from ..types import Modality

#: A field of view this much beyond what training saw is another kind of image, per axis.
TOLERANCE = 1.3


def modality_warning(grid: GridConfig, modality: Modality) -> str | None:
    """A sentence if the grid was never trained on this modality."""
    if modality.value in grid.modalities:
        return None
    trained = " and ".join(m.upper() for m in grid.modalities)
    return f"This image is {modality.value.upper()}, but {', '.join(grid.structures[:3])} were learnt from {trained} alone; do not rely on the result."


def extent_warning(grid: GridConfig, extent_mm: tuple[float, float, float]) -> str | None:
    """A sentence if the field of view is larger than the training images were (smaller only hides structures)."""
    if any(e > hi * TOLERANCE for e, hi in zip(extent_mm, grid.extent_mm[1], strict=True)):
        seen = " x ".join(f"{v:.0f}" for v in grid.extent_mm[1])
        here = " x ".join(f"{v:.0f}" for v in extent_mm)
        return (
            f"The field of view is {here} mm, the images that '{grid.name}' was learnt from had at most {seen} mm (height x depth x "
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
