"""Overlapping tiles to one map. The weights part by axis, so that the tokens of any number of tiles are placed by three small matrices."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..modeling.mask_decoder import upsampling_matrix
from .preprocess import Box
from .tiling import Layout

#: Weight of a tile's outermost voxels, of one in its centre.
LEAST_WEIGHT = 1e-2


@functools.cache
def tent(count: int) -> Tensor:
    """(count,) weights along one axis of a tile: largest in the centre, never zero.

    >>> tent(4)
    tensor([0.2500, 0.7500, 0.7500, 0.2500])
    """
    with torch.inference_mode(False):
        position = torch.arange(count, dtype=torch.float32) + 0.5
        return (1 - (2 * position / count - 1).abs()).clamp(min=LEAST_WEIGHT)


class Blending:
    """How much each of some tiles counts at each voxel of a box; at every voxel the weights of the tiles add up to one.

    Tiles on a lattice: the weight of one is the product of its weights along the axes, and so is the sum of all.

    Args:
        indices: tiles of the layout in its order, all combinations of some places along each axis, as ``tiles_for`` chooses them.
        box: padded coordinates, even voxels (``GridEmbedding.padded_box``).

    Raises:
        ValueError: the tiles form no lattice.
    """

    def __init__(self, layout: Layout, indices: Sequence[int], box: Box) -> None:
        self.layout, self.box = layout, box
        starts = [layout.starts[i] for i in indices]
        self.axes = [sorted({s[axis] for s in starts}) for axis in range(3)]
        if starts != list(itertools.product(*self.axes)):
            raise ValueError(f"Tiles {list(indices)} are no lattice of the {len(layout.starts)} tiles; choose them by a box.")

    def mean(self, maps: Sequence[Tensor], stride: int) -> Tensor:
        """Weighted mean of tile maps (C, ...) at ``stride``, over the box."""
        cuts = [self._cuts(axis, stride) for axis in range(3)]
        weights = [self._weights(axis, stride).to(maps[0]) for axis in range(3)]
        total = maps[0].new_zeros((maps[0].shape[0], *(w.shape[1] for w in weights)))
        for places, values in zip(itertools.product(*(range(len(a)) for a in self.axes)), maps, strict=True):
            source, target = zip(*(cuts[axis][n] for axis, n in enumerate(places)), strict=True)
            d, h, w = (weights[axis][n, target[axis]] for axis, n in enumerate(places))
            total[:, target[0], target[1], target[2]].addcmul_(values[:, source[0], source[1], source[2]], d[:, None, None] * h[:, None] * w)
        return total

    def add_tokens(self, logits: Tensor, tokens: Tensor, patch: int) -> Tensor:
        """Logits (P, d, h, w) of the box, in place, plus token logits (P, N) of the tiles: linear within each tile, blended."""
        counts, sizes = [len(a) for a in self.axes], [n // patch for n in self.layout.tile_dhw]
        lattice = tokens.unflatten(1, (*counts, *sizes)).permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(1, 2)
        by_d, by_h, by_w = (self._placing(axis, patch).to(logits) for axis in range(3))
        rows = by_h @ (lattice.to(logits) @ by_w.T)  # the last axis first: each product is as small as it can be
        logits.flatten(2).baddbmm_(by_d.expand(len(logits), -1, -1), rows.flatten(2))
        return logits

    def _cuts(self, axis: int, stride: int) -> list[tuple[slice, slice]]:
        """Per place along an axis: the part of a tile that lies in the box, and where it lies there."""
        low, high, size = (n // stride for n in (*self.box[2 * axis : 2 * axis + 2], self.layout.tile_dhw[axis]))
        out = []
        for start in (s // stride for s in self.axes[axis]):
            first = min(max(low, start), high)
            last = max(first, min(high, start + size))
            out.append((slice(first - start, last - start), slice(first - low, last - low)))
        return out

    def _weights(self, axis: int, stride: int) -> Tensor:
        """(places, n) over the box; a voxel that no tile holds gets zero."""
        values = tent(self.layout.tile_dhw[axis] // 2).repeat_interleave(2 // stride)
        out = values.new_zeros(len(self.axes[axis]), (self.box[2 * axis + 1] - self.box[2 * axis]) // stride)
        for row, (source, target) in zip(out, self._cuts(axis, stride), strict=True):
            row[target] = values[source]
        return out / out.sum(0).clamp(min=LEAST_WEIGHT)

    def _placing(self, axis: int, patch: int) -> Tensor:
        """(n, places * tokens): tokens of all places along an axis to the voxels of the box."""
        matrix = upsampling_matrix(self.layout.tile_dhw[axis] // patch, patch)
        parts = []
        for weights, (source, target) in zip(self._weights(axis, 1), self._cuts(axis, 1), strict=True):
            part = matrix.new_zeros(len(weights), matrix.shape[1])
            part[target] = matrix[source] * weights[target, None]
            parts.append(part)
        return torch.cat(parts, 1)
