"""Scores of masks and probabilities, and their intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from RefSAM3DLib.inference.postprocess import tight_box

#: Resamples of the bootstrap, and its seed: the same journal gives the same interval.
RESAMPLES, BOOTSTRAP_SEED = 2000, 0
#: With fewer independent draws a percentile bootstrap is too narrow (of five patients about 0.6 of Student's interval, of 20 about 0.9).
FEW_DRAWS = 40


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks; two empty ones agree. MONAI's value (a test says so) at a tenth of its time: 50 are taken per case."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def surface_dice(predicted: np.ndarray, truth: np.ndarray, spacing_dhw: Sequence[float], tolerances_mm: Sequence[float]) -> list[float]:
    """Normalised surface Dice at each tolerance: MONAI's, on the box that holds both masks.

    An empty mask against one that is not scores 0, two empty ones score 1 (MONAI returns NaN for both).
    """
    import torch
    from monai.metrics import compute_surface_dice

    if not predicted.any() or not truth.any():
        return [float(predicted.any() == truth.any())] * len(tolerances_mm)
    box = tight_box(predicted | truth)
    assert box is not None
    cut = tuple(slice(box[2 * a], box[2 * a + 1]) for a in range(3))
    pair = [np.pad(m[cut], 1) for m in (predicted, truth)]  # a border, so that the box's edge is no surface
    masks = [torch.from_numpy(np.stack([~m, m])[None]) for m in pair]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.5 warns about an argument that it passes to itself
        return [float(compute_surface_dice(masks[0], masks[1], [t], spacing=list(spacing_dhw))[0, 0]) for t in tolerances_mm]


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, groups: Sequence[str] | None = None, mean: Callable[[np.ndarray], np.ndarray] = np.ravel
) -> tuple[float, float]:
    """95 % interval of a mean; NaN without values. By resampling (percentiles); of fewer than ``FEW_DRAWS`` groups Student's t over jackknife
    pseudo-values, which for a plain mean is the usual t interval; of a single group the value alone.

    Args:
        values: (N,), or (N, K) with NaN where a row lacks a column. groups: what is drawn with all of its rows (N,): rows of one patient
            are no independent draws. Default: each row by itself. mean: from the K means of the columns (R, K) to one number each (R,).
    """
    table = np.asarray(values, dtype=float)
    if not len(table):
        return float("nan"), float("nan")
    table = table.reshape(len(table), -1)
    index = np.arange(len(table)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(index.max()) + 1

    def means(drawn: np.ndarray) -> np.ndarray:
        """Of draws (R, groups), each the number of times that a group was drawn."""
        weights = drawn[:, index].astype(float)
        with np.errstate(invalid="ignore"):  # a draw without any row of a column: NaN, which ``mean`` passes over
            return mean((weights @ np.nan_to_num(table)) / (weights @ ~np.isnan(table)))

    if count < FEW_DRAWS:
        return _student_interval(float(means(np.ones((1, count), int))[0]), means(1 - np.eye(count, dtype=int)) if count > 1 else np.empty(0))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    low, high = np.percentile(means(np.stack([np.bincount(row, minlength=count) for row in rng.integers(count, size=(RESAMPLES, count))])), [2.5, 97.5])
    return float(low), float(high)


def _student_interval(whole: float, without: np.ndarray) -> tuple[float, float]:
    """From a statistic and its values with each group left out."""
    from scipy.stats import t

    count = len(without)
    if not count:
        return whole, whole
    pseudo = count * whole - (count - 1) * without
    reach = float(t.ppf(0.975, count - 1) * pseudo.std(ddof=1) / np.sqrt(count))
    return whole - reach, whole + reach


def described(values: Sequence[float], groups: Sequence[str] | None = None, share: bool = False) -> dict[str, float | int | list[float]]:
    """Mean, interval and number of values, rounded for a table; ``groups`` as in :func:`bootstrap_interval`.

    ``share``: the values lie between 0 and 1, and so does the interval, which Student's of few values may not.
    """
    low, high = bootstrap_interval(values, groups)
    low, high = (max(0.0, low), min(1.0, high)) if share else (low, high)
    mean = float(np.mean(values)) if len(values) else float("nan")
    return {"mean": round(mean, 4), "interval": [round(low, 4), round(high, 4)], "n": len(values)}


def auroc(present: Sequence[float], absent: Sequence[float]) -> float:
    """Chance that a present prompt scores above an absent one, MONAI's; ties count half. NaN if either is empty."""
    import torch
    from monai.metrics import compute_roc_auc

    if not len(present) or not len(absent):
        return float("nan")
    scores = torch.tensor(np.concatenate([present, absent]), dtype=torch.float64)
    return float(compute_roc_auc(scores, torch.tensor([1] * len(present) + [0] * len(absent))))


def reliability(probability: Sequence[float], happened: Sequence[bool], bins: int = 10) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error and, per bin that holds something, mean probability, share that happened, and count."""
    p, y = np.asarray(probability, dtype=float), np.asarray(happened, dtype=float)
    if not len(p):
        return float("nan"), []
    index = np.minimum((p * bins).astype(int), bins - 1)
    rows = []
    error = 0.0
    for b in range(bins):
        inside = index == b
        if inside.any():
            rows.append({"probability": float(p[inside].mean()), "share": float(y[inside].mean()), "count": int(inside.sum())})
            error += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    return float(error), rows
