"""SAM's neck with 3D convolutions (Gao and Lu: 2D ones replaced by 3D ones, trained from scratch)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm3D(nn.Module):
    """Layer normalisation over channels of a (B, C, D, H, W) map; SAM's ``LayerNorm2d`` with one more axis."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return x * self.weight[:, None, None, None] + self.bias[:, None, None, None]


class Neck3D(nn.Sequential):
    """Reduce encoder features of one level to ``out_dim`` channels: 1^3 convolution, norm, 3^3 convolution, norm.

    Shapes: (B, C, D, H, W) -> (B, out_dim, D, H, W) on the token grid.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(
            nn.Conv3d(dim, out_dim, 1, bias=False),
            ChannelNorm3D(out_dim),
            nn.Conv3d(out_dim, out_dim, 3, padding=1, bias=False),
            ChannelNorm3D(out_dim),
        )
