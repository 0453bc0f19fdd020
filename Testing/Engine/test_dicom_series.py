"""A DICOM series becomes the volume that the scanner saw: by position, with its tilt, or with a sentence that says why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import alter, write_multiframe, write_series

from RefSAM3DLib import dicom_series, image_files
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.types import Modality
from RefSAM3DLib.volume_io import list_series, load_volume

STORED = np.random.default_rng(0).integers(0, 3000, (6, 5, 4)).astype(np.int16)
HU = STORED.astype(np.int32) - 1024


def positions(count: int = 6, step: tuple[float, float, float] = (0.0, 0.0, 2.5)) -> np.ndarray:
    return np.array([-20.0, -30.0, 100.0]) + np.outer(np.arange(count), step)


def test_slices_are_ordered_by_position_and_rescaled(tmp_path: Path):
    uid = write_series(tmp_path, STORED, uid="1.2.840.99")  # a random one can hold the digits of the patient's number
    volume = load_volume(tmp_path)
    assert np.array_equal(volume.array, HU)
    assert volume.array.dtype == np.int16
    expected = np.diag([-0.9, -0.7, 2.5, 1.0])
    expected[:3, 3] = (20.0, 30.0, 100.0)
    assert np.allclose(volume.geometry.ijk_to_ras, expected)
    assert (volume.modality, volume.modality_source) == (Modality.CT, "dicom")
    assert volume.metadata["series_uid"] == uid
    assert "warning" not in volume.metadata
    heights = [float(pydicom.dcmread(name).ImagePositionPatient[2]) for name in volume.dicom_files]
    assert heights == sorted(heights)
    assert not any("Muster" in text or "4711" in text for text in volume.metadata.values())


def test_slices_stored_from_head_to_foot_give_the_same_volume(tmp_path: Path):
    write_series(tmp_path / "up", STORED)
    write_series(tmp_path / "down", STORED[::-1], positions=positions()[::-1])
    up, down = load_volume(tmp_path / "up"), load_volume(tmp_path / "down")
    assert np.array_equal(up.array, down.array)
    assert up.geometry == down.geometry


def test_a_gantry_tilt_shears_the_grid_and_every_voxel_keeps_its_place(tmp_path: Path):
    places = positions(step=(0.0, 0.6, 2.4))
    write_series(tmp_path, STORED, positions=places)
    geometry = load_volume(tmp_path).geometry
    for k in (0, 3, 5):
        assert np.allclose((geometry.ijk_to_lps @ [0, 0, k, 1])[:3], places[k])
        assert np.allclose((geometry.ijk_to_lps @ [3, 4, k, 1])[:3], places[k] + [3 * 0.9, 4 * 0.7, 0])
    assert abs(geometry.directions[:, 1] @ geometry.directions[:, 2]) > 0.2


def test_an_oblique_sagittal_series_follows_row_and_column_directions(tmp_path: Path):
    row, column = np.array([0.0, 0.8, 0.6]), np.array([0.0, 0.6, -0.8])
    normal = np.cross(row, column)
    places = np.array([5.0, 6.0, 7.0]) + np.outer(np.arange(6), 3.0 * normal)
    write_series(tmp_path, STORED, positions=places, orientation=(*row, *column), modality="MR", intercept=0.0)
    volume = load_volume(tmp_path)
    assert np.allclose((volume.geometry.ijk_to_lps @ [2, 3, 4, 1])[:3], places[4] + 2 * 0.9 * row + 3 * 0.7 * column)
    assert volume.modality is Modality.MR
    assert np.array_equal(volume.array, STORED)


def test_each_slice_of_a_pet_has_its_own_slope(tmp_path: Path):
    slopes = [0.5 + 0.25 * k for k in range(6)]
    write_series(tmp_path, STORED, slope=slopes, intercept=0.0, modality="PT")
    volume = load_volume(tmp_path)
    assert volume.modality is Modality.PET
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, STORED * np.array(slopes)[:, None, None])


def test_values_beyond_16_bits_are_kept(tmp_path: Path):
    stored = np.full((3, 5, 4), 60000, dtype=np.uint16)
    stored[1, 2, 3] = 7
    write_series(tmp_path, stored, slope=2.0, intercept=0.0, modality="MR")
    assert load_volume(tmp_path).array.max() == 120000


def test_several_series_are_listed_with_uid_description_and_number_of_slices(tmp_path: Path):
    first = write_series(tmp_path / "a" / "deep", STORED, description="neck")
    second = write_series(tmp_path / "b", STORED[:4], positions=positions(4), description="lung")
    with pytest.raises(InputError) as caught:
        load_volume(tmp_path)
    for text in ("holds 2 series", "--series", first, second, '"neck", 6 slices', '"lung", 4 slices'):
        assert text in str(caught.value)
    assert load_volume(tmp_path, series=second).array.shape == (4, 5, 4)
    with pytest.raises(InputError, match=r"Series 1\.2\.3 is not in"):
        load_volume(tmp_path, series="1.2.3")
    assert [(s.uid, s.slices, s.modality) for s in list_series(tmp_path)] == [(first, 6, "CT"), (second, 4, "CT")]


def test_one_file_means_its_series(tmp_path: Path):
    wanted = write_series(tmp_path, STORED, names=[f"a{k}.dcm" for k in range(6)])
    write_series(tmp_path, STORED[:2], positions=positions(2), names=["b0.dcm", "b1.dcm"])
    volume = load_volume(tmp_path / "a3.dcm")
    assert volume.metadata["series_uid"] == wanted
    assert np.array_equal(volume.array, HU)
    with pytest.raises(InputError, match="leave --series out"):
        load_volume(tmp_path / "a3.dcm", series="1.2.3")


def test_files_without_ending_and_other_files_beside_them_are_no_obstacle(tmp_path: Path):
    write_series(tmp_path, STORED, names=[f"{k:08d}" for k in range(6)])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"rubbish")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert np.array_equal(load_volume(tmp_path).array, HU)


def test_a_folder_without_images_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no DICOM image series; give the folder with the slices"):
        load_volume(tmp_path)
    assert list_series(tmp_path) == []


def test_a_segmentation_object_is_no_series(tmp_path: Path):
    write_series(tmp_path, STORED[:1], positions=positions(1), names=["seg.dcm"])
    alter(tmp_path / "seg.dcm", Modality="SEG")
    assert list_series(tmp_path) == []


def test_missing_slices_are_an_error_that_says_where(tmp_path: Path):
    keep = [0, 1, 2, 4, 5]
    write_series(tmp_path, STORED[keep], positions=positions()[keep])
    with pytest.raises(
        InputError, match=r"About 1 slices are missing .* between 105\.0 and 110\.0 mm the step is 5\.00 instead of 2\.50 mm"
    ):
        load_volume(tmp_path)


def test_copies_of_a_slice_are_dropped_with_a_warning(tmp_path: Path):
    write_series(tmp_path, STORED, names=[f"{k}.dcm" for k in range(6)])
    shutil.copy(tmp_path / "2.dcm", tmp_path / "copy of 2.dcm")
    volume = load_volume(tmp_path)
    assert np.array_equal(volume.array, HU)
    assert "1 slices of the series are there twice" in volume.metadata["warning"]


def test_two_different_slices_at_one_place_are_an_error(tmp_path: Path):
    doubled = [0, 1, 2, 2, 3, 4, 5]
    write_series(tmp_path, STORED[doubled], positions=positions()[doubled])
    with pytest.raises(InputError, match="more than one slice at 1 of 6 positions"):
        load_volume(tmp_path)


def test_time_points_at_every_position_are_refused_as_4d(tmp_path: Path):
    write_series(tmp_path, np.concatenate([STORED, STORED + 1]), positions=np.concatenate([positions(), positions()]))
    with pytest.raises(InputError, match=r"2 images at each of 6 positions \(time points, echoes or phases\); export one"):
        load_volume(tmp_path)


def test_irregular_steps_are_an_error_and_small_ones_a_warning(tmp_path: Path):
    for name, shift in (("far", 0.6), ("near", 0.2)):
        places = positions()
        places[3, 2] += shift
        write_series(tmp_path / name, STORED, positions=places)
    with pytest.raises(InputError, match=r"lie 1\.90 to 3\.10 mm apart; resample"):
        load_volume(tmp_path / "far")
    warning = load_volume(tmp_path / "near").metadata["warning"]
    assert "2.30 to 2.70 mm apart; their mean, 2.50 mm" in warning
    assert "by up to 0.20 mm" in warning


def test_small_errors_of_the_steps_that_add_up_are_an_error(tmp_path: Path):
    """Each step is within a tenth of their mean, but the slice in the middle lies a whole slice beside a grid of the mean."""
    steps = np.array([2.3] * 12 + [2.7] * 12)
    places = np.array([-20.0, -30.0, 100.0]) + np.outer(np.concatenate([[0.0], np.cumsum(steps)]), (0.0, 0.0, 1.0))
    stored = np.random.default_rng(1).integers(0, 3000, (25, 5, 4)).astype(np.int16)
    write_series(tmp_path, stored, positions=places)
    with pytest.raises(InputError, match=r"mean, 2\.50 mm, one would be 2\.40 mm off its place \(at most 0\.75 mm are kept\); resample"):
        load_volume(tmp_path)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_regular_enough(tmp_path: Path):
    places = np.round(positions(step=(0.0, 0.0, 0.625)), 1)
    write_series(tmp_path, STORED, positions=places)
    assert load_volume(tmp_path).geometry.spacing_xyz_mm[2] == pytest.approx(0.62, abs=0.01)


def test_a_localiser_is_left_out_with_a_warning_and_a_mixture_is_refused(tmp_path: Path):
    uid = write_series(tmp_path, STORED, names=[f"{k}.dcm" for k in range(6)])
    scout = {"uid": uid, "positions": positions(1), "orientation": (0, 1, 0, 0, 0, -1)}
    write_series(tmp_path, STORED[:1], names=["scout.dcm"], **scout)
    volume = load_volume(tmp_path)
    assert np.array_equal(volume.array, HU)
    assert "1 of 7 slices have another orientation" in volume.metadata["warning"]
    write_series(tmp_path, STORED[:3], names=["s1", "s2", "s3"], **scout | {"positions": positions(3)})
    with pytest.raises(InputError, match="mixes 2 orientations or sizes among its 10 slices"):
        load_volume(tmp_path)


def test_a_single_slice_is_a_thin_volume_of_its_thickness(tmp_path: Path):
    write_series(tmp_path, STORED[:1], positions=positions(1))
    volume = load_volume(tmp_path)
    assert volume.array.shape == (1, 5, 4)
    assert volume.geometry.spacing_xyz_mm[2] == 2.5
    assert "single slice" in volume.metadata["warning"]


def test_images_without_a_place_are_refused(tmp_path: Path):
    write_series(tmp_path, STORED[:1], positions=positions(1), names=["a.dcm"])
    alter(tmp_path / "a.dcm", ImagePositionPatient=None, ImageOrientationPatient=None)
    with pytest.raises(InputError, match=r"1 of 1 images in .* do not state where they lie"):
        load_volume(tmp_path)


def test_a_truncated_slice_is_named_even_at_the_end_where_no_gap_shows(tmp_path: Path):
    write_series(tmp_path, STORED, names=[f"{k}.dcm" for k in range(6)])
    whole = (tmp_path / "5.dcm").read_bytes()
    (tmp_path / "5.dcm").write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"5\.dcm' is a damaged or truncated slice \(1 of 6\); fetch the series again"):
        load_volume(tmp_path)
    with pytest.raises(InputError, match=r"5\.dcm' is damaged or not a DICOM image"):
        load_volume(tmp_path / "5.dcm")


def compress(path: Path, syntax: str) -> None:
    """Say that the pixels are compressed, without doing it; the bytes of an unknown compression mean nothing to a reader either way."""
    data = pydicom.dcmread(path)
    data.PixelData = pydicom.encaps.encapsulate([data.PixelData])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, implicit_vr=False, little_endian=True)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.201", r"High-Throughput JPEG 2000 .*Lossless Only\), 1\.2\.840\.10008\.1\.2\.4\.201"),
        ("1.2.840.10008.1.2.4.102", r"MPEG-4 .*1\.2\.840\.10008\.1\.2\.4\.102"),
        ("1.2.3.4", r"1\.2\.3\.4"),
    ],
)
def test_a_compression_that_cannot_be_decoded_is_named(tmp_path: Path, syntax: str, name: str):
    write_series(tmp_path / "slices", STORED, names=[f"{k}.dcm" for k in range(6)])
    write_multiframe(tmp_path / "enhanced" / "a.dcm", STORED, positions())
    for path in tmp_path.glob("*/*.dcm"):
        compress(path, syntax)
    for given in (tmp_path / "slices", tmp_path / "slices" / "3.dcm", tmp_path / "enhanced"):
        with pytest.raises(InputError, match=rf"compressed in a way that cannot be decoded \({name}\); export the series uncompressed"):
            load_volume(given)


def test_damaged_pixels_of_a_compression_that_is_decoded_are_called_damaged(tmp_path: Path):
    write_series(tmp_path, STORED)
    for path in tmp_path.iterdir():
        compress(path, "1.2.840.10008.1.2.4.70")
    with pytest.raises(InputError, match="damaged or truncated"):
        load_volume(tmp_path)


def test_on_windows_a_path_with_other_letters_is_named_as_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "Bücher"
    write_series(folder, STORED, names=[f"{k}.dcm" for k in range(6)])
    monkeypatch.setattr(image_files, "_IS_WINDOWS", True)
    monkeypatch.setattr(image_files, "_short_name", lambda folder: folder)  # as on a drive without short names
    assert np.array_equal(load_volume(folder).array, HU)
    monkeypatch.setattr(dicom_series, "itk_name", lambda path: f"{path} not found")
    for given in (folder, folder / "3.dcm"):
        with pytest.raises(InputError, match=r"on Windows, .* other letters than A to Z \('ü'\); copy it to a folder such as"):
            load_volume(given)


def test_frames_of_a_multiframe_object_are_ordered_by_their_own_positions(tmp_path: Path):
    order = [5, 4, 3, 2, 1, 0]
    write_multiframe(tmp_path / "enhanced.dcm", STORED[order], positions()[order])
    volume = load_volume(tmp_path / "enhanced.dcm")
    assert np.array_equal(volume.array, HU)
    assert np.allclose((volume.geometry.ijk_to_lps @ [0, 0, 5, 1])[:3], positions()[5])
    assert volume.dicom_files == (str(tmp_path / "enhanced.dcm"),)
    assert list_series(tmp_path)[0].slices == 6
    assert np.array_equal(load_volume(tmp_path).array, HU)


def test_a_multiframe_object_of_two_time_points_is_refused(tmp_path: Path):
    write_multiframe(tmp_path / "enhanced.dcm", np.concatenate([STORED, STORED]), np.concatenate([positions(), positions()]))
    with pytest.raises(InputError, match="2 images at each of 6 positions"):
        load_volume(tmp_path)


def write_two_multiframes(folder: Path, first: list[int], second: list[int], second_stored: np.ndarray = STORED) -> tuple[Path, Path]:
    """Two enhanced objects of one series with these slices of the stack."""
    paths = folder / "a.dcm", folder / "b.dcm"
    uid = write_multiframe(paths[0], STORED[first], positions()[first])
    write_multiframe(paths[1], second_stored[second], positions()[second])
    alter(paths[1], SeriesInstanceUID=uid)
    return paths


@pytest.mark.parametrize(("first", "second"), [([0, 1, 2], [3, 4, 5]), ([5, 3, 1], [0, 4, 2])])
def test_a_series_of_several_multiframe_files_is_one_volume(tmp_path: Path, first: list[int], second: list[int]):
    paths = write_two_multiframes(tmp_path, first, second)
    for given in (tmp_path, *paths):
        volume = load_volume(given)
        assert np.array_equal(volume.array, HU)
        assert np.allclose((volume.geometry.ijk_to_lps @ [0, 0, 5, 1])[:3], positions()[5])
        assert volume.dicom_files == tuple(str(p) for p in (paths if 0 in first else paths[::-1]))


def test_multiframe_files_with_other_rescales_keep_their_own(tmp_path: Path):
    paths = write_two_multiframes(tmp_path, [0, 1, 2], [3, 4, 5])
    state_rescales(paths[1], [(0.5, 10.0), (0.25, 0.0), (2.0, -1.0)])
    volume = load_volume(tmp_path)
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array[:3], HU[:3])
    assert np.allclose(volume.array[3:], STORED[3:] * np.array([0.5, 0.25, 2.0])[:, None, None] + np.array([10.0, 0.0, -1.0])[:, None, None])


def test_multiframe_files_that_make_no_single_volume_are_refused_and_named(tmp_path: Path):
    paths = write_two_multiframes(tmp_path, [0, 1, 2], [0, 1, 2])
    for given in (tmp_path, *paths):
        with pytest.raises(InputError, match=r"2 images at each of 3 positions.* multi-frame files \('.*a\.dcm', '.*b\.dcm'\).*move it to another folder"):
            load_volume(given)


def test_multiframe_files_beside_single_slices_of_their_series_are_refused(tmp_path: Path):
    uid = write_multiframe(tmp_path / "a.dcm", STORED[:3], positions()[:3])
    write_series(tmp_path, STORED[3:], positions=positions()[3:], uid=uid, names=["b.dcm", "c.dcm", "d.dcm"])
    for given in (tmp_path, tmp_path / "a.dcm", tmp_path / "c.dcm"):
        with pytest.raises(InputError, match=r"multi-frame files \('.*a\.dcm'\) beside single slices \('.*b\.dcm'\); move one kind"):
            load_volume(given)


def test_an_enhanced_object_of_one_frame_is_a_slice(tmp_path: Path):
    write_multiframe(tmp_path / "a.dcm", STORED[:1], positions(1))
    volume = load_volume(tmp_path)
    assert np.array_equal(volume.array, HU[:1])
    assert np.allclose(volume.geometry.ijk_to_lps[:3, 3], positions(1)[0])
    assert "its thickness is taken to be 2.5 mm" in volume.metadata["warning"]


def test_enhanced_objects_of_one_frame_each_are_one_volume(tmp_path: Path):
    uid = write_multiframe(tmp_path / "0.dcm", STORED[:1], positions(1))
    for k in range(1, 6):
        write_multiframe(tmp_path / f"{k}.dcm", STORED[k : k + 1], positions()[k : k + 1])
        alter(tmp_path / f"{k}.dcm", SeriesInstanceUID=uid)
    volume = load_volume(tmp_path)
    assert np.array_equal(volume.array, HU)
    assert len(volume.dicom_files) == 6


def state_rescales(path: Path, rescales: list[tuple[float, float]]) -> None:
    """Move the slope and intercept of an enhanced object from all frames to each of them."""
    data = pydicom.dcmread(path)
    data.SharedFunctionalGroupsSequence[0].pop("PixelValueTransformationSequence", None)
    for frame, (slope, intercept) in zip(data.PerFrameFunctionalGroupsSequence, rescales, strict=True):
        item = pydicom.Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = slope, intercept, "US"
        frame.PixelValueTransformationSequence = [item]
    data.save_as(path, enforce_file_format=True)


def test_each_frame_of_a_multiframe_object_has_its_own_slope(tmp_path: Path):
    rescales = [(0.5 + 0.25 * k, -10.0 * k) for k in range(6)]
    order = [5, 4, 3, 2, 1, 0]
    path = tmp_path / "enhanced.dcm"
    write_multiframe(path, STORED[order], positions()[order])
    state_rescales(path, [rescales[k] for k in order])
    volume = load_volume(path)
    slopes, intercepts = (np.array(values)[:, None, None] for values in zip(*rescales, strict=True))
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, STORED * slopes + intercepts)
    state_rescales(path, [(2.0, -1000.0)] * 6)
    assert np.array_equal(load_volume(path).array, STORED.astype(np.int32) * 2 - 1000)


def test_frames_with_their_own_slopes_that_cannot_be_unpacked_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "enhanced.dcm"
    write_multiframe(path, STORED, positions())
    state_rescales(path, [(1.0 + k, 0.0) for k in range(6)])

    def no_decoder(_: object) -> None:
        raise RuntimeError("Unable to decompress 'JPEG Lossless' pixel data")

    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(no_decoder))
    with pytest.raises(InputError, match=r"frames of .* have different slopes.*; export the series uncompressed"):
        load_volume(path)


def test_a_folder_with_a_whole_archive_is_refused_early(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("RefSAM3DLib.dicom_series.MAX_FILES", 5)
    write_series(tmp_path, STORED)
    with pytest.raises(InputError, match="more than 5 files; give the folder of one study"):
        list_series(tmp_path)


@pytest.mark.data
def test_a_clinical_ct_series_is_read_as_the_scanner_wrote_it(data_folder: Path):
    volume = load_volume(data_folder / "crlm_ct_dicom")
    assert volume.array.shape == (41, 512, 512)
    assert volume.array.dtype == np.int16
    assert volume.geometry.spacing_xyz_mm == pytest.approx((0.796875, 0.796875, 5.0))
    assert (volume.modality, volume.modality_source) == (Modality.CT, "dicom")
    middle = pydicom.dcmread(volume.dicom_files[20])
    assert np.array_equal(volume.array[20], middle.pixel_array.astype(int) * int(middle.RescaleSlope) + int(middle.RescaleIntercept))
    assert np.allclose((volume.geometry.ijk_to_lps @ [0, 0, 20, 1])[:3], middle.ImagePositionPatient)


def test_each_header_of_a_flat_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Several series in one folder: each of them is found among all files."""
    for n in range(3):
        write_series(tmp_path / str(n), STORED)
        for path in (tmp_path / str(n)).iterdir():
            path.rename(tmp_path / f"{n}_{path.name}")
        (tmp_path / str(n)).rmdir()
    files = len(list(tmp_path.iterdir()))
    reads, read = [], dicom_series._read_header
    monkeypatch.setattr(dicom_series, "_read_header", lambda path: (reads.append(path), read(path))[1])
    found = list_series(tmp_path)
    assert len(found) == 3
    for series in found:
        load_volume(tmp_path, series=series.uid)
    assert len(reads) == files
