"""Unions, differences, specks and boxes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from RefSAM3DLib.inference.postprocess import NativeMap, align, combine, parts_of, remove_specks, tight_box


def ball(value: float, box: tuple[int, int, int, int, int, int]) -> NativeMap:
    return NativeMap(np.full([box[2 * a + 1] - box[2 * a] for a in range(3)], value, np.float32), box)


def test_union_is_the_larger_and_difference_what_the_other_is_not() -> None:
    a, b = ball(0.9, (0, 4, 0, 4, 0, 4)), ball(0.7, (2, 6, 0, 4, 0, 4))
    union = combine([a, b], [False, False])
    assert union.box == (0, 6, 0, 4, 0, 4)
    np.testing.assert_allclose(union.values[:, 0, 0], [0.9, 0.9, 0.9, 0.9, 0.7, 0.7], rtol=1e-6)
    rest = combine([a, b], [False, True])
    np.testing.assert_allclose(rest.values[:, 0, 0], [0.9, 0.9, 0.3, 0.3, 0, 0], rtol=1e-5)
    assert combine([a], [False]) is a


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.lists(st.booleans(), min_size=1, max_size=4), st.lists(st.sampled_from([0.3, 0.5, 0.6]), min_size=5, max_size=5))
def test_parts_of_a_combination_are_the_outlines_that_each_term_has_alone(seed: int, later: list[bool], thresholds: list[float]) -> None:
    rng, subtract = np.random.default_rng(seed), [False, *later]
    lows = rng.integers(0, 3, (len(subtract), 3))
    maps = [NativeMap(rng.random((4, 5, 6), np.float32), (d, d + 4, h, h + 5, w, w + 6)) for d, h, w in lows.tolist()]
    thresholds = thresholds[: len(maps)]
    parts = parts_of(maps, subtract, thresholds)
    assert len(parts) == subtract.count(False)
    arrays, _ = align(maps)
    expected = np.zeros(arrays[0].shape, bool)
    for values, minus, threshold in zip(arrays, subtract, thresholds, strict=True):
        expected = expected & ~(values > threshold) if minus else expected | (values > threshold)
    assert np.array_equal(np.logical_or.reduce(parts), expected)
    if len({*thresholds}) == 1 and thresholds[0] == 0.5:
        assert np.array_equal(expected, combine(maps, subtract).values > 0.5)


def test_aligned_maps_are_zero_outside_their_own_box() -> None:
    arrays, box = align([ball(1, (5, 6, 5, 6, 5, 6)), ball(2, (3, 4, 7, 8, 5, 6))])
    assert box == (3, 6, 5, 8, 5, 6)
    assert arrays[0].sum() == 1
    assert arrays[1].sum() == 2
    assert arrays[0][2, 0, 0] == 1
    assert arrays[1][0, 2, 0] == 2


def test_small_pieces_go_and_large_ones_stay() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[:5, :5, :4] = True  # 100
    mask[10:12, :5, 0] = True  # 10
    mask[15, :3, :3] = True  # 9
    mask[5, 5, 4] = True  # touches the first by a corner
    kept = remove_specks(mask)
    assert kept.sum() == 101  # 10 of 101 is less than a tenth
    assert not kept[10].any()
    assert not kept[15].any()
    assert kept[5, 5, 4]
    assert not remove_specks(np.zeros((3, 3, 3), bool)).any()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7), st.integers(0, 8)), max_size=5))
def test_tight_box_holds_every_voxel_and_no_empty_border(voxels: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((7, 8, 9), bool)
    for voxel in voxels:
        mask[voxel] = True
    box = tight_box(mask)
    if not voxels:
        assert box is None
        return
    assert box is not None
    cut = mask[box[0] : box[1], box[2] : box[3], box[4] : box[5]]
    assert cut.sum() == mask.sum()
    assert all(cut.take(end, axis).any() for axis in range(3) for end in (0, -1))


def test_specks_are_removed_without_touching_the_input() -> None:
    mask = np.zeros((6, 6, 20), bool)
    mask[:4, :4, :4] = True
    mask[5, 5, 19] = True
    before = mask.copy()
    assert remove_specks(mask).sum() == 64
    assert np.array_equal(mask, before)
