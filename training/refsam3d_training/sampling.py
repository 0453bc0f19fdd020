"""Draw training tiles: which case, where, how transformed, and what is asked about it.

Every draw depends on (seed, step, rank, index) alone: a run that was killed and resumed draws what it would have drawn.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.text.wording import swap_sides

from .cases import Case
from .config import TrainConfig
from .painting import VOID, paint
from .rewording import Rewording
from .unread import with_unread, without_its_name
from .visible import MAY_BE_VISIBLE, SURELY_ABSENT

#: Largest rotation about each axis, radians; the engine reads grids tilted up to 12 degrees along their own axes.
MAX_ROTATION = 0.2
SCALE_RANGE = (0.85, 1.2)
#: Share of fine tiles of a large volume that are centred near a structure (the rest anywhere).
NEAR_STRUCTURE = 0.8
#: Share of coarse views that lose a part of the field of view along D, so that trained structures are absent.
CUT_VIEW = 0.5
CANONICAL_WORDING = 0.25
#: Structures that are the union of others, where all of these are known.
COMPOSITES = {"hippocampus": ("anterior hippocampus", "posterior hippocampus")}
#: How far a small image is moved inside its tile, tile voxels: within the spare room and ``CUT_OFF`` beyond it. Otherwise a network learns where
#: a small image's structures lie in the tile (two voxels cost it 0.015 Dice), and sees each image at one phase of its patches.
MOST_SHIFT, CUT_OFF = 4.0, 2.0


@dataclass
class Tile:
    """volume (C, D, H, W); targets (K, D, H, W) bool; prompts: P >= K texts, the first ``asked`` may be present, those from K on have no label.

    names: structures of the labelled prompts, sides exchanged in a flipped tile (empty in a foreign one). taught: (row of prompts, structure) of
    what a teacher is asked about this tile.
    """

    volume: torch.Tensor
    targets: torch.Tensor
    prompts: list[str]
    asked: int
    grid: str
    coarse: bool
    names: list[str] = field(default_factory=list)
    taught: list[tuple[int, str]] = field(default_factory=list)


def composites_of(case: Case) -> dict[str, tuple[str, ...]]:
    """Unions of structures: those of every case, and those that its manifest names."""
    return {**COMPOSITES, **case.composites}


def asked_of(case: Case, grid: GridConfig) -> set[str]:
    """What a case has labelled of a grid's structures, and of those that one of these is the union of."""
    wanted = {*grid.structures} | {part for whole, parts in composites_of(case).items() if whole in grid.structures for part in parts}
    return wanted & {*case.known.values()}


