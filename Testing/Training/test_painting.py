"""Structures painted over: gone from image and labels, the rest as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refsam3d_training import painting
from refsam3d_training.painting import VOID, paint

ORGAN, OTHER = 1, 2


def tile() -> tuple[torch.Tensor, torch.Tensor]:
    """Two bright cubes in dim noise, with a strip that no scanner saw."""
    values = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (32, 32, 32)).astype(np.float32))
    labels = torch.zeros(32, 32, 32, dtype=torch.uint8)
    labels[6:11, 6:11, 6:11] = ORGAN
    labels[20:26, 20:26, 20:26] = OTHER
    values[labels > 0] += 1.0
    values[30:] = VOID
    return values, labels


def painted(seed: int, known: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    return paint(np.random.default_rng(seed), *tile(), known or [ORGAN, OTHER])


def changed(seed: int) -> torch.Tensor:
    return (painted(seed)[0] - tile()[0]).abs() > 1e-6


def test_a_painted_structure_is_gone_from_labels_and_looks_like_what_surrounds_it() -> None:
    before, labels = tile()
    gone = 0
    for seed in range(12):
        values, left = painted(seed)
        for value in (ORGAN, OTHER):
            inside = labels == value
            if not (left == value).any():
                gone += 1
                assert abs(float(values[inside].mean())) < 0.1
                assert float(values[inside].std()) < 0.2
            else:
                assert torch.equal(left == value, inside)
                assert torch.equal(values[inside], before[inside])
    assert gone > 6


def test_a_decoy_changes_a_place_without_structures_and_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting, "DECOY_ALONE", 1.0)
    _, labels = tile()
    places = [changed(seed) for seed in range(8)]
    assert sum(bool(p.any()) for p in places) >= 6
    for seed, place in enumerate(places):
        assert not (place & (labels > 0)).any()
        assert torch.equal(painted(seed)[1], labels)


def test_only_the_neighbourhood_of_a_painted_structure_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting, "DECOY_ALONE", 0.0)
    monkeypatch.setattr(painting, "DECOY_BESIDE", 0.0)
    _, labels = tile()
    for seed in range(8):
        values, left = painted(seed, [ORGAN])
        assert not (left == ORGAN).any()
        assert torch.equal(left == OTHER, labels == OTHER)
        place = (values - tile()[0]).abs() > 1e-6
        near = torch.zeros_like(place)
        near[3:14, 3:14, 3:14] = True
        assert not (place & ~near).any()


def test_what_no_scanner_saw_stays_unseen_and_fills_nothing() -> None:
    values, labels = tile()
    labels[26:30, 4:10, 20:26] = OTHER
    for seed in range(12):
        found, _ = paint(np.random.default_rng(seed), values, labels, [ORGAN, OTHER])
        assert torch.equal(found == VOID, values == VOID)
        assert float(found[:30].min()) > -2


def test_arguments_are_left_alone_and_the_draw_is_repeatable() -> None:
    values, labels = tile()
    kept = values.clone(), labels.clone()
    one, two = (paint(np.random.default_rng(3), values, labels, [ORGAN, OTHER]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(values, kept[0])
    assert torch.equal(labels, kept[1])


def test_a_tile_without_known_structures_is_returned_as_it_is() -> None:
    values, labels = tile()
    found, left = paint(np.random.default_rng(0), values, labels, [7])
    assert found is values
    assert left is labels


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_shifts_and_running_sums_are_the_pools_that_they_replace(reach: int) -> None:
    values = torch.rand(20, 17, 23)
    kernel = 2 * reach + 1
    mask = values > 0.97
    assert torch.equal(painting._dilated(mask, reach), F.max_pool3d(mask.float()[None], kernel, 1, reach)[0] > 0)
    torch.testing.assert_close(painting._mean(values, reach), F.avg_pool3d(values[None], kernel, 1, reach)[0], rtol=1e-4, atol=1e-5)
