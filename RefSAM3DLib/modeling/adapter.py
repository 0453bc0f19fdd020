"""The 3D adapter (Gao and Lu, Eq. I and Fig. 1C)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Adapter3D(nn.Module):
    """Adapt frozen transformer features to volumes: ``x + up(act(dwconv(down(x))))``.

    Gao and Lu, RefSAM3D, Eq. I, with the depth-wise convolution after the down-projection that the text below it
    describes; the activation follows the convolution only [ours]. ``up`` starts at zero: a new adapter is the identity
    and the pretrained encoder is unchanged at step 0.

    Shapes: N tokens on a (D, H, W) grid, N = D * H * W, C = ``dim``, M = ``hidden_dim``.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden_dim)
        self.depthwise = nn.Conv3d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.up = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, grid_dhw: tuple[int, int, int]) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        batch, count, _ = tokens.shape
        hidden = self.down(tokens).transpose(1, 2).reshape(batch, -1, *grid_dhw)
        hidden = F.gelu(self.depthwise(hidden)).flatten(2).transpose(1, 2)
        return tokens + self.up(hidden).view(batch, count, -1)
