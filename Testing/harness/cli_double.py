"""The engine's interface on thresholds of a phantom, for the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from RefSAM3DLib.places import box_of
from RefSAM3DLib.text.prompts import resolve_all
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.types import PromptResult, PromptStatus, Verdict

from asymmetric_blocks import asymmetric_blocks

PHANTOM, MASKS = asymmetric_blocks((10, 12, 14))
BRIGHT = {"mandible": 1100, "left parotid gland": 300, "right parotid gland": 700}


class FakeEngine:
    """The engine's interface on thresholds of the phantom; remembers what it was asked."""

    model_name, model_sha256, device_name = "fake", "f" * 64, "cpu"

    def __init__(self) -> None:
        self.vocabulary = Vocabulary.default()
        self.warnings = ["This is a fake."]
        self.calls: list[str] = []
        self.roi = None

    def resolve(self, prompts):
        return resolve_all(prompts, self.vocabulary)

    def embed(self, volume, progress=None, cancel=None):
        self.calls.append("embed")
        progress(0.5, "reading the image")
        return volume

    def segment(self, volume, prompts, progress=None, cancel=None, probability=False, allow_unknown=False, roi=None):
        self.calls.append("segment")
        self.roi = roi
        results = []
        for prompt in self.resolve(prompts):
            progress(1.0, prompt.prompt)
            known = prompt.status is PromptStatus.KNOWN or allow_unknown
            mask = np.isclose(volume.array, BRIGHT.get(prompt.resolved, -9999), atol=100) & (volume.array > 0)
            if roi:
                keep = np.zeros_like(mask)
                keep[roi[0] : roi[1], roi[2] : roi[3], roi[4] : roi[5]] = True
                mask &= keep
            verdict = Verdict.UNKNOWN if not known else Verdict.PRESENT if mask.any() else Verdict.ABSENT
            nan = float("nan")
            results.append(
                PromptResult(
                    prompt=prompt.prompt,
                    resolved=prompt.resolved,
                    verdict=verdict,
                    presence={Verdict.PRESENT: 0.98, Verdict.ABSENT: 0.02}.get(verdict, nan),
                    confidence=0.9 if mask.any() else nan,
                    mask=mask,
                    volume_ml=float(mask.sum()) * volume.geometry.voxel_volume_ml,
                    box=box_of(mask),
                    elapsed_s=0.01,
                    probability=mask.astype(np.float16) if probability and known else None,
                    warnings=("Look at the border.",) if prompt.resolved == "mandible" else (),
                    suggestions=prompt.suggestions,
                )
            )
        return results


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
