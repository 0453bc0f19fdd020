"""What a run is given: is it a volume, is the region inside it, how is it recognised, did memory run out?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ..errors import InputError
from ..types import Volume

#: Bytes that one thread hashes at a time.
KEY_BLOCK = 16 << 20
#: Voxels are read in single precision, which ends at 3.4e38: weighted sums of larger ones overflow.
MAX_VALUE = 1e38
#: What the allocators of torch, CUDA with its libraries and Metal say in plain RuntimeErrors when memory runs out, in lower case. cuDNN has no engine left
#: where its workspace does not fit, and neither library starts on a full card.
_SHORTAGES = (
    "out of memory", "allocate memory", "not enough memory", "alloc_failed", "invalid buffer size",
    "unable to find an engine", "cudnn_status_not_initialized", "cublas_status_not_initialized",
)  # fmt: skip


def content_key(volume: Volume) -> str:
    """Hash of voxels, grid and modality: editing a volume changes it, renaming does not."""
    digest = hashlib.blake2b(digest_size=16)
    array = np.ascontiguousarray(volume.array)
    voxels = array.data.cast("B")
    blocks = [voxels[start : start + KEY_BLOCK] for start in range(0, len(voxels), KEY_BLOCK)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, max(1, len(blocks)))) as pool:  # hashing a long buffer lets go of the interpreter's lock
        for part in pool.map(lambda block: hashlib.blake2b(block).digest(), blocks):
            digest.update(part)
    digest.update(np.ascontiguousarray(volume.geometry.ijk_to_ras).tobytes())
    digest.update(f"{array.dtype}{array.shape}{volume.modality}".encode())
    return digest.hexdigest()


def check_volume(volume: Volume) -> None:
    """Refuse voxels that nothing can be read from.

    Raises:
        InputError: wrong number of axes, not numbers, NaN, infinite or beyond ``MAX_VALUE``, or all the same.
    """
    array = volume.array
    if array.ndim != 3 or tuple(array.shape) != tuple(volume.geometry.shape_dhw):
        raise InputError(f"The voxel array has shape {array.shape}, its geometry says {volume.geometry.shape_dhw}; load the volume again.")
    if array.dtype.kind not in "iuf":
        raise InputError(f"The voxels are of type {array.dtype}, not real numbers; convert the image to a scalar volume.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise InputError(f"The image has {bad} voxels that are NaN or infinite; replace them by the background value first.")
    if not array.size:
        return
    least, most = array.min(), array.max()
    if least == most:
        raise InputError(f"Every voxel of the image has the same value {least}; choose another volume.")
    low, high = float(least), float(most)
    if low < -MAX_VALUE or high > MAX_VALUE:
        bad, worst = int((array < -MAX_VALUE).sum() + (array > MAX_VALUE).sum()), low if low < -MAX_VALUE else high
        raise InputError(
            f"The image has {bad} voxels beyond {MAX_VALUE:g} ({worst:g}), too large to compute with; replace them by the background value first."
        )


def is_shortage(error: Exception) -> bool:
    """Whether a run failed for want of memory."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(words in text for words in _SHORTAGES)


def empty_cache(device: torch.device) -> None:
    """Give what torch keeps of freed memory back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def checked_roi(roi: Sequence[int], shape: tuple[int, int, int]) -> tuple[int, int, int, int, int, int]:
    """Clip a region to the volume.

    Raises:
        InputError: it is empty or outside.
    """
    out = [min(max(int(v), 0), shape[n // 2]) for n, v in enumerate(roi)]
    if len(out) != 6 or any(out[2 * a] >= out[2 * a + 1] for a in range(3)):
        raise InputError(f"The region {tuple(roi)} does not meet the volume of shape {shape}; give k0, k1, j0, j1, i0, i1 inside it.")
    return out[0], out[1], out[2], out[3], out[4], out[5]
