"""The public engine from end to end, on a tiny network with random weights: masks, sides, orientations, composites."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_engine import BOTH, blocks, encoded, make_engine

from RefSAM3DLib.checkpoint import Checkpoint, save_checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.errors import CheckpointError, DeviceError, InputError
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.types import Placed, Verdict, Volume


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


def test_a_mask_is_made_whole_only_when_it_is_read(shared) -> None:
    """Eight whole masks of a large CT are 600 MB that a reader of their boxes never touches."""
    engine, volume, results = shared
    fresh = engine.segment(volume, ["brainstem", BOTH, "larynx minus larynx"], probability=True)
    for found, known in zip(fresh, results, strict=False):
        inside = found.mask_in_box()
        assert isinstance(vars(found)["mask"], Placed)
        assert inside.size < volume.array.size or found.box == (0, volume.array.shape[0], 0, volume.array.shape[1], 0, volume.array.shape[2])
        k0, k1, j0, j1, i0, i1 = found.box
        assert np.array_equal(known.mask[k0:k1, j0:j1, i0:i1], inside)
        assert found.mask is found.mask
        assert np.array_equal(found.mask, known.mask)
        assert np.array_equal(found.mask_in_box(), inside), "also of a whole one"
    assert fresh[-1].box is None
    assert fresh[-1].mask_in_box() is None
    assert not fresh[-1].mask.any()


def test_two_passes_and_both_views_were_computed(shared) -> None:
    """The phantom is large enough that the coarse look, its boxes and several fine tiles are what these tests exercise."""
    engine, volume, _ = shared
    embedding = engine.embed(volume)
    assert set(embedding.grids) == {("head_neck", c, m, 0) for c in (False, True) for m in (False, True)}
    assert len(embedding.grids["head_neck", False, False, 0].layout.starts) >= 4


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
    fine = ("head_neck", False, False, 0)
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


def test_autocast_around_the_engine_reaches_the_network_alone(checkpoint: Checkpoint) -> None:
    for volume in (blocks(), blocks((12, 14, 16), (13.0, 14.0, 12.0))):
        exact = RefSAM3DEngine(checkpoint, "cpu").segment(volume, ["brainstem"], probability=True)[0]
        with torch.autocast("cpu", torch.bfloat16):
            half = RefSAM3DEngine(checkpoint, "cpu").segment(volume, ["brainstem"], probability=True)[0]
        assert exact.mask.any()
        assert half.presence != exact.presence, "the network itself ran in half precision"
        assert half.presence == pytest.approx(exact.presence, abs=0.05)
        assert np.abs(half.probability.astype(float) - exact.probability).mean() < 0.02


def test_oblique_volume_is_answered_where_it_lies(checkpoint: Checkpoint) -> None:
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    turn = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])
    volume = blocks()
    tilted = dataclasses.replace(volume, geometry=Geometry(volume.geometry.shape_dhw, turn @ volume.geometry.ijk_to_ras))
    found = RefSAM3DEngine(checkpoint, "cpu").segment(tilted, ["brainstem"])[0]
    assert found.mask.shape == volume.array.shape
    assert 0.02 < found.mask.mean() < 0.98


def test_paper_decoder_answers_through_the_same_engine() -> None:
    engine = make_engine(decoder="paper", mirror_views=False)
    volume = blocks((12, 14, 16), (13.0, 14.0, 12.0))
    first, second = engine.segment(volume, ["brainstem"])[0], engine.segment(volume, ["brainstem"])[0]
    assert 0 < first.mask.mean() < 1
    assert np.array_equal(first.mask, second.mask)


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
