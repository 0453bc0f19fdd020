"""Windowed 3D self-attention with decomposed relative position (SAM's, with a depth term)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_table(table: Tensor, extent: int) -> Tensor:
    """Relative-position rows for every (query, key) pair along one axis.

    Args:
        table: (2 * M - 1, C), row M - 1 is offset zero; interpolated if ``extent`` exceeds M.

    Returns:
        (extent, extent, C), entry [q, k] for offset q - k.
    """
    need = 2 * extent - 1
    if table.shape[0] < need:
        table = F.interpolate(table.T[None], size=need, mode="linear", align_corners=False)[0].T
    centre = table.shape[0] // 2
    index = torch.arange(extent, device=table.device)
    return table[index[:, None] - index[None, :] + centre]


class WindowAttention3D(nn.Module):
    """Multi-head attention inside cubes of ``window_size`` tokens, shifted by half a cube where ``shifted``.

    3DSAM-adapter, following SAM and Swin: bias of a pair = q . (R_d[offset_d] + R_h[offset_h] + R_w[offset_w]). The depth
    table starts at the mean of the other two when SAM weights are inflated [ours]. Grids that fit one window are neither
    padded nor shifted, so such a tile pays for its own tokens only.

    Shapes: input and output (B, N, C) on a token grid (D, H, W), N = D * H * W.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.window_size = window_size
        self.shifted = shifted
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        rows, head_dim = 2 * window_size - 1, dim // num_heads
        self.rel_pos_d = nn.Parameter(torch.zeros(rows, head_dim))
        self.rel_pos_h = nn.Parameter(torch.zeros(rows, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(rows, head_dim))

    def forward(self, tokens: Tensor, grid_dhw: tuple[int, int, int]) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        batch, count, dim = tokens.shape
        side = self.window_size
        if all(n <= side for n in grid_dhw):
            return self._attend(tokens, grid_dhw, None)
        window = (min(grid_dhw[0], side), min(grid_dhw[1], side), min(grid_dhw[2], side))
        padded = tuple(-(-n // s) * s for n, s in zip(grid_dhw, window, strict=True))
        shift = tuple(s // 2 if self.shifted and p > s else 0 for s, p in zip(window, padded, strict=True))
        x = tokens.view(batch, *grid_dhw, dim)
        x = F.pad(x, (0, 0, *(v for n, p in zip(grid_dhw[::-1], padded[::-1], strict=True) for v in (0, p - n))))
        x = torch.roll(x, tuple(-s for s in shift), (1, 2, 3))
        mask = self._region_mask(grid_dhw, padded, window, shift, tokens.device)
        x = self._attend(_partition(x, window), window, mask.repeat(batch, 1, 1) if mask is not None else None)
        x = _merge(x, window, padded, batch)
        x = torch.roll(x, shift, (1, 2, 3))
        d, h, w = grid_dhw
        return x[:, :d, :h, :w].reshape(batch, count, dim)

    def _attend(self, tokens: Tensor, grid_dhw: tuple[int, int, int], mask: Tensor | None) -> Tensor:
        """Attention over all tokens of each row; ``mask`` (B, N, N) is True where a pair may attend."""
        batch, count, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self._relative_bias(q, grid_dhw)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None], float("-inf"))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(batch, count, dim))

    def _relative_bias(self, q: Tensor, grid_dhw: tuple[int, int, int]) -> Tensor:
        """Decomposed bias (B, heads, N, N), query-dependent as in SAM."""
        batch, heads, count, width = q.shape
        d, h, w = grid_dhw
        r = q.reshape(batch, heads, d, h, w, width)
        along_d = torch.einsum("bndhwc,dkc->bndhwk", r, relative_table(self.rel_pos_d, d).to(q.dtype))
        along_h = torch.einsum("bndhwc,hkc->bndhwk", r, relative_table(self.rel_pos_h, h).to(q.dtype))
        along_w = torch.einsum("bndhwc,wkc->bndhwk", r, relative_table(self.rel_pos_w, w).to(q.dtype))
        bias = along_d[..., :, None, None] + along_h[..., None, :, None] + along_w[..., None, None, :]
        return bias.reshape(batch, heads, count, count)

    @staticmethod
    def _region_mask(
        grid: tuple[int, ...], padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        """(windows, n, n) True inside one region; padding and tokens wrapped by the roll are regions of their own."""
        if grid == padded and not any(shift):
            return None
        region = torch.zeros(padded, dtype=torch.long, device=device)
        for axis, (n, p, s) in enumerate(zip(grid, padded, shift, strict=True)):
            index = torch.arange(p, device=device)
            wrapped = (index < s).long()
            padding = (index >= n).long() * 2
            shape = [1, 1, 1]
            shape[axis] = p
            region = region * 4 + (wrapped + padding).view(shape)
        region = torch.roll(region, tuple(-s for s in shift), (0, 1, 2))
        cells = _partition(region[None, ..., None], tuple(window))[..., 0]
        return cells[:, :, None] == cells[:, None, :]


def _partition(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """(B, D, H, W, C) -> (B * windows, d * h * w, C)."""
    b, dd, hh, ww, c = x.shape
    d, h, w = window
    x = x.view(b, dd // d, d, hh // h, h, ww // w, w, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, d * h * w, c)


def _merge(x: Tensor, window: tuple[int, ...], padded: tuple[int, ...], batch: int) -> Tensor:
    """Inverse of :func:`_partition`."""
    (d, h, w), (dd, hh, ww) = window, padded
    x = x.view(batch, dd // d, hh // h, ww // w, d, h, w, -1)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, dd, hh, ww, -1)
