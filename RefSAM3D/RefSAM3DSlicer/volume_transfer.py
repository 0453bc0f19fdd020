"""A volume on its way into shared memory, some milliseconds a tick."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from RefSAM3DLib.shared_buffer import SharedBuffer

#: Time that one tick may spend on copying, so that the event loop is never held for 50 ms.
COPY_BUDGET_S = 0.012


class VolumeSource(Protocol):
    """A volume as the runner sees it, see :mod:`~RefSAM3DSlicer.volume_bridge`."""

    shape: tuple[int, int, int]
    dtype: str
    ijkToRas: list[float]
    modality: str
    stated: str
    name: str

    def knownKey(self) -> str:
        """Content key of an earlier copy if nothing has changed since, else ""."""

    def copyInto(self, target: Any, reserve: Callable[[int, int], None]) -> Iterator[float]:
        """Copy a little, yield the fraction done, repeat; raises RefSAM3DError if the volume changes meanwhile.

        ``reserve(start, count)`` in bytes comes before each write.
        """

    def key(self) -> str:
        """Content key; after ``copyInto`` is exhausted."""


class VolumeTransfer:
    """One volume for one run. The buffer's name goes once the engine has opened it, or with :meth:`drop`."""

    def __init__(self, source: VolumeSource) -> None:
        self.source = source
        self._copy: Iterator[float] | None = None
        self._buffer: SharedBuffer | None = None

    @property
    def isDone(self) -> bool:
        """True while nothing is left to copy."""
        return self._copy is None

    @property
    def bufferName(self) -> dict[str, Any]:
        """How the engine finds the voxels; empty if none were copied."""
        return self._buffer.name.as_dict() if self._buffer is not None else {}

    def advance(self, heldKeys: list[str], report: Callable[[float], None]) -> None:
        """Copy for ``COPY_BUDGET_S`` at most, and nothing if the engine holds the volume already.

        Raises:
            RefSAM3DError: the volume changed meanwhile, or there is no room for it.
        """
        source = self.source
        if self._copy is None and self._buffer is None and source.knownKey() not in heldKeys:
            size = math.prod(source.shape) * np.dtype(source.dtype).itemsize
            self._buffer = SharedBuffer.create(size, f"{os.getpid()}-", piecewise=True)
            self._copy = source.copyInto(self._buffer.array(source.shape, source.dtype), self._buffer.reserve)
        end = time.monotonic() + COPY_BUDGET_S
        while self._copy is not None and time.monotonic() < end:
            fraction = next(self._copy, None)
            if fraction is None:
                self._copy = None
            else:
                report(fraction)

    def drop(self) -> None:
        """Give the buffer back; what the engine has opened stays with it."""
        self._copy = None
        if self._buffer is not None:
            self._buffer.unlink()
            self._buffer.close()
            self._buffer = None
