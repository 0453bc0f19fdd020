"""A wider decoder that begins as the narrower one, so that a trained model can grow without starting again [ours; no step of the paper].

Chen et al., Net2Net, 2016: new channels are added in such a way that the function stays the same. Here new pixel features are drawn at
random and every prompt multiplies them with zero; training first learns what to take from them, then what they should be.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.checkpoint import TOKEN_TABLE, Checkpoint, load_checkpoint, save_checkpoint
from RefSAM3DLib.config import DecoderConfig, ModelConfig
from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.resources import named_config
from RefSAM3DLib.text.tokenizer import RESERVED
from RefSAM3DLib.text.vocabulary import Vocabulary

from .export import tensors_sha256
from .model_card import card_markdown, limits_of
from .setup_run import tokens_of

PIXELS, EMBEDDING, DETAIL = "pixel_path.pixels", "mask_embedding.layers.2", "pixel_path.detail.0.weight"
SUB_POSITIONS = 8


def widen(base: Path, model: str, output: Path, seed: int = 0, overwrite: bool = False) -> dict[str, Any]:
    """Write ``base`` with the decoder of a configuration (a name of ``Resources/Configs``, or a JSON file); calibration and scores stay, since the
    answers do. Words that no training speaks lose their rows.

    Returns:
        sha256, bytes and new_parameters.

    Raises:
        ConfigError: the configuration differs in more than ``pixel_dim``, ``detail_channels``, ``detail_reads_voxels`` and ``detail_residual``, or has no
            more of any.
    """
    checkpoint = spoken_words_alone(load_checkpoint(base))
    decoder = named_config(model).decoder
    config = dataclasses.replace(checkpoint.config, decoder=decoder)
    _check(checkpoint, decoder)
    torch.manual_seed(seed)
    state = widened(checkpoint, config)
    started = {"name": checkpoint.config.name, "sha256": checkpoint.sha256, "decoder": dataclasses.asdict(checkpoint.config.decoder)}
    digest = tensors_sha256(state)
    limits = limits_of(checkpoint.card.get("training", {}), checkpoint.card.get("data", ()))
    card = {**checkpoint.card, "limits": limits, "tensors_sha256": digest, "widened_from": started}
    card["training"] = {**card.get("training", {}), "parameters": sum(v.numel() for v in state.values())}
    if "scores" in card:
        card["scores"] = {**card["scores"], "seconds_per_case": {}}  # the answers are the same, their cost is not
    output.parent.mkdir(parents=True, exist_ok=True)
    sha256 = save_checkpoint(dataclasses.replace(checkpoint, config=config, state=state, card=card), output, overwrite)
    size = output.stat().st_size
    with write_aside(output.with_suffix(".md"), overwrite=True) as aside:
        aside.write_text(card_markdown(config.name, card, sha256, size), encoding="utf-8")
    new = sum(v.numel() for v in state.values()) - sum(v.numel() for v in checkpoint.state.values())
    return {"sha256": sha256, "bytes": size, "new_parameters": new}


def spoken_words_alone(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without rows for words of held-out wordings alone: training goes on with the words that it speaks."""
    tokens = checkpoint.tokens
    if not tokens or TOKEN_TABLE not in checkpoint.state:
        return checkpoint
    spoken = {*tokens_of(checkpoint.vocabulary), *tokens_of(Vocabulary.default())}
    rows = [i for i, token in enumerate(tokens) if token in spoken]
    table = checkpoint.state[TOKEN_TABLE]
    kept = torch.cat([table[:RESERVED], table[[RESERVED + i for i in rows]]])
    text = dataclasses.replace(checkpoint.config.text, vocab_size=len(kept))
    return dataclasses.replace(
        checkpoint, config=dataclasses.replace(checkpoint.config, text=text), state={**checkpoint.state, TOKEN_TABLE: kept},
        tokens=tuple(tokens[i] for i in rows),
    )  # fmt: skip


def _check(checkpoint: Checkpoint, decoder: DecoderConfig) -> None:
    own = checkpoint.config.decoder
    growing = ("pixel_dim", "detail_channels", "detail_reads_voxels", "detail_residual")
    alike = dataclasses.replace(own, **{name: getattr(decoder, name) for name in growing})
    more = [getattr(decoder, name) - getattr(own, name) for name in growing]
    # Channels of a convolution that is there already are not added: its normalised outputs have an order that later weights rely on.
    wider = min(more) >= 0 < max(more) and (not own.detail_channels or not more[1]) and (not own.detail_residual or not more[3])
    if decoder.kind != "cached" or alike != decoder or not wider:
        raise ConfigError(
            f"The decoder of '{checkpoint.path}' ({own}) cannot grow to {decoder}; name a configuration of a 'cached' decoder that has a greater "
            f"pixel_dim, adds detail_channels or detail_residual, or sets detail_reads_voxels, and is the same in everything else."
        )


def widened(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Tensor]:
    """The state of ``config``'s network that computes what ``checkpoint`` computes.

    New pixel features keep the random weights of a new network. Of an old one, weights from new channels are zero; of a prompt's
    embedding, the rows of new pixel features are zero; of a convolution that reads voxels too, the weights from them. A residual unit is new
    as it is built: its last scale is zero.
    """
    fresh = build_model(config).state_dict()
    state = {name: checkpoint.state.get(name, value).clone() for name, value in fresh.items()}
    if DETAIL in checkpoint.state:
        state[DETAIL] = torch.zeros_like(fresh[DETAIL])
        state[DETAIL][:, : checkpoint.state[DETAIL].shape[1]] = checkpoint.state[DETAIL].float()

    old = checkpoint.state[f"{PIXELS}.weight"]
    weight = fresh[f"{PIXELS}.weight"].clone()
    weight[: len(old)] = 0
    weight[: len(old), : old.shape[1]] = old.float()
    bias = torch.zeros(len(weight))
    bias[: len(old)] = checkpoint.state[f"{PIXELS}.bias"].float()
    state |= {f"{PIXELS}.weight": weight, f"{PIXELS}.bias": bias}

    for part in ("weight", "bias"):
        narrow = checkpoint.state[f"{EMBEDDING}.{part}"].float()
        wide = torch.zeros(SUB_POSITIONS, len(weight), *narrow.shape[1:])
        wide[:, : len(old)] = narrow[:-1].unflatten(0, (SUB_POSITIONS, -1))
        state[f"{EMBEDDING}.{part}"] = torch.cat([wide.flatten(0, 1), narrow[-1:]])
    return state
