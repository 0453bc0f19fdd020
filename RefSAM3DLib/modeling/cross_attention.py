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

    queries: (heads, A / heads, N), unit length; tokens last, so that the softmax over few words runs along many tokens at once.
    image: (N, F), the image half of the 1x1x1 convolution, bias included.
    Of all levels joined: the heads of all levels side by side, and the sum of the image halves.
    """

    queries: Tensor
    image: Tensor


@dataclass
class WordCache:
    """The words' half of all levels: everything that needs no image.

    keys: (P, levels * heads, L, A / heads). folded: (P, levels * heads, L, F), see :meth:`LevelCrossAttention.folded`.
    """

    keys: Tensor
    folded: Tensor


def attention(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Weights (P, heads, L, N) of each word for each image token from keys (P, heads, L, A / heads); padding gets exactly zero."""
    scores = keys @ queries
    return scores.masked_fill(~mask[:, None, :, None], float("-inf")).softmax(2)


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
        return LevelCache(self.queries(level), F.linear(level, self.fuse.weight[:, : level.shape[-1]], self.fuse.bias))

    def queries(self, level: Tensor) -> Tensor:
        """Unit queries (heads, A / heads, N) of (N, C) tokens."""
        return F.normalize(self.query(level).T.unflatten(0, (self.heads, -1)), dim=1)

    def keys(self, words: Tensor) -> Tensor:
        """Unit keys times the temperature, (P, heads, L, A / heads)."""
        return F.normalize(self.key(words).unflatten(-1, (self.heads, -1)), dim=-1).transpose(1, 2) * self.log_temperature.exp()

    def folded(self, words: Tensor) -> Tensor:
        """U_i (P, heads, L, F): what a word adds to the fused map where a head looks at nothing else."""
        values = self.value(words).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (P, heads, L, C / heads)
        text_half = self.fuse.weight[:, values.shape[-1] * self.heads :].unflatten(1, (self.heads, -1))
        return torch.einsum("phlc,fhc->phlf", values, text_half)

    def forward(self, cache: LevelCache, words: Tensor, mask: Tensor) -> Tensor:
        """Folded Eq. VI-VII: (P, N, F) from words (P, L, T) and their mask (P, L)."""
        weights = attention(cache.queries, self.keys(words), mask)
        return cache.image[None] + weights.flatten(1, 2).transpose(1, 2) @ self.folded(words).flatten(1, 2)

    def literal(self, level: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Eq. VI-VII as written, for tests and for measuring what the folding gains: (N, C) -> (P, N, F)."""
        weights = attention(self.queries(level), self.keys(words), mask)
        values = self.value(words).unflatten(-1, (self.heads, -1))
        attended = torch.einsum("phln,plhc->pnhc", weights, values).flatten(2)
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

    def join(self, caches: list[LevelCache]) -> LevelCache:
        """All levels in one cache, for :meth:`total`."""
        return LevelCache(torch.cat([c.queries for c in caches]), torch.stack([c.image for c in caches]).sum(0))

    def cache_words(self, words: Tensor) -> WordCache:
        """The words' half of (P, L, T): the same for every tile, view and image."""
        keys = torch.cat([module.keys(words) for module in self.levels], 1)  # type: ignore[operator]
        return WordCache(keys, torch.cat([module.folded(words) for module in self.levels], 1))  # type: ignore[operator]

    def total(self, joined: LevelCache, words: WordCache, mask: Tensor) -> Tensor:
        """The sum of all P_i, (P, N, F), which is all that the prompt reader takes: one attention over the heads of all levels."""
        weights = attention(joined.queries, words.keys, mask)
        return joined.image[None] + weights.flatten(1, 2).transpose(1, 2) @ words.folded.flatten(1, 2)
