"""Files become volumes without a voxel changed or moved; what cannot is refused with the value and the next step."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from asymmetric_blocks import asymmetric_blocks

import RefSAM3DLib
from RefSAM3DLib import image_files
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.geometry import Geometry, reorient
from RefSAM3DLib.nifti_header import read_nifti_header
from RefSAM3DLib.types import SIDE_UNSURE, Modality, Volume
from RefSAM3DLib.volume_io import decide_modality, load_volume

ARRAY = np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)
ENDINGS = ("nrrd", "nhdr", "nii", "nii.gz", "mha", "mhd")


def as_image(array: np.ndarray, direction: np.ndarray | None = None) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((11.5, -22.25, 33.125))
    if direction is not None:
        image.SetDirection(np.asarray(direction, dtype=float).ravel().tolist())
    return image


def write(path: Path, array: np.ndarray = ARRAY, direction: np.ndarray | None = None) -> Path:
    sitk.WriteImage(as_image(array, direction), str(path))
    return path


def write_nrrd(path: Path, array: np.ndarray = ARRAY, directions: np.ndarray | None = None, **fields: object) -> Path:
    header = {"space": "left-posterior-superior", "space directions": np.eye(3) if directions is None else directions}
    nrrd.write(str(path), array, header | {"space origin": [1.0, 2.0, 3.0], "kinds": ["domain"] * 3} | fields, index_order="C")
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_voxels_and_grid(tmp_path: Path, ending: str):
    volume = load_volume(write(tmp_path / f"ä b.{ending}"))
    assert np.array_equal(volume.array, ARRAY)
    assert volume.array.dtype == np.int16
    expected = np.diag([-0.8, -0.9, 2.5, 1.0])
    expected[:3, 3] = (-11.5, 22.25, 33.125)
    assert np.allclose(volume.geometry.ijk_to_ras, expected, atol=1e-6)
    assert volume.dicom_files == ()
    assert "warning" not in volume.metadata


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "mha"])
def test_all_48_orientations_show_the_same_patient(tmp_path: Path, ending: str):
    phantom, _ = asymmetric_blocks((6, 8, 10))
    seen = set()
    for order, flip in product(permutations(range(3)), product((False, True), repeat=3)):
        geometry = phantom.geometry.permuted(order, flip)
        direction = np.diag([-1.0, -1.0, 1.0]) @ geometry.directions
        image = sitk.GetImageFromArray(np.ascontiguousarray(reorient(phantom.array, order, flip)))
        image.SetSpacing(geometry.spacing_xyz_mm)
        image.SetDirection(direction.ravel().tolist())
        image.SetOrigin(geometry.ijk_to_lps[:3, 3].tolist())
        path = tmp_path / f"a.{ending}"
        sitk.WriteImage(image, str(path))
        volume = load_volume(path)
        back = volume.geometry.to_working_orientation()
        assert volume.geometry.permuted(*back) == phantom.geometry
        assert np.array_equal(reorient(volume.array, *back), phantom.array)
        seen.add((order, flip))
    assert len(seen) == 48


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_arrays_keep_their_type_contiguous_and_in_native_byte_order(tmp_path: Path, dtype: str):
    array = (ARRAY % 100).astype(dtype)
    for path in (write(tmp_path / "a.nii", array), write_nrrd(tmp_path / "a.nrrd", array, endian="big", encoding="raw")):
        loaded = load_volume(path).array
        assert loaded.dtype == np.dtype(dtype)
        assert loaded.dtype.isnative
        assert loaded.flags.c_contiguous
        assert np.array_equal(loaded, array)


def test_a_sheared_nrrd_keeps_its_shear(tmp_path: Path):
    directions = np.array([[2.0, 0, 0], [0, 2, 0], [0.1, 0.6, 3]])
    geometry = load_volume(write_nrrd(tmp_path / "a.nrrd", directions=directions)).geometry
    assert np.allclose(geometry.ijk_to_lps[:3, :3], directions.T, atol=1e-12)
    assert np.allclose(geometry.ijk_to_lps[:3, 3], [1, 2, 3])


def test_a_nrrd_in_another_space_is_the_same_patient(tmp_path: Path):
    directions = np.array([[-2.0, 0, 0], [0, -2, 0], [0, 0, 3]])
    other = write_nrrd(tmp_path / "ras.nrrd", directions=directions, space="right-anterior-superior", **{"space origin": [-1.0, -2.0, 3.0]})
    same = write_nrrd(tmp_path / "lps.nrrd", directions=-directions * [[1], [1], [-1]])
    assert load_volume(other).geometry == load_volume(same).geometry


def test_thin_and_long_grids_are_volumes(tmp_path: Path):
    for shape in ((1, 6, 7), (1000, 3, 2), (5, 1, 7)):
        array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
        for ending in ("nrrd", "nii.gz", "mha"):
            assert np.array_equal(load_volume(write(tmp_path / f"a.{ending}", array)).array, array)


def test_one_frame_of_a_4d_file_is_a_volume(tmp_path: Path):
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[40:56] = struct.pack("<8h", 4, 7, 6, 5, 1, 1, 1, 1)
    path.write_bytes(content)
    assert np.array_equal(load_volume(path).array, ARRAY)
    sitk.WriteImage(sitk.JoinSeries([as_image(ARRAY)]), str(tmp_path / "a.mha"))
    assert np.array_equal(load_volume(tmp_path / "a.mha").array, ARRAY)


def nifti_matrices(path: Path, sform: np.ndarray | None, qform_code: int) -> Path:
    write(path)
    content = bytearray(path.read_bytes())
    content[252:256] = struct.pack("<2h", qform_code, 0 if sform is None else 1)
    if sform is not None:
        content[280:328] = np.asarray(sform, dtype="<f4").tobytes()
    path.write_bytes(content)
    return path


SHEARED = np.array([[-0.8, 0, 0, 1], [0, -0.9, 0.3, 2], [0, 0, 2.5, 3]])


def test_a_sheared_nifti_matrix_is_an_error_or_a_warning_but_never_ignored(tmp_path: Path):
    with pytest.raises(InputError, match=r"sform matrix of .* is sheared by 6\.84 degrees.* resample .* or save it as \.nrrd"):
        load_volume(nifti_matrices(tmp_path / "only.nii", SHEARED, qform_code=0))
    volume = load_volume(nifti_matrices(tmp_path / "both.nii", SHEARED, qform_code=1))
    assert "sheared by 6.84 degrees and was not used; its qform" in volume.metadata["warning"]
    assert SIDE_UNSURE not in volume.metadata
    assert volume.geometry.spacing_xyz_mm == pytest.approx((0.8, 0.9, 2.5))


def turned(axis: int, degrees: float) -> np.ndarray:
    """A turn about an axis (RAS)."""
    one, other = (n for n in range(3) if n != axis)
    matrix = np.eye(3)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[[one, one, other, other], [one, other, one, other]] = c, -s, s, c
    return matrix


def two_matrices(path: Path, direction: np.ndarray, change: np.ndarray, codes: tuple[int, int] = (1, 2)) -> Path:
    """A NIfTI whose qform is ``direction`` (LPS) and whose sform is the same after ``change`` (RAS)."""
    write(path, direction=direction)
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, *codes)
    sform = np.array(struct.unpack_from("<12f", content, 280)).reshape(3, 4)
    struct.pack_into("<12f", content, 280, *(change @ sform).ravel())
    path.write_bytes(content)
    return path


def as_nifti_2(path: Path) -> Path:
    """The header of a NIfTI-1 file in the form of version 2, which ITK does not read."""
    old, content = path.read_bytes(), bytearray(540)
    struct.pack_into("<i8sh", content, 0, 540, b"n+2\0\r\n\x1a\n", struct.unpack_from("<h", old, 70)[0])
    struct.pack_into("<8q", content, 16, *struct.unpack_from("<8h", old, 40))
    struct.pack_into("<8d", content, 104, *struct.unpack_from("<8f", old, 76))
    struct.pack_into("<2i", content, 344, *struct.unpack_from("<2h", old, 252))
    struct.pack_into("<18d", content, 352, *struct.unpack_from("<18f", old, 256))
    path.write_bytes(content)
    return path


DISAGREEING = {
    "left and right mirrored": np.diag([-1.0, 1, 1]),
    "head and foot mirrored": np.diag([1.0, 1, -1]),
    "two axes exchanged": turned(2, 90),
    "upside down": turned(0, 180),
}


@pytest.mark.parametrize(("codes", "used"), [((1, 1), "sform"), ((2, 1), "sform"), ((1, 2), "qform")])
@pytest.mark.parametrize("change", DISAGREEING.values(), ids=DISAGREEING)
def test_two_nifti_matrices_that_disagree_are_told(tmp_path: Path, change: np.ndarray, codes: tuple[int, int], used: str):
    path = two_matrices(tmp_path / "a.nii", np.eye(3), change, codes)
    volume = load_volume(path)
    expected = (change if used == "sform" else np.eye(3)) @ np.diag([-0.8, -0.9, 2.5])
    assert np.allclose(volume.geometry.ijk_to_ras[:3, :3], expected, atol=1e-5)
    assert volume.metadata["warning"] == f"The two matrices of 'a.nii' disagree about orientation; the {used} was used: check left and right."
    assert SIDE_UNSURE in volume.metadata
    assert read_nifti_header(as_nifti_2(path)).is_contradictory


def test_two_nifti_matrices_that_a_registration_moved_apart_are_no_contradiction(tmp_path: Path):
    for order, flip in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        for tilt in (0.0, 20.0):
            direction = turned(0, tilt) @ np.eye(3)[:, order] * flip
            for axis in range(3):
                path = two_matrices(tmp_path / "a.nii", direction, turned(axis, 5.0))
                assert "warning" not in load_volume(path).metadata
                assert not read_nifti_header(as_nifti_2(path)).is_contradictory


@pytest.mark.parametrize(("qform_code", "sform_code"), [(0, 1), (1, 0)])
def test_a_matrix_that_is_not_stated_contradicts_nothing(tmp_path: Path, qform_code: int, sform_code: int):
    path = two_matrices(tmp_path / "a.nii", np.eye(3), np.diag([-1.0, 1, 1]), (qform_code, sform_code))
    assert "warning" not in load_volume(path).metadata


def plain_nrrd(path: Path, **fields: object) -> Path:
    nrrd.write(str(path), ARRAY, fields, index_order="C")
    return path


def mha_without(path: Path, *keys: str, **fields: str) -> Path:
    """A MetaImage without some lines of its header, and with others."""
    header, mark, voxels = write(path).read_bytes().partition(b"ElementDataFile")
    kept = [line for line in header.decode().splitlines() if line.split(" ")[0] not in keys]
    path.write_bytes("\n".join([*kept, *(f"{key} = {value}" for key, value in fields.items()), ""]).encode() + mark + voxels)
    return path


FOREIGN_SPACE = "which was read as left-posterior-superior: left and right may be exchanged"
NO_ORIENTATION, NO_SPACING = "does not state its orientation: left and right may be exchanged", "does not state its voxel size: 1 mm was taken"
DOUBTFUL = {
    "nifti": (lambda t: nifti_matrices(t / "a.nii", None, 0), NO_ORIENTATION),
    "nrrd with nothing": (lambda t: plain_nrrd(t / "a.nrrd"), NO_ORIENTATION + NO_SPACING),
    "nrrd with spacings": (lambda t: plain_nrrd(t / "a.nrrd", spacings=[1.0, 2.0, 3.0]), NO_ORIENTATION),
    "nrrd without directions": (lambda t: plain_nrrd(t / "a.nrrd", space="left-posterior-superior"), NO_ORIENTATION + NO_SPACING),
    "nrrd of a scanner": (lambda t: write_nrrd(t / "a.nrrd", space="scanner-xyz"), FOREIGN_SPACE),
    "nrrd left-handed": (lambda t: write_nrrd(t / "a.nrrd", space="3D-left-handed"), FOREIGN_SPACE),
    "nhdr of a scanner": (lambda t: write_nrrd(t / "a.nhdr", space="scanner-xyz"), FOREIGN_SPACE),
    "mha without matrix": (lambda t: mha_without(t / "a.mha", "TransformMatrix"), NO_ORIENTATION),
    "mha without spacing": (lambda t: mha_without(t / "a.mha", "ElementSpacing"), NO_SPACING),
    "mha in other letters": (lambda t: mha_without(t / "a.mha", "ElementSpacing", elementspacing="1 2 3"), NO_SPACING),
    "mha matrix in other letters": (lambda t: mha_without(t / "a.mha", "TransformMatrix", TRANSFORMMATRIX="1 0 0 0 1 0 0 0 1"), NO_ORIENTATION),
    "mha with neither": (lambda t: mha_without(t / "a.mha", "ElementSpacing", "TransformMatrix"), NO_ORIENTATION + NO_SPACING),
}


@pytest.mark.parametrize(("make", "sentences"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_a_file_without_orientation_or_voxel_size_warns(tmp_path: Path, make, sentences: str):
    warning = load_volume(make(tmp_path)).metadata["warning"]
    for sentence in (NO_ORIENTATION, NO_SPACING, FOREIGN_SPACE):
        assert (sentence in warning) == (sentence in sentences)
    assert (SIDE_UNSURE in load_volume(make(tmp_path)).metadata) == (sentences != NO_SPACING)
    assert "\n" not in warning
    assert warning.endswith("export the image again.")


CERTAIN = {
    **{f"nrrd {space}": (lambda t, space=space: write_nrrd(t / "a.nrrd", space=space)) for space in ("LPS", "RAS", "LAS", "Left-Posterior-Superior")},
    "mha with rotation": lambda t: mha_without(t / "a.mha", "TransformMatrix", Rotation="1 0 0 0 1 0 0 0 1"),
    "mha with colons": lambda t: mha_without(t / "a.mha", "ElementSpacing", **{"ElementSpacing: 1 2 3\nComment": "none"}),
    "mha with element size": lambda t: mha_without(t / "a.mha", "ElementSpacing", ElementSize="1 2 3"),
}


@pytest.mark.parametrize("make", CERTAIN.values(), ids=CERTAIN)
def test_every_spelling_of_a_stated_orientation_is_known(tmp_path: Path, make):
    assert "warning" not in load_volume(make(tmp_path)).metadata


@pytest.mark.parametrize(("space", "is_read_right"), [("RAST", False), ("left-anterior-superior-time", False), ("LPST", True)])
def test_a_space_with_time_is_trusted_where_itk_reads_it_right(tmp_path: Path, space: str, is_read_right: bool):
    fields = {"space": space, "space origin": [0.0] * 4, "kinds": ["domain"] * 4}
    volume = load_volume(write_nrrd(tmp_path / "a.nrrd", ARRAY[None], np.diag([2.0, 2.0, 3.0, 1.0]), **fields))
    assert np.allclose(volume.geometry.ijk_to_lps[:3, :3], np.diag([2.0, 2.0, 3.0])), "ITK turns no space with time"
    assert (FOREIGN_SPACE not in volume.metadata.get("warning", "")) == is_read_right


def test_modality_comes_from_the_user_then_the_file_then_the_voxels(tmp_path: Path):
    stated = write_nrrd(tmp_path / "stated.nrrd", modality="MR")
    silent = write_nrrd(tmp_path / "silent.nrrd")
    for path, asked, expected in [
        (stated, "pet", (Modality.PET, "user")),
        (stated, Modality.CT, (Modality.CT, "user")),
        (stated, None, (Modality.MR, "file")),
        (silent, None, (Modality.CT, "inspection")),
    ]:
        volume = load_volume(path, modality=asked)
        assert (volume.modality, volume.modality_source) == expected
    with pytest.raises(InputError, match="modality 'xray' is unknown; use ct, mr, pet"):
        load_volume(silent, modality="xray")


def inspected(array: np.ndarray) -> Modality:
    return decide_modality(Volume(array, Geometry(array.shape, np.eye(4))))[0]


def test_inspection_knows_ct_with_air_and_without_and_calls_the_rest_mr():
    rng = np.random.default_rng(0)
    tissue = rng.normal(40, 20, (20, 20, 20))
    tissue[:4] = rng.normal(-100, 15, (4, 20, 20))
    assert inspected(tissue.astype(np.int16)) is Modality.CT, "soft tissue and fat"
    with_air = tissue.copy()
    with_air[0, 0, :10] = -1000
    assert inspected(with_air) is Modality.CT
    assert inspected(rng.gamma(2, 200, (20, 20, 20)).astype(np.uint16)) is Modality.MR
    assert inspected(rng.normal(0, 1, (20, 20, 20))) is Modality.MR, "standardised values"
    padded = rng.gamma(2, 200, (20, 20, 20)).astype(np.int16)
    padded[0, 0, :10] = -32768
    assert inspected(padded) is Modality.MR, "padding is no air"
    with_air[:4, :4] = -32768
    assert inspected(with_air) is Modality.CT, "air beside padding"
    assert inspected(np.full((2, 3, 4), -32768, np.int16)) is Modality.MR
    assert inspected(rng.normal(400, 150, (20, 20, 20))) is Modality.MR, "interpolation undershoots zero a little"


@pytest.mark.parametrize(("unit", "scale"), [(1, 1e-3), (2, 1.0), (3, 1e3)])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1)])
def test_a_nifti_in_metres_or_micrometres_lies_where_one_in_millimetres_lies(tmp_path: Path, unit: int, scale: float, codes: tuple[int, int]):
    content = bytearray(write(tmp_path / "a.nii").read_bytes())
    expected = load_volume(tmp_path / "a.nii").geometry
    content[123] = unit
    struct.pack_into("<2h", content, 252, *codes)
    for form, at in (("<3f", 80), ("<3f", 268), ("<12f", 280)):
        struct.pack_into(form, content, at, *(v * scale for v in struct.unpack_from(form, content, at)))
    (tmp_path / "b.nii").write_bytes(content)
    assert np.allclose(load_volume(tmp_path / "b.nii").geometry.ijk_to_ras, expected.ijk_to_ras, atol=1e-4)


def truncated(path: Path, source: Path) -> Path:
    path.write_bytes(source.read_bytes()[: -source.stat().st_size // 3])
    return path


@pytest.mark.parametrize("ending", ["nrrd", "nii", "nii.gz", "mha"])
def test_a_truncated_file_is_refused_not_filled_with_zeros(tmp_path: Path, ending: str):
    with pytest.raises(InputError, match=r"truncated.*; copy it again"):
        load_volume(truncated(tmp_path / f"a.{ending}", write(tmp_path / f"whole.{ending}")))


def test_a_broken_byte_in_a_compressed_nifti_is_noticed(tmp_path: Path):
    path = write(tmp_path / "a.nii.gz", np.random.default_rng(1).integers(0, 1000, (20, 20, 20)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        load_volume(path)


def test_extra_bytes_and_several_gzip_members_are_no_damage(tmp_path: Path):
    plain = write(tmp_path / "a.nii").read_bytes()
    (tmp_path / "two.nii.gz").write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:] + bytes(100)))
    assert np.array_equal(load_volume(tmp_path / "two.nii.gz").array, ARRAY)


def with_value(value: float) -> np.ndarray:
    array = ARRAY.astype(np.float32)
    array[1, 2, 3] = array[4, 0, 0] = value
    return array


def mha_with(path: Path, **fields: str) -> Path:
    content = write(path).read_bytes()
    for key, value in fields.items():
        start = content.index(key.encode())
        content = content[:start] + f"{key} = {value}".encode() + content[content.index(b"\n", start) :]
    path.write_bytes(content)
    return path


def vector(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.uint8), isVector=True), str(path))
    return path


def complex_image(path: Path) -> Path:
    sitk.WriteImage(sitk.Cast(as_image(ARRAY.astype(np.float32)), sitk.sitkComplexFloat32), str(path))
    return path


def four_axes(path: Path) -> Path:
    sitk.WriteImage(sitk.JoinSeries([as_image(ARRAY), as_image(ARRAY)]), str(path))
    return path


def nifti_size(path: Path, *dims: int) -> Path:
    content = bytearray(write(path).read_bytes())
    content[40:56] = struct.pack("<8h", len(dims), *dims, *[1] * (7 - len(dims)))
    path.write_bytes(content)
    return path


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


SINGULAR = np.array([[-0.8, 0, 0, 1], [-0.8, 0, 0, 2], [0, 0, 2.5, 3]])


def nifti_pixdim(path: Path, first: float) -> Path:
    content = bytearray(write(path).read_bytes())
    content[80:84] = struct.pack("<f", first)
    path.write_bytes(content)
    return path


def two_axes(path: Path) -> Path:
    nrrd.write(str(path), ARRAY[0], {}, index_order="C")
    return path


BAD = {
    "missing": (lambda t: t / "no.nrrd", r"no\.nrrd' does not exist; check its name"),
    "empty file": (lambda t: raw(t / "a.nrrd", b""), r"is empty \(0 bytes\); copy it again"),
    "rubbish": (lambda t: raw(t / "a.nrrd", b"hello" * 100), r"not what its ending says.*; export the image again"),
    "rubbish nifti": (lambda t: raw(t / "a.nii.gz", b"hello" * 200), r"not a NIfTI file or its header is damaged; export"),
    "ending": (lambda t: raw(t / "a.png", b"x"), r"ending that is not read; give \.nrrd"),
    "segmentation": (lambda t: raw(t / "a.seg.nrrd", b"x"), r"is a segmentation; give the image"),
    "missing data file": (lambda t: (write(t / "a.mhd"), (t / "a.raw").unlink())[0], r"data file that it names is not beside it"),
    "2D": (lambda t: two_axes(t / "a.nrrd"), r"2D image of 7 x 6 pixels; load a volume"),
    "4D": (lambda t: four_axes(t / "a.mha"), r"has 4 axes \(7 x 6 x 5 x 2\); export one 3D frame"),
    "4D nifti": (lambda t: four_axes(t / "a.nii.gz"), r"has 4 axes \(7 x 6 x 5 x 2\)"),
    "RGB": (lambda t: vector(t / "a.mha"), r"3 values per voxel .*; export one scalar channel"),
    "vector": (lambda t: vector(t / "a.nrrd"), r"3 values per voxel"),
    "complex": (lambda t: complex_image(t / "a.nii"), r"complex voxels; export the magnitude"),
    "no voxels": (lambda t: mha_with(t / "a.mha", DimSize="7 6 0"), r"has the size 7 x 6 x 0; export an image with voxels"),
    "no voxels nifti": (lambda t: nifti_size(t / "a.nii", 7, 6, 0), r"has the size 7 x 6 x 0"),
    "constant": (lambda t: write(t / "a.mha", np.full((5, 6, 7), 42, np.int16)), r"Every voxel of .* is 42, .*; check the export"),
    "NaN": (lambda t: write(t / "a.mha", with_value(np.nan)), r"has 2 of 210 voxels that are NaN or infinite; replace them"),
    "infinite": (lambda t: write(t / "a.nii", with_value(-np.inf)), r"has 2 of 210 voxels that are NaN"),
    "singular": (lambda t: mha_with(t / "a.mha", TransformMatrix="1 0 0 1 0 0 0 0 1"), r"direction matrix of .* is singular .*; re-export"),
    "singular nrrd": (lambda t: write_nrrd(t / "a.nrrd", directions=np.array([[2.0, 0, 0], [2, 0, 0], [0, 0, 3]])), r"singular"),
    "singular nifti": (lambda t: nifti_matrices(t / "a.nii", SINGULAR, 1), r"singular"),
    "NaN offset": (lambda t: mha_with(t / "a.mha", Offset="nan 0 0"), r"non-finite value 'Offset = nan 0 0'; re-export"),
    "NaN matrix": (lambda t: mha_with(t / "a.mha", TransformMatrix="1 0 0 0 inf 0 0 0 1"), r"non-finite value"),
    "NaN sform": (lambda t: nifti_matrices(t / "a.nii", SHEARED * np.nan, 1), r"non-finite values; re-export"),
    "NaN nrrd": (lambda t: write_nrrd(t / "a.nrrd", directions=np.diag([1, np.inf, 1])), r"cannot be read.*export it again"),
    "NaN spacing": (lambda t: nifti_pixdim(t / "a.nii", np.nan), r"spacing of .* is nan x 0\.9 x 2\.5 mm; re-export"),
    "zero spacing": (lambda t: nifti_pixdim(t / "a.nii", 0.0), r"spacing of .* is 0 x 0\.9 x 2\.5 mm"),
    "two spacings": (
        lambda t: nifti_matrices(t / "a.nii", SHEARED * 2 * (SHEARED != 0.3), 0),
        r"contradict each other; re-export|right angles",
    ),
    "gigantic spacing": (
        lambda t: mha_with(t / "a.mha", ElementSpacing="1 1 900"),
        r"spacing is 1 x 1 x 900 mm, outside .*; check the unit",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_with_the_value_and_the_next_step(tmp_path: Path, capfd, make, sentence: str):
    path = make(tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        load_volume(path)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert "ITK" not in capfd.readouterr().err, "ITK's own lines are kept from the user"


def test_on_windows_a_folder_with_other_letters_is_read_by_its_short_name(tmp_path: Path, monkeypatch):
    path, short = tmp_path / "Bücher" / "Łódź" / "a.nii.gz", tmp_path / "BCHER~1"
    path.parent.mkdir(parents=True)
    short.symlink_to(path.parent)
    assert image_files.itk_name(write(path)) == str(path)
    monkeypatch.setattr(image_files, "_IS_WINDOWS", True)
    monkeypatch.setattr(image_files, "_short_name", {str(path.parent): str(short)}.get)
    assert image_files.itk_name(path) == str(short / "a.nii.gz")
    assert np.array_equal(load_volume(path).array, ARRAY)
    assert image_files.why_not_found(path) == ""
    assert image_files.itk_name(short / "a.nii.gz") == str(short / "a.nii.gz")


@pytest.mark.parametrize("name", ["Bücher/a.nrrd", "plain/Jürgen.mha"])
def test_on_windows_a_path_with_other_letters_is_named_as_the_cause(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setattr(image_files, "_IS_WINDOWS", True)
    monkeypatch.setattr(image_files, "_short_name", lambda folder: folder)  # as on a drive without short names
    path = tmp_path / name
    path.parent.mkdir()
    with pytest.raises(InputError, match=r"on Windows, .* other letters than A to Z \('ü'\); copy it to a folder such as C:\\images") as caught:
        load_volume(raw(path, b"hello" * 100))  # what SimpleITK says of a file that it does not find
    assert "damaged" not in str(caught.value)
    assert np.array_equal(load_volume(write(path)).array, ARRAY), "where it is found nothing is said"
    singular = mha_with(path.with_suffix(".mha"), TransformMatrix="1 0 0 1 0 0 0 0 1")
    with pytest.raises(InputError, match="singular"):
        load_volume(singular)


def test_a_series_of_something_that_is_no_dicom_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no DICOM folder.*leave --series out"):
        load_volume(write(tmp_path / "a.mha"), series="1.2.3")


def test_too_little_memory_is_a_sentence(tmp_path: Path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("RefSAM3DLib.volume_io.read_image_file", fail)
    with pytest.raises(InputError, match="does not fit into memory; crop or resample it"):
        load_volume(write(tmp_path / "a.mha"))


def test_the_module_loads_neither_simpleitk_nor_torch():
    heavy = ("SimpleITK", "torch", "nrrd", "pydicom", "highdicom")
    code = f"import sys, RefSAM3DLib.volume_io, RefSAM3DLib.segmentation_io; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(RefSAM3DLib.__file__).parent.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected"),
    [("openkbp_ct", "ct"), ("msd_hippocampus", "mr"), ("sts_tumour", None)],
)
def test_inspection_names_the_modality_of_every_real_volume(data_folder: Path, name: str, expected: str | None):
    listing = json.loads((data_folder / name / "datalist.json").read_text())
    entries = [entry for split in ("training", "validation", "test") for entry in listing[split]]
    wrong = []
    for entry in entries[:: 1 if len(entries) < 120 else 4]:
        stated = expected or entry["modality"].lower()
        volume = load_volume(data_folder / name / entry["image"])
        assert volume.modality_source == "inspection"
        # PET without a header cannot be told from MR: it is called MR until the user says otherwise.
        if volume.modality.value != ("mr" if stated == "pet" else stated):
            wrong.append(entry["image"])
    assert not wrong
