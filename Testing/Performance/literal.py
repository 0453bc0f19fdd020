"""Our own slow, literal path: each function undoes one optimisation, and returns a function that puts it back.

Together they are the contestant ``own-literal``; one by one they are the lines of the table of optimisations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from RefSAM3DLib import engine
from RefSAM3DLib.inference import embed
from RefSAM3DLib.modeling import attention, cross_attention, mask_decoder, paper_decoder, patch_embed

Undo = Callable[[], None]


def _swap(owner: Any, name: str, slow: Any) -> Undo:
    fast = getattr(owner, name)
    setattr(owner, name, slow)
    return lambda: setattr(owner, name, fast)


def everything() -> None:
    """The paper as written: every tile, for every prompt, nothing folded. For a process of its own."""
    no_coarse_to_fine()
    no_pairs()
    no_folding()
    explicit_attention()
    convolution_patches()
    interpolated_upsampling()


def no_coarse_to_fine() -> Undo:
    """Fine tiles over the whole volume."""
    return _swap(engine.VolumeEmbedding, "is_direct", lambda self, grid: True)


def no_pairs() -> Undo:
    """One tile per forward pass."""
    return _swap(embed, "BATCH", 1)


def no_folding() -> Undo:
    """Concatenation and 1x1x1 convolution as Eq. VI-VII write them, from the raw level features, level by level, for every prompt anew."""
    level, levels, cache = cross_attention.LevelCrossAttention, cross_attention.HierarchicalCrossAttention, cross_attention.LevelCache

    def tokens_of(self: Any, joined: Any) -> Any:
        return joined.queries.squeeze(1).T.chunk(len(self.levels), 1)

    from RefSAM3DLib.modeling.cross_attention import WordCache

    undoing = [
        # Raw features (C, 1, N) where the queries would be: joined along the first axis and chosen along the last like them.
        _swap(level, "cache", lambda self, tokens: cache(tokens.T[:, None], tokens[:, :0])),
        _swap(level, "forward", lambda self, kept, words, mask: self.literal(kept.queries.squeeze(1).T, words, mask)),
        _swap(levels, "total", lambda self, joined, words, mask: torch.stack(
            [module.literal(tokens, words.keys, mask) for module, tokens in zip(self.levels, tokens_of(self, joined), strict=True)]).sum(0)),
        _swap(levels, "cache_words", lambda self, words: WordCache(words, words)),  # nothing is read beforehand
    ]  # fmt: skip

    def undo() -> None:
        for each in undoing:
            each()

    return undo


class _Explicit:
    """``torch.nn.functional`` with attention written out."""

    def __getattr__(self, name: str) -> Any:
        return getattr(F, name)

    @staticmethod
    def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """softmax(Q K^T / sqrt(d) + bias) V with every intermediate in memory."""
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype is torch.bool else scores + attn_mask
        return scores.softmax(-1) @ v


def explicit_attention() -> Undo:
    """No fused kernel."""
    undo = [_swap(module, "F", _Explicit()) for module in (attention, paper_decoder)]

    def back() -> None:
        for each in undo:
            each()

    return back


def convolution_patches() -> Undo:
    """The factorised patch embedding as the two convolutions of 3DSAM-adapter."""

    def forward(self: patch_embed.PatchEmbed3D, volume: Tensor) -> Tensor:
        k = self.patch_size
        slabs = F.conv3d(volume, self.plane, stride=(1, k, k))
        tokens = F.conv3d(slabs, self.depth[:, None, :, None, None], self.bias, stride=(k, 1, 1), groups=len(self.depth))
        return tokens.flatten(2).transpose(1, 2)

    return _swap(patch_embed.PatchEmbed3D, "forward", forward)


def interpolated_upsampling() -> Undo:
    """``F.interpolate`` where we multiply by matrices."""

    def slow(maps: Tensor, factor: int) -> Tensor:
        return F.interpolate(maps[None], scale_factor=factor, mode="trilinear", align_corners=False)[0]

    undo = [_swap(module, "upsample_linear", slow) for module in (mask_decoder, paper_decoder)]

    def back() -> None:
        for each in undo:
            each()

    return back
