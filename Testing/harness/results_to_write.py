"""Results on a small phantom, and the grids that it is written on."""

from __future__ import annotations

import numpy as np
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.places import box_of
from RefSAM3DLib.types import PromptResult, Verdict, Volume

from asymmetric_blocks import asymmetric_blocks

INFO = {"name": "refsam3d-test", "sha256": "ab" * 32, "device": "cpu", "version": "1.2.3", "adapter": "/home/somebody/mine.safetensors"}
PHANTOM, MASKS = asymmetric_blocks((10, 12, 14))
SHEAR = np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
NAMES = ("left parotid gland", "mandible", "larynx")


def result(prompt: str, mask: np.ndarray, resolved: str | None = None, verdict: Verdict = Verdict.PRESENT, **more: object) -> PromptResult:
    return PromptResult(
        prompt=prompt,
        resolved=prompt if resolved is None else resolved,
        verdict=verdict,
        presence=0.9712,
        confidence=0.8,
        mask=mask,
        volume_ml=float(mask.sum()),
        box=box_of(mask),
        elapsed_s=0.1,
        **{"colour": (200, 100, 50)} | more,
    )


def results_of(masks: dict[str, np.ndarray]) -> list[PromptResult]:
    return [result(name, mask) for name, mask in zip(NAMES, masks.values(), strict=True)]


def moved(volume: Volume, matrix: np.ndarray) -> Volume:
    return Volume(volume.array, Geometry(volume.geometry.shape_dhw, matrix @ volume.geometry.ijk_to_ras), volume.modality)


def rotated() -> Volume:
    a, b = np.deg2rad(20), np.deg2rad(-35)
    about_z = np.array([[np.cos(a), -np.sin(a), 0, 0], [np.sin(a), np.cos(a), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    about_x = np.array([[1, 0, 0, 0], [0, np.cos(b), -np.sin(b), 0], [0, np.sin(b), np.cos(b), 0], [0, 0, 0, 1]])
    return moved(PHANTOM, about_z @ about_x)


GRIDS = {
    "straight": PHANTOM,
    "oblique": rotated(),
    "left-handed": moved(PHANTOM, np.diag([-1.0, 1, 1, 1])),
    "sheared": moved(rotated(), SHEAR),
    "far away": moved(PHANTOM, np.array([[1, 0, 0, -881.3004], [0, 1, 0, 1234.5678], [0, 0, 1, -2000.1], [0, 0, 0, 1.0]])),
}
