"""The composed model: image branch, text branch, hierarchical cross-attention, decoder (Gao and Lu, Fig. 1A)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cross_attention import HierarchicalCrossAttention, LevelCache, WordCache
from .image_encoder import ImageEncoder3D, ImageFeatures
from .mask_decoder import MaskEmbedding, PixelPath, multiply_mask, upsample_linear
from .paper_decoder import PaperDecoder
from .presence import PromptReader, PromptReading
from .projector import CrossModalProjector
from .text_encoder import TextEncoder


@dataclass
class PromptFeatures:
    """The sparse prompt: words (P, L, T), their mask (P, L), sentence (P, T). The sentence is also the last word.

    cache: the words' half of the cross-attention, where :meth:`RefSAM3D.cache_words` has read it.
    """

    words: Tensor
    mask: Tensor
    sentence: Tensor
    cache: WordCache | None = None

    def select(self, index: slice) -> PromptFeatures:
        """Some of the prompts."""
        cache = self.cache and WordCache(self.cache.keys[index], self.cache.folded[index])
        return PromptFeatures(self.words[index], self.mask[index], self.sentence[index], cache)

    @staticmethod
    def stack(prompts: Sequence[PromptFeatures]) -> PromptFeatures:
        """Several prompts as one, padded to the longest; the caches are kept where all have one."""
        length = max(p.words.shape[1] for p in prompts)

        def joined(parts: Sequence[Tensor]) -> Tensor:
            """(P, ..., L, width), the words padded with zeros: masked, they add exactly nothing."""
            return torch.cat([F.pad(x, (0, 0, 0, length - x.shape[-2])) for x in parts])

        caches = [p.cache for p in prompts if p.cache is not None]
        cache = WordCache(joined([c.keys for c in caches]), joined([c.folded for c in caches])) if len(caches) == len(prompts) else None
        mask = torch.cat([F.pad(p.mask, (0, length - p.mask.shape[1])) for p in prompts])
        return PromptFeatures(joined([p.words for p in prompts]), mask, torch.cat([p.sentence for p in prompts]), cache)


@dataclass
class TileOutput:
    """Logits of the prompts on one tile: mask (P, D, H, W), presence (P,), coarse (P, d, h, w)."""

    mask: Tensor
    presence: Tensor
    coarse: Tensor

    def first(self, count: int) -> TileOutput:
        """Of the first prompts alone."""
        return TileOutput(self.mask[:count], self.presence[:count], self.coarse[:count])


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

    def cache_words(self, prompt: PromptFeatures) -> PromptFeatures:
        """The same prompt with the words' half of the cross-attention, which every reading of any image takes."""
        return dataclasses.replace(prompt, cache=self.cross_attention.cache_words(prompt.words))

    def read(self, caches: list[LevelCache], prompt: PromptFeatures) -> tuple[list[Tensor], PromptReading]:
        """Cross-attention and reading over any set of cached tokens."""
        fused = self.cross_attention(caches, prompt.words, prompt.mask)
        return fused, self.reader(fused, prompt.sentence)

    def read_joined(self, joined: LevelCache, prompt: PromptFeatures) -> PromptReading:
        """:meth:`read` from the joined caches of all levels, where the maps of single levels are not asked for (a third of the time)."""
        words = prompt.cache or self.cross_attention.cache_words(prompt.words)
        return self.reader([self.cross_attention.total(joined, words, prompt.mask)], prompt.sentence)

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
