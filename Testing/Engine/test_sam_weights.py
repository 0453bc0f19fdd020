"""SAM's published layout, made by the tests, becomes a 3D network that sees one slice as SAM sees it."""

from __future__ import annotations

import dataclasses
import pickle
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from RefSAM3DLib.config import DecoderConfig, ImageEncoderConfig, ModelConfig, PromptConfig, TextEncoderConfig
from RefSAM3DLib.errors import CheckpointError
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.resources import resource_path
from RefSAM3DLib.sam_weights import load_sam, resize_kernel

DIM, DEPTH, HEADS, WINDOW, PROMPT = 48, 4, 2, 14, 64
GLOBAL_BLOCKS = (1, 3)


@lru_cache(maxsize=1)
def sam_state(dim: int = DIM, depth: int = DEPTH, heads: int = HEADS, side: int = 64, prompt: int = PROMPT) -> dict[str, Tensor]:
    """A random state dict in the key layout and shapes of ``sam_vit_*.pth``; widths are free, all the rest is as published."""
    torch.manual_seed(7)
    r = torch.randn
    state = {"image_encoder.pos_embed": r(1, side, side, dim)}
    state |= {"image_encoder.patch_embed.proj.weight": r(dim, 3, 16, 16), "image_encoder.patch_embed.proj.bias": r(dim)}
    for n in range(depth):
        rows = 2 * side - 1 if n in GLOBAL_BLOCKS else 2 * WINDOW - 1
        block = {"norm1.weight": r(dim), "norm1.bias": r(dim), "attn.rel_pos_h": r(rows, dim // heads), "attn.rel_pos_w": r(rows, dim // heads)}
        block |= {"attn.qkv.weight": r(3 * dim, dim) / dim**0.5, "attn.qkv.bias": r(3 * dim), "attn.proj.weight": r(dim, dim), "attn.proj.bias": r(dim)}
        block |= {"norm2.weight": r(dim), "norm2.bias": r(dim), "mlp.lin1.weight": r(4 * dim, dim), "mlp.lin1.bias": r(4 * dim)}
        block |= {"mlp.lin2.weight": r(dim, 4 * dim), "mlp.lin2.bias": r(dim)}
        state |= {f"image_encoder.blocks.{n}.{name}": value for name, value in block.items()}
    state |= {"image_encoder.neck.0.weight": r(prompt, dim, 1, 1), "image_encoder.neck.1.weight": r(prompt), "image_encoder.neck.1.bias": r(prompt)}
    state |= {"image_encoder.neck.2.weight": r(prompt, prompt, 3, 3), "image_encoder.neck.3.weight": r(prompt), "image_encoder.neck.3.bias": r(prompt)}
    state |= {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": r(2, prompt // 2), "prompt_encoder.no_mask_embed.weight": r(1, prompt)}
    state |= {f"prompt_encoder.point_embeddings.{n}.weight": r(1, prompt) for n in range(4)}
    for layer in range(2):
        base = f"mask_decoder.transformer.layers.{layer}."
        for attention, inner in (("self_attn", prompt), ("cross_attn_token_to_image", prompt // 2), ("cross_attn_image_to_token", prompt // 2)):
            state |= attention_state(base + attention, prompt, inner)
        state |= {f"{base}mlp.lin1.weight": r(8 * prompt, prompt), f"{base}mlp.lin1.bias": r(8 * prompt)}
        state |= {f"{base}mlp.lin2.weight": r(prompt, 8 * prompt), f"{base}mlp.lin2.bias": r(prompt)}
        state |= {f"{base}norm{n}.{kind}": r(prompt) for n in range(1, 5) for kind in ("weight", "bias")}
    state |= attention_state("mask_decoder.transformer.final_attn_token_to_image", prompt, prompt // 2)
    state |= {f"mask_decoder.transformer.norm_final_attn.{kind}": r(prompt) for kind in ("weight", "bias")}
    state |= {"mask_decoder.iou_token.weight": r(1, prompt), "mask_decoder.mask_tokens.weight": r(4, prompt)}
    state |= {"mask_decoder.output_upscaling.0.weight": r(prompt, prompt // 4, 2, 2), "mask_decoder.output_upscaling.0.bias": r(prompt // 4)}
    state |= {"mask_decoder.output_upscaling.1.weight": r(prompt // 4), "mask_decoder.output_upscaling.1.bias": r(prompt // 4)}
    state |= {"mask_decoder.output_upscaling.3.weight": r(prompt // 4, prompt // 8, 2, 2), "mask_decoder.output_upscaling.3.bias": r(prompt // 8)}
    state |= {"mask_decoder.iou_prediction_head.layers.0.weight": r(8, prompt)}
    return state


def attention_state(prefix: str, dim: int, inner: int) -> dict[str, Tensor]:
    r = torch.randn
    state = {f"{prefix}.{p}_proj.weight": r(inner, dim) / 16 for p in "qkv"} | {f"{prefix}.{p}_proj.bias": r(inner) for p in "qkv"}
    return state | {f"{prefix}.out_proj.weight": r(dim, inner) / 16, f"{prefix}.out_proj.bias": r(dim)}


def tiny_config(patch: int = 16, decoder: str = "cached", grid: tuple[int, int, int] = (2, 64, 64), channels: int = 3) -> ModelConfig:
    image = ImageEncoderConfig(
        in_channels=channels, patch_size=patch, dim=DIM, depth=DEPTH, num_heads=HEADS, window_size=8, position_grid=grid, stem_channels=0, level_dim=16
    )
    text = TextEncoderConfig(width=16, heads=2, layers=1, vocab_size=8)
    prompt = PromptConfig(prompt_dim=32, attention_heads=2, attention_dim=16, fused_dim=PROMPT if decoder == "paper" else 16)
    return ModelConfig("tiny-sam", image, text, prompt, DecoderConfig(decoder, channels=4, pixel_dim=4))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam_vit_tiny.pth"
    torch.save(sam_state(), path)
    return path


@lru_cache
def loaded(path: Path, config: ModelConfig):
    torch.manual_seed(1)
    model = build_model(config).eval().requires_grad_(False)
    return model, load_sam(model, config, path)


def test_report_names_every_tensor_of_the_file_once_and_every_untouched_one_of_ours(published: Path) -> None:
    model, report = loaded(published, tiny_config(decoder="paper"))
    inflated = [name for name, _ in report.inflated]
    assert sorted([*report.used, *inflated, *report.left_over]) == sorted(sam_state())
    assert all("neck" in n or "iou" in n or n.startswith("prompt_encoder.") or "pe_layer" in n for n in report.left_over)
    assert "image_encoder.blocks.0.attn.qkv.weight" in report.used
    assert "image_encoder.pos_embed" in inflated
    assert "mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.bias" in report.used
    assert {"image_encoder.patch_embed.depth", "image_encoder.blocks.0.adapter.up.weight", "image_encoder.necks.0.0.weight"} <= set(report.missing)
    table = report.table()
    assert "image_encoder.blocks.*.attn.qkv.weight  x4" in table
    assert "left over (in the file, not used)" in table
    fresh = build_model(tiny_config(decoder="paper")).state_dict()
    moved = {n for n, v in model.state_dict().items() if v.shape == fresh[n].shape and n not in report.missing and not n.startswith("text_encoder.")}
    assert moved == {n for n in fresh if n not in report.missing and not n.startswith("text_encoder.")}


@pytest.mark.parametrize("patch", [8, 16, 32])
def test_volume_constant_along_depth_gives_the_tokens_of_the_2d_convolution(published: Path, patch: int) -> None:
    model, _ = loaded(published, tiny_config(patch))
    state = sam_state()
    picture = torch.randn(1, 3, 4 * 16, 4 * 16)
    expected = F.conv2d(picture, state["image_encoder.patch_embed.proj.weight"], state["image_encoder.patch_embed.proj.bias"], stride=16)
    factor = patch / 16
    # The same picture at the resolution of our patch: pixels averaged where ours are larger, repeated where they are smaller.
    seen = picture if factor == 1 else F.interpolate(picture, scale_factor=factor, mode="nearest")
    if factor < 1:
        low = F.avg_pool2d(picture, int(1 / factor))
        seen = low
        enlarged = F.interpolate(low, scale_factor=1 / factor, mode="nearest")
        expected = F.conv2d(enlarged, state["image_encoder.patch_embed.proj.weight"], state["image_encoder.patch_embed.proj.bias"], stride=16)
    volume = seen[:, :, None].repeat(1, 1, 2 * patch, 1, 1)
    tokens = model.image_encoder.patch_embed(volume).unflatten(1, (2, 4, 4))
    for slab in range(2):
        torch.testing.assert_close(tokens[:, slab].permute(0, 3, 1, 2), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [4, 8, 32])
def test_resized_kernel_keeps_the_response_to_a_constant_picture(size: int) -> None:
    kernel = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(resize_kernel(kernel, size).sum((2, 3)), kernel.sum((2, 3)), rtol=1e-4, atol=1e-4)


def test_grey_response_is_kept_when_the_channels_are_not_three(published: Path) -> None:
    model, _ = loaded(published, tiny_config(channels=2))
    kernel = sam_state()["image_encoder.patch_embed.proj.weight"]
    torch.testing.assert_close(model.image_encoder.patch_embed.plane.sum((1, 2, 3, 4)), kernel.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_position_table_is_sams_in_every_slab(published: Path) -> None:
    model, _ = loaded(published, tiny_config())
    found = model.image_encoder.pos_embed((3, 64, 64)).unflatten(1, (3, 64, 64))
    torch.testing.assert_close(found, sam_state()["image_encoder.pos_embed"][:, None].expand(-1, 3, -1, -1, -1), rtol=0, atol=0)


def test_smaller_position_table_is_interpolated(published: Path) -> None:
    model, report = loaded(published, tiny_config(grid=(2, 16, 16)))
    table = sam_state()["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = F.interpolate(table, size=(16, 16), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(model.image_encoder.pos_embed.plane.data, expected)
    assert "(64, 64) to (16, 16)" in dict(report.inflated)["image_encoder.pos_embed"]


def sam_relative_position(size: int, table: Tensor) -> Tensor:
    """segment-anything's ``get_rel_pos`` for equal query and key sizes, written out."""
    rows = F.interpolate(table.reshape(1, table.shape[0], -1).permute(0, 2, 1), size=2 * size - 1, mode="linear").reshape(-1, 2 * size - 1).permute(1, 0)
    return rows[(torch.arange(size)[:, None] - torch.arange(size)[None, :] + size - 1).long()]


def sam_attention(state: dict[str, Tensor], block: int, x: Tensor) -> Tensor:
    """segment-anything's ``Attention.forward`` on (B, H, W, C), written out."""
    p = f"image_encoder.blocks.{block}.attn."
    b, h, w, dim = x.shape
    qkv = F.linear(x.reshape(b, h * w, dim), state[p + "qkv.weight"], state[p + "qkv.bias"]).reshape(b, h * w, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, b * HEADS, h * w, -1).unbind(0)
    attention = (q * (dim // HEADS) ** -0.5) @ k.transpose(-2, -1)
    grid = q.reshape(b * HEADS, h, w, -1)
    by_h = torch.einsum("bhwc,hkc->bhwk", grid, sam_relative_position(h, state[p + "rel_pos_h"]))
    by_w = torch.einsum("bhwc,wkc->bhwk", grid, sam_relative_position(w, state[p + "rel_pos_w"]))
    attention = (attention.view(-1, h, w, h, w) + by_h[..., None] + by_w[..., None, :]).view(-1, h * w, h * w).softmax(-1)
    out = (attention @ v).view(b, HEADS, h, w, -1).permute(0, 2, 3, 1, 4).reshape(b, h, w, -1)
    return F.linear(out, state[p + "proj.weight"], state[p + "proj.bias"])


@pytest.mark.parametrize("block", range(DEPTH))
def test_attention_over_one_slab_is_sams_own(published: Path, block: int) -> None:
    model, _ = loaded(published, tiny_config())
    x = torch.randn(2, 8, 8, DIM)
    found = model.image_encoder.blocks[block].attn(x.flatten(1, 2), (1, 8, 8)).unflatten(1, (8, 8))
    torch.testing.assert_close(found, sam_attention(sam_state(), block, x), rtol=1e-4, atol=1e-4)


def test_block_over_one_slab_is_sams_own_because_a_new_adapter_is_the_identity(published: Path) -> None:
    model, _ = loaded(published, tiny_config())
    state, p = sam_state(), "image_encoder.blocks.0."
    x = torch.randn(1, 8, 8, DIM)
    y = x + sam_attention(state, 0, F.layer_norm(x, (DIM,), state[p + "norm1.weight"], state[p + "norm1.bias"], 1e-6))
    z = F.layer_norm(y, (DIM,), state[p + "norm2.weight"], state[p + "norm2.bias"], 1e-6)
    z = F.linear(F.gelu(F.linear(z, state[p + "mlp.lin1.weight"], state[p + "mlp.lin1.bias"])), state[p + "mlp.lin2.weight"], state[p + "mlp.lin2.bias"])
    found = model.image_encoder.blocks[0](x.flatten(1, 2), (1, 8, 8)).unflatten(1, (8, 8))
    torch.testing.assert_close(found, y + z, rtol=1e-4, atol=1e-3)


def test_relative_tables_keep_the_offset_zero_and_depth_is_the_mean(published: Path) -> None:
    model, _ = loaded(published, tiny_config())
    state = sam_state()
    for n, block in enumerate(model.image_encoder.blocks):
        attn = block.attn
        assert attn.rel_pos_h.shape[0] == 15
        torch.testing.assert_close(attn.rel_pos_d.data, (attn.rel_pos_h.data + attn.rel_pos_w.data) / 2)
        table = state[f"image_encoder.blocks.{n}.attn.rel_pos_h"]
        torch.testing.assert_close(attn.rel_pos_h.data[7], table[len(table) // 2], rtol=1e-4, atol=1e-5)


def test_paper_decoder_repeats_sams_upsampling_along_depth(published: Path) -> None:
    model, _ = loaded(published, tiny_config(decoder="paper"))
    state, decoder = sam_state(), model.paper_decoder
    features = torch.randn(1, PROMPT, 3, 3)
    expected = F.conv_transpose2d(features, state["mask_decoder.output_upscaling.0.weight"], state["mask_decoder.output_upscaling.0.bias"], stride=2)
    found = decoder.ups[0](features[:, :, None])
    torch.testing.assert_close(found, expected[:, :, None].repeat(1, 1, 2, 1, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoder.mask_token.data, state["mask_decoder.mask_tokens.weight"][:1])
    torch.testing.assert_close(decoder.norms[0].weight.data, state["mask_decoder.output_upscaling.1.weight"])


def test_fourier_position_of_a_slab_is_sams_dense_position(published: Path) -> None:
    model, _ = loaded(published, tiny_config(decoder="paper"))
    matrix = sam_state()["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    h, w = 5, 6
    ones = torch.ones(h, w)
    y, x = (ones.cumsum(0) - 0.5) / h, (ones.cumsum(1) - 0.5) / w
    angle = 2 * torch.pi * ((2 * torch.stack([x, y], -1) - 1) @ matrix)
    expected = torch.cat([angle.sin(), angle.cos()], -1)
    found = model.paper_decoder.position((2, h, w)).unflatten(1, (2, h, w))
    torch.testing.assert_close(found, expected.expand(1, 2, h, w, -1), rtol=1e-4, atol=1e-4)


def sam_two_way(state: dict[str, Tensor], tokens: Tensor, image: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """segment-anything's ``TwoWayTransformer.forward`` for two layers, written out."""

    def attend(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [F.linear(t, state[f"{name}.{p}_proj.weight"], state[f"{name}.{p}_proj.bias"]) for t, p in ((q, "q"), (k, "k"), (v, "v"))]
        q, k, v = (t.unflatten(-1, (8, -1)).transpose(1, 2) for t in parts)
        out = ((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return F.linear(out, state[f"{name}.out_proj.weight"], state[f"{name}.out_proj.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    root, queries, keys = "mask_decoder.transformer.", tokens, image
    for n in range(2):
        p = f"{root}layers.{n}."
        if n == 0:
            queries = attend(p + "self_attn", queries, queries, queries)
        else:
            q = queries + tokens
            queries = queries + attend(p + "self_attn", q, q, queries)
        queries = norm(p + "norm1", queries)
        queries = norm(p + "norm2", queries + attend(p + "cross_attn_token_to_image", queries + tokens, keys + position, keys))
        hidden = F.relu(F.linear(queries, state[p + "mlp.lin1.weight"], state[p + "mlp.lin1.bias"]))
        queries = norm(p + "norm3", queries + F.linear(hidden, state[p + "mlp.lin2.weight"], state[p + "mlp.lin2.bias"]))
        keys = norm(p + "norm4", keys + attend(p + "cross_attn_image_to_token", keys + position, queries + tokens, queries))
    final = attend(root + "final_attn_token_to_image", queries + tokens, keys + position, keys)
    return norm(root + "norm_final_attn", queries + final), keys


def test_two_way_transformer_is_sams_own(published: Path) -> None:
    model, _ = loaded(published, tiny_config(decoder="paper"))
    tokens, image, position = torch.randn(2, 5, PROMPT), torch.randn(2, 12, PROMPT), torch.randn(1, 12, PROMPT)
    found = model.paper_decoder.transformer(tokens, image, position, torch.ones(2, 5, dtype=torch.bool))
    for ours, theirs in zip(found, sam_two_way(sam_state(), tokens, image, position), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_wrapped_and_prefixed_file_reads_alike(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({"epoch": 3, "model": {f"module.{name}": value for name, value in sam_state().items()}}, path)
    plain, wrapped = (loaded(p, tiny_config())[0].state_dict() for p in (published, path))
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


def test_vit_l_given_to_a_vit_b_configuration_names_both_sizes_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_l_0b3195.pth"
    state = {"image_encoder.patch_embed.proj.weight": torch.zeros(1024, 3, 16, 16)}
    torch.save(state | {f"image_encoder.blocks.{n}.norm1.weight": torch.zeros(1024) for n in range(24)}, path)
    config = dataclasses.replace(tiny_config(), name="refsam3d-vit-b", image=dataclasses.replace(tiny_config().image, dim=768, depth=12, num_heads=12))
    with torch.device("meta"):
        model = build_model(config)
    with pytest.raises(CheckpointError, match=r"SAM ViT-L \(width 1024, 24 blocks\).*width 768 and 12 blocks; use --config vit_l"):
        load_sam(model, config, path)


def write_other_heads(path: Path) -> None:
    torch.save({**sam_state(), "image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(27, 12)}, path)


def write_incomplete(path: Path) -> None:
    state = dict(sam_state())
    del state["image_encoder.blocks.2.mlp.lin2.weight"]
    torch.save(state, path)


def write_other_mlp(path: Path) -> None:
    torch.save({**sam_state(), "image_encoder.blocks.1.mlp.lin1.weight": torch.zeros(7, DIM)}, path)


def write_truncated(path: Path) -> None:
    torch.save(sam_state(), path)
    path.write_bytes(path.read_bytes()[:5000])


class _Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path(_Harmful.target),))

    target = ""


def write_harmful(path: Path) -> None:
    _Harmful.target = str(path.with_suffix(".ran"))
    with open(path, "wb") as handle:
        pickle.dump({"image_encoder.pos_embed": _Harmful()}, handle)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: torch.save({"conv1.weight": torch.zeros(2)}, p), "none of SAM's image encoder.*conv1.weight"),
        (lambda p: torch.save({"epoch": 1}, p), "no named tensors"),
        (lambda p: torch.save([torch.zeros(2)], p), "no named tensors"),
        (write_other_heads, r"heads of width 12, so 4 of them.*has 2; set num_heads to 4"),
        (write_incomplete, r"lacks 'image_encoder\.blocks\.2\.mlp\.lin2\.weight'"),
        (write_other_mlp, r"shape \(7, 48\).*has \(192, 48\)"),
        (write_truncated, "damaged"),
        (write_harmful, "never loaded"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: p.write_bytes(bytes(range(256)) * 20), "damaged"),
        (lambda p: p.write_text("404: not found"), "damaged"),
        (lambda p: None, "does not exist"),
    ],
)
def test_unusable_file_is_one_sentence_and_leaves_the_model_alone(tmp_path: Path, write, words: str) -> None:
    path = tmp_path / "sam.pth"
    write(path)
    model = build_model(tiny_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as caught:
        load_sam(model, tiny_config(), path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert str(path) in text
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not path.with_suffix(".ran").exists()


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_configurations_have_the_published_sizes(name: str) -> None:
    config = ModelConfig.load(resource_path("Configs", f"{name}.json"))
    sizes = {"vit_b": (768, 12, 12), "vit_l": (1024, 24, 16), "vit_h": (1280, 32, 16)}
    assert (config.image.dim, config.image.depth, config.image.num_heads) == sizes[name]
    assert config.image.patch_size == 16
    assert config.image.position_grid[1:] == (64, 64)
    assert config.image.stem_channels == 0
