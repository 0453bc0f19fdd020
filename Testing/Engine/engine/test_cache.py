"""What the engine keeps between prompts, and that progress, cancel and threads do not change an answer."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from tiny_engine import BOTH, blocks, encoded

from RefSAM3DLib.checkpoint import Checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine, content_key
from RefSAM3DLib.errors import Cancelled
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.types import Modality


def test_second_call_gives_the_same_bits_and_encodes_nothing(shared) -> None:
    engine, volume, first = shared
    embedding = engine.embed(volume)
    before = encoded(embedding)
    for again in (engine.segment(volume, ["brainstem", BOTH], probability=True), engine.segment(embedding, ["brainstem", BOTH], probability=True)):
        for a, b in zip(first, again, strict=True):
            assert np.array_equal(a.mask, b.mask)
            assert np.array_equal(a.probability, b.probability)
            assert (a.presence, a.confidence) == (b.presence, b.confidence)
    assert encoded(embedding) == before > 0


def test_another_engine_gives_the_same_bits(shared, engine: RefSAM3DEngine) -> None:
    _, volume, first = shared
    for a, b in zip(first, engine.segment(volume, ["brainstem", BOTH]), strict=True):
        assert np.array_equal(a.mask, b.mask)


def test_answer_does_not_depend_on_what_was_asked_before(shared, engine: RefSAM3DEngine) -> None:
    _, volume, first = shared
    engine.segment(volume, ["mandible", "larynx"])
    found = engine.segment(volume, ["brainstem"])[0]
    assert (found.mask == first[0].mask).mean() > 0.999
    assert found.presence == pytest.approx(first[0].presence, abs=1e-5)


def test_embedding_an_image_never_asks_the_text_tower(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the encoding asked for text")

    monkeypatch.setattr(type(engine.model), "encode_text", refuse)
    monkeypatch.setattr(type(engine.model.cross_attention), "forward", refuse)
    assert encoded(engine.embed(blocks())) > 0


def test_encoding_is_bit_equal_whatever_is_asked(checkpoint: Checkpoint) -> None:
    tiles = []
    for prompts in (["brainstem"], ["left parotid gland", "mandible"]):
        engine = RefSAM3DEngine(checkpoint, "cpu")
        engine.segment(blocks(), prompts)
        tiles.append(engine.embed(blocks()).grids)
    both = [(key, index) for key, grid in tiles[0].items() for index in grid.tiles if index in tiles[1][key].tiles]
    assert {coarse for (_grid, coarse, *_view), _index in both} == {True, False}, "tiles of the look and of the closer one"
    for key, index in both:
        assert torch.equal(tiles[0][key].tiles[index].pixels, tiles[1][key].tiles[index].pixels)


def test_editing_one_voxel_changes_the_key_and_encodes_anew(engine: RefSAM3DEngine) -> None:
    volume = blocks()
    first = engine.embed(volume)
    edited = dataclasses.replace(volume, array=volume.array.copy())
    assert engine.embed(edited) is first
    edited.array[3, 4, 5] += 1
    assert engine.embed(edited) is not first
    moved = dataclasses.replace(volume, geometry=Geometry(volume.geometry.shape_dhw, volume.geometry.ijk_to_ras + np.diag([0, 0, 1.0], 1)[:4, :4] * 0.5))
    keys = {content_key(v) for v in (volume, edited, moved, dataclasses.replace(volume, modality=Modality.MR))}
    keys.add(content_key(dataclasses.replace(volume, array=volume.array.astype(np.float32))))
    assert len(keys) == 5
    assert content_key(dataclasses.replace(volume, source="another name")) == first.key


def test_volume_without_a_modality_is_cached_from_its_first_prompt_on(engine: RefSAM3DEngine) -> None:
    volume = dataclasses.replace(blocks(), modality=None)
    first = engine.embed(volume)
    assert first.modality is Modality.CT
    assert engine.embed(volume) is first
    assert engine.embed(dataclasses.replace(blocks(), modality=None)) is first


def test_progress_rises_to_one_with_a_stage_whether_or_not_anything_is_cached(engine: RefSAM3DEngine) -> None:
    seen: list[tuple[float, str]] = []

    def progress(fraction: float, stage: str) -> None:
        seen.append((fraction, stage))

    for run in (
        lambda: engine.segment(blocks(), ["brainstem", "mandible", "liver"], progress=progress),
        lambda: engine.segment(blocks(), ["brainstem", "mandible", "liver"], progress=progress),
        lambda: engine.embed(blocks(), progress=progress),
        lambda: (engine.release(), engine.embed(blocks(), progress=progress)),
    ):
        seen.clear()
        run()
        fractions = [f for f, _ in seen]
        assert fractions == sorted(fractions)
        assert fractions[0] > 0
        assert fractions[-1] == 1.0
        assert all(stage for _, stage in seen)


@pytest.mark.parametrize("patience", [0, 1, 2, 4])
def test_cancel_acts_at_once_and_leaves_the_engine_usable(engine: RefSAM3DEngine, shared, patience: int) -> None:
    volume, asked = blocks(), [0]

    def cancel() -> bool:
        asked[0] += 1
        return asked[0] > patience

    with pytest.raises(Cancelled):
        engine.segment(volume, ["brainstem"], cancel=cancel)
    assert asked[0] == patience + 1
    assert encoded(engine._embedding(volume)) <= 2 * patience
    assert np.array_equal(engine.segment(volume, ["brainstem"])[0].mask, shared[2][0].mask)


def test_release_forgets_images_and_texts_still_work(engine: RefSAM3DEngine) -> None:
    volume = blocks()
    first = engine.segment(volume, ["brainstem"])[0]
    assert engine.cached_bytes > 0
    engine.release()
    assert engine.cached_bytes == 0
    assert np.array_equal(engine.segment(volume, ["brainstem"])[0].mask, first.mask)


def test_cache_stays_below_its_bound_and_forgets_the_least_recently_used(checkpoint: Checkpoint) -> None:
    volumes = [blocks((12 + n, 14, 16)) for n in range(3)]
    engine = RefSAM3DEngine(checkpoint, "cpu")
    sizes = []
    for volume in volumes:
        engine.release()
        engine.segment(volume, ["brainstem"])
        sizes.append(engine.cached_bytes + volume.array.nbytes)
    bounded = RefSAM3DEngine(checkpoint, "cpu", cache_bytes=int(sum(sizes[1:]) * 1.05))
    kept = [bounded.embed(v) for v in volumes[:2]]
    for v in volumes[:2]:
        bounded.segment(v, ["brainstem"])
    assert bounded.embed(volumes[0]) is kept[0]
    bounded.segment(volumes[2], ["brainstem"])
    assert bounded.cached_bytes <= bounded.cache_limit
    assert bounded.embed(volumes[0]) is kept[0]
    assert bounded.embed(volumes[1]) is not kept[1]
    tiny = RefSAM3DEngine(checkpoint, "cpu", cache_bytes=1)
    for v in volumes:
        tiny.segment(v, ["brainstem"])
        assert len(tiny._embeddings) == 1  # the image at hand stays


def test_voxels_that_an_encoding_keeps_alive_count_towards_the_bound(checkpoint: Checkpoint) -> None:
    """Of a CT they are many times what is encoded of it."""
    volumes = [blocks((12 + n, 14, 16)) for n in range(2)]
    engine = RefSAM3DEngine(checkpoint, "cpu")
    for volume in volumes:
        engine.embed(volume)
    assert len(engine._embeddings) == 2
    encodings, voxels = engine.cached_bytes, sum(v.array.nbytes for v in volumes)
    for limit, kept in ((encodings + voxels, 2), (encodings + voxels - 1, 1)):
        bounded = RefSAM3DEngine(checkpoint, "cpu", cache_bytes=limit)
        for volume in volumes:
            bounded.embed(volume)
        assert len(bounded._embeddings) == kept


def test_no_more_images_are_kept_than_the_current_one_and_the_one_before(engine: RefSAM3DEngine) -> None:
    first, second, third = (blocks((12 + n, 14, 16)) for n in range(3))
    kept = engine.embed(first)
    engine.embed(second)
    engine.segment(kept, ["brainstem"])  # an embedding at hand is in use, too
    engine.embed(third)
    assert [e.volume for e in engine._embeddings.values()] == [first, third]


def test_an_image_that_comes_again_is_read_from_the_voxels_it_comes_with(engine: RefSAM3DEngine, shared) -> None:
    first = blocks()
    held = engine.embed(first)
    first.array[...] = 0  # the owner writes something else into its buffer
    again = blocks()
    assert engine.embed(again) is held
    assert held.volume is again
    assert np.array_equal(engine.segment(again, ["brainstem"])[0].mask, shared[2][0].mask)


def test_threads_queue_and_agree(engine: RefSAM3DEngine, shared) -> None:
    volume, results = blocks(), {}

    def ask(n: int) -> None:
        results[n] = engine.segment(volume, ["brainstem"])[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(engine._embeddings) == 1
    for n in range(4):
        assert np.array_equal(results[n].mask, shared[2][0].mask)
