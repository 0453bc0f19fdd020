"""The ``test_tiny`` network with random weights as a checkpoint, so that the engine runs in a fraction of a second."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from RefSAM3DLib.checkpoint import Calibration, Checkpoint, load_checkpoint, save_adapter, save_checkpoint
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.resources import resource_path
from RefSAM3DLib.text.tokenizer import RESERVED, kept_tokens
from RefSAM3DLib.text.vocabulary import Vocabulary

STRUCTURES = ("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "esophagus", "larynx", "mandible")
#: Every structure counts as present, and about half of all voxels as inside.
DRAWN = Calibration(scale=0.01, bias=5.0)


def tiny_checkpoint(seed: int = 0, decoder: str = "cached", calibration: Calibration = DRAWN, grid: dict[str, Any] | None = None, **config: Any) -> Checkpoint:
    """Random weights, none of them neutral: adapters, relative positions and tables count; the mask's bias is near one half.

    Args:
        grid: changes of the one working grid. config: changes of the model's configuration.
    """
    vocabulary = Vocabulary.default().restricted_to(STRUCTURES)
    kept = kept_tokens([*(t.replace("{}", " ") for t in vocabulary.templates), *(w for name in STRUCTURES for w in vocabulary.all_wordings(name))])
    model = ModelConfig.load(resource_path("Configs", "test_tiny.json"))
    changes: dict[str, Any] = {"text": dataclasses.replace(model.text, vocab_size=RESERVED + len(kept)), **config}
    changes["decoder"] = dataclasses.replace(model.decoder, kind=decoder)
    changes["grids"] = tuple(dataclasses.replace(g, **(grid or {})) for g in model.grids)
    model = dataclasses.replace(model, **changes)
    torch.manual_seed(seed)
    network = build_model(model)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
        if network.mask_embedding is not None:
            last = network.mask_embedding.layers[2]
            last.bias[-1] = 0.0
            last.weight.mul_(6)
        if network.paper_decoder is not None:
            network.paper_decoder.final.bias.zero_()
    return Checkpoint(model, vocabulary, tuple(kept), network.state_dict(), {g.name: calibration for g in model.grids}, {"name": "tiny"}, sha256="0" * 64)


def adapted(base: Checkpoint, answers_for: tuple[str, ...]) -> Checkpoint:
    """The base with other adapters and another decoder, as a fine-tuning leaves it."""
    return dataclasses.replace(base, state={**base.state, **_tuned(base)}, answers_for=answers_for)


def _tuned(base: Checkpoint) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    parts = ("pixel_path.", "projector.")
    return {n: v + 0.3 * torch.randn(v.shape, generator=generator) for n, v in base.state.items() if ".adapter." in n or n.startswith(parts)}


def write_tiny_pair(folder: Path, answers_for: tuple[str, ...]) -> tuple[Path, Path]:
    """Files ``tiny.safetensors`` and ``site.safetensors``: a base that draws everything, and an adapter of it."""
    folder.mkdir(parents=True, exist_ok=True)
    model, adapter = folder / "tiny.safetensors", folder / "site.safetensors"
    save_checkpoint(tiny_checkpoint(), model)
    base = load_checkpoint(model)
    save_adapter(_tuned(base), base.sha256, answers_for, {}, {}, adapter)
    return model, adapter
