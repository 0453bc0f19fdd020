"""From encoded tiles and one prompt to mask logits in a box of the working grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..modeling.mask_decoder import multiply_mask
from ..modeling.refsam3d import PromptFeatures
from .blending import Blending
from .embed import GridEmbedding
from .preprocess import Box


@dataclass
class Decoded:
    """logits (P, d, h, w) over ``box`` (voxels of ``GridEmbedding.values``), presence logits (P,)."""

    logits: Tensor
    box: Box
    presence: Tensor


def decode(embedding: GridEmbedding, indices: list[int], prompt: PromptFeatures, box: Box) -> Decoded:
    """Masks of all prompts from the given encoded tiles, over ``box``.

    The prompt reads the tokens of all tiles at once; pixel features are blended before they meet the mask embedding, which
    equals blending logits (the product is linear) at the cost of one product per prompt.
    """
    with torch.inference_mode():
        if embedding.model.paper_decoder is not None:
            return _decode_paper(embedding, indices, prompt, box)
        return _decode_cached(embedding, indices, prompt, box)


def decode_views(views: Sequence[GridEmbedding], prompts: Sequence[PromptFeatures], box: Box) -> Decoded:
    """Mean over the views of an image (plain, mirrored), each asked with its own wording; ``box`` is of the plain image."""
    logits, presence = [], []
    for view, prompt in zip(views, prompts, strict=True):
        own = view.in_view(box)
        decoded = decode(view, tiles_for(view, own), prompt, own)
        logits.append(decoded.logits.flip(3) if view.mirrored else decoded.logits)
        presence.append(decoded.presence)
    with torch.inference_mode():
        total = logits[0]
        for other in logits[1:]:
            total += other
        return Decoded(total.div_(len(views)), box, torch.stack(presence).mean(0))


def _decode_cached(embedding: GridEmbedding, indices: list[int], prompt: PromptFeatures, box: Box) -> Decoded:
    model = embedding.model
    reading = model.read_joined(embedding.joined_levels(indices), prompt)
    assert model.mask_embedding is not None
    vectors, bias = model.mask_embedding(prompt.sentence, reading.context)
    padded = embedding.padded_box(box)
    blending = Blending(embedding.layout, indices, padded)
    logits = multiply_mask(vectors, None, _blended_pixels(embedding, indices, blending))
    # Weights add up to one, and so do those of the up-sampling: a constant may as well be added to the tokens, of which there are few.
    blending.add_tokens(logits, reading.coarse + bias[:, None], embedding.patch)
    return _crop(embedding, logits, padded, box, reading.presence)


def _blended_pixels(embedding: GridEmbedding, indices: list[int], blending: Blending) -> Tensor:
    """Pixel features over a padded box. Those of a look at everything are kept: each prompt begins with one, and no prompt changes them."""
    whole = embedding.coarse and blending.box == embedding.padded_box(embedding.whole_box())
    if whole and embedding.whole_pixels is not None:
        return embedding.whole_pixels
    pixels = blending.mean([embedding.tiles[i].pixels for i in indices], 2)  # type: ignore[misc]
    if whole:
        embedding.whole_pixels = pixels
    return pixels


def _decode_paper(embedding: GridEmbedding, indices: list[int], prompt: PromptFeatures, box: Box) -> Decoded:
    model, patch = embedding.model, embedding.patch
    assert model.paper_decoder is not None
    reading = model.read_joined(embedding.joined_levels(indices), prompt)
    padded = embedding.padded_box(box)
    blending = Blending(embedding.layout, indices, padded)
    grid = tuple(n // patch for n in embedding.layout.tile_dhw)
    per_prompt = []
    for p in range(len(prompt.sentence)):
        one = prompt.select(slice(p, p + 1))
        tiles: list[Tensor] = []
        for index in indices:
            tile = embedding.tiles[index]
            fused = model.cross_attention(tile.levels, one.words, one.mask)
            maps = [f.transpose(1, 2).unflatten(2, grid) for f in fused]
            assert tile.volume is not None
            tiles.append(model.paper_decoder(maps, one.sentence, one.words, one.mask, tile.volume))
        per_prompt.append(blending.mean(tiles, 1)[0])
    return _crop(embedding, torch.stack(per_prompt), padded, box, reading.presence)


def _crop(embedding: GridEmbedding, logits: Tensor, padded: Box, box: Box, presence: Tensor) -> Decoded:
    cut = [slice(box[2 * a] + embedding.layout.pad[a] - padded[2 * a], box[2 * a + 1] + embedding.layout.pad[a] - padded[2 * a]) for a in range(3)]
    return Decoded(logits[:, cut[0], cut[1], cut[2]].float().cpu(), box, presence.float().cpu())


def tiles_for(embedding: GridEmbedding, box: Box) -> list[int]:
    """Tiles whose core meets a box: cores part the volume, so each voxel of the box lies well inside some chosen tile."""
    layout = embedding.layout
    padded = [box[2 * a + s] + layout.pad[a] for a in range(3) for s in (0, 1)]
    axes = []
    for a in range(3):
        starts = sorted({s[a] for s in layout.starts})
        edges = [0, *((p + layout.tile_dhw[a] + n) / 2 for p, n in pairwise(starts)), layout.shape_dhw[a]]
        axes.append({s for s, lo, hi in zip(starts, edges, edges[1:], strict=False) if lo < padded[2 * a + 1] and hi > padded[2 * a]})
    return [i for i, s in enumerate(layout.starts) if all(s[a] in axes[a] for a in range(3))]
