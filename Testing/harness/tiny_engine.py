"""An engine on the tiny network, and a volume that takes it several tiles."""

from __future__ import annotations

from RefSAM3DLib.engine import RefSAM3DEngine, VolumeEmbedding
from RefSAM3DLib.types import Volume

from asymmetric_blocks import asymmetric_blocks
from tiny_checkpoint import tiny_checkpoint

BOTH = "left and right parotid glands"


def blocks(shape: tuple[int, int, int] = (20, 24, 28), spacing: tuple[float, float, float] = (12.0, 11.0, 12.5)) -> Volume:
    """About 250 x 260 x 340 mm without symmetry: two tiles of 32 along each axis at 6 mm, one at 12 mm."""
    return asymmetric_blocks(shape, spacing)[0]


def make_engine(**changes) -> RefSAM3DEngine:
    cache = changes.pop("cache_bytes", 10**9)
    return RefSAM3DEngine(tiny_checkpoint(**changes), "cpu", cache_bytes=cache)


def encoded(embedding: VolumeEmbedding) -> int:
    return sum(grid.encoded for grid in embedding.grids.values())
