"""A CLIP text transformer in two directions, small enough to be trained with the rest (Eq. II)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class SmallTextTower(nn.Module):
    """Token ids to word embeddings.

    The same network, parameter names and initial values as open_clip's ``TextTransformer`` with ``no_causal_mask`` and ``use_pad_mask``.
    It is written out here because that class cannot be had without importing torchvision, timm and with them torch's compiler: three
    fifths of the time from start to the first answer.

    Shapes: token ids (P, L) -> (P, L, width); zero is padding, which no word reads.
    """

    def __init__(self, context_length: int, vocab_size: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.width, self.heads, self.context_length = width, heads, context_length
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        # A module of its own only for the names of the parameters, which are CLIP's.
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(TextBlock(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self._initialise()

    def _initialise(self) -> None:
        """Normal distributions as in CLIP: the branch's last products are small, so that the sum stays of one size with depth."""
        blocks = list(self._blocks())
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in blocks:
            nn.init.normal_(block.attn.in_proj_weight, std=self.width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=self.width**-0.5 * (2 * len(blocks)) ** -0.5)
            nn.init.normal_(block.mlp.get_parameter("c_fc.weight"), std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.mlp.get_parameter("c_proj.weight"), std=self.width**-0.5 * (2 * len(blocks)) ** -0.5)

    def _blocks(self) -> list[TextBlock]:
        return list(self.transformer.resblocks)  # type: ignore[arg-type]

    def forward(self, token_ids: Tensor) -> Tensor:
        """Word embeddings."""
        length = token_ids.shape[1]
        x = self.token_embedding(token_ids)
        padding = (token_ids == 0)[:, None].expand(-1, length, -1)
        mask = torch.zeros_like(padding, dtype=x.dtype).masked_fill_(padding, float("-inf")).repeat_interleave(self.heads, 0)
        x = x + self.positional_embedding[:length].to(x.dtype)
        for block in self._blocks():
            x = block(x, mask)
        out: Tensor = self.ln_final(x)
        return out


class TextBlock(nn.Module):
    """Attention between words, then two layers for each word, both with a norm before and a sum after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict[str, nn.Module](c_fc=nn.Linear(width, 4 * width), gelu=nn.GELU(), c_proj=nn.Linear(4 * width, width)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``mask`` (P * heads, L, L) is added to the scores."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask.to(y.dtype))[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out
