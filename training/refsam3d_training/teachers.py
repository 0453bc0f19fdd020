"""Specialised networks whose soft masks are additional targets [ours; no step of the paper].

Hinton et al., Distilling the Knowledge in a Neural Network, 2015. A teacher sees the same augmented tile. Its masks tell how sure an outline
is, and they say something of structures that a case shows but nobody contoured there, about which labels are silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import InputError

from .baseline import make_network
from .losses import weighted_cross_entropy
from .precision import half_precision
from .sampling import Tile


@dataclass
class Teacher:
    """A trained reference network and what the model card tells of it."""

    network: nn.Module
    structures: tuple[str, ...]
    card: dict[str, Any]


class Teachers:
    """Networks by grid.

    Args:
        by_grid: one of each taught grid. bf16: they are read in half precision on devices that have it.
    """

    def __init__(self, by_grid: dict[str, Teacher], bf16: bool = False, device: str = "cpu") -> None:
        self.by_grid, self.bf16, self.device = by_grid, bf16, device
        for teacher in by_grid.values():
            teacher.network.to(device).eval().requires_grad_(False)

    @property
    def structures(self) -> dict[str, tuple[str, ...]]:
        """What is taught on each grid."""
        return {grid: teacher.structures for grid, teacher in self.by_grid.items()}

    @property
    def cards(self) -> list[dict[str, Any]]:
        """What a model card tells of them."""
        return [teacher.card for teacher in self.by_grid.values()]

    @torch.no_grad()
    def soft_masks(self, tiles: Sequence[Tile], volume: Tensor) -> list[Tensor]:
        """Probabilities (rows of ``tile.taught``, D, H, W) of each tile; none of them taught costs nothing. ``volume``: (B, C, D, H, W), all of one grid."""
        rows = [i for i, tile in enumerate(tiles) if tile.taught]
        masks = [volume.new_zeros(0, *volume.shape[2:]) for _ in tiles]
        if rows:
            teacher = self.by_grid[tiles[rows[0]].grid]
            with half_precision(self.bf16, self.device):
                drawn = teacher.network(volume[rows]).float().sigmoid()
            for row, probability in zip(rows, drawn, strict=True):
                masks[row] = probability[[teacher.structures.index(name) for _, name in tiles[row].taught]]
        return masks


def soft_target_loss(logits: Tensor, soft: Tensor, foreground: float) -> Tensor:
    """Cross-entropy and Dice of (P, D, H, W) with soft targets; both are least where the probabilities equal them.

    The usual soft Dice is least at a hard mask even where the target is one half; with |p - t| in place of the product (Wang et al., Dice
    Semimetric Losses, 2023) it is not, and for hard targets it is the same.
    """
    probability = logits.sigmoid().flatten(1)
    target = soft.flatten(1)
    both = probability.sum(1) + target.sum(1)
    shared = (both - (probability - target).abs().sum(1)) / 2
    dice = 1 - (2 * shared + 1) / (both + 1)
    return weighted_cross_entropy(logits, soft, foreground) + dice.mean()


def load_teachers(runs: Sequence[str], model: ModelConfig, bf16: bool = False, device: str = "cpu") -> Teachers:
    """Networks of run folders of ``baseline``, the weights with the best validation score.

    Raises:
        InputError: no such run, two of one grid, or a network of other structures.
    """
    by_grid: dict[str, Teacher] = {}
    for run in runs:
        path = Path(run) / "baseline.pt"
        if not path.is_file():
            raise InputError(f"The teacher '{run}' has no baseline.pt; train it with `baseline SET:GRID --run {run}`, or take it out of the configuration.")
        state = torch.load(path, map_location="cpu", weights_only=True)
        config = state["config"]
        grid = config["grid"]
        if grid in by_grid:
            raise InputError(f"Two teachers are for the grid '{grid}', the second one in '{run}'; name one of each grid.")
        network = make_network(model.grid(grid), model.image.in_channels, config["filters"])
        try:
            network.load_state_dict(state["best"])
        except RuntimeError as error:
            raise InputError(f"The teacher '{run}' does not fit the grid '{grid}' of this model ({error}); train it with the same model.") from error
        card = {"grid": grid, "filters": config["filters"], "step": state["best_step"], "seed": config["seed"], "hours": round(state["seconds"] / 3600, 2)}
        by_grid[grid] = Teacher(network, model.grid(grid).structures, card)
    return Teachers(by_grid, bf16, device)
