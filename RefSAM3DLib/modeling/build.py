"""Build a network from its configuration: the only file that turns sizes into modules."""

from __future__ import annotations

from ..config import ModelConfig
from .cross_attention import HierarchicalCrossAttention
from .image_encoder import LEVELS, ImageEncoder3D
from .mask_decoder import MaskEmbedding, PixelPath
from .paper_decoder import PaperDecoder
from .presence import PromptReader
from .projector import CrossModalProjector
from .refsam3d import RefSAM3D
from .text_encoder import TextEncoder


def build_model(config: ModelConfig) -> RefSAM3D:
    """Network with random weights; set the seed before for reproducible ones."""
    image, prompt, decoder = config.image, config.prompt, config.decoder
    encoder = ImageEncoder3D(image, config.domains)
    text = TextEncoder(config.text)
    pixel_path = mask_embedding = paper_decoder = None
    if decoder.kind == "cached":
        skips = encoder.stem.widths if encoder.stem is not None else []
        pixel_path = PixelPath(
            image.level_dim, image.patch_size, decoder.channels, decoder.pixel_dim, skips, image.in_channels, decoder.detail_channels,
            decoder.detail_reads_voxels, decoder.detail_residual,
        )
        mask_embedding = MaskEmbedding(prompt.prompt_dim, prompt.fused_dim, decoder.pixel_dim)
    else:
        paper_decoder = PaperDecoder(
            prompt.fused_dim, prompt.prompt_dim, image.patch_size, decoder.channels, image.in_channels, decoder.two_way_depth
        )
    return RefSAM3D(
        image_encoder=encoder,
        text_encoder=text,
        projector=CrossModalProjector(text.output_dim, prompt.prompt_dim),
        cross_attention=HierarchicalCrossAttention(
            LEVELS, image.level_dim, prompt.prompt_dim, prompt.attention_dim, prompt.attention_heads, prompt.fused_dim
        ),
        reader=PromptReader(prompt.fused_dim, prompt.prompt_dim),
        pixel_path=pixel_path,
        mask_embedding=mask_embedding,
        paper_decoder=paper_decoder,
    )
