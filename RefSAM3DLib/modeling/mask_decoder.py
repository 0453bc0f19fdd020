"""The prompt-free pixel path and the mask embedding: ``decoder = "cached"`` (ours; see ``paper_decoder`` for the paper's)."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .image_encoder import LEVELS, ImageFeatures
from .patch_embed import ConvNormAct, ResidualUnit, space_to_depth


@functools.cache
def upsampling_matrix(count: int, factor: int, device: torch.device | None = None) -> Tensor:
    """(count * factor, count) linear interpolation, ``align_corners=False``.

    Products with it replace ``F.interpolate``, which costs more than the largest convolution on a CPU.
    """
    with torch.inference_mode(False), torch.no_grad():  # kept for training too
        eye = torch.eye(count, device=device)
        return F.interpolate(eye[None], scale_factor=factor, mode="linear", align_corners=False)[0].T


def upsample_linear(maps: Tensor, factor: int) -> Tensor:
    """(P, d, h, w) -> (P, d f, h f, w f), trilinear, as three matrix products."""
    by_d, by_h, by_w = (upsampling_matrix(n, factor, maps.device).to(maps.dtype) for n in maps.shape[1:])
    maps = torch.einsum("zd,pdhw->pzhw", by_d, maps)
    maps = torch.einsum("yh,pzhw->pzyw", by_h, maps)
    return torch.einsum("xw,pzyw->pzyx", by_w, maps)


class PixelPath(nn.Module):
    """Up-sample the image levels to stride 2 without any prompt, so that the result is cached per image.

    The paper's decoder aggregates stages 1-4 in a U shape, up-samples by transposed convolutions and fuses the raw image;
    here the same steps run before the text enters, which turns 66-150 CPU-seconds per prompt into milliseconds. Skips come
    from the stem; without one the raw voxels (space-to-depth) are concatenated at stride 2. ``detail_channels`` more channels
    serve outlines: eight sub-positions of seven organs are 56 maps, all of them mixed from ``pixel_dim`` pixel features. With
    ``detail_reads_voxels`` they are read from the raw voxels too, which the stem's skip holds only after its own convolution; with
    ``detail_residual`` a residual unit of that inner width refines them.

    Shapes: levels (B, C, d, h, w) -> pixels (B, pixel_dim, D/2, H/2, W/2).
    """

    def __init__(
        self, level_dim: int, patch_size: int, channels: int, pixel_dim: int, skip_widths: list[int], in_channels: int, detail_channels: int = 0,
        detail_reads_voxels: bool = False, detail_residual: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        width = channels * patch_size
        self.levels = nn.ModuleList(nn.Conv3d(level_dim, width, 1) for _ in range(LEVELS))
        self.fuse = ConvNormAct(width, width)
        self.ups, self.convs = nn.ModuleList(), nn.ModuleList()
        steps = int(math.log2(patch_size)) - 1
        for i in range(steps):
            out = width // 2
            last = i == steps - 1
            skip = skip_widths[steps - 1 - i] if skip_widths else (8 * in_channels if last else 0)
            self.ups.append(nn.ConvTranspose3d(width, out, 2, 2))
            self.convs.append(nn.Sequential(ConvNormAct(out + skip, out), ConvNormAct(out, out)))
            width = out
        self.detail_reads_voxels = detail_reads_voxels
        self.detail = ConvNormAct(width + (8 * in_channels if detail_reads_voxels else 0), detail_channels) if detail_channels else None
        self.refine = ResidualUnit(detail_channels, detail_residual) if detail_residual else None
        self.pixels = nn.Conv3d(width + detail_channels, pixel_dim, 1)

    def forward(self, features: ImageFeatures) -> Tensor:
        """Pixel features at stride 2."""
        x = self.fuse(torch.stack([conv(level) for conv, level in zip(self.levels, features.levels, strict=True)]).sum(0))
        for i, (up, convs) in enumerate(zip(self.ups, self.convs, strict=True)):
            x = up(x)
            if features.skips:
                x = torch.cat([x, features.skips[-1 - i]], dim=1)
            elif i == len(self.ups) - 1:
                x = torch.cat([x, space_to_depth(features.volume)], dim=1)
            x = convs(x)
        if self.detail is not None:
            read = torch.cat([x, space_to_depth(features.volume).to(x.dtype)], dim=1) if self.detail_reads_voxels else x
            detail = self.detail(read)
            x = torch.cat([x, detail if self.refine is None else self.refine(detail)], dim=1)
        return self.pixels(x)


class MaskEmbedding(nn.Module):
    """One vector per prompt and sub-voxel position that the pixel features are multiplied with (MaskFormer's idea).

    Eight sub-positions of each stride-2 pixel give full resolution without a stride-1 layer; this equals or beats stride 1
    and trains 1.4 times faster (prototype runs). The logit also has the coarse token map, linearly up-sampled.

    Shapes: sentence (P, T), context (P, F), pixels (pixel_dim, d, h, w) -> logits (P, 2d, 2h, 2w).
    """

    def __init__(self, prompt_dim: int, fused_dim: int, pixel_dim: int) -> None:
        super().__init__()
        hidden = max(prompt_dim, fused_dim)
        last = nn.Linear(hidden, 8 * pixel_dim + 1)
        self.layers = nn.Sequential(nn.Linear(prompt_dim + fused_dim, hidden), nn.GELU(), last)
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.bias[-1] = -4.0  # foreground is rare: begin near the prior, not at one half

    def forward(self, sentence: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (P, 8, pixel_dim) and biases (P,)."""
        out = self.layers(torch.cat([sentence, context], dim=1))
        return out[:, :-1].unflatten(1, (8, -1)), out[:, -1]


def multiply_mask(embedding: Tensor, bias: Tensor | None, pixels: Tensor) -> Tensor:
    """Logits (P, 2d, 2h, 2w) = embedding (P, 8, M) . pixels (M, d, h, w) + bias (P,), or without the bias."""
    _, d, h, w = pixels.shape
    prompts = embedding.shape[0]
    logits = torch.einsum("pkm,mdhw->pkdhw", embedding.to(pixels.dtype), pixels)
    logits = logits.view(prompts, 2, 2, 2, d, h, w).permute(0, 4, 1, 5, 2, 6, 3).reshape(prompts, 2 * d, 2 * h, 2 * w)
    return logits if bias is None else logits + bias.to(logits.dtype)[:, None, None, None]
