"""Tiles, their blending, and decoding inside a box."""

from __future__ import annotations

import dataclasses
import math
import weakref

import numpy as np
import pytest
import torch
from asymmetric_blocks import asymmetric_blocks
from tiny_checkpoint import tiny_checkpoint

from RefSAM3DLib.checkpoint import Checkpoint
from RefSAM3DLib.errors import Cancelled
from RefSAM3DLib.inference.blending import Blending
from RefSAM3DLib.inference.decode import decode, decode_views, tiles_for
from RefSAM3DLib.inference.embed import BATCH, GridEmbedding
from RefSAM3DLib.inference.localize import BOX_PADDING_MM, box_above, localize, transfer_box
from RefSAM3DLib.modeling.mask_decoder import upsample_linear
from RefSAM3DLib.modeling.refsam3d import PromptFeatures
from RefSAM3DLib.types import Volume

WHOLE_CROP = {"crop_body": False}


@pytest.fixture(scope="module")
def volume() -> Volume:
    """276 x 264 x 216 mm: two tiles along each axis at 6 mm."""
    return asymmetric_blocks((36, 44, 46), (6.0, 6.0, 6.0))[0]


def embed(checkpoint: Checkpoint, volume: Volume, coarse: bool = False, encode: bool = True) -> GridEmbedding:
    model = checkpoint.build()
    embedding = GridEmbedding(model, checkpoint.config, checkpoint.config.grids[0], coarse, volume, torch.device("cpu"))
    if encode:
        embedding.encode(range(len(embedding.layout.starts)))
    return embedding


@pytest.fixture(scope="module")
def fine(volume: Volume) -> GridEmbedding:
    return embed(tiny_checkpoint(grid=WHOLE_CROP), volume)


@pytest.fixture(scope="module")
def paper(volume: Volume) -> GridEmbedding:
    return embed(tiny_checkpoint(decoder="paper", grid=WHOLE_CROP), volume)


def prompt(embedding: GridEmbedding) -> PromptFeatures:
    with torch.inference_mode():
        return embedding.model.encode_text(torch.tensor([[5, 9, 6, 0], [5, 8, 7, 6]]))


def test_tile_is_the_windowed_volume_with_air_around_it(fine: GridEmbedding) -> None:
    layout = fine.layout
    assert len(layout.starts) == 8
    for index, start in enumerate(layout.starts):
        tile = fine.cut(index)
        assert tile.shape == (3, *layout.tile_dhw)
        assert float(tile.abs().max()) <= 1
        for voxel in ((0, 0, 0), (16, 17, 18), (31, 31, 31)):
            at = tuple(s + v - p for s, v, p in zip(start, voxel, layout.pad, strict=True))
            inside = all(0 <= a < n for a, n in zip(at, fine.values.shape, strict=True))
            expected = [-1.0] * 3
            if inside:
                expected = [min(1, max(-1, (float(fine.values[at]) - lo) / (hi - lo) * 2 - 1)) for lo, hi in fine.windows]
            assert tile[:, voxel[0], voxel[1], voxel[2]].tolist() == pytest.approx(expected, abs=1e-5)


def test_tile_does_not_depend_on_which_others_were_asked_for_with_it(volume: Volume) -> None:
    checkpoint = tiny_checkpoint(grid=WHOLE_CROP)
    together, alone = embed(checkpoint, volume, encode=False), embed(checkpoint, volume, encode=False)
    together.encode([3, 5, 0])
    for index in (5, 0, 3):
        alone.encode([index])
    assert together.encoded == alone.encoded == 3
    for index in (0, 3, 5):
        a, b = together.tiles[index], alone.tiles[index]
        assert torch.equal(a.pixels, b.pixels)
        assert all(torch.equal(x.queries, y.queries) and torch.equal(x.image, y.image) for x, y in zip(a.levels, b.levels, strict=True))
    together.encode([3, 5])
    assert together.encoded == 3


