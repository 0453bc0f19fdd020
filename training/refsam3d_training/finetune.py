"""Fine-tune a checkpoint on a few cases: freeze what the paper freezes, write a small adapter.

The adapter answers for the structures of these cases alone (``RefSAM3DLib.branch``), so nothing is needed to keep the others. Of these, the
base keeps those that the adapter reads worse on the manifest's validation cases, where there are any.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from RefSAM3DLib.atomic import check_output, make_folder, write_aside
from RefSAM3DLib.batch.content_hash import hash_file, hash_request
from RefSAM3DLib.checkpoint import TOKEN_TABLE, Checkpoint, load_checkpoint, save_adapter
from RefSAM3DLib.errors import ConfigError, InputError, OutputError, RefSAM3DError
from RefSAM3DLib.inference.preprocess import Frame
from RefSAM3DLib.text.tokenizer import PromptTokenizer
from RefSAM3DLib.types import Volume

from .cases import Case, preprocess
from .config import DomainShare, TrainConfig, read_toml
from .export import INTENDED_USE
from .loop import Trainer
from .manifest import FILE_NAME, Manifest, ManifestCase
from .new_structures import changes, check_names, choose_grid, extended, seen_in, train_new_rows
from .sampling import TileSampler, composites_of
from .setup_run import write_config
from .structure_losses import structure_losses
from .trainable import PAPER_PARTS, select, shares, shares_table

logger = logging.getLogger(__name__)

#: Most validation cases that a structure is judged on, one tile each.
CHECKED_TILES = 20


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning.

    Attributes:
        parts: what is trained, see ``trainable.PARTS``. grid: of new structures ("": chosen by modality and field of view).
        synonyms: further wordings of new structures.
        steps, batch_size, learning_rate, seed: as in training.
    """

    parts: tuple[str, ...] = PAPER_PARTS
    grid: str = ""
    synonyms: dict = field(default_factory=dict)
    steps: int = 600
    batch_size: int = 2
    learning_rate: float = 1e-3
    foreground_weight: float = 10.0
    seed: int = 0
    bf16: bool = False
    report_steps: int = 50

    @classmethod
    def load(cls, path: Path | None) -> FinetuneConfig:
        """From TOML; the defaults without a file."""
        return cls() if path is None else read_toml(cls, path, "training/configs/finetune.toml")


