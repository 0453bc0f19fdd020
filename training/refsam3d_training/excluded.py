"""Structures that a training must never meet: taken out of the vocabulary, the grids and the labels before anything is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.text.vocabulary import Vocabulary

from .cases import Case, GridImage
from .sampling import COMPOSITES


def vocabulary_without(vocabulary: Vocabulary, names: Collection[str]) -> Vocabulary:
    """The vocabulary without these structures: neither names nor wordings of them are asked, as present or as absent.

    Raises:
        ConfigError: an unknown name; one side of a pair, whose name a flip would bring back; a part of a composite that stays.
    """
    for name in names:
        mirror = vocabulary.structure(name).mirror
        if mirror and mirror not in names:
            raise ConfigError(f"'{name}' is excluded and '{mirror}' is not, but flipped images swap their names; exclude both.")
        for whole, parts in COMPOSITES.items():
            if name in parts and whole not in names:
                raise ConfigError(f"'{name}' is excluded and '{whole}', which is made of it, is not; exclude both.")
    return vocabulary.restricted_to([n for n in vocabulary.names if n not in names]) if names else vocabulary


def model_without(model: ModelConfig, names: Collection[str]) -> ModelConfig:
    """The configuration with these structures on no grid; the grids themselves, and so the network, stay."""
    grids = tuple(dataclasses.replace(g, structures=tuple(s for s in g.structures if s not in names)) for g in model.grids)
    return dataclasses.replace(model, grids=grids)


def cases_without(cases: list[Case], names: Collection[str]) -> list[Case]:
    """The cases as if nobody had contoured these structures; a case without any other contour is left out.

    Their voxels stay in the image and are unknown: no prompt asks for them, so they take no loss of their own. For another
    structure they are what they are in any case where they were not contoured: not part of it.
    """
    if not names:
        return cases
    kept = []
    for case in cases:
        gone = [v for v, n in case.known.items() if n in names]
        known = {v: n for v, n in case.known.items() if n not in names}
        if known:
            kept.append(dataclasses.replace(case, known=known, fine=_unlabelled(case.fine, gone), coarse=_unlabelled(case.coarse, gone)))
    return kept


def _unlabelled(image: GridImage, values: list[int]) -> GridImage:
    return GridImage(image.values, image.labels.masked_fill(torch.isin(image.labels, torch.tensor(values, dtype=image.labels.dtype)), 0))
