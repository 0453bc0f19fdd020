"""Encode a volume on one working grid, tile by tile, on demand, and keep what no prompt can change."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import GridConfig, ModelConfig
from ..errors import Cancelled
from ..modeling.cross_attention import LevelCache
from ..modeling.refsam3d import ImageFeatures, RefSAM3D
from ..types import Cancel, Modality, Volume
from .checks import empty_cache, is_shortage
from .preprocess import Box, Frame, apply_windows, body_box, intensity_windows
from .tiling import Layout

logger = logging.getLogger(__name__)

#: Tiles per forward pass. Two, not one: torch takes oneDNN's 3D convolution only from two samples on (1.9 times faster
#: per tile, measured on two AVX2 cores); more costs memory and gains nothing on a CPU.
BATCH = 2
#: Modules that take the time of a forward pass.
LAYERS = (nn.Linear, nn.Conv3d, nn.ConvTranspose3d)


@dataclass
class TileCache:
    """One encoded tile. joined: image halves of the cross-attention, all levels in one; pixels (M, D/2, H/2, W/2) for the cached
    decoder; levels: the halves level by level, and volume: the tile's voxels, for the paper's decoder."""

    joined: LevelCache
    levels: list[LevelCache]
    pixels: Tensor | None
    volume: Tensor | None

    @property
    def bytes(self) -> int:
        """Memory in use."""
        tensors = [t for level in (self.joined, *self.levels) for t in (level.queries, level.image)]
        tensors += [t for t in (self.pixels, self.volume) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)


class GridEmbedding:
    """A volume on one working grid at one spacing, or its left-right mirror image.

    Attributes:
        frame: native to working grid. values: on the working grid (an argument: read already). origin: corner of the read box (body) in the working grid.
        layout: tiles over that box. tiles: encoded so far, by index. encoded: how many were computed in its life.
        borrowed: values belong to the embedding that it was made from.
        whole_pixels: blended pixel features of all tiles (M, D/2, H/2, W/2) once a prompt has looked at the whole view.
        whole_levels: joined levels of all tiles, likewise.
    """

    def __init__(
        self, model: RefSAM3D, config: ModelConfig, grid: GridConfig, coarse: bool, volume: Volume, device: torch.device,
        windows: list[tuple[float, float]] | None = None, values: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.model, self.config, self.grid, self.coarse, self.device = model, config, grid, coarse, device
        self.mirrored, self.borrowed = False, False
        modality = Modality(volume.modality or Modality.MR)
        self.frame = Frame.of(volume.geometry, grid.coarse_spacing_mm if coarse else grid.spacing_mm)
        values = self.frame.read(volume.array) if values is None else values
        box = body_box(values, modality) if grid.crop_body else (0, values.shape[0], 0, values.shape[1], 0, values.shape[2])
        self.values = values[box[0] : box[1], box[2] : box[3], box[4] : box[5]].contiguous()
        self.windows = windows or intensity_windows(volume, modality, config.intensity)
        self.patch = config.image.patch_size
        self.layout = Layout.of(tuple(self.values.shape), grid.coarse_tile_dhw if coarse else grid.tile_dhw, self.patch)  # type: ignore[arg-type]
        self.origin = (box[0], box[2], box[4])
        self.tiles: dict[int, TileCache] = {}
        self.encoded = 0
        self.whole_pixels: Tensor | None = None
        self.whole_levels: LevelCache | None = None

    def mirror(self) -> GridEmbedding:
        """The left-right mirror image as a view of its own, nothing encoded yet; the volume is not read again."""
        other = copy.copy(self)
        other.mirrored, other.values, other.tiles, other.encoded = True, self.values.flip(2), {}, 0
        other.whole_pixels, other.whole_levels = None, None
        return other

    def read_by(self, model: RefSAM3D) -> GridEmbedding:
        """The same voxels as another network of the same shape sees them, nothing encoded yet; the volume is not read again."""
        other = copy.copy(self)
        other.model, other.borrowed, other.tiles, other.encoded = model, True, {}, 0
        other.whole_pixels, other.whole_levels = None, None
        return other

    @property
    def bytes(self) -> int:
        """Memory in use."""
        tensors = [*([] if self.borrowed else [self.values]), *([] if self.whole_pixels is None else [self.whole_pixels])]
        if self.whole_levels is not None:
            tensors += [self.whole_levels.queries, self.whole_levels.image]
        return sum(t.bytes for t in self.tiles.values()) + sum(t.numel() * t.element_size() for t in tensors)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Field of view read (D, H, W)."""
        spacing = self.frame.spacing_mm
        d, h, w = self.values.shape
        return d * spacing, h * spacing, w * spacing

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Tiles of ``indices`` that are not encoded yet."""
        return [i for i in indices if i not in self.tiles]

    def encode(self, indices: Iterable[int], step: Callable[[int], None] | None = None, cancel: Cancel | None = None) -> None:
        """Encode tiles; ``step(n)`` after n more are done, ``cancel`` is asked before each batch and each layer.

        A batch always holds ``BATCH`` tiles (the last is filled up with a copy), so a tile's result does not depend on which
        others were asked for with it.
        """
        todo = self.missing(indices)
        for first in range(0, len(todo), BATCH):
            if cancel is not None and cancel():
                raise Cancelled
            chosen = todo[first : first + BATCH]
            batch = torch.stack([self.cut(i) for i in (chosen * BATCH)[:BATCH]]).to(self.device)
            with asked_at_each_layer(self.model, cancel):
                self._encode_batch(chosen, batch)
            if step is not None:
                step(len(chosen))

    def _encode_batch(self, chosen: list[int], batch: Tensor) -> None:
        encoded = self._forward(batch)
        if encoded is None:
            logger.warning("Out of memory on %s with %d tiles at once; going on with one at a time.", self.device, len(batch))
            empty_cache(self.device)
            for row, index in enumerate(chosen):
                self._encode_batch([index], batch[row : row + 1])
            return
        features, pixels = encoded
        with torch.inference_mode():
            for row, index in enumerate(chosen):
                levels = self.model.cache_levels(features, row)
                joined = self.model.cross_attention.join(levels)
                if pixels is None:
                    self.tiles[index] = TileCache(joined, levels, None, batch[row].clone())
                else:
                    self.tiles[index] = TileCache(joined, [], pixels[row].clone(), None)
                self.encoded += 1

    def _forward(self, batch: Tensor) -> tuple[ImageFeatures, Tensor | None] | None:
        """The network's answer; None where memory runs out with several tiles. With it goes the error, whose frames hold the failed pass's activations."""
        domain = torch.full((len(batch),), self.config.domain(self.grid.name, self.coarse), device=self.device)
        try:
            with torch.inference_mode():
                return self.model.encode_image(batch, domain)
        except (MemoryError, RuntimeError) as error:
            if len(batch) == 1 or not is_shortage(error):
                raise
        return None

    def cut(self, index: int) -> Tensor:
        """Channels (C, D, H, W) of a tile, -1 outside the volume."""
        start, tile, pad = self.layout.starts[index], self.layout.tile_dhw, self.layout.pad
        low = [s - p for s, p in zip(start, pad, strict=True)]
        inside = [slice(max(0, lo), min(n, lo + t)) for lo, t, n in zip(low, tile, self.values.shape, strict=True)]
        channels = apply_windows(self.values[inside[0], inside[1], inside[2]], self.windows)
        out = channels.new_full((channels.shape[0], *tile), -1.0)
        at = [slice(s.start - lo, s.start - lo + channels.shape[a + 1]) for a, (s, lo) in enumerate(zip(inside, low, strict=True))]
        out[:, at[0], at[1], at[2]] = channels
        return out

    def padded_box(self, box: Box) -> Box:
        """A box of ``values`` in padded coordinates, grown to even voxels (pixels have stride 2)."""
        grown = []
        for axis in range(3):
            low, high = box[2 * axis] + self.layout.pad[axis], box[2 * axis + 1] + self.layout.pad[axis]
            grown += [low // 2 * 2, min(self.layout.shape_dhw[axis], -(-high // 2) * 2)]
        return grown[0], grown[1], grown[2], grown[3], grown[4], grown[5]

    def in_view(self, box: Box) -> Box:
        """A box of the plain image in the voxels of this view (an involution)."""
        if not self.mirrored:
            return box
        width = self.values.shape[2]
        return box[0], box[1], box[2], box[3], width - box[5], width - box[4]

    def whole_box(self) -> Box:
        """All of ``values``."""
        d, h, w = self.values.shape
        return 0, d, 0, h, 0, w

    def joined_levels(self, indices: list[int]) -> LevelCache:
        """Image halves of all tokens of some tiles. Those of a look at everything are kept: every prompt begins with one."""
        whole = self.coarse and len(indices) == len(self.layout.starts)
        if whole and self.whole_levels is not None:
            return self.whole_levels
        parts = [self.tiles[i].joined for i in indices]
        joined = LevelCache(torch.cat([p.queries for p in parts], 2), torch.cat([p.image for p in parts]))
        if whole:
            self.whole_levels = joined
        return joined


@contextmanager
def asked_at_each_layer(model: RefSAM3D, cancel: Cancel | None) -> Iterator[None]:
    """Ask ``cancel`` before every layer of the image branch: on a CPU, a pair of ViT-B tiles takes five seconds."""

    def ask(*_: object) -> None:
        if cancel is not None and cancel():
            raise Cancelled

    layers = [m for part in (model.image_encoder, model.pixel_path) if part is not None for m in part.modules() if isinstance(m, LAYERS)]
    handles = [layer.register_forward_pre_hook(ask) for layer in layers] if cancel is not None else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