def finetune(
    base_file: Path, manifest_path: Path, output: Path, config: FinetuneConfig, run: Path | None = None, limit: int | None = None,
    device: str = "cpu", overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train on the manifest's training cases and write the adapter; returns its card.

    Args:
        run: folder to continue from after a stop; default one beside the output, which goes once the adapter is written.

    Raises:
        InputError: no usable case, or no structure that got better on the validation cases. ConfigError: a label that the base reads as
            another structure, or a run folder of other cases, another base or configuration. OutputError: the adapter exists already.
    """
    if config.steps < 1:
        raise ConfigError(f"An adapter cannot be trained in {config.steps} steps; give 1 or more (600 is usual).")
    if output.suffix != ".safetensors":
        raise OutputError(f"The adapter's file '{output}' must end in .safetensors, by which it is recognised; give another name.")
    make_folder(output.parent)
    check_output(output, overwrite)
    if not manifest_path.is_dir() and manifest_path.name != FILE_NAME:
        raise InputError(f"'{manifest_path}' is no folder and not called {FILE_NAME}; give the folder of the cases, or rename the list.")
    base = load_checkpoint(base_file)
    manifest = Manifest.read(manifest_path if manifest_path.is_dir() else manifest_path.parent)
    listed = manifest.cases["training"][: limit or None]
    if not listed:
        raise InputError(f"'{manifest.folder}' has no training case; accept some reviewed cases first.")
    known = base.vocabulary.names
    names = sorted({n for case in listed for n in (*case.known.values(), *(w for w in case.composites if w not in known))})
    check_names(names, base)
    new = [n for n in names if n not in known]
    cases, target = _read(base, listed, new, config)
    new, names = ([n for n in found if n in target.vocabulary.names] for found in (new, names))
    own_folder = run is None
    run = run or output.with_name(output.name + ".run")
    run.mkdir(parents=True, exist_ok=True)
    _same_work(run, base, listed, config)
    logger.info("Kept in '%s' while it runs; the same command continues there.", run)
    grids = {c.grid for c in cases}
    held = _held(cases)
    if not held:
        raise InputError(f"No case holds a voxel of {', '.join(names)}; an adapter learns a structure from cases that show it.")
    never = [n for n in names if n not in answered(held, cases)]
    if never:
        logger.info("Labelled without a voxel in every case: %s; the base goes on to answer for it.", ", ".join(never))
    judged = [n for n in sorted(held) if n not in new]
    checked = _kept_aside(manifest.cases["validation"][: limit or None], judged, target)
    trainer, trained = _trainer(base, target, cases, held, config, run, device)
    before = structure_losses(trainer.model, target.config, trainer.tokenizer, cases, names, config.seed)
    untuned = structure_losses(trainer.model, target.config, trainer.tokenizer, checked, judged, config.seed, CHECKED_TILES)
    if trainer.resume():
        logger.info("Continuing at step %d.", trainer.step)
    trainer.run()
    after = structure_losses(trainer.average, target.config, trainer.tokenizer, cases, names, config.seed)
    tuned = structure_losses(trainer.average, target.config, trainer.tokenizer, checked, judged, config.seed, CHECKED_TILES)
    if unknown := [n for n in judged if n not in untuned]:
        logger.info("No validation case holds %s, so nothing tells whether the adapter is better than the base; `review export --validation 0.3` "
                    "keeps some cases aside.", ", ".join(unknown))  # fmt: skip
    kept = held - _worse(untuned, tuned, len(checked))
    if not kept:
        raise InputError(
            f"Nothing got better on the {len(checked)} validation cases ({', '.join(sorted(held))}), so no adapter was written; give more cases, or "
            "fewer steps in the configuration."
        )
    state = {k: v for k, v in trainer.average.state_dict().items() if k in trained}
    card = {
        "intended_use": INTENDED_USE, "cases": len(listed), "structures": names,
        "answers_for": sorted({*answered(kept, cases), *new} - (held - kept)), "left_to_base": sorted(held - kept),
        "new_structures": new, "grids": sorted(grids),
        "data": {"name": manifest.name, "licence": manifest.values.get("licence", ""), "citation": manifest.values.get("citation", "")},
        "steps": trainer.step, "seconds": round(trainer.seconds, 1), "seed": config.seed, "parts": list(config.parts),
        "trained": shares(trainer.average.state_dict(), config.parts)["all trained"],
        "loss_of_tuned_structures": {n: [before.get(n), after.get(n)] for n in names if n in before},
        "loss_on_validation": {n: [untuned[n], tuned[n]] for n in untuned},
    }  # fmt: skip
    card["sha256"] = save_adapter(state, base.sha256, card["answers_for"], card, changes(base, target), output, overwrite)
    card["bytes"] = output.stat().st_size
    if own_folder:
        shutil.rmtree(run, ignore_errors=True)  # the adapter is written
    return card


def _same_work(run: Path, base: Checkpoint, listed: Sequence[ManifestCase], config: FinetuneConfig) -> None:
    """Refuse a run folder of another base, other cases or another configuration: it would be continued, or be taken for finished. A folder
    that holds anything else is not ours to fill, or to remove."""
    cases = [[c.name, hash_file(c.label), c.image.stat().st_size, sorted(c.known.items()), *sorted(c.composites.items())] for c in listed]
    wanted = {"base": base.sha256, "cases": hash_request(cases=cases), **json.loads(json.dumps(asdict(config)))}
    path = run / "work.json"
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if changed := [k for k, value in wanted.items() if stored.get(k) != value]:
            told = [f"another {k}" if k in ("base", "cases") else f"{k} {stored.get(k)} instead of {wanted[k]}" for k in changed]
            raise ConfigError(f"'{run}' holds a run with {' and '.join(told)}; give a new --run folder, or remove this one.")
        return
    if any(run.iterdir()):
        raise ConfigError(f"'{run}' is not empty and does not say what it was made of; give a new --run folder.")
    with write_aside(path) as aside:
        aside.write_text(json.dumps(wanted, indent=1), encoding="utf-8")


def _kept_aside(listed: list[ManifestCase], judged: Collection[str], target: Checkpoint) -> list[Case]:
    """Validation cases until each structure has ``CHECKED_TILES`` of them, one volume at a time; one that cannot be read is left out."""
    cases: list[Case] = []
    wanted = dict.fromkeys(judged, CHECKED_TILES)
    for case in listed:
        mine = [n for n in case.known.values() if wanted.get(n, 0) > 0]
        if not mine:
            continue
        try:
            cases += _preprocessed([case], [case.volume()], target)
        except RefSAM3DError as error:
            logger.warning("The validation case '%s' is left out: %s", case.name, error)
            continue
        for name in mine:
            wanted[name] -= 1
    return cases


def _worse(untuned: Mapping[str, float], tuned: Mapping[str, float], cases: int) -> set[str]:
    """Structures that the adapter reads worse than the base, on cases that it was not tuned on."""
    worse = {n for n, loss in untuned.items() if tuned[n] > loss}
    if worse:
        values = ", ".join(f"{n} (Dice loss {untuned[n]:.3f} -> {tuned[n]:.3f})" for n in sorted(worse))
        logger.info("Worse on the %d validation cases: %s; the base goes on to answer for it.", cases, values)
    return worse


def answered(held: Collection[str], cases: Sequence[Case]) -> list[str]:
    """Structures that an adapter answers for: those that some case holds, and a whole of which a case shows every part."""
    wholes = {w for c in cases for w, parts in composites_of(c).items() if set(parts) <= set(held) & set(c.known.values())}
    return sorted({*held, *wholes})


def _read(base: Checkpoint, listed: list[ManifestCase], new: list[str], config: FinetuneConfig) -> tuple[list[Case], Checkpoint]:
    """Cases on their grids, and the base extended by what is new. A case with structures of two grids is read on both."""
    volumes = [case.volume() for case in listed]
    extents, modalities = [], []
    for volume in volumes:
        frame = Frame.of(volume.geometry, 1.0)
        extents.append((float(frame.shape_dhw[0]), float(frame.shape_dhw[1]), float(frame.shape_dhw[2])))
        assert volume.modality is not None
        modalities.append(volume.modality.value)
    target = base
    if new:
        grid = choose_grid(base.config, modalities, extents, config.grid)
        target = extended(base, new, grid, config.synonyms)
        logger.info("New: %s, on grid '%s' (%g mm).", ", ".join(new), grid.name, grid.spacing_mm)
    cases = _preprocessed(listed, volumes, target)
    if unlearnt := sorted({*new} - {*answered(_held(cases), cases)}):
        # Askable, it would be denied by a network that never saw it; as it is, the engine does not know the word and says so.
        logger.warning(
            "Not learnt: %s, since no case shows a voxel of it on grid '%s' (%g mm); give cases that do, or set `grid` to a finer one.",
            ", ".join(unlearnt), grid.name, grid.spacing_mm,
        )  # fmt: skip
        target = extended(base, [n for n in new if n not in unlearnt], grid, config.synonyms)
        cases = _preprocessed(listed, volumes, target)
    if not cases:
        raise InputError(f"None of {', '.join(target.vocabulary.names)} is labelled in these cases; check the names in the manifest.")
    return cases, seen_in(target, cases)


def _held(cases: Sequence[Case]) -> set[str]:
    """Structures with a voxel in some case."""
    return {n for c in cases for v, n in c.known.items() if bool((c.fine.labels == v).any())}


def _preprocessed(listed: list[ManifestCase], volumes: list[Volume], target: Checkpoint) -> list[Case]:
    """Cases on every grid that has a structure of theirs."""
    cases = []
    for number, (case, volume) in enumerate(zip(listed, volumes, strict=True), 1):
        logger.info("%d/%d Reading %s.", number, len(listed), case.name)
        truth = case.truth(volume)
        for grid in target.config.grids:
            parts = {n for whole, united in case.unions.items() if whole in grid.structures for n in united}
            mine = {v: n for v, n in case.known.items() if n in grid.structures or n in parts}
            if mine:
                labels = sum(truth[n].astype("uint16") * v for v, n in mine.items())
                cases.append(preprocess(case.name, volume, labels, mine, grid, target.config.intensity))
                cases[-1].composites = {whole: united for whole, united in case.unions.items() if {*united} <= {*mine.values()}}
    return cases


def _trainer(
    base: Checkpoint, target: Checkpoint, cases: list[Case], held: Collection[str], config: FinetuneConfig, run: Path, device: str
) -> tuple[Trainer, set[str]]:
    """A trainer from the base's weights with the chosen parts switched on; grids without a structure held are left out."""
    grids = sorted({c.grid for c in cases if any(n in held for n in c.known.values())})
    shares_by_grid = tuple(DomainShare(g, fine=0.75 / len(grids), coarse=0.25 / len(grids)) for g in grids)
    train = TrainConfig(
        name=f"{base.config.name}-adapter", model="", sets=(), shares=shares_by_grid, phantoms=0, seed=config.seed, steps=config.steps,
        batch_size=config.batch_size, learning_rate=config.learning_rate, foreground_weight=config.foreground_weight, ema=0.98, bf16=config.bf16,
        report_steps=config.report_steps,
    )  # fmt: skip
    model = target.build()
    trained = set(select(model, config.parts))
    if target.tokens != base.tokens:
        table = dict(model.named_parameters())[TOKEN_TABLE]
        if "text_tower" not in config.parts:
            train_new_rows(table, len(base.state[TOKEN_TABLE]))
        trained.add(TOKEN_TABLE)
    logger.info("Trained and stored:\n%s", shares_table(shares(model.state_dict(), config.parts)))
    write_config(train, target.config, run)
    torch.manual_seed(config.seed)
    sampler = TileSampler(cases, train, target.config, target.vocabulary)
    return Trainer(train, target.config, PromptTokenizer(target.tokens), sampler, run, device, initial=model.train()), trained
