"""The public engine from end to end, on a tiny network with random weights."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoint import tiny_checkpoint

from RefSAM3DLib.checkpoint import Calibration, Checkpoint, save_checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine, VolumeEmbedding, content_key
from RefSAM3DLib.errors import Cancelled, CheckpointError, DeviceError, InputError, PromptError
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.inference.embed import GridEmbedding
from RefSAM3DLib.inference.postprocess import NativeMap
from RefSAM3DLib.inference.session import PromptSession, TermAnswer
from RefSAM3DLib.phantoms import asymmetric_blocks
from RefSAM3DLib.types import Modality, PromptResult, Verdict, Volume

BOTH = "left and right parotid glands"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And a machine whose free memory does not decide a test."""
    monkeypatch.setattr("RefSAM3DLib.inference.plan.available_memory_mb", lambda: 64_000.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blocks(shape: tuple[int, int, int] = (20, 24, 28), spacing: tuple[float, float, float] = (12.0, 11.0, 12.5)) -> Volume:
    """About 250 x 260 x 340 mm without symmetry: two tiles of 32 along each axis at 6 mm, one at 12 mm."""
    return asymmetric_blocks(shape, spacing)[0]


def make_engine(**changes) -> RefSAM3DEngine:
    cache = changes.pop("cache_bytes", 10**9)
    return RefSAM3DEngine(tiny_checkpoint(**changes), "cpu", cache_bytes=cache)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture
def engine(checkpoint: Checkpoint) -> RefSAM3DEngine:
    return RefSAM3DEngine(checkpoint, "cpu")


@pytest.fixture(scope="module")
def shared(checkpoint: Checkpoint) -> tuple[RefSAM3DEngine, Volume, list[PromptResult]]:
    """An engine that has answered once."""
    torch.set_num_threads(1)
    made, volume = RefSAM3DEngine(checkpoint, "cpu"), blocks()
    return made, volume, made.segment(volume, ["brainstem", BOTH], probability=True)


def encoded(embedding: VolumeEmbedding) -> int:
    return sum(grid.encoded for grid in embedding.grids.values())


def stored_as(volume: Volume, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same voxels at the same millimetres, in another order of the file."""
    array = np.transpose(volume.array, order)[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
    return dataclasses.replace(volume, array=np.ascontiguousarray(array), geometry=volume.geometry.permuted(order, flips))


def test_results_answer_in_order_with_masks_on_the_volumes_own_grid(shared) -> None:
    engine, volume, results = shared
    assert [r.resolved for r in results] == ["brainstem", "left parotid gland", "right parotid gland"]
    assert [r.prompt for r in results] == ["brainstem", BOTH, BOTH]
    for r in results:
        assert r.mask.shape == volume.array.shape
        assert r.mask.dtype == bool
        assert 0 < r.mask.mean() < 1
        assert r.verdict in (Verdict.PRESENT, Verdict.UNCERTAIN)
        assert 0.7 < r.presence <= 1
        assert 0.5 <= r.confidence <= 1
        assert r.volume_ml == pytest.approx(r.mask.sum() * 12.0 * 11.0 * 12.5 / 1000)
        assert r.probability is not None
        assert r.probability.shape == volume.array.shape
        assert not (r.mask & (r.probability <= 0.49)).any()
        k0, k1, j0, j1, i0, i1 = r.box
        assert r.mask[k0:k1, j0:j1, i0:i1].sum() == r.mask.sum()
        assert r.colour == engine.vocabulary.structure(r.resolved).colour
    assert not np.array_equal(results[1].mask, results[2].mask)


def test_two_passes_and_both_views_were_computed(shared) -> None:
    """The phantom is large enough that the coarse look, its boxes and several fine tiles are what these tests exercise."""
    engine, volume, _ = shared
    embedding = engine.embed(volume)
    assert set(embedding.grids) == {("head_neck", c, m) for c in (False, True) for m in (False, True)}
    assert len(embedding.grids["head_neck", False, False].layout.starts) >= 4


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
    for key, grid in tiles[0].items():
        for index in set(grid.tiles) & set(tiles[1][key].tiles):
            assert torch.equal(grid.tiles[index].pixels, tiles[1][key].tiles[index].pixels)


@pytest.mark.parametrize("aligned", [True, False])
def test_all_48_orientations_give_the_same_mask_in_patient_space(checkpoint: Checkpoint, aligned: bool) -> None:
    """Bit for bit where axes are parallel to the patient's; a grid tilted by 5 degrees is read along its own axes: the same again."""
    volume = blocks((14, 16, 18), (13.0, 14.0, 12.0))
    if not aligned:
        c, s = np.cos(np.radians(5)), np.sin(np.radians(5))
        turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        volume = dataclasses.replace(volume, geometry=Geometry(volume.geometry.shape_dhw, turn @ volume.geometry.ijk_to_ras))
    engine = RefSAM3DEngine(checkpoint, "cpu")
    expected = engine.segment(volume, ["left parotid gland"])[0]
    assert 0.02 < expected.mask.mean() < 0.98
    orientations = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))
    for order, flips in orientations if aligned else orientations[::7]:
        other = stored_as(volume, order, flips)
        engine.release()
        found = engine.segment(other, ["left parotid gland"])[0]
        wanted = np.transpose(expected.mask, order)[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
        if aligned:
            assert np.array_equal(found.mask, wanted), (order, flips)
            assert found.presence == expected.presence
        else:
            assert (found.mask == wanted).mean() > 0.998, (order, flips)
        assert found.volume_ml == pytest.approx(found.mask.sum() * volume.geometry.voxel_volume_ml)


def test_mirrored_patient_swaps_left_and_right(checkpoint: Checkpoint) -> None:
    """Both views are averaged, so that with any weights the answer for the left is the mirror image of the answer for the right."""
    volume = blocks()
    mirrored = dataclasses.replace(volume, array=np.ascontiguousarray(volume.array[:, :, ::-1]))
    engine = RefSAM3DEngine(checkpoint, "cpu")
    names = ("left parotid gland", "right parotid gland", "brainstem")
    here = dict(zip(names, engine.segment(volume, names, probability=True), strict=True))
    there = dict(zip((names[1], names[0], names[2]), engine.segment(mirrored, [names[1], names[0], names[2]], probability=True), strict=True))
    for name, other in ((names[0], names[1]), (names[1], names[0]), (names[2], names[2])):
        assert here[name].presence == pytest.approx(there[other].presence, abs=1e-5)
        assert (here[name].mask[:, :, ::-1] == there[other].mask).mean() > 0.999
        difference = np.abs(here[name].probability[:, :, ::-1].astype(float) - there[other].probability.astype(float))
        assert np.quantile(difference, 0.999) < 2e-3
    assert (here["left parotid gland"].mask != here["right parotid gland"].mask).any()


def test_without_the_second_view_left_and_right_are_not_symmetric() -> None:
    """What the average is for; and the test above can fail."""
    volume = blocks()
    mirrored = dataclasses.replace(volume, array=np.ascontiguousarray(volume.array[:, :, ::-1]))
    engine = make_engine(mirror_views=False)
    here = engine.segment(volume, ["left parotid gland"])[0].mask
    there = engine.segment(mirrored, ["right parotid gland"])[0].mask
    assert (here[:, :, ::-1] == there).mean() < 0.99


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


def test_region_cuts_the_mask_and_the_tiles(checkpoint: Checkpoint, shared) -> None:
    _, volume, whole = shared
    roi = (2, 9, 3, 12, 15, 26)
    engine = RefSAM3DEngine(checkpoint, "cpu")
    found = engine.segment(volume, ["brainstem"], roi=roi, probability=True)[0]
    inside = np.zeros(volume.array.shape, bool)
    inside[2:9, 3:12, 15:26] = True
    assert found.mask.any()
    assert not (found.mask & ~inside).any()
    assert not (found.probability[~inside] > 0).any()
    assert found.presence == pytest.approx(whole[0].presence, abs=1e-6)
    full = RefSAM3DEngine(checkpoint, "cpu")
    full.segment(volume, ["brainstem"])
    fine = ("head_neck", False, False)
    assert 0 < engine.embed(volume).grids[fine].encoded < full.embed(volume).grids[fine].encoded
    clipped = engine.segment(volume, ["brainstem"], roi=(-5, 9, 3, 12, 15, 999))[0]
    assert not clipped.mask[9:].any()
    for bad in ((9, 9, 0, 5, 0, 5), (100, 200, 0, 5, 0, 5), (5, 2, 0, 5, 0, 5)):
        with pytest.raises(InputError, match="does not meet the volume"):
            engine.segment(volume, ["brainstem"], roi=bad)


def test_unknown_prompt_encodes_no_tile_and_is_not_drawn(engine: RefSAM3DEngine) -> None:
    volume = blocks()
    results = engine.segment(volume, ["liver", "brainstm"], progress=lambda f, s: None)
    assert [r.verdict for r in results] == [Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert all(not r.mask.any() and r.box is None and r.resolved == "" and np.isnan(r.presence) for r in results)
    assert "brainstem" in results[1].suggestions
    assert encoded(engine._embedding(volume)) == 0
    drawn = engine.segment(volume, ["liver"], allow_unknown=True)[0]
    assert drawn.verdict is not Verdict.UNKNOWN
    assert drawn.mask.any()


def test_union_and_difference_are_made_of_the_same_probabilities(shared) -> None:
    engine, volume, _ = shared
    left, right, union, rest = (
        engine.segment(volume, [p], probability=True)[0]
        for p in ("left parotid gland", "right parotid gland", "left parotid gland plus right parotid gland", "left parotid gland minus right parotid gland")
    )
    assert union.resolved.count("parotid gland") == 2
    a, b = left.probability.astype(float), right.probability.astype(float)
    near = {"atol": 2e-3, "rtol": 0}
    np.testing.assert_allclose(union.probability.astype(float), np.maximum(a, b), **near)
    np.testing.assert_allclose(rest.probability.astype(float), np.minimum(a, 1 - b), **near)
    assert rest.mask.sum() < left.mask.sum()


def test_absent_structure_takes_no_fine_tile(checkpoint: Checkpoint) -> None:
    engine = make_engine(calibration=Calibration(scale=0.01, bias=-5.0))
    found = engine.segment(blocks(), ["brainstem"])[0]
    assert found.verdict is Verdict.ABSENT
    assert found.presence < 0.1
    assert not found.mask.any()
    assert found.box is None
    assert found.volume_ml == 0
    assert np.isnan(found.confidence)
    assert all(not grid.tiles for (_, coarse, _), grid in engine.embed(blocks()).grids.items() if not coarse)


def test_in_between_is_uncertain() -> None:
    found = make_engine(calibration=Calibration(scale=0.0, bias=0.0)).segment(blocks(), ["brainstem"])[0]
    assert found.presence == 0.5
    assert found.verdict is Verdict.UNCERTAIN


def test_image_out_of_scope_is_at_most_uncertain_and_says_why() -> None:
    engine = make_engine(grid={"extent_mm": ((0, 0, 0), (100.0, 100.0, 100.0))})
    found = engine.segment(blocks(), ["brainstem"])[0]
    assert found.verdict is Verdict.UNCERTAIN
    assert any("field of view" in w for w in found.warnings)
    other = make_engine().segment(dataclasses.replace(blocks(), modality=Modality.MR), ["brainstem"])[0]
    assert other.verdict is Verdict.UNCERTAIN
    assert any("This image is MR" in w for w in other.warnings)


def test_result_on_the_wrong_side_of_the_midline_is_warned_about(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outline is put by hand on one side of a symmetric body; only the name for the other side is warned about."""
    array = np.full((20, 24, 28), -1000, np.int16)
    array[2:18, 3:21, 4:24] = 40
    array[2:18, 3:21, 4] = 41  # not constant along the rows, so no orientation is a guess
    volume = dataclasses.replace(blocks(), array=array)  # i grows to the Left
    engine = RefSAM3DEngine(checkpoint, "cpu")
    for low, side in ((5, "right"), (18, "left")):

        def outline(session: PromptSession, term: TermAnswer, *_: object, low: int = low) -> float:
            term.native = NativeMap(np.full((4, 4, 4), 0.9, np.float32), (8, 12, 8, 12, low, low + 4))
            return 0.0

        monkeypatch.setattr(PromptSession, "_draw", outline)
        for r in engine.segment(volume, [BOTH]):
            assert r.mask[8:12, 8:12, low : low + 4].all()
            assert r.mask.sum() == 64
            is_right_answer = r.resolved.startswith(side)
            assert (r.verdict is Verdict.PRESENT) == is_right_answer
            assert any("check the side" in w for w in r.warnings) != is_right_answer


def test_oblique_volume_is_answered_where_it_lies(checkpoint: Checkpoint) -> None:
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    turn = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])
    volume = blocks()
    tilted = dataclasses.replace(volume, geometry=Geometry(volume.geometry.shape_dhw, turn @ volume.geometry.ijk_to_ras))
    found = RefSAM3DEngine(checkpoint, "cpu").segment(tilted, ["brainstem"])[0]
    assert found.mask.shape == volume.array.shape
    assert 0.02 < found.mask.mean() < 0.98


@pytest.mark.parametrize("shape", [(1, 24, 28), (200, 6, 6)])
def test_thin_and_long_volumes_are_answered(engine: RefSAM3DEngine, shape: tuple[int, int, int]) -> None:
    found = engine.segment(blocks(shape, (10.0, 10.0, 5.0)), ["brainstem"])[0]
    assert found.mask.shape == shape


def test_paper_decoder_answers_through_the_same_engine() -> None:
    engine = make_engine(decoder="paper", mirror_views=False)
    volume = blocks((12, 14, 16), (13.0, 14.0, 12.0))
    first, second = engine.segment(volume, ["brainstem"])[0], engine.segment(volume, ["brainstem"])[0]
    assert 0 < first.mask.mean() < 1
    assert np.array_equal(first.mask, second.mask)


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
        sizes.append(engine.cached_bytes)
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a[0], r"shape \(24, 28\), its geometry says \(20, 24, 28\)"),
        (lambda a: a[:-1], "load the volume again"),
        (lambda a: a.astype(complex), "of type complex128"),
        (lambda a: np.where(a > 0, np.nan, a.astype(np.float32)), r"has \d+ voxels that are NaN or infinite"),
        (lambda a: np.full(a.shape, 3, np.int16), "same value 3"),
    ],
)
def test_voxels_that_nothing_can_be_read_from_are_refused(engine: RefSAM3DEngine, change, words: str) -> None:
    volume = blocks()
    with pytest.raises(InputError, match=words):
        engine.segment(dataclasses.replace(volume, array=change(volume.array)), ["brainstem"])


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 10_000, "brain\x00stem"])
def test_prompt_that_no_one_can_mean_is_refused_before_anything_is_computed(engine: RefSAM3DEngine, prompt: str) -> None:
    with pytest.raises(PromptError):
        engine.segment(blocks(), ["brainstem", prompt])
    assert engine.cached_bytes == 0


def test_no_prompt_no_result(engine: RefSAM3DEngine) -> None:
    assert engine.segment(blocks(), []) == []


def test_model_file_is_named_and_hashed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    digest = save_checkpoint(checkpoint, path)
    engine = RefSAM3DEngine.from_checkpoint(path, device="cpu")
    assert (engine.model_name, engine.model_sha256, engine.device_name) == ("test-tiny", digest, "cpu")
    assert engine.model_card["name"] == "tiny"
    assert engine.vocabulary.names == checkpoint.vocabulary.names
    with pytest.raises(CheckpointError, match="does not exist"):
        RefSAM3DEngine.from_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError):
        RefSAM3DEngine.from_checkpoint(path, adapter=path)
    with pytest.raises(DeviceError, match="unknown"):
        RefSAM3DEngine.from_checkpoint(path, device="gpu")


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


def test_out_of_memory_is_met_with_smaller_tiles_first(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = blocks()
    whole = engine.segment(volume, ["brainstem"])[0]
    engine.release()
    encode, limit = type(engine.model).encode_image, engine.checkpoint.config.grids[0].tile_dhw
    seen = []

    def small(model, batch: torch.Tensor, domain: torch.Tensor):
        seen.append(tuple(batch.shape[2:]))
        if batch[0, 0].numel() >= np.prod(limit):
            raise torch.OutOfMemoryError("out of memory")
        return encode(model, batch, domain)

    monkeypatch.setattr(type(engine.model), "encode_image", small)
    held = engine._embedding(volume)
    monkeypatch.setattr("RefSAM3DLib.inference.embed.DeviceError", torch.OutOfMemoryError)  # as the GPU's allocator says it
    found = engine.segment(held, ["brainstem"])[0]
    assert held.small_tiles
    assert any("read in smaller tiles" in w for w in engine.warnings)
    assert all(np.prod(shape) < np.prod(limit) for shape in seen[-1:])
    assert found.mask.shape == whole.mask.shape
    assert np.array_equal(engine.segment(held, ["brainstem"])[0].mask, found.mask)


def test_out_of_memory_on_a_gpu_falls_back_to_the_cpu_and_says_so(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.engine.device_title", lambda device: f"{device.type} (pretended)")
    volume = blocks()
    held = engine.embed(volume)
    engine.device = torch.device("cuda")  # pretended: what was encoded before belongs to it
    for grid in held.grids.values():
        grid.device = engine.device
    real, failed = PromptSession.run, []

    def once(session: PromptSession, *args: object) -> list[PromptResult]:
        if len(failed) < 2:  # with smaller tiles, too
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(session, *args)

    monkeypatch.setattr(PromptSession, "run", once)
    found = engine.segment(held, ["brainstem"])[0]
    assert found.mask.any()
    assert engine.device.type == "cpu"
    assert any("ran out of memory; this run fell back to the CPU" in w for w in engine.warnings)
    assert all(grid.device.type == "cpu" for grid in held.grids.values())
    assert np.array_equal(engine.segment(held, ["brainstem"])[0].mask, found.mask)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out"), MemoryError("out"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9")]
)
def test_out_of_memory_on_the_cpu_is_one_sentence(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(GridEmbedding, "_encode_batch", fail)
    with pytest.raises(DeviceError, match=r"Out of memory .*close other programs") as caught:
        engine.segment(blocks(), ["brainstem"])
    assert "\n" not in str(caught.value)


def test_other_errors_keep_their_name(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(GridEmbedding, "_encode_batch", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        engine.segment(blocks(), ["brainstem"])


def test_run_that_cannot_fit_is_refused_before_it_starts(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.inference.plan.available_memory_mb", lambda: 1.0)
    volume = blocks()
    with pytest.raises(DeviceError, match="GB are free; close other programs, or crop the volume first") as caught:
        engine.segment(volume, ["brainstem"])
    assert str(caught.value).count("close other programs") == 1
    assert encoded(engine._embedding(volume)) == 0
