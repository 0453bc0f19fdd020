"""Tiles for a fine-tuning: what is new comes up as often as configured, however many old structures are trained along."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.text.vocabulary import Vocabulary

from .cases import Case
from .config import TrainConfig
from .sampling import TileSampler


class TunedSampler(TileSampler):
    """Where replayed cases share a grid with the tuned ones, a tile is about a tuned structure with chance 1 - ``replay_share``.

    By structure alone, a new name beside six replayed ones would have a seventh of the tiles.

    Args:
        tuned: structures that the fine-tuning is for.
    """

    def __init__(self, cases: list[Case], config: TrainConfig, model: ModelConfig, vocabulary: Vocabulary, tuned: Collection[str], replay_share: float) -> None:
        super().__init__(cases, config, model, vocabulary)
        self.tuned, self.replay_share = tuned, replay_share

    def _choose_case(self, rng: np.random.Generator, grid: GridConfig, foreign: bool) -> tuple[Case, str | None]:
        names = [n for n, cases in self.holding[grid.name].items() if cases and n in self.tuned]
        if foreign or not names or rng.random() < self.replay_share:
            return super()._choose_case(rng, grid, foreign)
        name = names[rng.integers(len(names))]
        pool = self.holding[grid.name][name]
        return pool[rng.integers(len(pool))], name
