"""Paint structures over with the tissue around them, so that an organ can be missing where it is used to be.

In labelled scans nearly every structure is there whenever its place is in view: a network learns to call it present from the place alone.
Painted tiles break that tie. A painted place must not give the answer away either, so places without any structure are painted too.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Value of voxels outside the field of view: far below every window.
VOID = -1e4
#: Share of painted tiles in which no structure goes, and share of all painted tiles with a further place that holds none.
DECOY_ALONE, DECOY_BESIDE = 0.3, 0.5
#: A structure of fewer voxels is left alone: what shows of it may not be it.
LEAST_VOXELS = 8
#: Directions tried for the tissue that is copied, and for a place without structures.
TRIES = 12
#: Half the edge of the neighbourhood (voxels) from which a place is filled smoothly.
REACH = 5


def paint(rng: np.random.Generator, values: Tensor, labels: Tensor, known: list[int]) -> tuple[Tensor, Tensor]:
    """Values and labels (D, H, W) of a tile in which up to two of the ``known`` label values are painted over; the arguments stay as they are."""
    there = [v for v in known if int((labels == v).sum()) >= LEAST_VOXELS]
    if not there:
        return values, labels
    values, labels = values.clone(), labels.clone()
    alone = rng.random() < DECOY_ALONE
    if alone or rng.random() < DECOY_BESIDE:
        shape = labels == there[rng.integers(len(there))]
        place = empty_place(rng, shape, values, labels)
        if place is not None:
            cover(rng, values, place, labels > 0)
    if not alone:
        for value in rng.choice(there, min(len(there), int(rng.integers(1, 3))), replace=False):
            cover(rng, values, labels == int(value), labels > 0)
            labels[labels == int(value)] = 0
    return values, labels


def cover(rng: np.random.Generator, values: Tensor, mask: Tensor, spared: Tensor) -> None:
    """Fill a mask and one voxel around it in place, with a soft rim. Voxels of other structures (``spared``) keep their values, and what the
    scanner did not see stays unseen."""
    grown = _dilated(mask, 1)
    alpha = _mean(_dilated(grown, 1).float(), 1) * ((values != VOID) & (~spared | mask))
    copied = _copied(rng, values, grown) if rng.random() < 0.5 else None
    values.lerp_(_smooth(rng, values, grown) if copied is None else copied, alpha)


def _copied(rng: np.random.Generator, values: Tensor, mask: Tensor) -> Tensor | None:
    """The tile moved so that similar tissue lies on the mask: of some moves the one whose values are most like those around it."""
    rim = _rim(values, mask)
    if not rim.any():
        return None
    covered = _dilated(mask, 2)  # as far as the soft rim goes
    wanted, best, best_difference = values[rim].mean(), None, float("inf")
    for _ in range(TRIES):
        move = _move(rng, mask)
        back = (-move[0], -move[1], -move[2])
        source = torch.roll(covered, back, (0, 1, 2))
        if _leaves(covered, back) or bool((source & (mask | (values == VOID))).any()):
            continue
        difference = float((values[source].mean() - wanted).abs())
        if difference < best_difference:
            best, best_difference = move, difference
    return None if best is None else torch.roll(values, best, (0, 1, 2))


def _smooth(rng: np.random.Generator, values: Tensor, mask: Tensor) -> Tensor:
    """The mean of what lies around each voxel outside the mask, deep inside the mean of the rim; with noise as strong as the rim's."""
    outside = (~mask & (values != VOID)).float()
    reach = min(REACH, (min(values.shape) - 1) // 2)
    total, count = _mean(values * outside, reach), _mean(outside, reach)
    rim = values[_rim(values, mask)]
    mean, spread = (float(rim.mean()), float(rim.std())) if len(rim) > 1 else (0.0, 0.0)
    noise = torch.from_numpy(rng.standard_normal(tuple(values.shape), dtype=np.float32))
    return (total + 1e-3 * mean) / (count + 1e-3) + noise * min(spread, 0.2)


def empty_place(rng: np.random.Generator, shape: Tensor, values: Tensor, labels: Tensor) -> Tensor | None:
    """A structure's shape moved to where no structure is known, or None if no such place was found."""
    for _ in range(TRIES):
        move = _move(rng, shape)
        moved = torch.roll(shape, move, (0, 1, 2))
        if not _leaves(shape, move) and not bool((labels[_dilated(moved, 3)] > 0).any()) and not bool((values[moved] == VOID).any()):
            return moved
    return None


def _move(rng: np.random.Generator, mask: Tensor) -> tuple[int, int, int]:
    """A random direction, as far as the mask is large or up to twice that."""
    index = mask.nonzero()
    extent = (index.max(0).values - index.min(0).values + 1).double().numpy()
    direction = rng.standard_normal(3)
    direction /= max(float(np.linalg.norm(direction)), 1e-9)
    d, h, w = (int(n) for n in np.round(direction * (extent * rng.uniform(1.0, 2.0) + 2)))
    return d, h, w


def _leaves(mask: Tensor, move: tuple[int, int, int]) -> bool:
    """Whether a mask moved so would cross the border of the tile."""
    index = mask.nonzero()
    moved_low, moved_high = index.min(0).values + torch.tensor(move), index.max(0).values + torch.tensor(move)
    return bool((moved_low < 0).any() or (moved_high >= torch.tensor(mask.shape)).any())


def _rim(values: Tensor, mask: Tensor) -> Tensor:
    """Voxels next to a mask that the scanner saw."""
    return _dilated(mask, 2) & ~mask & (values != VOID)


def _dilated(mask: Tensor, by: int) -> Tensor:
    """Every voxel within ``by`` voxels along each axis; by shifts, since torch's pooling of a tile takes tens of milliseconds."""
    out = mask.clone()
    for axis in range(3):
        for _ in range(by):
            here, size = out.clone(), out.shape[axis] - 1
            out.narrow(axis, 1, size).logical_or_(here.narrow(axis, 0, size))
            out.narrow(axis, 0, size).logical_or_(here.narrow(axis, 1, size))
    return out


def _mean(values: Tensor, reach: int) -> Tensor:
    """Mean over a cube of voxels, zeros beyond the border; running sums along one axis after the other."""
    out = values
    for axis in range(3):
        padding = [0, 0] * (2 - axis) + [reach + 1, reach]
        total = F.pad(out, padding).cumsum(axis)
        size = out.shape[axis]
        out = (total.narrow(axis, 2 * reach + 1, size) - total.narrow(axis, 0, size)) / (2 * reach + 1)
    return out
