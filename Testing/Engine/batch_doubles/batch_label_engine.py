"""An engine that looks up the expert's label of a real case and spoils it a little, to try out batch and review on real images."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from batch_fake_engine import FakeEngine

from RefSAM3DLib.places import box_of
from RefSAM3DLib.types import PromptResult, Verdict, Volume


class LabelEngine(FakeEngine):
    """Shifts every structure by one voxel along the body and gives a soft border."""

    def embed(self, volume: Volume, progress: Any = None, cancel: Any = None) -> Any:
        import SimpleITK as sitk

        image = Path(volume.source)
        content = json.loads((image.parents[1] / "datalist.json").read_text(encoding="utf-8"))
        self.names = {name: int(value) for value, name in content["labels"].items()}
        self.labels = sitk.GetArrayFromImage(sitk.ReadImage(str(image.parents[1] / "labels" / image.name)))
        return SimpleNamespace(volume=volume, warnings=())

    def segment(self, source: Any, prompts: list[str], **options: Any) -> list[PromptResult]:
        volume = source.volume
        results = []
        for prompt in prompts:
            mask = np.roll(self.labels == self.names.get(prompt, -1), 1, axis=0)
            verdict = Verdict.PRESENT if mask.any() else Verdict.ABSENT
            chance = np.where(mask, 0.9, 0.05).astype(np.float16)
            volume_ml = float(mask.sum()) * volume.geometry.voxel_volume_ml
            found = PromptResult(prompt, prompt, verdict, 0.9, 0.85, mask, volume_ml, box_of(mask), 0.0, probability=chance, colour=(240, 120, 40))
            results.append(found)
        return results


def make(**arguments: Any) -> LabelEngine:
    """Factory."""
    return LabelEngine()
