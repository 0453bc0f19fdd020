"""Teach a checkpoint a name that it does not have: vocabulary entry, place on a grid, rows for new words."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from RefSAM3DLib.checkpoint import TOKEN_TABLE, Calibration, Checkpoint
from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.text.tokenizer import clip_ids
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.text.wording import SIDE_WORDS, normalise, swap_sides

from .cases import Case

#: DICOM code of a structure whose terminology nobody gave: a private scheme, which tools show by its meaning.
PRIVATE_SCHEME = "99REFSAM3D"
NEW_ROW_NOISE = 0.02
#: Presence below which a tuned structure is called absent; between this and the base's limit it is uncertain, and drawn. The base's
#: presence is calibrated, an adapter's is not: a few cases that it was tuned on cannot say how sure it is of others.
ABSENT_BELOW = 0.05


def structure_entry(name: str, all_names: Sequence[str], synonyms: Sequence[str] = ()) -> dict:
    """Vocabulary entry of a name alone: side and mirror from its words, colour from its letters."""
    sides = {SIDE_WORDS[w] for w in normalise(name).split() if w in SIDE_WORDS}
    side = sides.pop() if len(sides) == 1 else ""
    mirror = swap_sides(name) if side else ""
    base = " ".join(w for w in name.split() if normalise(w) not in SIDE_WORDS) if side else name
    digest = hashlib.sha256(base.encode()).digest()
    return {
        "name": name, "side": side if mirror in all_names else "", "mirror": mirror if mirror in all_names else "", "base": base,
        "synonyms": list(synonyms), "held_out": [], "colour": [80 + digest[n] % 160 for n in range(3)],
        "terminology": {"category": ["SCT", "123037004", "Anatomical Structure"], "type": [PRIVATE_SCHEME, digest.hex()[:12], name]},
    }  # fmt: skip


def extended(base: Checkpoint, names: Sequence[str], grid: GridConfig, synonyms: dict[str, Sequence[str]] | None = None) -> Checkpoint:
    """The base with more structures on a grid; words without a row get one.

    A new row starts at the mean of the table with a little noise; the rest of the tower is as it was. A name that was a
    distractor ("liver") stops being one.

    Raises:
        ConfigError: a name is a wording of another structure.
    """
    new = [n for n in names if n not in base.vocabulary.names]
    if not new:
        return base
    values = base.vocabulary.to_dict()
    known = [*base.vocabulary.names, *new]
    entries = [structure_entry(n, known, (synonyms or {}).get(n, ())) for n in new]
    # A flipped tile, and the engine's mirror image, ask for the other side in these very words.
    spoken = {normalise(w) for e in entries for text in (e["name"], *e["synonyms"]) for w in (text, swap_sides(text))}
    values["structures"] = [*values["structures"], *entries]
    values["distractors"] = [d for d in values["distractors"] if normalise(d) not in spoken]
    vocabulary = Vocabulary.from_json(values)
    grids = tuple(dataclasses.replace(g, structures=(*g.structures, *new)) if g.name == grid.name else g for g in base.config.grids)
    config = dataclasses.replace(base.config, grids=grids)
    state, tokens = dict(base.state), base.tokens
    if tokens is not None:
        words = [w for e in entries for spoken in (e["name"], *e["synonyms"]) for w in (spoken, swap_sides(spoken))]
        missing = sorted({t for w in words for t in clip_ids(w)} - set(tokens))
        if missing:
            tokens = (*tokens, *missing)
            state[TOKEN_TABLE] = _with_rows(state[TOKEN_TABLE], len(missing))
            config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=config.text.vocab_size + len(missing)))
    return dataclasses.replace(base, vocabulary=vocabulary, config=config, state=state, tokens=tokens)


def seen_in(checkpoint: Checkpoint, cases: Sequence[Case]) -> Checkpoint:
    """The checkpoint whose grids tell of the images that it was tuned on too: without that every image of the site would count as of another kind."""
    grids = []
    for grid in checkpoint.config.grids:
        mine = [c for c in cases if c.grid == grid.name]
        if mine:
            extents = [grid.extent_mm[0], grid.extent_mm[1], *(c.extent_mm for c in mine)]
            low, high = (tuple(float(pick(e[a] for e in extents)) for a in range(3)) for pick in (min, max))
            modalities = (*grid.modalities, *sorted({c.modality for c in mine} - {*grid.modalities}))
            grid = dataclasses.replace(grid, extent_mm=(low, high), modalities=modalities)
        grids.append(grid)
    return dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, grids=tuple(grids)))


def choose_grid(config: ModelConfig, modalities: Sequence[str], extents_mm: Sequence[tuple[float, float, float]], name: str = "") -> GridConfig:
    """The grid that new structures are read on: by name, else the one that knows the modality and fits the field of view best.

    Raises:
        ConfigError: an unknown name, or no grid was trained on these modalities.
    """
    if name:
        return config.grid(name)
    candidates = [g for g in config.grids if set(modalities) <= set(g.modalities)]
    if not candidates:
        raise ConfigError(f"No grid of '{config.name}' was trained on {', '.join(sorted(set(modalities)))}; set `grid` in the configuration to try.")
    middle = [sorted(e[a] for e in extents_mm)[len(extents_mm) // 2] for a in range(3)]

    def excess(grid: GridConfig) -> float:
        low, high = grid.extent_mm
        return max(max(m / h, lo / max(m, 1e-6)) for m, lo, h in zip(middle, low, high, strict=True))

    return min(candidates, key=excess)


def changes(base: Checkpoint, extended: Checkpoint) -> dict:
    """What an adapter must carry beside its parameters.

    It answers for its own structures alone, and of these nothing is known but the cases that it was tuned on: what was usual for an
    outline of the base is dropped, and it takes more to deny a structure (``ABSENT_BELOW``).
    """
    out: dict = {}
    if extended.vocabulary != base.vocabulary:
        out["vocabulary"] = extended.vocabulary.to_dict()
    if extended.config != base.config:
        out["config"] = extended.config.to_dict()
    if extended.tokens != base.tokens:
        out["tokens"] = list(extended.tokens or ())
    calibrations = {g.name: base.calibration.get(g.name, Calibration()) for g in base.config.grids}
    reserved = {n: dataclasses.replace(c, least_confidence={}, absent_below=min(c.absent_below, ABSENT_BELOW)) for n, c in calibrations.items()}
    out["calibration"] = {name: dataclasses.asdict(c) for name, c in reserved.items()}
    return out


def train_new_rows(table: torch.nn.Parameter, first: int) -> None:
    """Let gradients reach the rows from ``first`` on, and no other."""
    table.requires_grad_(True)

    def only_new(grad: Tensor) -> Tensor:
        kept = grad.clone()
        kept[:first] = 0
        return kept

    table.register_hook(only_new)


def check_names(names: Sequence[str], base: Checkpoint) -> None:
    """Refuse a new name that the base understands as something else.

    Raises:
        ConfigError: with what it is understood as.
    """
    from RefSAM3DLib.text.prompts import resolve_all
    from RefSAM3DLib.types import PromptStatus

    for name in names:
        if name in base.vocabulary.names:
            continue
        found = resolve_all([name], base.vocabulary)
        if found[0].status is PromptStatus.KNOWN:
            raise ConfigError(f"The label '{name}' is understood as '{found[0].resolved}' by this model; rename it in the manifest to that, or otherwise.")


def _with_rows(table: Tensor, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    mean = table.float().mean(0, keepdim=True)
    rows = mean + NEW_ROW_NOISE * torch.randn(count, table.shape[1], generator=generator)
    return torch.cat([table, rows.to(table.dtype)])
