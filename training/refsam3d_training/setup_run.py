"""From a training configuration to a trainer: cases, vocabulary, tokens, network."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.resources import named_config
from RefSAM3DLib.text.tokenizer import RESERVED, PromptTokenizer, kept_tokens
from RefSAM3DLib.text.vocabulary import Vocabulary

from . import distributed
from .cases import Case, load_cases, phantom_cases
from .config import TrainConfig, folder_and_grid
from .excluded import cases_without, model_without, vocabulary_without
from .loop import Trainer
from .sampling import TileSampler
from .structure_losses import structure_losses
from .teachers import Teachers, load_teachers
from .unread import unread_words

if TYPE_CHECKING:
    from .baseline import Baseline


logger = logging.getLogger(__name__)


def model_config(config: TrainConfig, tokens: int) -> ModelConfig:
    """The network's configuration with its token table sized; a published text tower keeps CLIP's own."""
    model = named_config(config.model)
    if model.text.name:
        return model
    return dataclasses.replace(model, text=dataclasses.replace(model.text, vocab_size=RESERVED + tokens))


def tokenizer_for(model: str, vocabulary: Vocabulary) -> PromptTokenizer:
    """Rows for every word that is spoken, or all of CLIP's where the configuration names a published text tower."""
    return PromptTokenizer(None if named_config(model).text.name else tokens_of(vocabulary))


def tokens_of(vocabulary: Vocabulary) -> list[int]:
    """CLIP tokens worth a row: every word of every trained wording, template and distractor.

    Not those of held-out wordings alone: a row that training never reaches is noise, where the unknown word's was trained (see ``unread``).
    """
    texts: list[str] = [t.replace("{}", " ") for t in vocabulary.templates]
    for structure in vocabulary.structures:
        texts += [structure.name, *structure.synonyms]
    return kept_tokens([*texts, *vocabulary.distractors])


def training_cases(config: TrainConfig, model: ModelConfig, data: Path, cache: Path, split: str = "training", limit: int | None = None) -> list[Case]:
    """Cases of every set of the configuration."""
    cases: list[Case] = []
    for entry in config.sets:
        folder, grid = folder_and_grid(entry)
        cases += load_cases(data / folder, split, model, grid, cache, limit)
    return cases


def write_config(config: TrainConfig, model: ModelConfig, folder: Path, teachers: Teachers | None = None) -> None:
    """The resolved configuration, beside the state that it made."""
    if distributed.rank() == 0:
        _tell_changes(config, folder / "config.json")
        with write_aside(folder / "config.json", overwrite=True) as aside:
            values = {"train": dataclasses.asdict(config), "model": model.to_dict(), "teachers": teachers.cards if teachers else []}
            aside.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _tell_changes(config: TrainConfig, path: Path) -> None:
    """A run may go on with another schedule; that its configuration changed must not pass unseen."""
    if not path.is_file():
        return
    before, now = json.loads(path.read_text(encoding="utf-8"))["train"], json.loads(json.dumps(dataclasses.asdict(config)))
    for name in sorted(k for k in {*before, *now} if before.get(k) != now.get(k)):
        logger.warning("The configuration of this run was changed: %s was %s, is %s from here on.", name, before.get(name), now.get(name))


def _check_grids(config: TrainConfig, model: ModelConfig, vocabulary: Vocabulary) -> None:
    """Before any case is read.

    Raises:
        ConfigError: a share or the phantoms ask for a grid that the model lacks, or a grid for a structure that the vocabulary lacks.
    """
    grids = {g.name for g in model.grids}
    for wanted, what in (*((s.grid, "share") for s in config.shares), *((("head_neck", "set of phantoms"),) if config.phantoms else ())):
        if wanted not in grids:
            instead = "set phantoms = 0, or " if "phantoms" in what else ""
            raise ConfigError(f"A {what} names the grid '{wanted}', but the model has {', '.join(sorted(grids))}; {instead}correct the configuration.")
    known = {*vocabulary.names, *config.exclude_structures}
    if unknown := sorted({n for g in model.grids for n in g.structures} - known):
        raise ConfigError(
            f"The vocabulary has no {', '.join(unknown)}: `train` and `baseline` know {', '.join(vocabulary.names)}. Teach a new structure with "
            "`finetune`, from some cases of its own."
        )


def make_trainer(config: TrainConfig, data: Path, folder: Path, device: str = "cpu", limit: int | None = None) -> Trainer:
    """Everything a run needs; the resolved configuration is written beside its state."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = vocabulary_without(Vocabulary.default(), config.exclude_structures)
    tokenizer = tokenizer_for(config.model, vocabulary)
    complete = model_config(config, len(tokenizer.kept or ()))
    _check_grids(config, complete, vocabulary)
    cache = folder.parent / "cache"
    cases = training_cases(config, complete, data, cache, limit=limit)
    if config.phantoms:
        cases += phantom_cases(config.phantoms, complete, "head_neck", cache)
    model = model_without(complete, config.exclude_structures)
    teachers = load_teachers(config.teachers, model, config.bf16, device)
    write_config(config, model, folder, teachers)
    unread = unread_words(tokenizer) if config.unread_words else ()
    sampler = TileSampler(cases_without(cases, config.exclude_structures), config, model, vocabulary, teachers.structures, unread)
    trainer = Trainer(config, model, tokenizer, sampler, folder, device, teachers=teachers)
    if config.validate_steps:
        held = training_cases(config, complete, data, cache, "validation", min(limit or config.validate_cases, config.validate_cases))
        held = cases_without(held, config.exclude_structures)
        names = [name for grid in model.grids for name in grid.structures]
        trainer.validation = lambda network: structure_losses(network, model, tokenizer, held, names, config.seed)
    return trainer


def make_baseline(
    entry: str, data: Path, folder: Path, settings: dict, limit: int | None = None, model_name: str = "vit_t", structures: tuple[str, ...] = ()
) -> Baseline:
    """The reference network of one set ("folder:grid"): same cases, tiles and augmentation as the text-prompted one.

    Args:
        settings: of ``BaselineConfig``, but for its grid. structures: outputs of the network (default: all of the grid).

    Raises:
        ConfigError: ``entry`` names no grid.
    """
    from .baseline import Baseline, BaselineConfig, CanonicalSampler, sampler_config

    name, grid = folder_and_grid(entry)
    folder.mkdir(parents=True, exist_ok=True)
    config = BaselineConfig(grid=grid, **settings)
    train = TrainConfig(name=f"dynunet-{grid}", model=model_name, sets=(entry,), shares=(), phantoms=0)
    model = model_config(train, 0)
    _check_grids(train, model, Vocabulary.default())
    if structures:
        model = model_without(model, [s for s in model.grid(grid).structures if s not in structures])
    cases = {split: load_cases(data / name, split, model, grid, folder.parent / "cache", limit) for split in ("training", "validation")}
    sampler = CanonicalSampler(cases["training"], sampler_config(config, train), model, Vocabulary.default())
    return Baseline(config, model, cases["training"], cases["validation"], folder, sampler)
