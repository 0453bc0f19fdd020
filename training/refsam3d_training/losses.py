"""Losses of a tile: Dice and weighted cross-entropy of each prompt's mask, the coarse map, and presence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from RefSAM3DLib.modeling.refsam3d import TileOutput

#: Voxels of a fine tile above which a structure counts as present, and of a coarse one; in between nothing is asked.
PRESENT_FINE, PRESENT_COARSE = 20, 3
#: Scale of the mean cross-entropies: with it they weigh about as much as the Dice term at the start.
CROSS_ENTROPY_SCALE = 4.0
DICE = DiceLoss(smooth_nr=1.0, smooth_dr=1.0, reduction="none")


def soft_dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """1 - Dice per prompt, (P, D, H, W) each; smoothed by one voxel, so an empty target asks for an empty mask."""
    return DICE(probability[None], target[None]).flatten()


def weighted_cross_entropy(logits: Tensor, target: Tensor, foreground: float) -> Tensor:
    """Mean binary cross-entropy of (P, D, H, W), foreground voxels weighted per prompt.

    Never more than half of the tile's weight: a hippocampus fills 5 % of its tile and needs 10, an esophagus 0.2 %. MONAI's
    ``DiceCELoss`` knows one weight per class, which is the same in every tile, so this term is our own.
    """
    share = target.flatten(1).mean(1)
    factor = (0.5 * (1 - share) / share.clamp(min=1e-6)).clamp(min=1.0, max=foreground)
    weight = 1 + (factor - 1)[:, None, None, None] * target
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight) * CROSS_ENTROPY_SCALE


def _mean_of_patches(x: Tensor, patch: int) -> Tensor:
    """(P, D, H, W) to (P, D / patch, ...); as ``avg_pool3d``, which Apple's GPUs lack in the releases of torch that are right on them otherwise."""
    count, d, h, w = x.shape
    return x.reshape(count, d // patch, patch, h // patch, patch, w // patch, patch).mean((2, 4, 6))


def tile_loss(output: TileOutput, targets: Tensor, asked: int, coarse_pass: bool, foreground: float, presence: float, coarse: float) -> Tensor:
    """Scalar loss of one tile.

    Args:
        targets: (P, D, H, W) float. asked: the first prompts may be present; Dice is taken over those alone.
        foreground: greatest weight of foreground voxels in the cross-entropy. presence, coarse: weights of the other terms.
    """
    logits = output.mask.float()
    loss = weighted_cross_entropy(logits, targets, foreground)
    if asked:
        loss = loss + soft_dice_loss(logits[:asked].sigmoid(), targets[:asked]).mean()
    patch = targets.shape[1] // output.coarse.shape[1]
    filled = _mean_of_patches(targets, patch)
    loss = loss + coarse * CROSS_ENTROPY_SCALE * F.binary_cross_entropy_with_logits(output.coarse.float(), filled)
    count = targets.flatten(1).sum(1)
    enough = count > (PRESENT_COARSE if coarse_pass else PRESENT_FINE)
    sure = (enough | (count == 0)).float()
    decision = F.binary_cross_entropy_with_logits(output.presence.float(), enough.float(), reduction="none")
    return loss + presence * (decision * sure).sum() / sure.sum().clamp(min=1)


def is_finite(loss: Tensor) -> bool:
    """Whether a loss may be stepped on."""
    return bool(torch.isfinite(loss))
