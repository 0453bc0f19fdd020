"""Which parameters a fine-tuning trains: parts of the network by name, and how large each of them is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from RefSAM3DLib.errors import ConfigError

#: Parts in the order in which a parameter's name is matched; the first that fits owns it.
PARTS: dict[str, str] = {
    "adapters": r"image_encoder\.(blocks\.\d+\.adapter|level_adapters)\.",
    "depth_terms": r"image_encoder\.(patch_embed\.depth|pos_embed\.depth|blocks\.\d+\.attn\.rel_pos_d|domain_embed)",
    "norms": r"image_encoder\..*norm\d*\.",
    "necks": r"image_encoder\.necks\.",
    "image_encoder": r"image_encoder\.",
    "projector": r"projector\.",
    "text_tower": r"text_encoder\.",
    "cross_attention": r"cross_attention\.",
    "reader": r"reader\.",
    "decoder": r"(pixel_path|mask_embedding|paper_decoder)\.",
}
#: What the paper trains; the pretrained image encoder and the text tower stay as they are.
PAPER_PARTS = ("adapters", "depth_terms", "norms", "necks", "projector", "cross_attention", "reader", "decoder")


def part_of(name: str) -> str:
    """The part that owns a parameter.

    >>> part_of("image_encoder.blocks.3.adapter.up.weight"), part_of("image_encoder.blocks.3.attn.qkv.weight")
    ('adapters', 'image_encoder')
    """
    for part, pattern in PARTS.items():
        if re.match(pattern, name):
            return part
    raise ConfigError(f"No part of {', '.join(PARTS)} owns the parameter '{name}'; add it to trainable.PARTS.")


def select(model: nn.Module, parts: Collection[str]) -> list[str]:
    """Switch gradients on for these parts and off for the rest; returns the names of what is trained.

    Raises:
        ConfigError: an unknown part.
    """
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"The part '{part}' is unknown; choose from {', '.join(PARTS)}.")
    chosen = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)
        if parameter.requires_grad:
            chosen.append(name)
    return chosen


def shares(state: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, dict]:
    """Parameters of each part, their share of the network, and whether they are trained; and the sum of what is."""
    total = sum(v.numel() for v in state.values())
    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, value in state.items():
        counts[part_of(name)] += value.numel()
    table = {p: {"parameters": n, "share": round(n / total, 4), "trained": p in parts} for p, n in counts.items()}
    trained = sum(n for p, n in counts.items() if p in parts)
    table["all trained"] = {"parameters": trained, "share": round(trained / total, 4), "trained": True}
    return table


def shares_table(table: Mapping[str, Mapping]) -> str:
    """The shares as lines of text."""
    return "\n".join(f"{p:<16} {v['parameters']:>10,}  {100 * v['share']:5.1f} %  {'trained' if v['trained'] else 'frozen'}" for p, v in table.items())
