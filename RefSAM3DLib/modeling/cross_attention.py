"""Hierarchical cross-attention between image levels and words (Gao and Lu, Eq. VI-VII)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class LevelCache:
    """The image's half of one level: everything that needs no prompt.

    queries: (N, heads, A / heads), unit length. image: (N, F), the image half of the 1x1x1 convolution, bias included.
    """

    queries: Tensor
    image: Tensor


class LevelCrossAttention(nn.Module):
    """``P_i = Conv1(concat(V'_i, softmax(Q_i K^T / tau) V))`` for one level.

    The paper ties the values to the image feature, which has no valid shape; ours are the text, projected to C_i, as in
    RefSAM. Queries and keys are unit vectors with a learned temperature [ours]: over the 4-16 words of a prompt a plain
    softmax is near uniform. Eq. VI's sqrt(d_k) is part of that temperature.

    ``forward`` folds the equation: ``P_i = W_a V'_i + softmax(.) U_i`` with ``U_i = (T W_v) W_b``, which is the same
    function (``literal`` writes it out; a test compares them) at a sixth of the cost, its first term cached per image.

    Shapes: N image tokens, P prompts, L words, C = ``level_dim``, T = ``prompt_dim``, A = ``attention_dim``, F = ``fused_dim``.
    """

    def __init__(self, level_dim: int, prompt_dim: int, attention_dim: int, heads: int, fused_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(level_dim, attention_dim, bias=False)
        self.key = nn.Linear(prompt_dim, attention_dim, bias=False)
        self.value = nn.Linear(prompt_dim, level_dim)
        self.fuse = nn.Linear(2 * level_dim, fused_dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))

    def cache(self, level: Tensor) -> LevelCache:
        """Image half of (N, C) tokens."""
        queries = F.normalize(self.query(level).unflatten(-1, (self.heads, -1)), dim=-1)
        return LevelCache(queries, F.linear(level, self.fuse.weight[:, : level.shape[-1]], self.fuse.bias))

    def attention(self, queries: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Weights (P, N, heads, L) of each word for each image token; padding gets exactly zero."""
        keys = F.normalize(self.key(words).unflatten(-1, (self.heads, -1)), dim=-1)
        scores = torch.einsum("nhc,plhc->pnhl", queries, keys) * self.log_temperature.exp()
        return scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)

    def forward(self, cache: LevelCache, words: Tensor, mask: Tensor) -> Tensor:
        """Folded Eq. VI-VII: (P, N, F) from words (P, L, T) and their mask (P, L)."""
        weights = self.attention(cache.queries, words, mask).flatten(2)  # (P, N, heads * L)
        values = self.value(words).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (P, heads, L, C / heads)
        text_half = self.fuse.weight[:, values.shape[-1] * self.heads :].unflatten(1, (self.heads, -1))
        folded = torch.einsum("phlc,fhc->phlf", values, text_half).flatten(1, 2)  # U_i: (P, heads * L, F)
        return cache.image[None] + weights @ folded

    def literal(self, level: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Eq. VI-VII as written, for tests and for measuring what the folding gains: (N, C) -> (P, N, F)."""
        queries = F.normalize(self.query(level).unflatten(-1, (self.heads, -1)), dim=-1)
        weights = self.attention(queries, words, mask)
        values = self.value(words).unflatten(-1, (self.heads, -1))
        attended = torch.einsum("pnhl,plhc->pnhc", weights, values).flatten(2)
        image = level[None].expand(words.shape[0], -1, -1)
        return self.fuse(torch.cat([image, attended], dim=-1))


class HierarchicalCrossAttention(nn.Module):
    """Eq. VI-VII at every level; all four P_i go to the decoder [ours]."""

    def __init__(self, levels: int, level_dim: int, prompt_dim: int, attention_dim: int, heads: int, fused_dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelCrossAttention(level_dim, prompt_dim, attention_dim, heads, fused_dim) for _ in range(levels))

    def cache(self, levels: list[Tensor]) -> list[LevelCache]:
        """Image halves of the tokens (N, C) of each level."""
        return [module.cache(level) for module, level in zip(self.levels, levels, strict=True)]  # type: ignore[operator]

    def forward(self, caches: list[LevelCache], words: Tensor, mask: Tensor) -> list[Tensor]:
        """P_i (P, N, F) of each level."""
        return [module(cache, words, mask) for module, cache in zip(self.levels, caches, strict=True)]
