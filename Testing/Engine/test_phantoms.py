"""Generated volumes: deterministic, true to what they promise about anatomy, and never symmetric."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from asymmetric_blocks import asymmetric_blocks

from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.geometry import reorient
from RefSAM3DLib.phantoms import STRUCTURES, head_and_neck_ct
from RefSAM3DLib.phantoms.canvas import TABLE_Z, Field, Local, Pose
from RefSAM3DLib.types import Modality

SPACING, SHAPE = (5.0, 5.0, 4.0), (84, 96, 96)


@pytest.fixture(scope="module")
def ct():
    return head_and_neck_ct(3, SPACING, SHAPE)


def centre_ras(volume, mask):
    k, j, i = np.argwhere(mask).mean(axis=0)
    return (volume.geometry.ijk_to_ras @ (i, j, k, 1.0))[:3]


def dice(a, b):
    return 2.0 * (a & b).sum() / max(a.sum() + b.sum(), 1)


def test_the_same_seed_gives_the_same_voxels_and_another_seed_does_not(ct):
    again, other = head_and_neck_ct(3, SPACING, SHAPE), head_and_neck_ct(4, SPACING, SHAPE)
    assert np.array_equal(ct[0].array, again[0].array)
    assert all(np.array_equal(mask, again[1][name]) for name, mask in ct[1].items())
    assert dice(ct[1]["mandible"], other[1]["mandible"]) < 0.9


def test_a_ct_has_hounsfield_units_and_every_structure(ct):
    volume, masks = ct
    assert volume.array.dtype == np.int16
    assert volume.modality is Modality.CT
    assert volume.array.shape == volume.geometry.shape_dhw == SHAPE
    assert -1024 <= volume.array.min() < -950
    assert set(masks) == set(STRUCTURES)
    assert all(mask.dtype == bool and mask.shape == SHAPE for mask in masks.values())
    assert sum(mask.astype(int) for mask in masks.values()).max() == 1


def test_axes_grow_to_left_posterior_superior(ct):
    order, flip = ct[0].geometry.to_working_orientation()
    assert (order, flip) == ((0, 1, 2), (False, False, False))


@pytest.mark.parametrize("seed", range(5))
def test_structures_lie_where_a_patient_has_them(seed):
    volume, masks = head_and_neck_ct(seed, SPACING, SHAPE)
    at = {name: centre_ras(volume, mask) for name, mask in masks.items()}
    jaw = at["mandible"]
    assert at["right parotid gland"][0] - jaw[0] > 35  # RAS: right is positive
    assert at["left parotid gland"][0] - jaw[0] < -35
    assert at["brainstem"][2] > at["right parotid gland"][2] > jaw[2] > at["larynx"][2] > at["esophagus"][2]
    assert all(jaw[1] > at[name][1] for name in STRUCTURES if name != "mandible")
    assert at["spinal cord"][1] < at["esophagus"][1]


#: Per structure: volume (mL) and mean HU, allowed ranges; means plus or minus about 2.5 standard deviations of OpenKBP.
EXPECTED = {
    "brainstem": (10, 45, -25, 45), "spinal cord": (12, 50, -30, 55), "right parotid gland": (8, 55, -100, 60),
    "left parotid gland": (8, 55, -100, 60), "esophagus": (5, 30, -250, 90), "larynx": (10, 55, -400, 50), "mandible": (35, 110, 420, 900),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_size_and_density_are_those_of_real_structures(seed):
    volume, masks = head_and_neck_ct(seed, SPACING, SHAPE)
    for name, (ml0, ml1, hu0, hu1) in EXPECTED.items():
        assert ml0 < masks[name].sum() * volume.geometry.voxel_volume_ml < ml1, name
        assert hu0 < volume.array[masks[name]].mean() < hu1, name


def test_nothing_mirrors_itself(ct):
    _, masks = ct
    parotids = masks["left parotid gland"] | masks["right parotid gland"]
    axis = round(np.argwhere(parotids)[:, 2].mean() * 2)
    for name, mask in masks.items():
        mirrored = np.zeros_like(mask)
        source = axis - np.arange(SHAPE[2])
        inside = (source >= 0) & (source < SHAPE[2])
        mirrored[:, :, inside] = mask[:, :, source[inside]]
        assert dice(mirrored, mask) < 0.95, name
    right, left = masks["right parotid gland"].sum(), masks["left parotid gland"].sum()
    assert abs(right - left) / max(right, left) > 0.02


@pytest.mark.parametrize("missing", STRUCTURES)
def test_a_structure_left_out_has_no_truth_and_moves_nothing_else(ct, missing):
    volume, masks = head_and_neck_ct(3, SPACING, SHAPE, structures=[s for s in STRUCTURES if s != missing])
    assert missing not in masks
    for name, mask in masks.items():
        assert dice(mask, ct[1][name]) > 0.97, name
    far = ~np.logical_or.reduce(list(ct[1].values()))
    assert np.mean(np.abs(volume.array[far].astype(int) - ct[0].array[far]) > 200) < 0.01
    assert not np.array_equal(volume.array[ct[1][missing]], ct[0].array[ct[1][missing]])


def test_a_missing_esophagus_is_soft_tissue(ct):
    volume, _ = head_and_neck_ct(3, SPACING, SHAPE, structures=[s for s in STRUCTURES if s != "esophagus"], noise_hu=0.0)
    inside = volume.array[ct[1]["esophagus"]]
    assert np.mean((inside > -180) & (inside < 200)) > 0.85


def test_the_anatomy_does_not_depend_on_the_resolution():
    coarse, a = head_and_neck_ct(6, (6.0, 6.0, 6.0), (56, 80, 80))
    fine, b = head_and_neck_ct(6, (3.0, 3.0, 3.0), (112, 160, 160))
    for name in STRUCTURES:
        assert np.allclose(centre_ras(coarse, a[name]), centre_ras(fine, b[name]), atol=3.0), name


def test_noise_and_streaks_do_what_they_say():
    quiet = head_and_neck_ct(3, SPACING, SHAPE, noise_hu=0.0, streaks=False)[0].array.astype(int)
    noisy = head_and_neck_ct(3, SPACING, SHAPE, noise_hu=20.0, streaks=False)[0].array.astype(int)
    streaked = head_and_neck_ct(3, SPACING, SHAPE, noise_hu=0.0)[0].array.astype(int)
    inner = (quiet > -200) & (quiet < 2000)
    upper = inner & (np.arange(SHAPE[0])[:, None, None] > 50)  # above the shoulders, where noise has its nominal strength
    assert (noisy - quiet)[upper].std() == pytest.approx(20.0, rel=0.1)
    changed = np.abs(streaked - quiet).max(axis=(1, 2)) > 20
    assert 0 < changed.sum() < 16  # in the slices of the teeth alone


def test_noise_is_correlated_between_neighbours():
    quiet, noisy = (head_and_neck_ct(3, SPACING, SHAPE, noise_hu=n, streaks=False)[0].array.astype(float) for n in (0.0, 20.0))
    difference = (noisy - quiet)[60:75, 40:60, 40:60]
    assert np.corrcoef(difference[:, :, 1:].ravel(), difference[:, :, :-1].ravel())[0, 1] > 0.3


def test_a_small_field_of_view_is_set_around_the_jaw():
    _, masks = head_and_neck_ct(1, (2.0, 2.0, 2.0), (40, 96, 96))
    assert "mandible" in masks
    assert "esophagus" not in masks


def test_an_unknown_structure_is_refused_by_name():
    with pytest.raises(ConfigError, match="liver"):
        head_and_neck_ct(0, SPACING, SHAPE, structures=["liver"])


def test_a_couch_lies_behind_the_patient():
    plain, couch = (head_and_neck_ct(2, SPACING, SHAPE, noise_hu=0.0, streaks=False, couch=c)[0].array.astype(int) for c in (False, True))
    added = np.argwhere(couch - plain > 30)
    assert len(added) > 1000
    assert added[:, 1].mean() > np.argwhere(plain > -300)[:, 1].mean() + 10


def test_no_choice_of_axes_maps_the_blocks_onto_themselves():
    volume, masks = asymmetric_blocks(shape=(24, 24, 24), spacing_xyz_mm=(1.0, 1.0, 1.0))
    assert len(masks) == 3
    seen = 0
    for order in itertools.permutations(range(3)):
        for flip in itertools.product((False, True), repeat=3):
            if (order, flip) == ((0, 1, 2), (False, False, False)):
                continue
            seen += 1
            assert not np.array_equal(reorient(volume.array, order, flip), volume.array)
            for mask in masks.values():
                assert dice(reorient(mask, order, flip), mask) < 0.9
    assert seen == 47


def test_blocks_are_bright_where_their_masks_are():
    volume, masks = asymmetric_blocks()
    assert volume.array.shape == volume.geometry.shape_dhw == (24, 30, 36)
    means = [volume.array[mask].mean() for mask in masks.values()]
    assert means == sorted(means)
    assert volume.array[~np.logical_or.reduce(list(masks.values()))].max() < min(means) - 300


def test_a_phantom_is_painted_at_the_resolution_asked_for():
    volume, masks = head_and_neck_ct(2, (3.4, 3.4, 15.0), (30, 120, 120))
    assert volume.array.dtype == np.int16
    assert volume.geometry.spacing_xyz_mm == pytest.approx((3.4, 3.4, 15.0))
    assert "mandible" in masks


def test_a_field_has_unit_variance_and_the_same_values_in_any_box():
    field = Field(np.random.default_rng(0), (40, 60, 80), (1.0, 1.0, 2.0), 3.0)
    whole = field((0, 40, 0, 60, 0, 80))
    assert whole.std() == pytest.approx(1.0, abs=0.05)
    assert np.allclose(field((5, 11, 20, 40, 3, 70)), whole[5:11, 20:40, 3:70], atol=1e-6)


def test_anatomical_points_go_to_voxels_and_back():
    bend = (0.05 * TABLE_Z).astype(np.float32)
    matrix = np.array([[-2.0, 0.1, 0.0, 50.0], [0.05, -2.5, 0.1, 30.0], [0.0, 0.1, 3.0, -60.0]])
    pose = Pose(matrix, bend_x=bend, bend_y=-bend, turn=(0.001 * TABLE_Z).astype(np.float32))
    field = Field(np.random.default_rng(0), (20, 20, 20), (1.0, 1.0, 1.0), 5.0)
    local = Local(pose, (0, 20, 0, 20, 0, 20), field, field)
    points = np.stack([local.x.ravel(), local.y.ravel(), local.z.ravel()], axis=1)
    k, j, i = (a.ravel() for a in np.mgrid[0:20, 0:20, 0:20])
    assert np.allclose(pose.to_voxels(points), np.stack([i, j, k], axis=1), atol=0.05)