class TileSampler:
    """Tiles of a training set.

    Args:
        cases: preprocessed cases of all grids. taught: structures that a grid has a teacher for. unread: words that the model does not know, see
            ``unread``.

    Raises:
        InputError: no case shows what a share asks for.
    """

    def __init__(
        self, cases: list[Case], config: TrainConfig, model: ModelConfig, vocabulary: Vocabulary, taught: Mapping[str, tuple[str, ...]] | None = None,
        unread: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.config, self.model, self.vocabulary, self.taught, self.unread = config, model, vocabulary, taught or {}, unread
        self.rewording = Rewording(vocabulary)
        self.by_grid = {g.name: [c for c in cases if c.grid == g.name] for g in model.grids}
        self.holding: dict[str, dict[str, list[Case]]] = {}
        for grid in model.grids:
            names = {name for case in self.by_grid[grid.name] for name in asked_of(case, grid)}
            self.holding[grid.name] = {
                name: [c for c in self.by_grid[grid.name] if any(n == name and (c.fine.labels == v).any() for v, n in c.known.items())]
                for name in sorted(names)
            }
        #: names known in a volume on any grid: the same volume may be there on another one
        self.known_names: dict[str, set[str]] = defaultdict(set)
        for case in cases:
            names = set(case.known.values())
            self.known_names[case.name] |= names | {whole for whole, parts in composites_of(case).items() if names & set(parts)}
        self.counter_examples: dict[tuple[str, str], list[Case]] = {}
        self.centres: dict[tuple[int, int], np.ndarray] = {}
        options = [(s, coarse, weight) for s in config.shares for coarse, weight in ((False, s.fine), (True, s.coarse)) if weight > 0]
        self.options = [o for o in options if any(self.holding.get(o[0].grid, {}).values())]
        if not self.options:
            grids = ", ".join(s.grid for s in config.shares)
            raise InputError(f"No case shows a voxel of a structure of {grids}; check the sets, their grids and the label names.")
        weights = np.array([o[2] for o in self.options])
        self.weights = weights / weights.sum()

    def batch(self, step: int, rank: int = 0) -> list[Tile]:
        """Tiles of one step; all of one grid and pass, so that they stack."""
        rng = np.random.default_rng((self.config.seed, step, 7))
        share, coarse, _ = self.options[rng.choice(len(self.options), p=self.weights)]
        grid = self.model.grid(share.grid)
        tiles = []
        for index in range(self.config.batch_size):
            # numpy takes (seed, step, 7) and (seed, step, 7, 0) for one seed: the process after the seventh leaves that one to the choice above.
            own = np.random.default_rng((self.config.seed, step, rank + (rank >= 7), index))
            tiles.append(self._draw(own, grid, coarse, own.random() < share.foreign, share.painted))
        return tiles

    def _draw(self, rng: np.random.Generator, grid: GridConfig, coarse: bool, foreign: bool, painted: float) -> Tile:
        case, focus = self._choose_case(rng, grid, foreign)
        foreign = foreign and focus is None  # without another grid's images it is one of its own, which may hold what is asked
        image = case.coarse if coarse else case.fine
        extent = grid.coarse_tile_dhw if coarse else grid.tile_dhw
        spacing = grid.coarse_spacing_mm if coarse else grid.spacing_mm
        source = self.model.grid(case.grid)
        # A foreign image is stored at its own spacing: the step between samples makes up for it.
        step = spacing / (source.coarse_spacing_mm if coarse else source.spacing_mm)
        shape = np.array(image.values.shape)
        low, high = np.zeros(3), shape.astype(float)
        if coarse and rng.random() < CUT_VIEW:
            low, high = _cut(rng, low, high)
        centre = (low + high - 1) / 2
        room = (high - low) / step - np.array(extent)
        if (room > 0).any():
            wanted = centre + rng.uniform(-0.5, 0.5, 3) * (high - low)
            if focus is not None and not coarse and rng.random() < NEAR_STRUCTURE:
                wanted = self._centre_of(case, focus) + rng.uniform(-0.3, 0.3, 3) * np.array(extent) * step
            slack = np.maximum(room, 0) * step / 2
            centre = np.where(room > 0, np.clip(wanted, centre - slack, centre + slack), centre)
        if self.config.augment:
            reach = np.minimum(np.maximum(-room, 0) / 2 + CUT_OFF, MOST_SHIFT) * step
            centre = centre + np.where(room > 0, 0, rng.uniform(-1, 1, 3) * reach)
        flip = self.config.augment and rng.random() < 0.5
        values, labels = _resample(rng, image.values, image.labels, extent, centre, step, low, high, flip, self.config.augment)
        painted_over = bool(painted and not foreign and rng.random() < painted)
        if painted_over:
            values, labels = paint(rng, values, labels, list(case.known))
        volume = torch.stack([((values - lo) / (hi - lo) * 2 - 1).clamp(-1, 1) for lo, hi in case.windows])
        if self.config.augment:
            volume = _augment_intensity(rng, volume, case.modality)
        tile = self._ask(rng, grid, case, volume, labels, flip, foreign, coarse)
        # A teacher was never shown a foreign image or a painted one, and knows the fine view alone.
        return tile if foreign or coarse or painted_over else self._with_teaching(rng, tile)

    def _choose_case(self, rng: np.random.Generator, grid: GridConfig, foreign: bool) -> tuple[Case, str | None]:
        if foreign:
            pools = [pool for name in self.by_grid if name != grid.name and (pool := self._counter_examples(grid, name))]
            if pools:
                pool = pools[rng.integers(len(pools))]
                return pool[rng.integers(len(pool))], None
        # By structure first: the esophagus is contoured in half of the cases and would otherwise be seen half as often.
        names = [n for n, cases in self.holding[grid.name].items() if cases]
        name = names[rng.integers(len(names))]
        pool = self.holding[grid.name][name]
        return pool[rng.integers(len(pool))], name

    def _counter_examples(self, grid: GridConfig, other: str) -> list[Case]:
        """Images of another grid that hold nothing of this one: a head CT does hold a hippocampus."""
        if (grid.name, other) not in self.counter_examples:
            asked = set(grid.structures) - MAY_BE_VISIBLE.get(other, set())
            chosen = [c for c in self.by_grid[other] if not self.known_names[c.name] & set(grid.structures)] if asked else []
            self.counter_examples[grid.name, other] = chosen
        return self.counter_examples[grid.name, other]

    def _centre_of(self, case: Case, name: str) -> np.ndarray:
        value = next(v for v, n in case.known.items() if n == name)
        key = (id(case), value)  # not its name: a case can be there twice, with other labels
        if key not in self.centres:
            self.centres[key] = (case.fine.labels == value).nonzero().double().mean(0).numpy()
        return self.centres[key]

    def _ask(
        self, rng: np.random.Generator, grid: GridConfig, case: Case, volume: torch.Tensor, labels: torch.Tensor, flip: bool, foreign: bool, coarse: bool
    ) -> Tile:
        prompts, targets, names = [], [], []
        empty = torch.zeros(labels.shape, dtype=torch.bool)
        if foreign:
            for name in grid.structures:
                if name not in MAY_BE_VISIBLE.get(case.grid, set()):
                    prompts.append(self.wording(rng, name))
                    targets.append(empty)
        else:
            present = {name: labels == value for value, name in case.known.items()}
            for whole, parts in composites_of(case).items():
                if all(p in present for p in parts):
                    present[whole] = torch.stack([present[p] for p in parts]).any(0)
            for name, mask in present.items():
                if name in grid.structures:
                    paired = self.vocabulary.mirror(name) != name
                    names.append(self.vocabulary.mirror(name) if flip else name)
                    text = self.wording(rng, names[-1])
                    # A side whose counterpart has no name of its own: the engine asks its mirror image in these words.
                    prompts.append(swap_sides(text) if flip and not paired else text)
                    targets.append(mask)
        asked = len(prompts)
        for _ in range(self.config.absent_prompts):
            prompts.append(self._absent_wording(rng, grid, case))
            targets.append(empty)
        return Tile(volume, torch.stack(targets), prompts, asked, grid.name, coarse, names)

    def _with_teaching(self, rng: np.random.Generator, tile: Tile) -> Tile:
        """The tile with what its grid's teacher is asked: the labelled structures, and in words of their own those without a label."""
        structures = self.taught.get(tile.grid, ())
        for row, name in enumerate(tile.names):
            if name in structures:
                tile.taught.append((row, name))
        for name in structures:
            if name not in tile.names:
                tile.taught.append((len(tile.prompts), name))
                tile.prompts.append(self.wording(rng, name))
        return tile

    def wording(self, rng: np.random.Generator, name: str) -> str:
        """A trained wording of a structure."""
        if rng.random() < CANONICAL_WORDING:
            return name
        wordings = [name, *self.vocabulary.structure(name).synonyms]
        template = self.vocabulary.templates[rng.integers(len(self.vocabulary.templates))]
        text = self._spoken(rng, wordings[rng.integers(len(wordings))], template)
        return with_unread(rng, text, self.unread) if self.unread and rng.random() < self.config.unread_words else text

    def _spoken(self, rng: np.random.Generator, wording: str, template: str) -> str:
        if self.config.reworded and rng.random() < self.config.reworded:
            return self.rewording(rng, wording, template)
        return template.format(wording)

    def _absent_wording(self, rng: np.random.Generator, grid: GridConfig, case: Case) -> str:
        visible = MAY_BE_VISIBLE.get(case.grid, set()) | self.known_names[case.name]
        others = [n for g in self.model.grids if g.name != grid.name for n in g.structures if n not in visible]
        if self.unread and rng.random() < self.config.unread_words:
            names = [*grid.structures, *self.vocabulary.distractors]
            template = self.vocabulary.templates[rng.integers(len(self.vocabulary.templates))]
            return template.format(without_its_name(rng, names[rng.integers(len(names))], self.unread))
        if others and rng.random() < 0.4:
            return self.wording(rng, others[rng.integers(len(others))])
        absent = SURELY_ABSENT.get(case.grid)
        unlabelled = [n for n in self.vocabulary.distractors if n not in visible]
        names = [n for n in unlabelled if absent is None or n in absent] or unlabelled or self.vocabulary.distractors
        name = names[rng.integers(len(names))]
        template = self.vocabulary.templates[rng.integers(len(self.vocabulary.templates))]
        return name if rng.random() < CANONICAL_WORDING else self._spoken(rng, name, template)


def _cut(rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep 35-85 % of the view along D, from above or from below."""
    low, high = low.copy(), high.copy()
    keep = max(4, round((high[0] - low[0]) * rng.uniform(0.35, 0.85)))
    if rng.random() < 0.5:
        low[0] = high[0] - keep
    else:
        high[0] = low[0] + keep
    return low, high


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cd, ch, cw), (sd, sh, sw) = np.cos(angles), np.sin(angles)
    about_d = np.array([[1, 0, 0], [0, cd, -sd], [0, sd, cd]])
    about_h = np.array([[ch, 0, sh], [0, 1, 0], [-sh, 0, ch]])
    about_w = np.array([[cw, -sw, 0], [sw, cw, 0], [0, 0, 1]])
    return about_d @ about_h @ about_w


def _resample(
    rng: np.random.Generator, values: torch.Tensor, labels: torch.Tensor, tile: tuple[int, int, int], centre: np.ndarray, step: float,
    low: np.ndarray, high: np.ndarray, flip: bool, augment: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Read a tile around ``centre`` (voxels of ``values``), rotated, scaled and flipped; outside [low, high) is air."""
    matrix = np.eye(3) * step
    if augment:
        matrix = _rotation(rng.uniform(-MAX_ROTATION, MAX_ROTATION, 3)) @ np.diag(rng.uniform(*SCALE_RANGE, 3)) * step
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in tile]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    if flip:
        points = points.flip(2)
    points = points @ torch.tensor(matrix.T, dtype=torch.float32) + torch.tensor(centre, dtype=torch.float32)
    size = torch.tensor(values.shape, dtype=torch.float32)
    grid = (2 * (points + 0.5) / size - 1).flip(-1)[None]
    read = F.grid_sample(values.float()[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
    truth = F.grid_sample(labels.float()[None, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)[0, 0].byte()
    outside = ((points < torch.tensor(low - 0.5, dtype=torch.float32)) | (points > torch.tensor(high - 0.5, dtype=torch.float32))).any(-1)
    return read.masked_fill(outside, VOID), truth.masked_fill(outside, 0)


def thick_slices(rng: np.random.Generator, count: int, factor: int) -> torch.Tensor:
    """(count,) which slice stands for each: of every ``factor`` the middle one. Of two it is either, all along, so that labels are not left behind
    on one side."""
    middle = factor // 2 - (0 if factor % 2 else int(rng.integers(2)))
    return (torch.arange(count) // factor * factor + middle).clamp(max=count - 1)


def _augment_intensity(rng: np.random.Generator, volume: torch.Tensor, modality: str) -> torch.Tensor:
    """Contrast, brightness, gamma (not CT: HU mean something), noise, blur and low resolution, in window units."""
    soft = 0.5 if modality == "ct" else 1.0
    if modality != "ct" and rng.random() < 0.5:
        volume = ((volume + 1) / 2).pow(math.exp(rng.uniform(-0.4, 0.4))) * 2 - 1
    volume = volume * (1 + soft * rng.uniform(-0.15, 0.15)) + soft * rng.uniform(-0.12, 0.12)
    if rng.random() < 0.3:
        noise = torch.from_numpy(rng.standard_normal(volume.shape[1:], dtype=np.float32)) * float(rng.uniform(0, 0.12))
        volume = volume + noise
    if rng.random() < 0.15:
        factor = int(rng.integers(2, 4)) if rng.random() < 0.5 else 1
        if factor > 1:
            axis = int(rng.integers(3)) + 1
            volume = volume.index_select(axis, thick_slices(rng, volume.shape[axis], factor))
        else:
            volume = F.avg_pool3d(volume[None], 3, 1, 1, count_include_pad=False)[0]
    return volume.clamp(-1.5, 1.5)
