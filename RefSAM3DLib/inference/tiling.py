"""Where tiles lie: starts on the token lattice, so that the tokens of all tiles form one grid."""

from __future__ import annotations

from dataclasses import dataclass

#: Least overlap of neighbouring tiles, voxels (two tokens of patch 8).
OVERLAP = 16


@dataclass(frozen=True)
class Layout:
    """Tiles over a working volume that is padded (centred) to at least one tile and to whole patches.

    shape_dhw: padded. pad: voxels before each axis; tile_dhw; starts: corner of each tile in the padded volume.
    """

    shape_dhw: tuple[int, int, int]
    pad: tuple[int, int, int]
    tile_dhw: tuple[int, int, int]
    starts: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, shape_dhw: tuple[int, int, int], tile_dhw: tuple[int, int, int], patch: int) -> Layout:
        """Cover a volume.

        >>> Layout.of((110, 40, 64), (64, 64, 64), 8).starts     # 110 is padded to 112
        ((0, 0, 0), (48, 0, 0))
        """
        padded = tuple(max(t, -(-n // patch) * patch) for n, t in zip(shape_dhw, tile_dhw, strict=True))
        pad = tuple((p - n) // 2 for p, n in zip(padded, shape_dhw, strict=True))
        axes = [axis_starts(p, t, patch) for p, t in zip(padded, tile_dhw, strict=True)]
        starts = tuple((d, h, w) for d in axes[0] for h in axes[1] for w in axes[2])
        return cls(padded, pad, tile_dhw, starts)  # type: ignore[arg-type]


def tile_count(length: int, tile: int) -> int:
    """Tiles along one axis.

    >>> [tile_count(n, 48) for n in (40, 48, 80, 81)]
    [1, 1, 2, 3]
    """
    return max(0, -(-(length - tile) // (tile - min(OVERLAP, tile // 2)))) + 1


def axis_starts(length: int, tile: int, patch: int) -> list[int]:
    """Starts along one axis, multiples of ``patch``, evenly spread, overlapping by at least ``OVERLAP`` where there are several.

    >>> axis_starts(112, 48, 8)
    [0, 32, 64]
    """
    count = tile_count(length, tile)
    if count == 1:
        return [0]
    return sorted({round(i * (length - tile) / (count - 1) / patch) * patch for i in range(count)})  # a tile of one patch: steps round together
