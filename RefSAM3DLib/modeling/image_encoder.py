"""The image branch: patch embedding, position, transformer blocks with adapters, four levels (Eq. IV-V)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..config import ImageEncoderConfig
from .adapter import Adapter3D
from .block import Block3D
from .neck import Neck3D
from .patch_embed import ConvStem, PatchEmbed3D
from .position import PositionEmbed3D

LEVELS = 4


@dataclass
class ImageFeatures:
    """What the encoder knows of a tile. No prompt has touched it, so it may be cached.

    levels: four maps V'_i, (B, level_dim, d, h, w) on the token grid, from shallow to deep.
    skips: stem maps at strides 2, 4, ... (empty without a stem). volume: the input (B, C_in, D, H, W).
    """

    levels: list[Tensor]
    skips: list[Tensor]
    volume: Tensor


class ImageEncoder3D(nn.Module):
    """SAM's ViT made three-dimensional by adapters; returns the features of four depths.

    Levels follow blocks 3, 6, 9, 12 of 12 (quarters of the depth otherwise); all have the same token grid, "hierarchical"
    means depth. ``V'_i = Neck_i(Adapter_i(V_i))`` (Eq. IV-V; the necks are 3D, trained from scratch). ``domain`` adds a
    learned embedding of the working grid [ours]: 1 mm and 6 mm voxels share one network.

    Shapes: input (B, C_in, D, H, W), multiples of the patch size.
    """

    def __init__(self, config: ImageEncoderConfig, domains: int) -> None:
        super().__init__()
        dim = config.dim
        self.patch_size = config.patch_size
        self.patch_embed = PatchEmbed3D(config.in_channels, dim, config.patch_size)
        self.stem = ConvStem(config.in_channels, config.stem_channels, dim, config.patch_size) if config.stem_channels else None
        self.pos_embed = PositionEmbed3D(dim, config.position_grid)
        self.domain_embed = nn.Embedding(domains, dim)
        nn.init.zeros_(self.domain_embed.weight)
        adapter_dim = max(1, int(dim * config.adapter_ratio))
        self.blocks = nn.ModuleList(
            Block3D(dim, config.num_heads, config.mlp_ratio, config.window_size, bool(i % 2), adapter_dim) for i in range(config.depth)
        )
        self.taps = [round((i + 1) * config.depth / LEVELS) - 1 for i in range(LEVELS)]
        self.level_adapters = nn.ModuleList(Adapter3D(dim, adapter_dim) for _ in range(LEVELS))
        self.necks = nn.ModuleList(Neck3D(dim, config.level_dim) for _ in range(LEVELS))

    def forward(self, volume: Tensor, domain: Tensor) -> ImageFeatures:
        """Encode tiles (B, C_in, D, H, W) of the working grids ``domain`` (B,)."""
        d, h, w = (n // self.patch_size for n in volume.shape[2:])
        grid = (d, h, w)
        tokens = self.patch_embed(volume)
        skips: list[Tensor] = []
        if self.stem is not None:
            stem_tokens, skips = self.stem(volume)
            tokens = tokens + stem_tokens
        tokens = tokens + self.pos_embed(grid) + self.domain_embed(domain)[:, None]
        levels: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, grid)
            for level in [n for n, tap in enumerate(self.taps) if tap == i]:
                adapted = self.level_adapters[level](tokens, grid)
                levels.append(self.necks[level](adapted.transpose(1, 2).reshape(volume.shape[0], -1, *grid)))
        return ImageFeatures(levels, skips, volume)


