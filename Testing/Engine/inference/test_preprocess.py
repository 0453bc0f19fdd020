"""The way to the working grid and back: nothing moves, nothing aliases, whatever the order of the axes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from RefSAM3DLib.config import IntensityConfig
from RefSAM3DLib.geometry import RAS_LPS, Geometry
from RefSAM3DLib.inference.preprocess import Frame, _affine_sample, apply_windows, axis_matrix, bands, body_box, intensity_windows, read_at_once
from RefSAM3DLib.types import Modality, Volume

ORIENTATIONS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((False, True), repeat=3)]


def lps(shape: tuple[int, int, int], spacing_xyz: tuple[float, float, float], rotation: np.ndarray | None = None) -> Geometry:
    """Working orientation, turned by ``rotation``."""
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing_xyz)
    matrix[:3, 3] = (-40.0, 12.0, 7.0)
    return Geometry(shape, RAS_LPS @ matrix)


def turn(degrees: float, axis: int = 2) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = [n for n in range(3) if n != axis]
    out = np.eye(3)
    out[a, a], out[a, b], out[b, a], out[b, b] = c, -s, s, c
    return out


def blob(geometry: Geometry, centre_dhw: tuple[float, float, float], sigma_mm: float) -> np.ndarray:
    k, j, i = np.indices(geometry.shape_dhw, dtype=float)
    ijk = np.stack([i, j, k, np.ones_like(i)], -1)
    middle = geometry.ijk_to_ras @ np.array([*centre_dhw[::-1], 1.0])
    distance = ((ijk @ geometry.ijk_to_ras.T - middle)[..., :3] ** 2).sum(-1)
    return np.exp(-distance / (2 * sigma_mm**2)).astype(np.float32)


def centroid(values: np.ndarray) -> np.ndarray:
    weight = np.clip(values, 0, None).astype(float) ** 2  # tails of the blob must not pull
    return np.array([(weight * axis).sum() for axis in np.indices(values.shape)]) / weight.sum()


def whole(frame: Frame) -> tuple[int, int, int, int, int, int]:
    d, h, w = frame.shape_dhw
    return 0, d, 0, h, 0, w


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("native", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5), (1.7, 1.1, 0.6)])
def test_blob_read_and_written_back_keeps_its_centre(spacing_mm: float, native: tuple[float, float, float]) -> None:
    shape = tuple(round(50 / s) for s in native[::-1])
    geometry = lps(shape, native)
    place = tuple(n * f for n, f in zip(shape, (0.45, 0.55, 0.5), strict=True))
    array = blob(geometry, place, 6.0)
    frame = Frame.of(geometry, spacing_mm)
    values, box = frame.write(frame.read(array), whole(frame))
    back = frame.place(values.numpy(), box).whole()
    assert back.shape == array.shape
    assert np.abs(centroid(back) - centroid(array)).max() < 0.05
    assert np.abs(back - array).max() < 0.15


@pytest.mark.parametrize("degrees", [5.0, 20.0, 40.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_oblique_blob_keeps_its_centre(degrees: float, axis: int) -> None:
    geometry = lps((40, 44, 48), (1.1, 1.0, 1.2), turn(degrees, axis))
    array = blob(geometry, (19.3, 23.2, 22.1), 6.0)
    frame = Frame.of(geometry, 2.0)
    assert frame.rotated == (degrees > 12)
    values, box = frame.write(frame.read(array, fill=0.0), whole(frame))
    back = frame.place(values.numpy(), box).whole()
    assert np.abs(centroid(back) - centroid(array)).max() < 0.05
    assert np.abs(back - array).max() < 0.2


@pytest.mark.parametrize("degrees", [0.0, 5.0, 30.0])
def test_working_voxel_lies_where_the_frame_says_it_lies(degrees: float) -> None:
    """The centre of a blob, found on the working grid, is at the same millimetres as on the native one."""
    geometry = lps((40, 44, 48), (1.1, 1.0, 1.2), turn(degrees, 1))
    frame = Frame.of(geometry, 2.0)
    found = centroid(frame.read(blob(geometry, (19.3, 23.2, 22.1), 6.0), fill=0.0).numpy())
    ijk = frame.to_native @ np.array([*found[::-1], 1.0])
    assert np.abs(ijk[:3] - (22.1, 23.2, 19.3)).max() < 0.1


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_all_48_orientations_read_the_same_bits(order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    geometry = lps((10, 12, 14), (1.5, 1.25, 2.0))
    array = np.random.default_rng(0).normal(size=geometry.shape_dhw).astype(np.float32)
    other = geometry.permuted(order, flips)
    stored = np.ascontiguousarray(np.transpose(array, order)[tuple(slice(None, None, -1) if f else slice(None) for f in flips)])
    here, there = Frame.of(geometry, 2.5), Frame.of(other, 2.5)
    assert torch.equal(here.read(array), there.read(stored))
    assert np.array_equal(here.to_native, there.to_native)
    maps = torch.randn(here.shape_dhw)
    values, box = here.write(maps, whole(here))
    back = here.place(values.numpy(), box).whole()
    again = there.place(there.write(maps, whole(there))[0].numpy(), box).whole()
    assert np.array_equal(np.transpose(back, order)[tuple(slice(None, None, -1) if f else slice(None) for f in flips)], again)
    native = there.native_box_of((1, 3, 2, 7, 4, 5))
    assert there.oriented_box_of(native) == (1, 3, 2, 7, 4, 5)
    marked = there.place(np.ones((2, 5, 1), bool), (1, 3, 2, 7, 4, 5)).whole()
    assert marked[native[0] : native[1], native[2] : native[3], native[4] : native[5]].all()
    assert marked.sum() == 10


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("shape", "spacing_mm"), [((11, 12, 13), 2.7), ((20, 31, 16), 6.0), ((9, 9, 9), 0.7)])
def test_reading_commutes_with_a_flip_of_the_anatomy(axis: int, shape: tuple[int, int, int], spacing_mm: float) -> None:
    """Left-right symmetry of the whole engine stands on this: the mirrored patient reads as the mirrored grid."""
    frame = Frame.of(lps(shape, (1.3, 1.1, 1.7)), spacing_mm)
    array = np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)
    mirrored = frame.read(np.ascontiguousarray(np.flip(array, axis)))
    torch.testing.assert_close(mirrored, frame.read(array).flip(axis), rtol=1e-5, atol=2e-3)


def test_fine_detail_is_averaged_not_picked() -> None:
    """Slices that alternate between 0 and 1000 at 1 mm are near 500 at 5 mm, where every output voxel lies on a slice."""
    geometry = lps((60, 8, 8), (1.0, 1.0, 1.0))
    array = np.zeros(geometry.shape_dhw, np.float32)
    array[::2] = 1000
    inner = Frame.of(geometry, 5.0).read(array)[1:-1]
    assert inner.shape[0] == 10
    assert float((inner - 500).abs().max()) < 30
    tilted = Frame.of(lps((60, 8, 8), (1.0, 1.0, 1.0), turn(90 - 14.0, 2) @ turn(0)), 5.0)
    assert float((tilted.read(array)[1:-1] - 500).abs().max()) < 30


def test_smoothing_a_tilted_grid_takes_the_bands_of_its_matrices_and_changes_no_value() -> None:
    """Whole matrices take 35 times the time for 512 x 512 x 300 voxels."""
    frame = Frame.of(lps((150, 160, 40), (1.0, 1.0, 1.0), turn(20.0, 1)), 3.0)
    array = np.random.default_rng(0).normal(size=(150, 160, 40)).astype(np.float32)
    with FlopCounterMode(display=False) as counter:
        values = frame.read(array)
    whole_matrices = sum(2 * array.size * n for n in array.shape)
    assert 0 < counter.get_total_flops() < 0.25 * whole_matrices
    smooth = torch.from_numpy(array)
    for axis, n in enumerate(array.shape):
        index = torch.arange(n, dtype=torch.float64)
        weight = (1 - (index[None] - index[:, None]).abs() / 3.0).clamp(min=0)
        matrix = (weight / weight.sum(1, keepdim=True)).float()
        smooth = torch.movedim(torch.tensordot(matrix, smooth, dims=([1], [axis])), 0, axis)
    expected = _affine_sample(smooth, frame.shape_dhw, frame.to_native, float(array.min()))
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.floats(0.3, 8), st.integers(1, 40), st.floats(0.3, 8))
def test_rows_of_an_axis_matrix_are_weighted_means_and_symmetric(count_in: int, spacing_in: float, count_out: int, spacing_out: float) -> None:
    matrix = axis_matrix(count_in, spacing_in, count_out, spacing_out)
    assert matrix.shape == (count_out, count_in)
    assert float(matrix.min()) >= 0
    torch.testing.assert_close(matrix.sum(1), torch.ones(count_out), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(matrix, matrix.flip(0, 1), rtol=1e-4, atol=1e-5)


def test_axis_matrix_is_the_identity_between_equal_grids_and_moves_by_its_offset() -> None:
    assert torch.equal(axis_matrix(7, 1.5, 7, 1.5), torch.eye(7))
    assert torch.equal(axis_matrix(7, 1.5, 7, 1.5, offset_mm=3.0)[:5], torch.eye(7)[2:])


@pytest.mark.parametrize("shape", [(1, 30, 30), (300, 4, 4), (1, 1, 1)])
def test_thin_and_long_grids_come_back(shape: tuple[int, int, int]) -> None:
    geometry = lps(shape, (1.0, 1.0, 3.0))
    frame = Frame.of(geometry, 2.0)
    array = np.full(shape, 7, np.int16)
    values, box = frame.write(frame.read(array), whole(frame))
    assert box == (0, shape[0], 0, shape[1], 0, shape[2])
    np.testing.assert_allclose(frame.place(values.numpy(), box).whole(), 7, rtol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_part_of_a_working_grid_lands_where_the_whole_would(degrees: float) -> None:
    geometry = lps((30, 30, 30), (1.0, 1.0, 1.0), turn(degrees))
    frame = Frame.of(geometry, 2.0)
    maps = torch.randn(frame.shape_dhw)
    full, full_box = frame.write(maps, whole(frame))
    everything = frame.place(full.numpy(), full_box).whole()
    box = (3, 9, 5, 11, 4, 12)
    part, native = frame.write(maps[3:9, 5:11, 4:12], box)
    inner = tuple(slice(native[2 * a], native[2 * a + 1]) for a in range(3))
    k, j, i = np.indices(geometry.shape_dhw)[(slice(None), *inner)]
    working = (np.stack([i, j, k, np.ones_like(i)], -1) @ np.linalg.inv(frame.to_native).T)[..., 2::-1]
    core = np.all([(working[..., a] >= box[2 * a]) & (working[..., a] <= box[2 * a + 1] - 1) for a in range(3)], axis=0)
    assert core.sum() > 300
    np.testing.assert_allclose(part.numpy()[core], everything[inner][core], atol=1e-3)


def test_nothing_is_drawn_beside_a_turned_box() -> None:
    """The native box around a turned working box has corners that the working box does not reach."""
    geometry = lps((30, 30, 30), (1.0, 1.0, 1.0), turn(45))
    frame = Frame.of(geometry, 1.0)
    d, h, w = (n // 2 for n in frame.shape_dhw)
    box = (d - 4, d + 4, h - 4, h + 4, w - 4, w + 4)
    values, _ = frame.write(torch.full((8, 8, 8), 5.0), box)
    inside = int((values > 0).sum())
    assert inside < 0.7 * values.numel()
    assert inside == pytest.approx(8**3, rel=0.15)


def volume(array: np.ndarray, modality: Modality) -> Volume:
    return Volume(array, lps(array.shape, (1.0, 1.0, 1.0)), modality)


def test_ct_is_windowed_in_hounsfield_units_and_the_rest_by_percentiles() -> None:
    config = IntensityConfig()
    array = np.linspace(0, 1000, 27_000).reshape(30, 30, 30)
    assert intensity_windows(volume(array, Modality.CT), Modality.CT, config) == [tuple(map(float, w)) for w in config.ct_windows_hu]
    found = intensity_windows(volume(array, Modality.MR), Modality.MR, config)
    for (low, high), (lo, hi) in zip(found, config.mr_percentiles, strict=True):
        assert low == pytest.approx(lo * 10, abs=0.5)
        assert high == pytest.approx(hi * 10, abs=0.5)
    constant = intensity_windows(volume(np.zeros((3, 3, 3)), Modality.MR), Modality.MR, config)
    assert all(high > low for low, high in constant)


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e6])
def test_contrast_does_not_depend_on_the_unit_of_the_values(unit: float) -> None:
    """Diffusion coefficients in m2/s are of the order of 1e-9."""
    array, config = np.linspace(0.3, 3.0, 27_000).reshape(30, 30, 30), IntensityConfig()
    plain, scaled = (intensity_windows(volume(a, Modality.MR), Modality.MR, config) for a in (array, array * unit))
    np.testing.assert_allclose(np.array(scaled) / unit, plain, rtol=1e-6)
    seen = apply_windows(torch.from_numpy((array * unit).astype(np.float32)), scaled)
    torch.testing.assert_close(seen, apply_windows(torch.from_numpy(array.astype(np.float32)), plain), rtol=0, atol=1e-4)
    mostly_empty = np.zeros((30, 30, 30))
    mostly_empty[0, 0, :2] = 700 * unit
    for low, high in intensity_windows(volume(mostly_empty, Modality.MR), Modality.MR, config):
        assert low == 0 < high < 700 * unit, "what is not empty is bright"


def test_percentiles_do_not_depend_on_how_a_large_volume_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.inference.preprocess.PERCENTILE_SAMPLES", 500)
    geometry = lps((17, 20, 23), (1.0, 1.0, 1.0))
    array = np.random.default_rng(0).gamma(2.0, size=geometry.shape_dhw)
    found = set()
    for order, flips in ORIENTATIONS:
        stored = np.transpose(array, order)[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
        found.add(tuple(intensity_windows(Volume(stored, geometry.permuted(order, flips), Modality.MR), Modality.MR, IntensityConfig())))
    assert len(found) == 1


def test_windows_map_to_one_and_clip() -> None:
    out = apply_windows(torch.tensor([[[-500.0, 0.0, 50.0, 100.0, 900.0]]]), [(0.0, 100.0), (-500.0, 900.0)])
    assert out[0].flatten().tolist() == [-1, -1, 0, 1, 1]
    assert out[1].flatten()[[0, 4]].tolist() == [-1, 1]


def test_body_box_has_two_voxels_of_margin_and_is_for_ct_alone() -> None:
    values = torch.full((20, 20, 20), -1000.0)
    values[5:9, 1:3, 10:19] = 0
    assert body_box(values, Modality.CT) == (3, 11, 0, 5, 8, 20)
    assert body_box(values, Modality.MR) == (0, 20, 0, 20, 0, 20)
    assert body_box(values - 1000, Modality.CT) == (0, 20, 0, 20, 0, 20)


@pytest.mark.parametrize("axes", [np.eye(3), turn(90 - 14.0, 2) @ turn(0)])
def test_two_spacings_read_at_once_are_those_read_one_by_one(axes: np.ndarray) -> None:
    geometry = lps((19, 23, 21), (1.3, 0.9, 1.7), axes)
    array = np.random.default_rng(0).integers(-1000, 1000, geometry.shape_dhw).astype(np.int16)
    frames = [Frame.of(geometry, spacing) for spacing in (3.0, 7.0)]
    for frame, values in zip(frames, read_at_once(array, frames), strict=True):
        assert torch.equal(values, frame.read(array))


def test_blocks_of_an_axis_matrix_leave_nothing_out() -> None:
    matrix = axis_matrix(100, 0.8, 43, 1.9)
    whole = torch.zeros_like(matrix)
    for rows, columns, values in bands(matrix):
        whole[rows, columns] = values
    assert torch.equal(whole, matrix)
