"""Two segmentations side by side, and distances between surfaces against the literal formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from RefSAM3DLib.compare import compare_masks, compare_segmentations, covering_grid, read_masks, to_image
from RefSAM3DLib.errors import ConfigError, InputError
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.places import boundary
from RefSAM3DLib.surfaces import dice, surface_distances


def grid(shape: tuple[int, int, int] = (8, 9, 10), spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> Geometry:
    return Geometry(shape, np.diag([*spacing, 1.0]))


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_surface_distances_equal_the_brute_force_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((6, 5, 7)) > 0.6, rng.random((6, 5, 7)) > 0.7
    spacing = (0.7, 1.3, 2.5)
    found = surface_distances(a, b, spacing)
    assert found is not None
    border_a, border_b = (np.argwhere(boundary(np.pad(m, 1))) * np.array(spacing[::-1]) for m in (a, b))
    apart = np.linalg.norm(border_a[:, None] - border_b[None], axis=2)
    assert np.sort(found.a_to_b) == pytest.approx(np.sort(apart.min(axis=1)), abs=1e-3)
    assert np.sort(found.b_to_a) == pytest.approx(np.sort(apart.min(axis=0)), abs=1e-3)
    assert found.maximum == pytest.approx(max(apart.min(axis=1).max(), apart.min(axis=0).max()), abs=1e-3)


def test_equal_masks_are_no_distance_apart() -> None:
    mask = np.zeros((8, 9, 10), bool)
    mask[2:5, 2:6, 3:7] = True
    row = compare_masks(mask, mask, grid())
    assert (row["dice"], row["mean_surface_mm"], row["hd95_mm"], row["nsd_2mm"], row["added_ml"]) == (1.0, 0.0, 0.0, 1.0, 0.0)


def test_shift_along_one_axis_is_measured_in_its_millimetres() -> None:
    mask = np.zeros((8, 9, 10), bool)
    mask[2:5, 2:6, 3:7] = True
    found = surface_distances(mask, np.roll(mask, 1, axis=0), grid().spacing_xyz_mm)
    assert found is not None
    assert found.maximum == pytest.approx(3.0)


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert dice(empty, empty) == 1.0
    assert dice(empty, full) == 0.0
    assert surface_distances(empty, full, (1, 1, 1)) is None
    assert compare_masks(empty, full, grid((3, 3, 3)))["mean_surface_mm"] is None


def label_map(path: Path, geometry: Geometry, *values: tuple[int, tuple[slice, ...]]) -> Path:
    array = np.zeros(geometry.shape_dhw, np.uint8)
    for value, place in values:
        array[place] = value
    sitk.WriteImage(to_image(array, geometry), str(path))
    return path


def test_label_maps_are_compared_by_name_on_the_first_ones_grid(tmp_path: Path) -> None:
    cube = (slice(2, 6), slice(2, 6), slice(2, 6))
    first = label_map(tmp_path / "a.nii.gz", grid(), (1, cube))
    flipped = Geometry((8, 9, 10), grid().ijk_to_ras @ np.array([[-1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    second = label_map(tmp_path / "b.nii.gz", flipped, (1, (slice(2, 6), slice(2, 6), slice(4, 8))), (2, (slice(0, 1),) * 3))
    found, _ = compare_segmentations(first, second, {1: "brainstem"})
    rows = {c.row["structure"]: c.row for c in found}
    assert rows["brainstem"]["dice"] == 1.0


def test_no_common_structure_is_said_with_both_lists(tmp_path: Path) -> None:
    cube = (slice(2, 6),) * 3
    first = label_map(tmp_path / "a.nii.gz", grid(), (1, cube))
    second = label_map(tmp_path / "b.nii.gz", grid(), (2, cube))
    with pytest.raises(InputError, match=r"label 1.*label 2.*--labels"):
        compare_segmentations(first, second)
    with pytest.raises(InputError, match="does not exist"):
        read_masks(tmp_path / "c.nii.gz", {})


def test_a_truncated_label_map_is_refused_not_filled_with_zeros(tmp_path: Path) -> None:
    first = label_map(tmp_path / "a.nii", grid(), (1, (slice(2, 6),) * 3))
    cut = tmp_path / "cut.nii"
    cut.write_bytes(first.read_bytes()[:-200])
    with pytest.raises(InputError, match="truncated"):
        compare_segmentations(first, cut)


def test_a_probability_volume_is_no_label_map(tmp_path: Path) -> None:
    first = label_map(tmp_path / "a.nii.gz", grid(), (1, (slice(2, 6),) * 3))
    chances = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    sitk.WriteImage(to_image(chances, grid()), str(tmp_path / "p.nii.gz"))
    with pytest.raises(InputError, match=r"p\.nii\.gz' has fractional values"):
        compare_segmentations(first, tmp_path / "p.nii.gz", {1: "brainstem"})
    sitk.WriteImage(to_image(np.round(chances), grid()), str(tmp_path / "whole.nii.gz"))
    assert list(read_masks(tmp_path / "whole.nii.gz", {})) == ["label 1"], "labels in floating point"


@pytest.mark.parametrize("steps", [3, 5])
def test_coarse_voxels_are_covered_to_their_borders(tmp_path: Path, steps: int) -> None:
    """Three slices of 5 mm are 15 mm of the finer grid, not the 11 between their centres."""
    fine, coarse = Geometry((4, 9, 10), np.diag([1.0, 1.0, 1.0, 1.0])), Geometry((3, 9, 10), np.diag([1.0, 1.0, float(steps), 1.0]))
    covering = covering_grid(fine, coarse)
    assert covering.shape_dhw == (3 * steps, 9, 10)
    assert covering.ijk_to_ras[2, 3] == -(steps - 1) / 2
    first = label_map(tmp_path / "a.nii.gz", fine, (1, (slice(0, 2),) * 3))
    second = label_map(tmp_path / "b.nii.gz", coarse, (1, (slice(None),) * 3))
    found, geometry = compare_segmentations(first, second)
    assert found[0].row["second_ml"] == pytest.approx(3 * 9 * 10 * steps / 1000)
    assert geometry == covering
    assert covering_grid(fine, fine) == fine


def test_segmentation_that_slicer_cropped_is_compared_whole(tmp_path: Path) -> None:
    whole = np.zeros((8, 9, 10), bool)
    whole[1:7, 2:6, 3:8] = True
    second = label_map(tmp_path / "b.nii.gz", grid(), (1, (slice(1, 7), slice(2, 6), slice(3, 8))))
    cut = Geometry((3, 2, 2), grid().ijk_to_ras @ np.array([[1, 0, 0, 4], [0, 1, 0, 3], [0, 0, 1, 2], [0, 0, 0, 1.0]]))
    first = label_map(tmp_path / "a.nii.gz", cut, (1, (slice(None),) * 3))
    for one, other in ((first, second), (second, first)):
        found, geometry = compare_segmentations(one, other)
        assert found[0].row["dice"] == pytest.approx(2 * 12 / (12 + whole.sum()), abs=1e-5)
        assert geometry.shape_dhw in ((8, 9, 10), (6, 4, 5))


def test_an_image_is_no_label_map(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(1000, dtype=np.int16).reshape(10, 10, 10)), str(tmp_path / "ct.nii.gz"))
    with pytest.raises(InputError, match="holds 1000 values, as an image does"):
        read_masks(tmp_path / "ct.nii.gz", {})


def test_names_of_values_are_parted_by_commas() -> None:
    from RefSAM3DLib.cli.compare import parse_labels

    assert parse_labels("1=brainstem, 2=left parotid gland") == {1: "brainstem", 2: "left parotid gland"}
    with pytest.raises(ConfigError, match="write it as 1=brainstem,2=mandible"):
        parse_labels("3=right parotid gland;4=left parotid gland")
