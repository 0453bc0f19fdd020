"""Is this an image of the kind that the checkpoint was trained on? What is not limits every verdict to "uncertain"."""

from __future__ import annotations

import numpy as np

from ..config import GridConfig, ModelConfig
from ..types import Modality, Volume

#: A field of view this much beyond what training saw is another kind of image, per axis.
TOLERANCE = 1.3
#: Voxels looked at, and below which value a CT has at least fat.
UNITS_SAMPLE, FAT_HU = 200_000, -30.0
#: Where soft tissue lies in a CT without its intercept of -1024, and which share of all but air there is no longer bone; beside a brain, bone is all.
SHIFTED_HU, SHIFTED_SHARE, MASKED_SHARE = (900.0, 1200.0), 0.2, 0.5
#: What is darker is no air but padding, which scanners and resampling write at -2000, -3024 or -32768.
PADDING_HU = -1100.0
#: Padding in the range of air: the one darkest value, of at least this share, so far below the next one, which is darker than tissue and not in HU.
FILL_SHARE, FILL_GAP, SHIFTED_AIR_HU = 0.01, 500.0, 100.0
#: Brightest value of a CT that was made a picture of, and the least share of its air.
PICTURE_MAX, AIR_SHARE = 255.0, 0.01

#: What a file may state that is neither CT nor MR nor PET, in DICOM's letters. "OT" and the like say nothing of the image, and are not here.
OTHER_MODALITIES = {
    "NM": "nuclear medicine", "ST": "SPECT", "US": "ultrasound", "IVUS": "ultrasound", "BDUS": "ultrasound", "XA": "angiography", "RF": "fluoroscopy",
    "CR": "radiography", "DX": "radiography", "RG": "radiography", "MG": "mammography", "PX": "panoramic X-ray", "IO": "intra-oral X-ray",
    "OCT": "optical coherence tomography", "OPT": "optical coherence tomography", "IVOCT": "optical coherence tomography", "OP": "ophthalmic photography",
    "ES": "endoscopy", "SM": "microscopy", "GM": "microscopy",
}  # fmt: skip


def stated_warning(volume: Volume) -> str | None:
    """A sentence if the file states a modality that no model here reads, so that its voxels alone had to tell how to look at it."""
    stated = str(volume.metadata.get("modality", "")).strip().upper().removeprefix("MET_MOD_")
    if volume.modality_source != "inspection" or volume.modality is None or stated not in OTHER_MODALITIES:
        return None
    return (
        f"The file says {stated} ({OTHER_MODALITIES[stated]}), and no model was trained on that; it was read as {volume.modality.value.upper()}. Do not "
        "rely on the result, or name the modality yourself if the file is wrong."
    )


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
    whole, sample = sample.size, sample[sample >= PADDING_HU]
    if not sample.size:
        return None
    sample = _without_fill(sample)
    low, high = (float(v) for v in np.percentile(sample, (0.1, 99.9)))
    if low < FAT_HU:
        return None
    body = sample[sample > low + 100]
    # Where padding was left out, what is left may be tissue alone, masked: then this is the skull around a brain, of which less is as dense.
    least = SHIFTED_SHARE if sample.size == whole else MASKED_SHARE
    shifted = body.size and ((body > SHIFTED_HU[0]) & (body < SHIFTED_HU[1])).mean() >= least
    # A crop of soft tissue has no such darkest value that many voxels share, as the air of a picture is. A picture has no padding below zero.
    picture = sample.size == whole and low >= 0 and high <= PICTURE_MAX and (sample <= low).mean() >= AIR_SHARE
    if not (shifted or picture):
        return None
    return (
        f"The values of this CT ({low:.4g} to {high:.4g}) do not look like Hounsfield units, by which air is -1000 and water 0; export it with its "
        "rescale slope and intercept (often 1 and -1024), or do not rely on the result."
    )


def _without_fill(sample: np.ndarray) -> np.ndarray:
    """The values without a fill at -1024 or so, if it lies below an image that has no such air of its own: most are an image in HU, and stay whole."""
    darkest = float(sample.min())
    if darkest >= FAT_HU:
        return sample
    rest = sample[sample > darkest]
    enough = rest.size and sample.size - rest.size >= FILL_SHARE * sample.size
    return rest if enough and max(darkest + FILL_GAP, FAT_HU) <= float(rest.min()) <= SHIFTED_AIR_HU else sample


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
