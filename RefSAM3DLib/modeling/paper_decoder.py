"""The paper's prompt-conditioned decoder: ``decoder = "paper"``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block import MLPBlock
from .mask_decoder import upsample_linear
from .neck import ChannelNorm3D


class ProjectedAttention(nn.Module):
    """SAM's attention with an inner width of ``dim / downsample`` (parameter names as published)."""

    def __init__(self, dim: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(P, Nq, C), (P, Nk, C) -> (P, Nq, C); ``mask`` (P, Nk) is True for real keys."""
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )  # fmt: skip
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
        return self.out_proj(out.transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """SAM's two-way block: tokens attend to themselves and the image, then the image to the tokens."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, skip_first_pe: bool) -> None:
        super().__init__()
        self.self_attn = ProjectedAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = ProjectedAttention(dim, heads, 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = ProjectedAttention(dim, heads, 2)
        self.skip_first_pe = skip_first_pe

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (P, L, C), image (P, N, C) -> both updated."""
        if self.skip_first_pe:
            tokens = self.self_attn(tokens, tokens, tokens, mask)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens, mask)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        q, k = image + image_pe, tokens + token_pe
        return tokens, self.norm4(image + self.cross_attn_image_to_token(q, k, tokens, mask))


class FourierPosition(nn.Module):
    """SAM's random Fourier features of a position, with a depth row that is zero when SAM weights are inflated."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, dim // 2, generator=generator))

    def forward(self, grid_dhw: tuple[int, int, int]) -> Tensor:
        """(1, N, C) for the cell centres of the grid."""
        matrix: Tensor = self.positional_encoding_gaussian_matrix  # type: ignore[assignment]
        axes = [(torch.arange(n, device=matrix.device, dtype=matrix.dtype) + 0.5) / n * 2 - 1 for n in grid_dhw]
        d, h, w = torch.meshgrid(*axes, indexing="ij")
        angle = 2 * math.pi * torch.stack([w, h, d], -1).flatten(0, 2) @ matrix  # SAM's rows are x, y; ours add z
        return torch.cat([angle.sin(), angle.cos()], dim=-1)[None]


class TwoWayTransformer(nn.Module):
    """SAM's decoder transformer over the sparse prompt (mask token, sentence, words) and the deepest fused map."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, heads, mlp_dim, skip_first_pe=i == 0) for i in range(depth))
        self.final_attn_token_to_image = ProjectedAttention(dim, heads, 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, image_pe: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (P, L, C), image (P, N, C)."""
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, mask)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image


class PaperDecoder(nn.Module):
    """SAM's mask decoder in 3D with multi-layer aggregation (Gao and Lu, "3D mask decoder").

    The two-way transformer reads level 4 and the sparse prompt; then log2(patch) transposed convolutions of step 2 lead
    back to the input resolution, P_3, P_2 and P_1 joining in a U shape (projected, then linearly up-sampled [ours]); at
    full resolution the raw image is concatenated and one more 3D convolution gives the mask. The mask token's output
    scales the channels before that convolution, in the place of SAM's hyper-network [ours]: one mask per prompt.

    Shapes: P_i (P, F, d, h, w), words (P, L, T), volume (C_in, D, H, W) -> logits (P, D, H, W).
    """

    def __init__(self, fused_dim: int, prompt_dim: int, patch_size: int, channels: int, in_channels: int, depth: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.randn(1, fused_dim) * 0.02)
        self.to_sparse = nn.Identity() if prompt_dim == fused_dim else nn.Linear(prompt_dim, fused_dim)
        self.position = FourierPosition(fused_dim)
        self.transformer = TwoWayTransformer(fused_dim, depth, 8, 8 * fused_dim)
        steps = int(math.log2(patch_size))
        widths = [fused_dim, *(max(channels, fused_dim // 4 // 2**i) for i in range(steps))]
        widths[-1] = channels
        self.ups = nn.ModuleList(nn.ConvTranspose3d(widths[i], widths[i + 1], 2, 2) for i in range(steps))
        self.norms = nn.ModuleList(ChannelNorm3D(w) for w in widths[1:])
        self.lateral = nn.ModuleList(nn.Conv3d(fused_dim, widths[i + 1], 1) for i in range(min(3, steps)))
        self.convs = nn.ModuleList(nn.Conv3d(w, w, 3, padding=1) for w in widths[1:])
        self.gate = nn.Linear(fused_dim, channels)
        self.final = nn.Conv3d(channels + in_channels, 1, 3, padding=1)
        with torch.no_grad():
            self.final.bias.fill_(-4.0)  # type: ignore[union-attr]

    def forward(self, fused: list[Tensor], sentence: Tensor, words: Tensor, mask: Tensor, volume: Tensor) -> Tensor:
        """Logits (P, D, H, W) of one tile."""
        prompts, _, d, h, w = fused[3].shape
        sparse = self.to_sparse(torch.cat([sentence[:, None], words], dim=1))
        tokens = torch.cat([self.mask_token.expand(prompts, 1, -1), sparse], dim=1)
        real = torch.cat([mask.new_ones(prompts, 2), mask], dim=1)
        tokens, image = self.transformer(tokens, fused[3].flatten(2).transpose(1, 2), self.position((d, h, w)), real)
        x = image.transpose(1, 2).reshape(prompts, -1, d, h, w)
        for i, (up, norm, conv) in enumerate(zip(self.ups, self.norms, self.convs, strict=True)):
            x = up(x)
            if i < len(self.lateral):
                lateral = self.lateral[i](fused[2 - i])
                x = x + upsample_linear(lateral.flatten(0, 1), 2 ** (i + 1)).view_as(x)
            x = F.gelu(norm(x))
            x = x + F.gelu(conv(x))
        x = x * (1 + self.gate(tokens[:, 0]))[:, :, None, None, None]
        raw = volume[None].expand(prompts, -1, -1, -1, -1)
        return self.final(torch.cat([x, raw], dim=1))[:, 0]
