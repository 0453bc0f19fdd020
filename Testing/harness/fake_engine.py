"""An engine with the real interface and no network: a threshold per structure, and special words that misbehave on purpose.

The worker takes it with ``--engine fake_engine:create``; only tests do so. Environment variables steer it:
``FAKE_STEP_S`` (seconds a step, 20 steps an image), ``FAKE_LOAD_S``, ``FAKE_LOAD_ERROR``.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np
from RefSAM3DLib.errors import Cancelled, CheckpointError, DeviceError, InputError
from RefSAM3DLib.inference.scope import stated_warning
from RefSAM3DLib.types import PromptResult, Verdict

STEPS = 20


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


def create(model: str, adapter: str, device: str) -> FakeEngine:
    """As :func:`RefSAM3DLib.worker.default_engine`."""
    print("a library prints to stdout on import", flush=True)  # must not reach the message stream
    time.sleep(float(os.environ.get("FAKE_LOAD_S", "0")))
    if os.environ.get("FAKE_LOAD_ERROR") == "package":
        import a_package_that_nobody_has  # noqa: F401
    if model and not Path(model).is_file():
        raise CheckpointError(f"The weights file '{model}' does not exist; choose another one.")
    if device.startswith("cuda"):
        raise DeviceError("The device 'cuda' is not available; choose 'auto' or 'cpu'.")
    return FakeEngine(model, adapter)


class FakeEngine:
    """``segment`` finds what is brighter than 400, box by box; the verdict comes from the prompt."""

    def __init__(self, model: str, adapter: str) -> None:
        from RefSAM3DLib.text.vocabulary import Vocabulary

        self.vocabulary = Vocabulary.default()
        self.model_name = Path(model).stem if model else "fake-default"
        self.model_sha256 = hashlib.sha256(self.model_name.encode()).hexdigest()
        self.device_name = "cpu"
        self.model_card = {
            "name": self.model_name,
            "adapter": adapter,
            "intended_use": "Tests. Not for diagnosis.",
            "licence": "Apache-2.0",
            "modalities": ["ct"],
            "structures": [{"name": n, "dice": 0.8, "n": 12} for n in self.vocabulary.names[:4]],
        }
        self.warnings: list[str] = []
        self._encoded: dict[str, int] = {}

    @property
    def cached_bytes(self) -> int:
        return sum(self._encoded.values())

    def release(self) -> None:
        self._encoded.clear()

    def segment(self, volume, prompts, progress=None, cancel=None, probability=False, allow_unknown=False, roi=None):
        key = hashlib.blake2b(np.ascontiguousarray(volume.array)).hexdigest() + str(volume.geometry.ijk_to_ras.tolist())
        known = key in self._encoded
        step = 0.0 if known else float(os.environ.get("FAKE_STEP_S", "0.005"))
        self.warnings += ["This model was not trained for MR images."] if volume.modality and volume.modality.value == "mr" else []
        self.warnings += [warning] if (warning := stated_warning(volume)) else []
        for index in range(STEPS):
            if progress:
                progress(index / STEPS, "encoding" if index < STEPS - 4 else "decoding")
            for prompt in prompts:
                self._misbehave(prompt, index)
            if cancel and cancel():
                raise Cancelled
            time.sleep(step)
        self._encoded[key] = volume.array.nbytes
        return [self._result(volume, prompt, known, roi, probability) for prompt in prompts]

    @staticmethod
    def _misbehave(prompt: str, index: int) -> None:
        if index == 5 and prompt == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if index == 5 and prompt == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 5 and prompt == "memory":
            raise MemoryError("Unable to allocate 99 GiB")
        if index == 5 and prompt == "gpu memory":
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if index == 5 and prompt == "input":
            raise InputError("The volume has 3 non-finite voxels; repair it first.")
        if index == 5 and prompt == "bug":
            raise KeyError("bug")
        if index == 5 and prompt == "deaf":
            while True:
                time.sleep(0.01)

    def _special(self, prompt: str) -> dict[str, str]:
        """What some prompts do without harm, for the details of their result."""
        if prompt == "moves to the CPU":
            self.device_name = "cpu after a shortage"
        return {"read": os.read(0, 1).decode()} if prompt == "reads standard input" else {}

    def _result(self, volume, prompt, known, roi, probability):
        from RefSAM3DLib.text.wording import normalise

        wordings = {normalise(w): s for s in self.vocabulary.structures for w in (s.name, *s.synonyms)}
        structure = wordings.get(normalise(prompt))
        name = structure.name if structure else prompt
        verdict = Verdict.PRESENT
        if "larynx" in prompt:
            verdict = Verdict.ABSENT
        elif prompt.startswith("unknown"):
            verdict = Verdict.UNKNOWN
        elif "mandible" in prompt:
            verdict = Verdict.UNCERTAIN
        mask = np.asarray(volume.array) > 400
        if roi is not None:
            keep = np.zeros_like(mask)
            keep[roi[0] : roi[1], roi[2] : roi[3], roi[4] : roi[5]] = True
            mask &= keep
        box = None
        if verdict in (Verdict.ABSENT, Verdict.UNKNOWN) or not mask.any():
            mask = np.zeros_like(mask)
        else:
            box = tuple(int(v) for axis in range(3) for v in _span(mask, axis))
        return PromptResult(
            prompt=prompt,
            resolved="" if verdict is Verdict.UNKNOWN else name,
            verdict=verdict,
            presence={"present": 0.97, "uncertain": 0.55, "absent": 0.03}.get(verdict.value, float("nan")),
            confidence=0.9 if box else float("nan"),
            mask=mask,
            volume_ml=float(mask.sum()) * volume.geometry.voxel_volume_ml,
            box=box,
            elapsed_s=0.01,
            probability=np.where(mask, 0.9, 0.1).astype(np.float16) if probability else None,
            warnings=("Left and right could not be told apart.",) if prompt == "side" else (),
            suggestions=(),
            colour=structure.colour if structure else (127, 127, 127),
            details={"cached": known, **self._special(prompt)},
        )


def _span(mask, axis):
    hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    return hit[0], hit[-1] + 1
