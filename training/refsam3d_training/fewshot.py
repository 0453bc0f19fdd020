"""The ``fewshot`` command: hold a structure out of the base, then learn it from a few cases with adapters, and with DynUNet from scratch.

Every stage leaves a file in the run folder and is skipped where that file exists, so a run that was stopped goes on. The files that a
stage needs of an earlier one are small but for the base, which is needed only where a fine-tuning or its scores are missing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.batch.content_hash import hash_file
from RefSAM3DLib.checkpoint import load_checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.errors import ConfigError, InputError
from RefSAM3DLib.text.vocabulary import Vocabulary

from .config import TrainConfig, folder_and_grid, read_toml
from .evaluation.baseline_scores import score_baseline
from .evaluation.case_record import Extras
from .evaluation.report import write_json
from .evaluation.run import collect, dice_alone
from .export import export_run
from .fewshot_report import report
from .finetune import FinetuneConfig, finetune
from .manifest import Manifest
from .setup_run import make_baseline, make_trainer

logger = logging.getLogger(__name__)

#: Scores alone: nothing is asked that the image cannot hold, no surfaces, no cut views.
SCORES_ALONE = Extras(views=False, surfaces=False, absent=False, composites=False)


@dataclass(frozen=True)
class FewshotConfig:
    """One few-shot experiment.

    Attributes:
        structure: held out of the base, with its other side where it has one. set: its data set and grid, "folder:grid".
        train: training configuration of the base (relative to this file). base_steps: instead of its steps (0: its own).
        base: a model file that was trained without the structure, instead of training one.
        cases: numbers of cases to learn from; smaller lists are parts of larger ones. seeds: one draw of cases and one training each.
        finetune: as in ``finetune.toml``.
        baseline: settings of the DynUNet. validation_cases: validation cases that the DynUNet's best weights are chosen on; the
            fine-tuning uses none.
    """

    structure: str
    set: str
    train: str
    base_steps: int = 0
    base: str = ""
    cases: tuple[int, ...] = (5, 10, 20)
    seeds: tuple[int, ...] = (0,)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    baseline: dict = field(default_factory=dict)
    validation_cases: int = 6
    folder: str = ""

    @classmethod
    def load(cls, path: Path) -> FewshotConfig:
        """From TOML; paths in it are relative to the file.

        Raises:
            ConfigError: missing file, unknown key, value of the wrong type.
        """
        return dataclasses.replace(read_toml(cls, path, "training/configs/fewshot.toml"), folder=str(path.parent))

    def names(self) -> list[tuple[str, int, int]]:
        """(name, number of cases, seed) of every fine-tuning and every reference."""
        return [(f"cases{n:02d}_seed{s}", n, s) for s in self.seeds for n in self.cases]


def fewshot(config: FewshotConfig, data: Path, run: Path, hardware: str = "CPU cores", adapters_alone: bool = False) -> dict[str, Any]:
    """All stages; writes ``fewshot.json``, ``fewshot.md`` and ``fewshot.png`` into ``run`` and returns the values.

    ``adapters_alone``: leave the reference out; its columns stay empty until a later call trains it.

    Raises:
        ConfigError: the run folder belongs to another configuration, or a base that has met the structure.
        InputError: fewer cases than asked for.
    """
    run.mkdir(parents=True, exist_ok=True)
    _same_configuration(config, run)
    source = Manifest.read(data / folder_and_grid(config.set)[0])
    _write_lists(config, source, run)
    scored = [_scores_path(run, n) for n in ("base", *(name for name, _, _ in config.names()))]
    if not all(path.is_file() for path in (run / "base.json", *scored)):
        _adapters(config, data, run, hardware)
    for name, count, seed in config.names():
        if not adapters_alone and not (run / "dynunet" / name / "baseline_evaluation.json").is_file():
            logger.info("DynUNet from scratch with %d cases, seed %d.", count, seed)
            _reference(config, source, run, name, seed)
    return report(config, source, run, hardware)


def _adapters(config: FewshotConfig, data: Path, run: Path, hardware: str) -> None:
    """The base, a fine-tuning for every list, and the scores of all of them."""
    base = _base(config, data, run, hardware)
    write_json(run / "base.json", _base_values(base))
    _evaluate(config, data, run, base, None, "base")
    for name, count, seed in config.names():
        card = run / "adapters" / f"{name}.json"
        adapter = card.with_suffix(".safetensors")
        if not card.is_file():
            logger.info("Fine-tuning with %d cases, seed %d.", count, seed)
            tuning = dataclasses.replace(config.finetune, seed=seed)
            write_json(card, finetune(base, run / "lists" / name, adapter, tuning, run / "adapters" / name, overwrite=True))
        _evaluate(config, data, run, base, adapter, name)


def _scores_path(run: Path, name: str) -> Path:
    return run / "evaluation" / f"{name}.json"


def _base_values(path: Path) -> dict[str, Any]:
    """What a reader must know of the base."""
    card = load_checkpoint(path).card
    training = {k: card["training"].get(k) for k in ("step", "hours", "hardware", "excluded_structures")}
    return {"megabytes": round(path.stat().st_size / 1e6, 2), "tensors_sha256": card.get("tensors_sha256", ""), **training}


def _same_configuration(config: FewshotConfig, run: Path) -> None:
    """Refuse a run folder of other settings, or one whose finished stages do not say with which they were made."""
    values, path = json.loads(json.dumps({**asdict(config), "folder": ""})), run / "config.json"
    if not config.base:  # what the base is trained with decides every stage
        values["train_settings"] = hash_file(Path(config.folder) / config.train)
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(k for k in {*values, *stored} if values.get(k) != stored.get(k))
        if changed:
            raise ConfigError(f"'{run}' was begun with another {', '.join(changed)}; use a new --run folder for the changed configuration.")
        return
    if any((run / name).exists() for name in ("adapters", "evaluation", "dynunet", "base.json")):
        raise ConfigError(f"'{run}' holds finished stages and no config.json that says how they were made; copy it, too, or use a new --run folder.")
    with write_aside(path) as aside:
        aside.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _base(config: FewshotConfig, data: Path, run: Path, hardware: str) -> Path:
    """Model file that never met the structure."""
    path = Path(config.folder) / config.base if config.base else run / "base.safetensors"
    if not config.base and not path.is_file():
        train = TrainConfig.load(Path(config.folder) / config.train)
        excluded = tuple(sorted({*train.exclude_structures, *held_out(config.structure)}))
        train = dataclasses.replace(train, name=f"{train.name}-without-{config.structure.replace(' ', '-')}", exclude_structures=excluded)
        train = dataclasses.replace(train, steps=config.base_steps or train.steps)
        trainer = make_trainer(train, data, run / "base")
        if trainer.resume():
            logger.info("The base continues at step %d.", trainer.step)
        trainer.run()
        export_run(run / "base", data, path, run / "cache", hardware=hardware)
    excluded = load_checkpoint(path).card.get("training", {}).get("excluded_structures", ())
    if met := "' and '".join(name for name in held_out(config.structure) if name not in excluded):
        raise ConfigError(f"The base '{path}' does not say that it was trained without '{met}'; leave 'base' out to train one that was.")
    return path


def held_out(structure: str) -> list[str]:
    """What a base must not meet: the structure, and its other side, which flipped images would call by its name."""
    vocabulary = Vocabulary.default()
    return sorted({structure, vocabulary.mirror(structure)})


def _write_lists(config: FewshotConfig, source: Manifest, run: Path) -> None:
    """One manifest per number of cases and seed, in which the structure alone is labelled."""
    value = next((v for v, n in source.labels.items() if n == config.structure), None)
    holding = {s: [c for c in source.cases[s] if config.structure in c.known.values()] for s in ("training", "validation", "test")}
    if value is None or len(holding["training"]) < max(config.cases) or not holding["test"]:
        found = ", ".join(f"{len(c)} {s}" for s, c in holding.items())
        raise InputError(f"'{config.structure}' is labelled in {found} cases of '{source.folder}'; {max(config.cases)} training and a test case are needed.")

    def entry(case: Any) -> dict[str, Any]:
        paths = {"image": str(case.image.resolve()), "label": str(case.label.resolve())}
        return {**paths, "labelled": [value], "case": case.name.split("/", 1)[1], "patient": case.patient, "modality": case.modality}

    for name, count, seed in config.names():
        order = np.random.default_rng((seed, 3)).permutation(len(holding["training"]))[:count]
        lists = {"training": [entry(holding["training"][i]) for i in order], "validation": [entry(c) for c in holding["validation"][: config.validation_cases]]}
        values = {"name": source.name, "labels": {str(value): config.structure}, **{k: source.values.get(k, "") for k in ("modality", "licence", "citation")}}
        (run / "lists" / name).mkdir(parents=True, exist_ok=True)
        with write_aside(run / "lists" / name / "datalist.json", overwrite=True) as aside:
            aside.write_text(json.dumps({**values, **lists}, indent=1), encoding="utf-8")


def _evaluate(config: FewshotConfig, data: Path, run: Path, base: Path, adapter: Path | None, name: str) -> None:
    """Scores of the base, or of the base with an adapter, on the test list of the structure's set."""
    path = _scores_path(run, name)
    if path.is_file():
        return
    logger.info("Scoring %s on the test list.", name)
    engine = RefSAM3DEngine.from_checkpoint(base, "cpu", adapter)
    sets = (folder_and_grid(config.set)[0],)
    records = collect(engine, data, "test", sets, run / "evaluation" / name, SCORES_ALONE, pictures=False, purpose="fewshot")
    write_json(path, {"model": engine.model_sha256, "records": [dice_alone(r) for r in records]})


def _reference(config: FewshotConfig, source: Manifest, run: Path, name: str, seed: int) -> None:
    """DynUNet from scratch on the same cases, scored on the same test list."""
    grid = folder_and_grid(config.set)[1]
    model = TrainConfig.load(Path(config.folder) / config.train).model
    settings = {**config.baseline, "seed": seed}
    trainer = make_baseline(f"{name}:{grid}", run / "lists", run / "dynunet" / name, settings, None, model, (config.structure,))
    if trainer.resume():
        logger.info("Continuing at step %d.", trainer.step)
    trainer.run()
    score_baseline(trainer, source, "test", run / "dynunet" / name)
