"""Where to look: inside the structure, in any orientation, on the slice that is least certain."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.places import boundary, box_of, look_at


def test_boundary_of_a_cube_is_its_shell() -> None:
    mask = np.zeros((7, 7, 7), bool)
    mask[1:6, 1:6, 1:6] = True
    assert boundary(mask).sum() == 5**3 - 3**3
    assert box_of(mask) == (1, 6, 1, 6, 1, 6)
    assert box_of(np.zeros((2, 2, 2), bool)) is None


def test_centre_of_a_ring_lies_on_the_ring() -> None:
    j, i = np.mgrid[:21, :21]
    mask = np.zeros((3, 21, 21), bool)
    mask[1] = np.abs(np.hypot(j - 10, i - 10) - 8) < 1
    places = look_at(mask, Geometry(mask.shape, np.eye(4)))
    assert mask[tuple(places["centre_kji"])]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_worst_slice_is_the_same_place_in_the_patient_in_every_orientation(order: tuple[int, int, int]) -> None:
    """The body's axis may be any array axis, in either direction: the answer in millimetres must not change."""
    phantom = np.zeros((12, 14, 16), bool)
    phantom[2:10, 3:11, 4:12] = True
    chance = np.where(phantom, 0.95, 0.05)
    chance[7, 3:11, 4:12] = 0.55  # slice 7 along superior is uncertain
    base = np.diag([-1.5, -2.0, 3.0, 1.0])  # i to Left, j to Posterior, k to Superior
    for flips in product((False, True), repeat=3):
        geometry = Geometry(phantom.shape, base).permuted(order, flips)
        view = tuple(slice(None, None, -1) if f else slice(None) for f in flips)
        places = look_at(np.transpose(phantom, order)[view], geometry, np.transpose(chance, order)[view])
        assert places["worst_ras"][2] == pytest.approx(21.0)
        assert places["worst_uncertainty"] == pytest.approx(0.9, abs=0.01)


def test_without_probabilities_the_jump_of_the_outline_is_found() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[3:17, 8:12, 8:12] = True
    mask[9, 4:16, 4:16] = True  # a leak on one slice
    places = look_at(mask, Geometry(mask.shape, np.eye(4)))
    assert abs(places["worst_kji"][0] - 9) <= 1
    assert places["worst_uncertainty"] is None
    assert look_at(np.zeros((3, 3, 3), bool), Geometry((3, 3, 3), np.eye(4))) == {}
