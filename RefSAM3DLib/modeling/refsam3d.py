"""The composed model: image branch, text branch, hierarchical cross-attention, decoder (Gao and Lu, Fig. 1A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cross_attention import HierarchicalCrossAttention, LevelCache
from .image_encoder import ImageEncoder3D, ImageFeatures
from .mask_decoder import MaskEmbedding, PixelPath, multiply_mask, upsample_linear
from .paper_decoder import PaperDecoder
from .presence import PromptReader, PromptReading
from .projector import CrossModalProjector
from .text_encoder import TextEncoder


@dataclass
class PromptFeatures:
    """The sparse prompt: words (P, L, T), their mask (P, L), sentence (P, T). The sentence is also the last word."""

    words: Tensor
    mask: Tensor
    sentence: Tensor

    def select(self, index: slice) -> PromptFeatures:
        """Some of the prompts."""
        return PromptFeatures(self.words[index], self.mask[index], self.sentence[index])


@dataclass
class TileOutput:
    """Logits of the prompts on one tile: mask (P, D, H, W), presence (P,), coarse (P, d, h, w)."""

    mask: Tensor
    presence: Tensor
    coarse: Tensor


class RefSAM3D(nn.Module):
    """Compose the parts; hold no sizes. Encoding never sees a prompt: that is what makes the next prompt cheap.

    Exactly one of ``pixel_path`` + ``mask_embedding`` (``cached``) and ``paper_decoder`` (``paper``) is given.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder3D,
        text_encoder: TextEncoder,
        projector: CrossModalProjector,
        cross_attention: HierarchicalCrossAttention,
        reader: PromptReader,
        pixel_path: PixelPath | None,
        mask_embedding: MaskEmbedding | None,
        paper_decoder: PaperDecoder | None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.projector = projector
        self.cross_attention = cross_attention
        self.reader = reader
        self.pixel_path = pixel_path
        self.mask_embedding = mask_embedding
        self.paper_decoder = paper_decoder

    def encode_image(self, volume: Tensor, domain: Tensor) -> tuple[ImageFeatures, Tensor | None]:
        """Tiles (B, C_in, D, H, W) -> features and, for the cached decoder, pixels (B, M, D/2, H/2, W/2)."""
        features = self.image_encoder(volume, domain)
        return features, self.pixel_path(features) if self.pixel_path is not None else None

    def cache_levels(self, features: ImageFeatures, index: int) -> list[LevelCache]:
        """Prompt-free halves of the cross-attention for one tile of a batch."""
        return self.cross_attention.cache([level[index].flatten(1).T for level in features.levels])

    def encode_text(self, token_ids: Tensor) -> PromptFeatures:
        """Token ids (P, L) -> sparse prompt."""
        text = self.text_encoder(token_ids)
        sentence = self.projector(text.sentence)
        words = torch.cat([self.projector(text.words), sentence[:, None]], dim=1)
        mask = torch.cat([text.mask, text.mask.new_ones(len(sentence), 1)], dim=1)
        return PromptFeatures(words, mask, sentence)

    def read(self, caches: list[LevelCache], prompt: PromptFeatures) -> tuple[list[Tensor], PromptReading]:
        """Cross-attention and reading over any set of cached tokens."""
        fused = self.cross_attention(caches, prompt.words, prompt.mask)
        return fused, self.reader(fused, prompt.sentence)

    def read_joined(self, joined: LevelCache, prompt: PromptFeatures) -> PromptReading:
        """:meth:`read` from the joined caches of all levels, where the maps of single levels are not asked for (a third of the time)."""
        return self.reader([self.cross_attention.total(joined, prompt.words, prompt.mask)], prompt.sentence)

    def forward_tile(self, features: ImageFeatures, pixels: Tensor | None, index: int, prompt: PromptFeatures) -> TileOutput:
        """All prompts on tile ``index`` of an encoded batch."""
        grid = features.levels[0].shape[2:]
        fused, reading = self.read(self.cache_levels(features, index), prompt)
        coarse = reading.coarse.unflatten(1, grid)
        if self.paper_decoder is not None:
            maps = [f.transpose(1, 2).unflatten(2, grid) for f in fused]
            mask = self.paper_decoder(maps, prompt.sentence, prompt.words, prompt.mask, features.volume[index])
        else:
            assert pixels is not None
            assert self.mask_embedding is not None
            embedding, bias = self.mask_embedding(prompt.sentence, reading.context)
            mask = multiply_mask(embedding, bias, pixels[index])
            mask = mask + upsample_linear(coarse.to(mask.dtype), self.image_encoder.patch_size)
        return TileOutput(mask, reading.presence, coarse)
