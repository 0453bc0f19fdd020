"""Training configuration: one TOML file, strict keys, every default here."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from RefSAM3DLib.config import from_dict
from RefSAM3DLib.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class DomainShare:
    """How often a working grid is drawn. fine, coarse: weights of its two passes. foreign: share of images from elsewhere. painted: share of
    the own images in which structures are painted over (see ``painting``)."""

    grid: str
    fine: float
    coarse: float
    foreign: float = 0.08
    painted: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: name of a file of ``Resources/Configs``, or a JSON file. sets: manifests (folders with ``datalist.json``) and their grid, "folder:grid".
        phantoms: generated head-and-neck CTs added to the training set (0 for none).
        steps, batch_size: optimiser steps and tiles per step. On a CPU a batch of one is as slow as a batch of two:
            torch takes oneDNN's 3D convolution only from two samples on.
        learning_rate: the ViT wants 1e-3; 2e-3 trailed badly (prototype runs). warmup: share of the steps.
        foreground_weight: cross-entropy weight of foreground, decaying to 1 over two thirds of the run; with 1 small
            organs stayed at Dice 0.000 (prototype runs). coarse_foreground_weight: the same for coarse views, and constant: they
            find the box, where a miss costs the structure and a false alarm one tile. With a decaying weight the esophagus (0.02 % of
            a coarse view) stayed below probability 0.005 after 3900 steps while the fine pass drew it.
        absent_prompts: names per tile that are not in the image.
        unread_words: share of the wordings that get words which the model does not know, and of the absent names that are such words (see ``unread``).
        reworded: share of the wordings whose words come in another order, with neutral ones among them (see ``rewording``).
        exclude_structures: never asked, never contoured: the vocabulary of the run lacks them (see ``excluded``).
        teachers: run folders of ``baseline``, one per grid at most: their soft masks are additional targets of the fine tiles (see ``teachers``).
            teacher_weight: of that loss, beside 1 for the labels'.
        bf16: half precision on devices that have it. report_steps: steps per row of the curve.
        validate_steps: steps between scores on validation tiles (0: none). validate_cases: validation cases per set for them.
    """

    name: str
    model: str
    sets: tuple[str, ...]
    shares: tuple[DomainShare, ...]
    phantoms: int = 12
    seed: int = 0
    steps: int = 6000
    batch_size: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.03
    clip_norm: float = 1.0
    ema: float = 0.995
    foreground_weight: float = 50.0
    coarse_foreground_weight: float = 50.0
    presence_weight: float = 0.15
    coarse_weight: float = 0.5
    absent_prompts: int = 2
    unread_words: float = 0.0
    reworded: float = 0.0
    augment: bool = True
    checkpoint_minutes: float = 3.0
    exclude_structures: tuple[str, ...] = field(default_factory=tuple)
    teachers: tuple[str, ...] = field(default_factory=tuple)
    teacher_weight: float = 1.0
    bf16: bool = False
    report_steps: int = 50
    validate_steps: int = 0
    validate_cases: int = 6

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """From TOML.

        Raises:
            ConfigError: missing file, unknown key, value of the wrong type.
        """
        return read_toml(cls, path, "training/configs/default.toml")


def read_toml(cls: type[T], path: Path, example: str) -> T:
    """A configuration class from a TOML file with strict keys.

    Raises:
        ConfigError: missing file, unknown key, value of the wrong type.
    """
    try:
        return from_dict(cls, tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"The configuration '{path}' cannot be read ({error.strerror}); see {example} for an example.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The configuration '{path}' is no valid TOML: {error}; see {example} for an example.") from error


def folder_and_grid(entry: str) -> tuple[str, str]:
    """Parts of "folder:grid", as sets are named in configurations.

    Raises:
        ConfigError: one of them is missing.
    """
    folder, _, grid = entry.partition(":")
    if not folder or not grid:
        raise ConfigError(f"The set '{entry}' must be written as folder:grid, for example openkbp_ct:head_neck.")
    return folder, grid
