"""A checkpoint with random weights of any shipped configuration, so that batch and speed can be tried without trained ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from RefSAM3DLib.checkpoint import Calibration, Checkpoint, save_checkpoint
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.resources import resource_path
from RefSAM3DLib.text.tokenizer import RESERVED, kept_tokens
from RefSAM3DLib.text.vocabulary import Vocabulary


def write_random_checkpoint(path: Path, config: str = "test_tiny", seed: int = 0) -> Path:
    """Every structure counts as present, so that every prompt is drawn and costs what a drawn one costs."""
    import torch

    from RefSAM3DLib.modeling.build import build_model

    vocabulary = Vocabulary.default()
    texts = [t.replace("{}", " ") for t in vocabulary.templates]
    texts += [text for s in vocabulary.structures for text in (s.name, *s.synonyms)]
    kept = kept_tokens(texts)
    model = ModelConfig.load(resource_path("Configs", f"{config}.json"))
    model = dataclasses.replace(model, text=dataclasses.replace(model.text, vocab_size=RESERVED + len(kept)))
    torch.manual_seed(seed)
    state = build_model(model).state_dict()
    calibration = {grid.name: Calibration(scale=0.01, bias=5.0, mask_threshold=0.5) for grid in model.grids}
    save_checkpoint(Checkpoint(model, vocabulary, tuple(kept), state, calibration), path)
    return path
