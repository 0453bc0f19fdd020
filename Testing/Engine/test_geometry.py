"""A voxel stays where it is in the patient, whatever order, direction, tilt or shear its axes have."""

from __future__ import annotations

import doctest
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import RefSAM3DLib.geometry
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.geometry import RAS_LPS, Geometry, reorient, reorient_back

SPACING_LPS_MM = np.array([0.9, 1.3, 2.1])
ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
NAMES = ["".join("LPS"[a] if s > 0 else "RAI"[a] for a, s in zip(p, signs, strict=True)) for p, signs in ORIENTATIONS]


def head_shape(lps_mm: np.ndarray) -> np.ndarray:
    """A body that no rotation or reflection maps onto itself: a large, a middle and a small ball off the axes. (..., 3) -> bool."""
    balls = (((3.0, 2.0, -4.0), 9.0), ((-7.0, 5.0, 6.0), 5.0), ((6.0, -9.0, 9.0), 3.5))
    return np.any([np.linalg.norm(lps_mm - np.array(centre), axis=-1) < radius for centre, radius in balls], axis=0)


def voxel_centres_ras(geometry: Geometry) -> np.ndarray:
    """(D, H, W, 3) patient position of each voxel, by the literal matrix product."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in geometry.shape_dhw), indexing="ij")
    return (np.stack([i, j, k, np.ones_like(i)], axis=-1) @ geometry.ijk_to_ras.T)[..., :3]


def sample(geometry: Geometry) -> np.ndarray:
    return head_shape(voxel_centres_ras(geometry) * (-1, -1, 1))


def oriented(permutation: tuple[int, ...], signs: tuple[int, ...], shape_xyz: tuple[int, int, int] = (40, 30, 22)) -> Geometry:
    """The same field of view with voxel axis n along patient axis ``permutation[n]`` (of L, P, S) in direction ``signs[n]``."""
    extent = np.array(shape_xyz) * SPACING_LPS_MM
    matrix = np.eye(4)
    origin = -(extent - SPACING_LPS_MM) / 2.0
    for column, (axis, sign) in enumerate(zip(permutation, signs, strict=True)):
        matrix[:3, column] = 0.0
        matrix[axis, column] = sign * SPACING_LPS_MM[axis]
        if sign < 0:
            origin[axis] = -origin[axis]
    matrix[:3, 3] = origin
    shape = tuple(shape_xyz[axis] for axis in permutation)
    return Geometry(shape[::-1], RAS_LPS @ matrix)


REFERENCE = oriented((0, 1, 2), (1, 1, 1))


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS, ids=NAMES)
def test_all_48_orientations_of_a_phantom_without_symmetry_become_the_same_array(permutation, signs):
    geometry = oriented(permutation, signs)
    order, flip = geometry.to_working_orientation()
    working = reorient(sample(geometry), order, flip)
    assert np.array_equal(working, sample(REFERENCE))
    assert geometry.permuted(order, flip) == REFERENCE


def test_the_phantom_has_no_symmetry():
    reference = sample(REFERENCE)
    seen = {np.packbits(sample(oriented(p, s))).tobytes() + bytes(sample(oriented(p, s)).shape) for p, s in ORIENTATIONS}
    assert len(seen) == 48
    assert 100 < reference.sum() < reference.size / 4


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS, ids=NAMES)
def test_reorienting_back_restores_every_voxel(permutation, signs):
    geometry = oriented(permutation, signs)
    array = np.arange(np.prod(geometry.shape_dhw)).reshape(geometry.shape_dhw)
    order, flip = geometry.to_working_orientation()
    assert np.array_equal(reorient_back(reorient(array, order, flip), order, flip), array)


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def moved(geometry: Geometry, linear: np.ndarray) -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    return Geometry(geometry.shape_dhw, matrix @ geometry.ijk_to_ras)


SHEAR = np.array([[1, 0, 0], [0, 1, 0.35], [0, 0, 1.0]])  # a gantry tilt of 19 degrees


@pytest.mark.parametrize("linear", [rotation((1, 2, 3), 25), rotation((0, 0, 1), -40), SHEAR], ids=["oblique", "turned", "sheared"])
@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS[::5], ids=NAMES[::5])
def test_oblique_left_handed_and_sheared_voxels_keep_their_place(permutation, signs, linear):
    geometry = moved(oriented(permutation, signs), linear)
    order, flip = geometry.to_working_orientation()
    positions = reorient(voxel_centres_ras(geometry), (*order, 3), (*flip, False))
    assert np.allclose(voxel_centres_ras(geometry.permuted(order, flip)), positions, atol=1e-9)
    lps = geometry.permuted(order, flip).directions * np.array([[-1], [-1], [1]])
    assert (np.diag(lps) > 0.7).all(), "W, H, D must grow to Left, Posterior, Superior"


def test_left_handed_grids_keep_their_handedness_in_the_matrix_not_in_the_working_array():
    left_handed = oriented((0, 1, 2), (-1, 1, 1))
    assert np.linalg.det(left_handed.directions) < 0
    working = left_handed.permuted(*left_handed.to_working_orientation())
    assert np.linalg.det(working.directions) > 0


def test_a_voxel_of_a_sheared_grid_has_the_volume_of_the_parallelepiped():
    straight, sheared = REFERENCE, moved(REFERENCE, SHEAR)
    assert sheared.voxel_volume_ml == pytest.approx(straight.voxel_volume_ml)
    assert np.prod(sheared.spacing_xyz_mm) / 1000 > straight.voxel_volume_ml * 1.05, "the product of spacings would be wrong"


def test_ties_at_45_degrees_use_each_axis_once():
    for axis in ((0, 0, 1), (1, 0, 0), (0, 1, 0)):
        for degrees in (45, 135, -45):
            order, _ = moved(REFERENCE, rotation(axis, degrees)).to_working_orientation()
            assert sorted(order) == [0, 1, 2]


def test_itk_fields_and_the_matrix_say_the_same():
    direction = rotation((1, -1, 2), 33)
    geometry = Geometry.from_lps((3, 4, 5), (10.0, -20.0, 30.0), (0.5, 0.7, 2.0), direction)
    index = np.array([4, 3, 2])
    itk = np.array([10.0, -20.0, 30.0]) + direction @ (np.array([0.5, 0.7, 2.0]) * index)
    assert np.allclose((geometry.ijk_to_ras @ [*index, 1])[:3], itk * (-1, -1, 1))
    assert np.allclose((geometry.ijk_to_lps @ [*index, 1])[:3], itk)
    assert geometry.spacing_xyz_mm == pytest.approx((0.5, 0.7, 2.0))
    assert geometry.extent_xyz_mm == pytest.approx((2.5, 2.8, 6.0))


@given(st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from(ORIENTATIONS), st.floats(-180, 180), st.floats(-0.4, 0.4))
def test_any_grid_goes_there_and_back(shape, orientation, degrees, shear):
    linear = rotation((1, 1, 2), degrees) @ (np.eye(3) + shear * np.eye(3, k=1))
    geometry = moved(oriented(*orientation, shape_xyz=shape), linear)
    order, flip = geometry.to_working_orientation()
    array = np.arange(np.prod(geometry.shape_dhw)).reshape(geometry.shape_dhw)
    assert np.array_equal(reorient_back(reorient(array, order, flip), order, flip), array)
    positions = reorient(voxel_centres_ras(geometry), (*order, 3), (*flip, False))
    assert np.allclose(voxel_centres_ras(geometry.permuted(order, flip)), positions, atol=1e-8)


@pytest.mark.parametrize(
    ("shape", "matrix", "sentence"),
    [
        ((3, 4, 5), np.diag([1, 1, 0, 1]), r"spacing is 1 x 1 x 0 mm"),
        ((3, 4, 5), np.diag([1, 1, 4000, 1]), r"spacing is 1 x 1 x 4000 mm, outside 0.001 to 100 mm; check the unit"),
        ((3, 4, 5), np.diag([1, np.nan, 1, 1]), r"non-finite values; re-export"),
        ((3, 4, 5), np.eye(3), r"shape \(3, 3\)"),
        ((3, 4, 5), np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), r"singular"),
        ((3, 0, 5), np.eye(4), r"shape \(3, 0, 5\); load a 3D image"),
        ((4, 5), np.eye(4), r"shape \(4, 5\); load a 3D image"),
    ],
    ids=["zero spacing", "metres", "nan", "3x3", "singular", "no slices", "2D"],
)
def test_impossible_grids_are_refused_with_the_value_and_the_next_step(shape, matrix, sentence):
    with pytest.raises(InputError, match=sentence):
        Geometry(shape, matrix)


def test_equal_grids_hash_alike_and_cannot_be_altered():
    nudged = np.array(REFERENCE.ijk_to_ras)
    nudged[:3, 3] += 4e-7
    other = Geometry(REFERENCE.shape_dhw, nudged)
    assert other == REFERENCE
    assert hash(other) == hash(REFERENCE)
    assert moved(REFERENCE, SHEAR) != REFERENCE
    with pytest.raises(ValueError, match="read-only"):
        REFERENCE.ijk_to_ras[0, 3] = 1.0


def test_the_examples_in_the_documentation_are_true():
    assert doctest.testmod(RefSAM3DLib.geometry).failed == 0
