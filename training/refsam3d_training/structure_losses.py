"""Loss of each structure on fixed, unaugmented tiles: before and after a fine-tuning, and as validation while training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.modeling.refsam3d import RefSAM3D
from RefSAM3DLib.modeling.text_encoder import pad_tokens
from RefSAM3DLib.text.tokenizer import PromptTokenizer

from .cases import Case
from .losses import soft_dice_loss

#: Tiles per structure.
TILES = 4


def structure_losses(
    model: RefSAM3D, config: ModelConfig, tokenizer: PromptTokenizer, cases: list[Case], names: Sequence[str], seed: int, tiles: int = TILES
) -> dict[str, float]:
    """Mean Dice loss of each structure that some case holds, on up to ``tiles`` tiles centred on it, asked by its canonical name."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    losses = {}
    with torch.inference_mode():
        for name in names:
            grid = config.grid_of(name)
            holding = [c for c in cases if c.grid == grid.name and any(n == name and bool((c.fine.labels == v).any()) for v, n in c.known.items())]
            rng = np.random.default_rng(seed)
            values = []
            for index in rng.permutation(len(holding))[:tiles]:
                volume, mask = centred_tile(holding[index], name, grid.tile_dhw)
                domain = torch.tensor([config.domain(grid.name, coarse=False)], device=device)
                features, pixels = model.encode_image(volume[None].to(device), domain)
                ids = pad_tokens([tokenizer.encode(name)], config.text.context_length).to(device)
                output = model.forward_tile(features, pixels, 0, model.encode_text(ids))
                values.append(float(soft_dice_loss(output.mask.float().sigmoid(), mask[None].float().to(device))[0]))
            if values:
                losses[name] = round(float(np.mean(values)), 4)
    model.train(was_training)
    return losses


def centred_tile(case: Case, name: str, tile: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels (C, D, H, W) and mask of the tile around a structure's centre, padded with air."""
    value = next(v for v, n in case.known.items() if n == name)
    mask = case.fine.labels == value
    centre = mask.nonzero().double().mean(0)
    shape = mask.shape
    out = torch.full(tile, -1e4)
    truth = torch.zeros(tile, dtype=torch.bool)
    source, target = [], []
    for axis in range(3):
        low = round(float(centre[axis]) - tile[axis] / 2)
        low = max(0, min(low, shape[axis] - tile[axis])) if shape[axis] >= tile[axis] else (shape[axis] - tile[axis]) // 2
        first, last = max(0, low), min(shape[axis], low + tile[axis])
        source.append(slice(first, last))
        target.append(slice(first - low, last - low))
    out[tuple(target)] = case.fine.values[tuple(source)].float()
    truth[tuple(target)] = mask[tuple(source)]
    return torch.stack([((out - lo) / (hi - lo) * 2 - 1).clamp(-1, 1) for lo, hi in case.windows]), truth
