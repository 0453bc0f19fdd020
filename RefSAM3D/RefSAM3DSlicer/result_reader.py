"""A result message and its voxels, which stay in shared memory until they are written."""

from __future__ import annotations

from typing import Any

import numpy as np

from RefSAM3DLib import worker_protocol as protocol
from RefSAM3DLib.shared_buffer import BufferName, SharedBuffer

from .runs import Run, RunResult


def adoptResult(run: Run, message: protocol.Found, shape: tuple[int, int, int]) -> RunResult:
    """Map the voxels of a result; the run closes them. ``shape`` is that of the whole image, for the probability.

    Raises:
        OSError, ValueError, KeyError: the buffer is gone or does not hold what the message says.
    """
    box: Any = tuple(message.box) if message.box else None
    mask = probability = None
    if message.mask and box is not None:
        mask = _adopt(run, message.mask, (box[1] - box[0], box[3] - box[2], box[5] - box[4]), "uint8")
    if message.probability:
        probability = _adopt(run, message.probability, shape, "float16")
    return RunResult(
        prompt=message.prompt,
        resolved=message.resolved,
        verdict=message.verdict,
        presence=message.presence,
        confidence=message.confidence,
        volumeMl=message.volume_ml,
        elapsedS=message.elapsed_s,
        box=box,
        mask=mask,
        probability=probability,
        warnings=tuple(message.warnings),
        suggestions=tuple(message.suggestions),
        colour=tuple(message.colour) if len(message.colour) == 3 else (127, 127, 127),  # type: ignore[arg-type]
        details=message.details,
    )


def _adopt(run: Run, name: dict[str, Any], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    buffer = SharedBuffer.open(BufferName.from_dict(name))
    buffer.unlink()  # both sides have it open: the name can go
    run.buffers.append(buffer)
    return buffer.array(shape, dtype)
