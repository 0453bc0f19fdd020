"""The score of an ellipsoid in the middle of the image, without looking at it: what a crop centred on a tumour gives away."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from RefSAM3DLib.image_files import itk_name

from ..manifest import Manifest, ManifestCase
from .measures import described, dice

#: Semi-axes tried, as shares of half the field of view.
SHARES = np.linspace(0.2, 1.0, 33)


def ellipsoid(shape: tuple[int, ...], share: float) -> np.ndarray:
    """Voxels inside the centred ellipsoid whose semi-axes are ``share`` of half the image."""
    axes = [((np.arange(n) + 0.5) / n * 2 - 1) / share for n in shape]
    return (axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2) <= 1


def ellipsoid_baseline(manifest: Manifest, split: str) -> dict[str, dict]:
    """Per modality: the share with the best mean Dice on the training cases, and its Dice on ``split``, with an interval over patients."""
    train, test = _by_modality(manifest.cases["training"]), _by_modality(manifest.cases[split])
    out = {}
    for modality, cases in test.items():
        scores = np.zeros(len(SHARES))
        for case in train.get(modality, []):
            mask = _mask(case)
            scores += [dice(ellipsoid(mask.shape, s), mask) for s in SHARES]
        best = float(SHARES[int(scores.argmax())])
        values = [dice(ellipsoid(m.shape, best), m) for m in map(_mask, cases)]
        found = described(values, [c.patient or c.name for c in cases])
        out[modality] = {"share_of_half_view": round(best, 3), "trained_on": len(train.get(modality, [])), "dice": found}
    return out


def _by_modality(cases: list[ManifestCase]) -> dict[str, list[ManifestCase]]:
    groups = defaultdict(list)
    for case in cases:
        groups[case.modality].append(case)
    return groups


def _mask(case: ManifestCase) -> np.ndarray:
    import SimpleITK as sitk

    return np.isin(sitk.GetArrayFromImage(sitk.ReadImage(itk_name(case.label))), list(case.known))
