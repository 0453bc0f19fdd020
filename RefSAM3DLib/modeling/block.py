"""A transformer block of the image encoder with its adapter."""

from __future__ import annotations

from torch import Tensor, nn

from .adapter import Adapter3D
from .attention import WindowAttention3D


class Block3D(nn.Module):
    """SAM's block with a 3D adapter between attention and MLP (Fig. 1C).

    ``x + attn(norm1(x))``, then the adapter, then ``x + mlp(norm2(x))``. SAM's own parameters keep SAM's names.

    Shapes: (B, N, C) on a token grid (D, H, W).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, window_size: int, shifted: bool, adapter_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention3D(dim, num_heads, window_size, shifted)
        self.adapter = Adapter3D(dim, adapter_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio))

    def forward(self, tokens: Tensor, grid_dhw: tuple[int, int, int]) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tokens = tokens + self.attn(self.norm1(tokens), grid_dhw)
        tokens = self.adapter(tokens, grid_dhw)
        return tokens + self.mlp(self.norm2(tokens))


class MLPBlock(nn.Module):
    """SAM's two-layer perceptron (parameter names ``lin1``, ``lin2`` as published)."""

    def __init__(self, dim: int, hidden_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.lin2(self.act(self.lin1(x)))