def test_cancel_is_asked_before_each_batch_and_keeps_what_is_done(volume: Volume) -> None:
    embedding = embed(tiny_checkpoint(grid=WHOLE_CROP), volume, encode=False)
    steps: list[int] = []
    with pytest.raises(Cancelled):
        embedding.encode(range(8), steps.append, lambda: len(steps) >= 2)
    assert steps == [BATCH, BATCH]
    assert len(embedding.tiles) == 2 * BATCH
    assert embedding.missing(range(8)) == list(range(2 * BATCH, 8))


def test_cancel_is_asked_inside_a_batch_too_and_leaves_the_network_as_it_was(volume: Volume) -> None:
    embedding = embed(tiny_checkpoint(grid=WHOLE_CROP), volume, encode=False)
    asked = [0]

    def cancel() -> bool:
        asked[0] += 1
        return asked[0] > 5

    with pytest.raises(Cancelled):
        embedding.encode([0], None, cancel)
    assert embedding.missing([0]) == [0]
    embedding.encode([0])
    assert asked[0] == 6  # nobody asks any more
    assert not any(module._forward_pre_hooks for module in embedding.model.modules())


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 1 GB on private pool.")],
)
def test_out_of_memory_goes_on_with_one_tile_at_a_time(volume: Volume, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    whole = embed(tiny_checkpoint(grid=WHOLE_CROP), volume)
    embedding = embed(tiny_checkpoint(grid=WHOLE_CROP), volume, encode=False)
    encode, limit = type(embedding.model).encode_image, [1]

    def small(model, batch: torch.Tensor, domain: torch.Tensor):
        if len(batch) > limit[0]:
            raise error
        return encode(model, batch, domain)

    monkeypatch.setattr(type(embedding.model), "encode_image", small)
    embedding.encode(range(3))
    assert embedding.encoded == 3
    torch.testing.assert_close(embedding.tiles[2].pixels, whole.tiles[2].pixels, rtol=1e-3, atol=1e-4)
    limit[0] = 0
    with pytest.raises(type(error), match="out of memory"):  # the engine knows what to do next
        embedding.encode([5])


def test_one_tile_at_a_time_begins_when_the_failed_pass_holds_nothing_any_more(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = embed(tiny_checkpoint(grid=WHOLE_CROP), volume, encode=False)
    encode, activations = type(embedding.model).encode_image, []

    def small(model, batch: torch.Tensor, domain: torch.Tensor):
        if len(batch) > 1:
            held = torch.zeros(9)
            activations.append(weakref.ref(held))
            raise torch.OutOfMemoryError("out of memory")
        assert activations[-1]() is None
        return encode(model, batch, domain)

    monkeypatch.setattr(type(embedding.model), "encode_image", small)
    embedding.encode([0, 1])
    assert embedding.encoded == 2


def test_bytes_are_those_of_the_tensors(fine: GridEmbedding) -> None:
    tile = fine.tiles[0]
    expected = sum(t.nbytes for level in (tile.joined, *tile.levels) for t in (level.queries, level.image)) + tile.pixels.nbytes
    assert tile.bytes == expected
    assert fine.bytes == 8 * expected + fine.values.nbytes


def test_a_look_at_everything_blends_its_pixels_once_and_answers_the_same(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = embed(tiny_checkpoint(grid=WHOLE_CROP), volume, coarse=True)
    before, everything = embedding.bytes, list(range(len(embedding.layout.starts)))
    first = decode(embedding, everything, prompt(embedding), embedding.whole_box())
    assert embedding.whole_pixels is not None
    assert embedding.whole_levels is not None
    kept = (embedding.whole_pixels, embedding.whole_levels.queries, embedding.whole_levels.image)
    assert embedding.bytes == before + sum(t.nbytes for t in kept)
    mirrored = embedding.mirror()
    assert mirrored.whole_pixels is None
    assert mirrored.whole_levels is None
    embedding.tiles[0].pixels = torch.zeros(1, 1, 1, 1)  # were they read again, the answer would change
    again = decode(embedding, everything, prompt(embedding), embedding.whole_box())
    assert torch.equal(again.logits, first.logits)


@pytest.mark.parametrize("stride", [1, 2])
def test_blending_of_one_field_seen_by_all_tiles_is_that_field(fine: GridEmbedding, stride: int) -> None:
    field = torch.randn(3, *(n // stride for n in fine.layout.shape_dhw))
    cut = [field[:, *(slice(s // stride, (s + t) // stride) for s, t in zip(start, fine.layout.tile_dhw, strict=True))] for start in fine.layout.starts]
    d, h, w = fine.layout.shape_dhw
    torch.testing.assert_close(Blending(fine.layout, range(8), (0, d, 0, h, 0, w)).mean(cut, stride), field, rtol=1e-5, atol=1e-5)
    part = Blending(fine.layout, range(8), (4, 20, 6, 30, 2, 48)).mean(cut, stride)
    torch.testing.assert_close(part, field[:, 4 // stride : 20 // stride, 6 // stride : 30 // stride, 2 // stride : 48 // stride], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("indices", [list(range(8)), [1, 3, 5, 7], [6]])
def test_tokens_of_all_tiles_are_placed_as_each_is_up_sampled_and_blended(fine: GridEmbedding, indices: list[int]) -> None:
    patch, layout = fine.patch, fine.layout
    sizes = [n // patch for n in layout.tile_dhw]
    low = [max(layout.starts[i][a] for i in indices) for a in range(3)]
    box = (low[0] + 2, low[0] + 20, low[1], low[1] + 14, low[2] + 4, low[2] + 26)
    tokens = torch.randn(2, len(indices) * math.prod(sizes))
    blending = Blending(layout, indices, box)
    before = torch.randn(2, 18, 14, 22)
    maps = tokens.unflatten(1, (len(indices), *sizes))
    expected = before + blending.mean([upsample_linear(maps[:, n], patch) for n in range(len(indices))], 1)
    torch.testing.assert_close(blending.add_tokens(before.clone(), tokens, patch), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_of_the_tokens_is_a_constant_of_the_voxels(fine: GridEmbedding) -> None:
    """What lets the bias of the mask embedding be added where the values are few."""
    tokens = torch.full((1, 8 * math.prod(n // fine.patch for n in fine.layout.tile_dhw)), 3.0)
    d, h, w = fine.layout.shape_dhw
    found = Blending(fine.layout, range(8), (0, d, 0, h, 0, w)).add_tokens(torch.zeros(1, d, h, w), tokens, fine.patch)
    torch.testing.assert_close(found, torch.full_like(found, 3.0), rtol=1e-5, atol=1e-5)


def test_tiles_that_are_no_lattice_are_refused(fine: GridEmbedding) -> None:
    for indices in ([0, 3], [0, 1, 2], [1, 0]):
        with pytest.raises(ValueError, match="no lattice of the 8 tiles"):
            Blending(fine.layout, indices, (0, 8, 0, 8, 0, 8))


def test_every_voxel_of_a_box_lies_in_a_chosen_tile(fine: GridEmbedding) -> None:
    rng = np.random.default_rng(0)
    d, h, w = fine.values.shape
    for _ in range(200):
        low = [int(rng.integers(0, n)) for n in (d, h, w)]
        high = [int(rng.integers(lo + 1, n + 1)) for lo, n in zip(low, (d, h, w), strict=True)]
        box = (low[0], high[0], low[1], high[1], low[2], high[2])
        covered = np.zeros(fine.layout.shape_dhw, bool)
        for index in tiles_for(fine, box):
            covered[tuple(slice(s, s + t) for s, t in zip(fine.layout.starts[index], fine.layout.tile_dhw, strict=True))] = True
        p = fine.layout.pad
        assert covered[tuple(slice(box[2 * a] + p[a], box[2 * a + 1] + p[a]) for a in range(3))].all()
    assert tiles_for(fine, fine.whole_box()) == list(range(8))
    assert len(tiles_for(fine, (0, 3, 0, 3, 0, 3))) == 1


@pytest.mark.parametrize("name", ["fine", "paper"])
def test_mask_in_a_box_is_the_whole_mask_cut_to_it(name: str, request: pytest.FixtureRequest) -> None:
    embedding = request.getfixturevalue(name)
    everything = decode(embedding, list(range(8)), prompt(embedding), embedding.whole_box())
    assert everything.logits.shape == (2, *embedding.values.shape)
    box = (5, 18, 3, 30, 11, 40)
    part = decode(embedding, list(range(8)), prompt(embedding), box)
    torch.testing.assert_close(part.logits, everything.logits[:, 5:18, 3:30, 11:40], rtol=1e-3, atol=1e-3)
    assert torch.equal(part.presence, everything.presence)


def test_mask_from_the_tiles_of_a_box_alone_is_nearly_the_whole_mask(fine: GridEmbedding) -> None:
    """Not exactly: the prompt then reads these tiles' tokens alone, and no neighbour is blended in at the border."""
    everything = decode(fine, list(range(8)), prompt(fine), fine.whole_box()).logits
    box = (4, 34, 4, 40, 4, 20)
    indices = tiles_for(fine, box)
    assert 0 < len(indices) < 8
    part = decode(fine, indices, prompt(fine), box).logits
    whole = everything[:, 4:34, 4:40, 4:20]
    assert float(whole.std()) > 0.1
    assert float((part - whole).abs().mean()) < 0.25 * float(whole.std())


def test_decoding_is_the_model_on_a_volume_of_one_tile() -> None:
    """One tile, nothing to blend: the engine's path equals the network's own forward pass."""
    for decoder in ("cached", "paper"):
        embedding = embed(tiny_checkpoint(decoder=decoder, grid=WHOLE_CROP), asymmetric_blocks((32, 32, 32), (6.0, 6.0, 6.0))[0])
        assert len(embedding.layout.starts) == 1
        model = embedding.model
        with torch.inference_mode():
            features, pixels = model.encode_image(torch.stack([embedding.cut(0)]), torch.tensor([0]))
            expected = model.forward_tile(features, pixels, 0, prompt(embedding))
        found = decode(embedding, [0], prompt(embedding), embedding.whole_box())
        torch.testing.assert_close(found.logits, expected.mask, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.presence, expected.presence, rtol=1e-3, atol=1e-4)


def test_prompts_together_are_prompts_alone(fine: GridEmbedding) -> None:
    both = prompt(fine)
    together = decode(fine, list(range(8)), both, (0, 20, 0, 20, 0, 20)).logits
    for p in range(2):
        alone = decode(fine, list(range(8)), both.select(slice(p, p + 1)), (0, 20, 0, 20, 0, 20)).logits
        torch.testing.assert_close(alone[0], together[p], rtol=1e-3, atol=1e-3)


def test_views_of_an_image_and_of_its_mirror_image_are_averaged(fine: GridEmbedding) -> None:
    mirror = fine.mirror()
    mirror.encode(range(8))
    assert mirror.encoded == 8
    assert fine.encoded == 8
    assert torch.equal(mirror.values, fine.values.flip(2))
    box = (5, 18, 3, 30, 1, 20)
    assert mirror.in_view(mirror.in_view(box)) == box
    found = decode_views([fine, mirror], [prompt(fine)] * 2, box)
    plain = decode(fine, tiles_for(fine, box), prompt(fine), box)
    other = decode(mirror, tiles_for(mirror, mirror.in_view(box)), prompt(fine), mirror.in_view(box))
    torch.testing.assert_close(found.logits, (plain.logits + other.logits.flip(3)) / 2)
    torch.testing.assert_close(found.presence, (plain.presence + other.presence) / 2)


def test_box_above_is_the_smallest() -> None:
    logits = torch.full((6, 7, 8), -5.0)
    assert box_above(logits, 0.5) is None
    logits[2, 3, 4] = logits[3, 5, 1] = 1.0
    assert box_above(logits, 0.5) == (2, 4, 3, 6, 1, 5)
    logits[0, 0, 0] = -1.0  # 0.27
    assert box_above(logits, 0.2) == (0, 4, 0, 6, 0, 5)


@pytest.fixture(scope="module")
def coarse(volume: Volume) -> GridEmbedding:
    return embed(tiny_checkpoint(grid=WHOLE_CROP), volume, coarse=True, encode=False)


def world(embedding: GridEmbedding, border: int, axis: int) -> float:
    """Millimetres from the middle of the volume to the lower border of a voxel."""
    return (border + embedding.origin[axis] - 0.5 - (embedding.frame.shape_dhw[axis] - 1) / 2) * embedding.frame.spacing_mm


@pytest.mark.parametrize("padding_mm", [0.0, 4.0, 13.0, BOX_PADDING_MM])
def test_transferred_box_holds_the_coarse_box_and_its_padding_and_little_more(fine: GridEmbedding, coarse: GridEmbedding, padding_mm: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        low = [int(rng.integers(0, n)) for n in coarse.values.shape]
        high = [int(rng.integers(lo + 1, n + 1)) for lo, n in zip(low, coarse.values.shape, strict=True)]
        box = (low[0], high[0], low[1], high[1], low[2], high[2])
        found = transfer_box(box, coarse, fine, padding_mm)
        for axis in range(3):
            n = fine.values.shape[axis]
            wanted = world(coarse, low[axis], axis) - padding_mm, world(coarse, high[axis], axis) + padding_mm
            lo, hi = found[2 * axis], found[2 * axis + 1]
            assert 0 <= lo < hi <= n
            assert lo == 0 or 0 <= wanted[0] - world(fine, lo, axis) + 1e-3 <= fine.frame.spacing_mm + 2e-3
            assert hi == n or 0 <= world(fine, hi, axis) - wanted[1] + 1e-3 <= fine.frame.spacing_mm + 2e-3


@pytest.mark.parametrize("padding_mm", [0.0, 4.0, 13.0, BOX_PADDING_MM])
def test_transferred_box_of_a_mirror_image_is_the_mirror_image(fine: GridEmbedding, coarse: GridEmbedding, padding_mm: float) -> None:
    """Else left and right would be searched in boxes that differ by a voxel."""
    n, m = coarse.values.shape[2], fine.values.shape[2]
    for low in range(n):
        for high in range(low + 1, n + 1):
            a = transfer_box((0, 3, 0, 3, low, high), coarse, fine, padding_mm)
            b = transfer_box((0, 3, 0, 3, n - high, n - low), coarse, fine, padding_mm)
            assert (b[4], b[5]) == (m - a[5], m - a[4])


def test_localisation_reports_presence_and_box_of_each_prompt(volume: Volume) -> None:
    embedding = embed(tiny_checkpoint(grid=WHOLE_CROP), volume, coarse=True)
    found = localize([embedding], [prompt(embedding)])
    whole = decode(embedding, sorted(embedding.tiles), prompt(embedding), embedding.whole_box())
    assert [f.presence for f in found] == pytest.approx(whole.presence.tolist(), abs=1e-5)
    assert [f.box for f in found] == [box_above(logits, 0.15) for logits in whole.logits]


def test_body_is_cut_out_before_tiling(volume: Volume) -> None:
    air = dataclasses.replace(volume, array=np.pad(volume.array, ((0, 0), (20, 0), (0, 30)), constant_values=-1000))
    shape = air.array.shape
    air = dataclasses.replace(air, geometry=dataclasses.replace(volume.geometry, shape_dhw=(shape[0], shape[1], shape[2])))
    cropped = embed(tiny_checkpoint(), air, encode=False)
    assert all(c < n for c, n in zip(cropped.values.shape[1:], (64, 76), strict=True))
    everything = embed(tiny_checkpoint(grid=WHOLE_CROP), air, encode=False)
    o, (d, h, w) = cropped.origin, cropped.values.shape
    assert torch.equal(cropped.values, everything.values[o[0] : o[0] + d, o[1] : o[1] + h, o[2] : o[2] + w])
    assert int((cropped.values > -500).sum()) == int((everything.values > -500).sum())
