"""What the base draws on the tuned cases, as labels of the structures that nobody contoured there.

A site has cases of its own, not the base's training data. Tuned on a new structure alone, the network forgets old ones: what it said of
them before on the same images is then the only teacher (learning without forgetting) [ours].
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from RefSAM3DLib.config import GridConfig
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.types import Verdict, Volume

from .sampling import COMPOSITES


def with_base_outlines(
    engine: RefSAM3DEngine, volume: Volume, grid: GridConfig, labels: np.ndarray, known: dict[int, str], tuned: Collection[str]
) -> tuple[np.ndarray, dict[int, str]]:
    """Labels and known values with what the base calls present (its mask) or absent (no voxel); uncertain structures stay unknown.

    Voxels that were labelled by hand stay as they are, and so does every tuned structure: where it was not contoured, it is unknown.

    Args:
        labels: (D, H, W) on the volume's grid. known: label value to structure, of what was contoured.
    """
    names = [n for n in grid.structures if n in engine.vocabulary.names and n not in (*known.values(), *tuned, *COMPOSITES)]
    if not names:
        return labels, known
    labels, known = labels.copy(), dict(known)
    for name, answer in zip(names, engine.segment(volume, names), strict=True):
        if answer.verdict in (Verdict.PRESENT, Verdict.ABSENT):
            value = next(v for v in range(1, 256) if v not in known)
            known[value] = name
            labels[answer.mask & (labels == 0)] = value
    return labels, known
