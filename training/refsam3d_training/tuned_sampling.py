"""Tiles for a fine-tuning: what is new comes up as often as configured, however many old structures are trained along."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.text.vocabulary import Vocabulary

from .cases import Case
from .config import TrainConfig
from .sampling import Tile, TileSampler

#: Structures outlined by the base that are asked in a tile of a tuned case: with all of them, a new one would have a seventh of its loss.
OLD_PROMPTS = 2


class TunedSampler(TileSampler):
    """Where replayed cases share a grid with the tuned ones, a tile is about a tuned structure with chance 1 - ``replay_share``.

    By structure alone, a new name beside six replayed ones would have a seventh of the tiles.

    Args:
        tuned: structures that the fine-tuning is for. own: its cases, whose other structures were outlined by the base.
    """

    def __init__(
        self, cases: list[Case], config: TrainConfig, model: ModelConfig, vocabulary: Vocabulary, tuned: Collection[str], replay_share: float,
        own: Collection[Case] = (),
    ) -> None:  # fmt: skip
        super().__init__(cases, config, model, vocabulary)
        self.tuned, self.replay_share = tuned, replay_share
        self.own = {id(case) for case in own}  # a replayed set may hold a case of the same name, with all of its contours

    def _ask(self, rng: np.random.Generator, grid: GridConfig, case: Case, *rest: Any) -> Tile:
        old = [value for value, name in case.known.items() if name not in self.tuned] if id(case) in self.own else []
        if len(old) > OLD_PROMPTS:
            left_out = set(rng.permutation(old)[OLD_PROMPTS:].tolist())
            case = dataclasses.replace(case, known={v: n for v, n in case.known.items() if v not in left_out})
        return super()._ask(rng, grid, case, *rest)

    def _choose_case(self, rng: np.random.Generator, grid: GridConfig, foreign: bool) -> tuple[Case, str | None]:
        names = [n for n, cases in self.holding[grid.name].items() if cases and n in self.tuned]
        if foreign or not names or rng.random() < self.replay_share:
            return super()._choose_case(rng, grid, foreign)
        name = names[rng.integers(len(names))]
        pool = self.holding[grid.name][name]
        return pool[rng.integers(len(pool))], name
