"""An engine without a network for tests of batch and review: it finds structures by their grey value.

It keeps the contract of Docs/design.md. Every piece of work it does is noted in a file, so that a test can count what was
done twice. ``make`` is the factory that ``BatchOptions.engine`` names.
"""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from RefSAM3DLib.errors import Cancelled
from RefSAM3DLib.types import PromptResult, Verdict, Volume

#: Structures and the grey value that marks them in the tests' volumes.
VALUES = {"brainstem": 100, "mandible": 200, "left parotid gland": 300, "larynx": 400}
COLOURS = {"brainstem": (230, 159, 0), "mandible": (86, 180, 233), "left parotid gland": (0, 158, 115), "larynx": (204, 121, 167)}


class FakeEngine:
    """Keywords: ``diary`` notes each embedding, ``seconds`` slows it, ``die_on`` kills the process on an image's name, and on
    ``short_on`` memory runs out, so that the engine goes on without its graphics card."""

    def __init__(
        self, diary: str = "", seconds: float = 0.0, die_on: str = "", die_once: str = "", sha256: str = "ab" * 32, fail_start: str = "", short_on: str = "",
    ) -> None:  # fmt: skip
        if fail_start:
            raise RuntimeError(fail_start)
        self.diary, self.seconds, self.die_on, self.die_once = diary, seconds, die_on, die_once
        self.short_on = short_on
        self.model_name, self.model_sha256, self.device_name = "fake", sha256, "graphics card" if short_on else "cpu"
        self.model_card: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.cached_bytes = 0
        self._cache: list[Any] = []

    def embed(self, volume: Volume, progress: Any = None, cancel: Any = None) -> Any:
        if cancel is not None and cancel():
            raise Cancelled
        if self.diary:
            descriptor = os.open(self.diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{os.path.basename(volume.source)} {os.getpid()}\n".encode())
            os.close(descriptor)
        if self.die_on and self.die_on in volume.source:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.die_once and self.die_once in volume.source and not os.path.exists(self.diary + ".died"):
            open(self.diary + ".died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.short_on and self.short_on in volume.source:
            self.warnings.append(f"{self.device_name} ran out of memory; this run fell back to the CPU.")
            self.device_name = "cpu"
        time.sleep(self.seconds)
        self._cache.append(volume.array.copy())
        return SimpleNamespace(volume=volume, warnings=())

    def segment(self, source: Any, prompts: list[str], progress: Any = None, cancel: Any = None, probability: bool = False,
                allow_unknown: bool = False, roi: Any = None) -> list[PromptResult]:  # fmt: skip
        volume = source if isinstance(source, Volume) else source.volume
        return [self._one(volume, prompt, probability) for prompt in prompts]

    def release(self) -> None:
        self._cache.clear()

    @staticmethod
    def _one(volume: Volume, prompt: str, probability: bool) -> PromptResult:
        name = prompt.lower().removeprefix("segment the ").strip()
        empty = np.zeros(volume.array.shape, dtype=bool)
        if name not in VALUES:
            return PromptResult(prompt, "", Verdict.UNKNOWN, float("nan"), float("nan"), empty, 0.0, None, 0.0, suggestions=("brainstem",))
        mask = np.abs(volume.array - VALUES[name]) < 20
        if not mask.any():
            return PromptResult(prompt, name, Verdict.ABSENT, 0.03, float("nan"), empty, 0.0, None, 0.0, colour=COLOURS[name])
        index = np.argwhere(mask)
        low, high = index.min(axis=0), index.max(axis=0) + 1
        box = (int(low[0]), int(high[0]), int(low[1]), int(high[1]), int(low[2]), int(high[2]))
        chance = None
        if probability:
            chance = np.where(mask, 0.95, 0.02).astype(np.float16)
            middle = (box[0] + box[1]) // 2
            chance[middle][mask[middle]] = 0.6
        small = mask.sum() < 30
        return PromptResult(
            prompt, name, Verdict.UNCERTAIN if small else Verdict.PRESENT, 0.55 if small else 0.97, 0.6 if small else 0.93, mask,
            float(mask.sum()) * volume.geometry.voxel_volume_ml, box, 0.001, probability=chance, colour=COLOURS[name],
        )  # fmt: skip


def make(**arguments: Any) -> FakeEngine:
    """Factory."""
    arguments = {k: v for k, v in arguments.items() if k not in ("model", "adapter", "device")}
    return FakeEngine(**arguments)
