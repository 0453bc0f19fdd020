"""Positional embedding: SAM's in-plane table plus a depth table that starts at zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PositionEmbed3D(nn.Module):
    """Absolute position of a token: ``plane[h, w] + depth[d]``, interpolated to the grid at hand.

    ``depth`` starts at zero [ours], so that an inflated SAM encoder sees its own table in every slab.

    Shapes: tables (C, H0, W0) and (C, D0); output (1, N, C) for a token grid (D, H, W).
    """

    def __init__(self, dim: int, grid_dhw: tuple[int, int, int]) -> None:
        super().__init__()
        d, h, w = grid_dhw
        self.plane = nn.Parameter(torch.empty(dim, h, w))
        self.depth = nn.Parameter(torch.zeros(dim, d))
        nn.init.trunc_normal_(self.plane, std=0.02)

    def forward(self, grid_dhw: tuple[int, int, int]) -> Tensor:
        """Embedding of every token of the grid, in (d, h, w) order."""
        d, h, w = grid_dhw
        plane: Tensor = self.plane
        depth: Tensor = self.depth
        if plane.shape[1:] != (h, w):
            plane = F.interpolate(plane[None], size=(h, w), mode="bilinear", align_corners=False)[0]
        if depth.shape[1] != d:
            depth = F.interpolate(depth[None], size=d, mode="linear", align_corners=False)[0]
        return (depth[:, :, None, None] + plane[:, None]).flatten(1).T[None]
