"""The text branch: a text tower of CLIP's kind (Eq. II)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TextEncoderConfig
from .small_text_tower import SmallTextTower


@dataclass
class TextFeatures:
    """words (P, L, C_e): one embedding per token. mask (P, L): True where a token is real. sentence (P, C_e)."""

    words: Tensor
    mask: Tensor
    sentence: Tensor


class TextEncoder(nn.Module):
    """``E = f_e(T)``: word embeddings of a prompt and their mean, the sentence vector s (Gao and Lu, Eq. II).

    The tower is exchangeable by configuration: one of open_clip's by its published name (causal mask, CLIP's vocabulary; its
    projection of whole sentences is not used), or a small bidirectional one of the same shape trained by this project.
    Padding is masked out of the mean [ours].

    Shapes: token ids (P, L), zero is padding.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        if config.name:
            self.tower = named_tower(config.name)
            if config.context_length > self.tower.context_length:
                from ..errors import ConfigError

                limit = self.tower.context_length
                raise ConfigError(f"The text tower '{config.name}' reads at most {limit} tokens, not {config.context_length}; lower text.context_length.")
        else:
            self.tower = SmallTextTower(config.context_length, config.vocab_size, config.width, config.heads, config.layers)
        self.output_dim = self.tower.width

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """Encode (P, L) token ids; an id of zero is padding."""
        mask = token_ids != 0
        # Up to the last real token of any row, not their number: in a published tower zero is a token too ("!").
        length = int((mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).max())  # trailing padding changes nothing
        if self.config.name:  # its causal mask has one size; a shorter context of the configuration is padded to it
            token_ids = F.pad(token_ids, (0, self.tower.context_length - token_ids.shape[1]))
        else:
            token_ids, mask = token_ids[:, :length], mask[:, :length]
        words = self.tower(token_ids)[1] if self.config.name else self.tower(token_ids)
        words, mask = words[:, :length], mask[:, :length]
        weight = mask[..., None].to(words.dtype)
        sentence = (words * weight).sum(1) / weight.sum(1).clamp(min=1)
        return TextFeatures(words, mask, sentence)


def named_tower(name: str) -> Any:
    """Architecture of an open_clip text tower, random weights (the checkpoint or the user brings the real ones).

    All that its configuration says is kept: activation (weights that came from OpenAI need a "-quickgelu" name), norms, masks.

    Raises:
        ConfigError: open_clip does not know the name, or the tower needs another tokenizer than CLIP's.
    """
    import open_clip
    from open_clip.model import _build_text_tower

    from ..errors import ConfigError

    settings = open_clip.get_model_config(name)
    if settings is None or "text_cfg" not in settings:
        known = ", ".join(open_clip.list_models()[:8])
        raise ConfigError(f"open_clip knows no text tower '{name}'; use one of its names, such as {known}, ...")
    foreign = settings["text_cfg"].get("hf_model_name") or settings["text_cfg"].get("hf_tokenizer_name")
    if foreign:
        raise ConfigError(f"The text tower '{name}' reads the tokens of '{foreign}', this program has CLIP's alone; use one such as ViT-B-16.")
    tower = _build_text_tower(settings["embed_dim"], settings["text_cfg"], bool(settings.get("quick_gelu")))
    tower.output_tokens = True
    return tower


def pad_tokens(rows: list[list[int]], length: int) -> Tensor:
    """Stack id lists into (P, length), zero-padded; longer rows keep their first ids and the last (end) id."""
    out = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        kept = row if len(row) <= length else [*row[: length - 1], row[-1]]
        out[i, : len(kept)] = torch.tensor(kept)
    return out
