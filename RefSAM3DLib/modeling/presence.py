"""Reading the fused maps: where a prompt points to, and whether its structure is there at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class PromptReading:
    """tokens (P, N, F): fused maps of all levels. context (P, F): their prompt-weighted mean. coarse (P, N): a logit per
    token. presence (P,): logit that the structure is in view."""

    tokens: Tensor
    context: Tensor
    coarse: Tensor
    presence: Tensor


class PromptReader(nn.Module):
    """Sum the levels P_i, pool them under the sentence vector, and decide presence [ours, method decision 3].

    Works on any set of tokens: one training tile or all tiles of a volume.

    Shapes: N tokens, P prompts, F = ``fused_dim``, T = ``prompt_dim``.
    """

    def __init__(self, fused_dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(fused_dim)
        self.mlp = nn.Sequential(nn.Linear(fused_dim, fused_dim), nn.GELU(), nn.Linear(fused_dim, fused_dim))
        self.pool_query = nn.Linear(prompt_dim, fused_dim)
        self.pool_key = nn.Linear(fused_dim, fused_dim)
        self.coarse_bias = nn.Linear(fused_dim, 1)
        self.coarse_query = nn.Linear(prompt_dim, fused_dim)
        self.presence = nn.Sequential(nn.Linear(fused_dim + prompt_dim + 1, fused_dim), nn.GELU(), nn.Linear(fused_dim, 1))
        self.scale = fused_dim**-0.5

    def forward(self, fused: list[Tensor], sentence: Tensor) -> PromptReading:
        """Levels P_i (P, N, F) and sentence (P, T)."""
        tokens = self.norm(torch.stack(fused).sum(0) if len(fused) > 1 else fused[0])
        tokens = tokens + self.mlp(tokens)
        # The query meets the key's matrix before the tokens, q.(W t + b) = (q W).t + q.b, and both vectors meet the tokens in one product.
        query = self.pool_query(sentence)
        point = self.coarse_query(sentence) * self.scale + self.coarse_bias.weight
        scores, coarse = (torch.stack([query @ self.pool_key.weight, point], 1) @ tokens.transpose(1, 2)).unbind(1)
        weights = ((scores + (query @ self.pool_key.bias)[:, None]) * self.scale).softmax(-1)
        context = (weights[:, None] @ tokens)[:, 0]
        coarse = coarse + self.coarse_bias.bias
        evidence = torch.cat([context, sentence, coarse.amax(1, keepdim=True)], dim=1)
        return PromptReading(tokens, context, coarse, self.presence(evidence)[:, 0])
