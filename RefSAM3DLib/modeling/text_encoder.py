"""The text branch: CLIP's text tower through open_clip (Eq. II)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TextEncoderConfig


@dataclass
class TextFeatures:
    """words (P, L, C_e): one embedding per token. mask (P, L): True where a token is real. sentence (P, C_e)."""

    words: Tensor
    mask: Tensor
    sentence: Tensor


class TextEncoder(nn.Module):
    """``E = f_e(T)``: word embeddings of a prompt and their mean, the sentence vector s (Gao and Lu, Eq. II).

    The tower is open_clip's, exchangeable by configuration: a published one by name (causal mask, its own vocabulary and
    projection to C_e), or a small bidirectional one of the same class trained by this project. Padding is masked out of
    the mean [ours].

    Shapes: token ids (P, L), zero is padding.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        if config.name:
            self.tower = named_tower(config.name)
        else:
            from open_clip.transformer import TextTransformer

            self.tower = TextTransformer(
                context_length=config.context_length, vocab_size=config.vocab_size, width=config.width, heads=config.heads,
                layers=config.layers, output_dim=config.width, no_causal_mask=True, use_pad_mask=True, pool_type="first",
                proj_type="none", output_tokens=True,
            )  # fmt: skip
        self.output_dim = self.tower.width

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """Encode (P, L) token ids; an id of zero is padding."""
        mask = token_ids != 0
        length = int(mask.sum(1).max())  # trailing padding costs attention and changes nothing
        if not self.config.name:
            token_ids, mask = token_ids[:, :length], mask[:, :length]
        _, words = self.tower(token_ids)
        words, mask = words[:, :length], mask[:, :length]
        weight = mask[..., None].to(words.dtype)
        sentence = (words * weight).sum(1) / weight.sum(1).clamp(min=1)
        return TextFeatures(words, mask, sentence)


def named_tower(name: str) -> Any:
    """Architecture of an open_clip text tower, random weights (the checkpoint or the user brings the real ones)."""
    import open_clip
    from open_clip.transformer import TextTransformer

    settings = open_clip.get_model_config(name)
    if settings is None or "text_cfg" not in settings:
        from ..errors import ConfigError

        known = ", ".join(open_clip.list_models()[:8])
        raise ConfigError(f"open_clip knows no text tower '{name}'; use one of its names, such as {known}, ...")
    text = {k: v for k, v in settings["text_cfg"].items() if k in ("context_length", "vocab_size", "width", "heads", "layers")}
    return TextTransformer(**text, output_dim=settings["embed_dim"], output_tokens=True)


def pad_tokens(rows: list[list[int]], length: int) -> Tensor:
    """Stack id lists into (P, length), zero-padded; longer rows keep their first ids and the last (end) id."""
    out = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        kept = row if len(row) <= length else [*row[: length - 1], row[-1]]
        out[i, : len(kept)] = torch.tensor(kept)
    return out
