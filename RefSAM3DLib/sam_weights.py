"""Inflate a published SAM checkpoint (ViT-B, ViT-L or ViT-H) into the 3D network.

Kirillov et al., "Segment Anything", names as in segment-anything. The image encoder's blocks are taken one to one; what knows of
the image plane gets a depth that changes nothing at the start (3DSAM-adapter's idea): a volume that is constant along depth gives
the tokens that SAM gives one slice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .config import ModelConfig
from .errors import CheckpointError
from .foreign_weights import InflationReport, assign, read_foreign_state

if TYPE_CHECKING:
    from torch import Tensor

    from .modeling.refsam3d import RefSAM3D

_HINT = "SAM's published file again (sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth or sam_vit_h_4b8939.pth)"
#: (width, blocks) of the published encoders: name for people, and our configuration of that size.
_PUBLISHED = {(768, 12): ("SAM ViT-B", "vit_b"), (1024, 24): ("SAM ViT-L", "vit_l"), (1280, 32): ("SAM ViT-H", "vit_h")}
#: Parameters of a block that SAM and this network share by name and meaning.
_SHARED = tuple(f"{part}.{kind}" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.lin1", "mlp.lin2") for kind in ("weight", "bias"))
_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")


@dataclass
class _Plan:
    """values: our name to tensor. taken: file names that went in unchanged. inflated: file name and how."""

    values: dict[str, Tensor]
    used: list[str]
    inflated: list[tuple[str, str]]

    def take(self, name: str, ours: str, value: Tensor, how: str = "") -> None:
        """``how`` names the change; empty where there is none."""
        self.values[ours] = value
        if how:
            self.inflated.append((name, how))
        else:
            self.used.append(name)


def load_sam(model: RefSAM3D, config: ModelConfig, path: Path | str) -> InflationReport:
    """Put a published SAM checkpoint into a model, and tell what became of each tensor.

    The neck is two-dimensional and trained anew (method: "trained from scratch"); adapters, levels and text keep their initial values.

    Raises:
        CheckpointError: missing, damaged, not SAM's, or of another size than the configuration. The model is unchanged then.
    """
    state = {name: value.float() for name, value in read_foreign_state(path, _HINT).items() if value.is_floating_point()}
    _check_size(state, config, path)
    plan = _Plan({}, [], [])
    _plan_encoder(plan, state, model, config, path)
    notes = _plan_decoder(plan, state, model)
    ours = model.state_dict()
    for name, value in plan.values.items():
        if ours[name].shape != value.shape:
            raise CheckpointError(
                f"In '{path}', what becomes '{name}' has shape {tuple(value.shape)}, the configuration '{config.name}' has "
                f"{tuple(ours[name].shape)}; choose the configuration of that size (--config)."
            )
    assign(model, plan.values)
    done = {*plan.used, *(name for name, _ in plan.inflated)}
    return InflationReport(
        title=f"SAM weights from {path}",
        used=plan.used,
        inflated=plan.inflated,
        left_over=[name for name in state if name not in done],
        missing=[name for name in ours if name not in plan.values and not name.startswith("text_encoder.")],
        notes=["The neck is two-dimensional in SAM and is trained from scratch in 3D.", *notes],
    )


def _check_size(state: Mapping[str, Tensor], config: ModelConfig, path: Path | str) -> None:
    kernel = state.get("image_encoder.patch_embed.proj.weight")
    if kernel is None:
        first = next(iter(state), "none")
        raise CheckpointError(f"'{path}' has none of SAM's image encoder (its first name is '{first}'); get {_HINT}.")
    blocks = {int(found[1]) for name in state if (found := _BLOCK.match(name))}
    width, depth = kernel.shape[0], len(blocks)
    image = config.image
    if (width, depth) != (image.dim, image.depth):
        title, fitting = _PUBLISHED.get((width, depth), ("a SAM of another size", ""))
        step = f"use --config {fitting}" if fitting else f"give a configuration with dim {width} and depth {depth}"
        raise CheckpointError(
            f"'{path}' is {title} (width {width}, {depth} blocks), but the configuration '{config.name}' has width {image.dim} and "
            f"{image.depth} blocks; {step}."
        )
    table = state.get("image_encoder.blocks.0.attn.rel_pos_h")
    if table is not None and table.shape[1] * image.num_heads != image.dim:
        raise CheckpointError(
            f"'{path}' has attention heads of width {table.shape[1]}, so {width // table.shape[1]} of them, but the configuration "
            f"'{config.name}' has {image.num_heads}; set num_heads to {width // table.shape[1]}."
        )


def _plan_encoder(plan: _Plan, state: Mapping[str, Tensor], model: RefSAM3D, config: ModelConfig, path: Path | str) -> None:
    encoder, ours = model.image_encoder, model.state_dict()

    def need(name: str) -> Tensor:
        if name not in state:
            raise CheckpointError(f"'{path}' lacks '{name}', so it is no complete SAM checkpoint; get {_HINT}.")
        return state[name]

    name = "image_encoder.patch_embed.proj.weight"
    kernel = need(name)
    resized = spread_channels(resize_kernel(kernel, encoder.patch_size), config.image.in_channels)
    how = "depth profile 1/k" if resized.shape == kernel.shape else f"{tuple(kernel.shape[1:])} to {tuple(resized.shape[1:])}, depth profile 1/k"
    plan.take(name, "image_encoder.patch_embed.plane", resized[:, :, None], how)
    plan.take("image_encoder.patch_embed.proj.bias", "image_encoder.patch_embed.bias", need("image_encoder.patch_embed.proj.bias"))

    plane = need("image_encoder.pos_embed")[0].permute(2, 0, 1)  # (1, H0, W0, C) -> (C, H0, W0)
    grid = tuple(ours["image_encoder.pos_embed.plane"].shape[1:])
    how = "depth table zero" if plane.shape[1:] == grid else f"{tuple(plane.shape[1:])} to {grid}, depth table zero"
    plan.take("image_encoder.pos_embed", "image_encoder.pos_embed.plane", resize_plane(plane, (grid[0], grid[1])), how)

    rows = 2 * config.image.window_size - 1
    for block in range(config.image.depth):
        prefix = f"image_encoder.blocks.{block}."
        for part in _SHARED:
            plan.take(prefix + part, prefix + part, need(prefix + part))
        tables = {}
        for axis in ("h", "w"):
            name = f"{prefix}attn.rel_pos_{axis}"
            table = need(name)
            tables[axis] = resize_rows(table, rows)
            plan.take(name, name, tables[axis], "also half of rel_pos_d" if len(table) == rows else f"{len(table)} to {rows} rows, also half of rel_pos_d")
        plan.values[f"{prefix}attn.rel_pos_d"] = (tables["h"] + tables["w"]) / 2


def _plan_decoder(plan: _Plan, state: Mapping[str, Tensor], model: RefSAM3D) -> list[str]:
    """SAM's two-way transformer and what fits of its up-sampling, where the model has the paper's decoder."""
    if model.paper_decoder is None:
        return ["The configuration's decoder is 'cached': SAM's mask decoder and prompt encoder have no place in it."]
    ours = model.state_dict()

    def offer(name: str, target: str, change: Callable[[Tensor], Tensor] = lambda value: value, how: str = "") -> None:
        if name in state and target in ours:
            value = change(state[name])
            if value.shape == ours[target].shape:
                plan.take(name, target, value, how)

    for name in state:
        if name.startswith("mask_decoder.transformer."):
            offer(name, name.replace("mask_decoder.", "paper_decoder."))
    offer("mask_decoder.mask_tokens.weight", "paper_decoder.mask_token", lambda tokens: tokens[:1], "the single-mask token of four")
    for layer, ups in (("0", "0"), ("3", "1")):
        source, target = f"mask_decoder.output_upscaling.{layer}.", f"paper_decoder.ups.{ups}."
        # Stride and kernel are 2: each output voxel has one tap, so repeating the kernel repeats SAM's output along depth.
        offer(source + "weight", target + "weight", lambda kernel: kernel[:, :, None].repeat(1, 1, 2, 1, 1), "repeated along depth")
        if target + "weight" in plan.values:
            offer(source + "bias", target + "bias")
    for kind in ("weight", "bias"):
        offer(f"mask_decoder.output_upscaling.1.{kind}", f"paper_decoder.norms.0.{kind}")
    matrix = "positional_encoding_gaussian_matrix"
    offer(f"prompt_encoder.pe_layer.{matrix}", f"paper_decoder.position.{matrix}", _add_depth_row, "a depth row of zeros")
    return []


def _add_depth_row(matrix: Tensor) -> Tensor:
    """(2, F) for x and y -> (3, F)."""
    import torch

    return torch.cat([matrix, torch.zeros_like(matrix[:1])])


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """(C, C_in, k, k) -> (C, C_in, size, size) with the same answer to the same picture at another resolution.

    Smaller: taps are summed, which is the large kernel on an enlarged picture. Larger: taps are repeated and divided, which is the
    small kernel on an averaged picture. Sizes divide each other (powers of two).
    """
    import torch.nn.functional as F

    own = kernel.shape[-1]
    if size == own:
        return kernel
    if size < own:
        factor = own // size
        return F.avg_pool2d(kernel, factor) * factor**2
    factor = size // own
    return kernel.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2


def spread_channels(kernel: Tensor, channels: int) -> Tensor:
    """(C, 3, k, k) -> (C, channels, k, k); the response to a grey picture is kept."""
    if kernel.shape[1] == channels:
        return kernel
    return (kernel.sum(1, keepdim=True) / channels).repeat(1, channels, 1, 1)


def resize_plane(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """(C, H, W) position table to another extent, as :class:`~.modeling.position.PositionEmbed3D` reads it."""
    import torch.nn.functional as F

    if tuple(table.shape[1:]) == grid:
        return table
    return F.interpolate(table[None], size=grid, mode="bilinear", align_corners=False)[0]


def resize_rows(table: Tensor, rows: int) -> Tensor:
    """(R, c) relative positions to another number of offsets, linear, SAM's own rule (``get_rel_pos``)."""
    import torch.nn.functional as F

    if len(table) == rows:
        return table
    return F.interpolate(table.T[None], size=rows, mode="linear", align_corners=False)[0].T
