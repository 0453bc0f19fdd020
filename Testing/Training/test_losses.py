"""The loss of a tile against the same sums written out voxel by voxel."""

import math
from types import SimpleNamespace

import pytest
import torch
from refsam3d_training.losses import tile_loss

SIDE, PATCH = 8, 4
FOREGROUND, PRESENCE, COARSE = 20.0, 0.15, 0.5
#: Voxels of each prompt's structure: surely there, too few to be sure in a fine tile (at most 20) but not in a coarse one (over 3), none.
COUNTS = (30, 5, 0)


@pytest.fixture
def targets():
    """(P, D, H, W), the first voxels of each prompt filled."""
    filled = torch.zeros(len(COUNTS), SIDE**3)
    for row, count in zip(filled, COUNTS, strict=True):
        row[:count] = 1
    return filled.reshape(len(COUNTS), SIDE, SIDE, SIDE)


@pytest.fixture
def output():
    """Logits as the network gives them."""
    generator = torch.Generator().manual_seed(0)
    n, shorter = len(COUNTS), SIDE // PATCH
    return SimpleNamespace(
        mask=torch.randn(n, SIDE, SIDE, SIDE, generator=generator),
        coarse=torch.randn(n, shorter, shorter, shorter, generator=generator),
        presence=torch.tensor([0.3, -0.7, 1.1]),
    )


def cross_entropy(logit, target):
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def mask_loss(logits, targets, asked):
    """Mean weighted cross-entropy over all prompts, times 4, and mean Dice loss of those that may be there."""
    terms, dice = [], []
    for row, (x, t) in enumerate(zip(logits.flatten(1).tolist(), targets.flatten(1).tolist(), strict=True)):
        share = sum(t) / len(t)
        factor = min(max(0.5 * (1 - share) / max(share, 1e-6), 1.0), FOREGROUND)
        terms += [cross_entropy(a, b) * (factor if b else 1.0) for a, b in zip(x, t, strict=True)]
        if row < asked:
            p = [1 / (1 + math.exp(-a)) for a in x]
            overlap = sum(a * b for a, b in zip(p, t, strict=True))
            dice.append(1 - (2 * overlap + 1) / (sum(p) + sum(t) + 1))
    return 4 * sum(terms) / len(terms) + (sum(dice) / len(dice) if dice else 0.0)


def coarse_loss(coarse, targets):
    """Mean cross-entropy with the share of each patch that is filled, times 4."""
    terms = []
    for p, d, h, w in torch.cartesian_prod(*map(torch.arange, coarse.shape)).tolist():
        patch = targets[p, d * PATCH : (d + 1) * PATCH, h * PATCH : (h + 1) * PATCH, w * PATCH : (w + 1) * PATCH]
        terms.append(cross_entropy(float(coarse[p, d, h, w]), float(patch.mean())))
    return 4 * sum(terms) / len(terms)


def loss(output, targets, asked=2, coarse_pass=False):
    return float(tile_loss(output, targets, asked, coarse_pass, FOREGROUND, PRESENCE, COARSE))


@pytest.mark.parametrize(
    ("coarse_pass", "decided"),
    [
        (False, {0: 1.0, 2: 0.0}),  # the second prompt has 5 voxels: nothing is asked of its presence
        (True, {0: 1.0, 1: 1.0, 2: 0.0}),
    ],
)
@pytest.mark.parametrize("asked", [0, 2])
def test_a_tiles_loss_is_the_sum_of_its_terms(output, targets, asked, coarse_pass, decided):
    presence = [cross_entropy(float(output.presence[row]), there) for row, there in decided.items()]
    expected = mask_loss(output.mask, targets, asked) + COARSE * coarse_loss(output.coarse, targets) + PRESENCE * sum(presence) / len(presence)
    assert loss(output, targets, asked, coarse_pass) == pytest.approx(expected, rel=1e-5)


def test_presence_is_not_asked_where_no_prompt_is_sure(output, targets):
    unsure = targets[1:2].expand(3, -1, -1, -1)
    expected = mask_loss(output.mask, unsure, 2) + COARSE * coarse_loss(output.coarse, unsure)
    assert loss(output, unsure) == pytest.approx(expected, rel=1e-5)
    output.presence.requires_grad_(True)
    tile_loss(output, unsure, 2, False, FOREGROUND, PRESENCE, COARSE).backward()
    assert not output.presence.grad.any()
