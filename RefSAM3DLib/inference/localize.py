"""The coarse pass: is the structure there, and in which box must the fine tiles look?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..modeling.refsam3d import PromptFeatures
from .decode import decode_views
from .embed import GridEmbedding
from .preprocess import Box

#: A coarse voxel this likely belongs to the box: low, because a missed part is lost and a large box only costs tiles.
BOX_PROBABILITY = 0.15
#: Padding of the box, mm.
BOX_PADDING_MM = 15.0


@dataclass(frozen=True)
class Finding:
    """presence: logit. box: voxels of the coarse grid, None where nothing is likely."""

    presence: float
    box: Box | None


def localize(views: Sequence[GridEmbedding], prompts: Sequence[PromptFeatures]) -> list[Finding]:
    """Presence and box (voxels of the first, plain view) of each prompt; all tiles must be encoded."""
    decoded = decode_views(views, prompts, views[0].whole_box())
    findings = []
    for logits, presence in zip(decoded.logits, decoded.presence, strict=True):
        findings.append(Finding(float(presence), box_above(logits, BOX_PROBABILITY)))
    return findings


def box_above(logits: Tensor, probability: float) -> Box | None:
    """Smallest box of the voxels above a probability; None if there is none."""
    threshold = math.log(probability / (1 - probability))
    rows = logits.amax(2) > threshold  # the one pass over all voxels
    d, h = (rows.any(1 - axis).nonzero().flatten() for axis in range(2))
    if not len(d):
        return None
    low_d, high_d, low_h, high_h = int(d[0]), int(d[-1]) + 1, int(h[0]), int(h[-1]) + 1
    w = (logits[low_d:high_d, low_h:high_h].amax((0, 1)) > threshold).nonzero().flatten()
    return low_d, high_d, low_h, high_h, int(w[0]), int(w[-1]) + 1


def transfer_box(box: Box, source: GridEmbedding, target: GridEmbedding, padding_mm: float = BOX_PADDING_MM) -> Box:
    """A box of one spacing in the voxels of another (same field of view), padded and clipped."""
    out = []
    for axis in range(3):
        ratio = source.frame.spacing_mm / target.frame.spacing_mm
        shift = (target.frame.shape_dhw[axis] - 1) / 2 - (source.frame.shape_dhw[axis] - 1) / 2 * ratio
        pad = padding_mm / target.frame.spacing_mm
        # Borders of voxels lie half a voxel from their centres: the box of a mirror image must be the mirror image of the box.
        low = (box[2 * axis] - 0.5 + source.origin[axis]) * ratio + shift - pad - target.origin[axis] + 0.5
        high = (box[2 * axis + 1] - 0.5 + source.origin[axis]) * ratio + shift + pad - target.origin[axis] + 0.5
        limit = target.values.shape[axis]
        out += [max(0, min(limit - 1, math.floor(low + 1e-6))), max(1, min(limit, math.ceil(high - 1e-6)))]
    return out[0], out[1], out[2], out[3], out[4], out[5]


def inside_roi(fine: GridEmbedding, box: Box, roi: Box) -> Box | None:
    """The part of a box of ``fine`` that meets a native region; None if there is none."""
    frame = fine.frame
    region = frame.oriented_box_of(roi)
    corners = [region[0:2], region[2:4], region[4:6]]
    points = np.array([(i, j, k, 1.0) for k in corners[0] for j in corners[1] for i in corners[2]]) - [0.5, 0.5, 0.5, 0]
    working = (points @ np.linalg.inv(frame.to_native).T)[:, 2::-1]
    out: list[int] = []
    for a in range(3):
        low = max(box[2 * a], math.floor(working[:, a].min()) - fine.origin[a])
        high = min(box[2 * a + 1], math.ceil(working[:, a].max()) + 1 - fine.origin[a])
        if low >= high:
            return None
        out += [low, high]
    return out[0], out[1], out[2], out[3], out[4], out[5]
