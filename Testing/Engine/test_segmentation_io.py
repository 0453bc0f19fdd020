"""What is written is read back to the voxel, in the same place, with every tag; what cannot be written is refused in a sentence."""

from __future__ import annotations

import errno
import json
import os
from itertools import permutations, product
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from dicom_files import alter, write_multiframe, write_series
from hypothesis import given
from hypothesis import strategies as st

from RefSAM3DLib.errors import InputError, OutputError
from RefSAM3DLib.geometry import Geometry, reorient
from RefSAM3DLib.phantoms.simple import asymmetric_blocks
from RefSAM3DLib.places import box_of
from RefSAM3DLib.provenance import decode_tag, encode_tag
from RefSAM3DLib.segmentation_io import (
    check_probability_output,
    check_segmentation_output,
    read_segmentation,
    write_probability,
    write_segmentation,
)
from RefSAM3DLib.types import PromptResult, Verdict, Volume
from RefSAM3DLib.volume_io import load_volume

INFO = {"name": "refsam3d-test", "sha256": "ab" * 32, "device": "cpu", "version": "1.2.3", "adapter": "/home/somebody/mine.safetensors"}
PHANTOM, MASKS = asymmetric_blocks((10, 12, 14))
SHEAR = np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
NAMES = ("left parotid gland", "mandible", "larynx")


def result(prompt: str, mask: np.ndarray, resolved: str | None = None, verdict: Verdict = Verdict.PRESENT, **more: object) -> PromptResult:
    return PromptResult(
        prompt=prompt,
        resolved=prompt if resolved is None else resolved,
        verdict=verdict,
        presence=0.9712,
        confidence=0.8,
        mask=mask,
        volume_ml=float(mask.sum()),
        box=box_of(mask),
        elapsed_s=0.1,
        **{"colour": (200, 100, 50)} | more,
    )


def results_of(masks: dict[str, np.ndarray]) -> list[PromptResult]:
    return [result(name, mask) for name, mask in zip(NAMES, masks.values(), strict=True)]


def moved(volume: Volume, matrix: np.ndarray) -> Volume:
    return Volume(volume.array, Geometry(volume.geometry.shape_dhw, matrix @ volume.geometry.ijk_to_ras), volume.modality)


def rotated() -> Volume:
    a, b = np.deg2rad(20), np.deg2rad(-35)
    about_z = np.array([[np.cos(a), -np.sin(a), 0, 0], [np.sin(a), np.cos(a), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    about_x = np.array([[1, 0, 0, 0], [0, np.cos(b), -np.sin(b), 0], [0, np.sin(b), np.cos(b), 0], [0, 0, 0, 1]])
    return moved(PHANTOM, about_z @ about_x)


GRIDS = {
    "straight": PHANTOM,
    "oblique": rotated(),
    "left-handed": moved(PHANTOM, np.diag([-1.0, 1, 1, 1])),
    "sheared": moved(rotated(), SHEAR),
    "far away": moved(PHANTOM, np.array([[1, 0, 0, -881.3004], [0, 1, 0, 1234.5678], [0, 0, 1, -2000.1], [0, 0, 0, 1.0]])),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ending", ["seg.nrrd", "nrrd", "nii.gz", "mha"])
def test_masks_come_back_to_the_voxel_and_the_place(tmp_path: Path, grid: str, ending: str):
    volume = GRIDS[grid]
    path = tmp_path / f"ä b.{ending}"
    if grid == "sheared" and ending in ("nii.gz", "mha"):
        with pytest.raises(OutputError, match=r"image is sheared .*; write a \.seg\.nrrd or \.nrrd file instead"):
            write_segmentation(path, results_of(MASKS), volume, INFO)
        assert not list(tmp_path.iterdir())
        return
    write_segmentation(path, results_of(MASKS), volume, INFO)
    segments, geometry = read_segmentation(path)
    exact = "nrrd" in ending
    assert np.abs(geometry.ijk_to_ras - volume.geometry.ijk_to_ras).max() < (1e-12 if exact else 1e-3)
    assert [name for name, _, _ in segments] == (list(NAMES) if exact else ["label 1", "label 2", "label 3"])
    for (_, mask, tags), truth, number in zip(segments, MASKS.values(), "123", strict=True):
        assert mask.dtype == bool
        assert np.array_equal(mask, truth)
        assert tags["RefSAM3D.Label"] == number
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["seg.nrrd", "nii.gz"])
def test_all_48_orientations_are_written_where_itk_sees_them(tmp_path: Path, ending: str):
    """A second reader that shares no code with the writer."""
    truth = MASKS["small box"]
    for n, (order, flip) in enumerate(product(permutations(range(3)), product((False, True), repeat=3))):
        geometry = PHANTOM.geometry.permuted(order, flip)
        mask = np.ascontiguousarray(reorient(truth, order, flip))
        path = tmp_path / f"{n}.{ending}"
        write_segmentation(path, [result("larynx", mask)], Volume(np.zeros(mask.shape), geometry), INFO)
        image = sitk.ReadImage(str(path))
        index = np.argwhere(sitk.GetArrayFromImage(image) == 1)[:, ::-1]
        seen = {tuple(np.round(image.TransformIndexToPhysicalPoint(tuple(map(int, i))), 3)) for i in index}
        expected = PHANTOM.geometry.ijk_to_lps @ np.c_[np.argwhere(truth)[:, ::-1], np.ones(truth.sum())].T
        assert seen == {tuple(np.round(p, 3)) for p in expected[:3].T}


def test_slicers_own_reader_finds_names_colours_terminology_and_tags(tmp_path: Path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, results_of(MASKS), PHANTOM, INFO)
    found = slicerio.read_segmentation(str(path))
    assert found["masterRepresentation"] == "Binary labelmap"
    assert np.allclose(found["ijkToLPS"], PHANTOM.geometry.ijk_to_lps)
    first = found["segments"][0]
    assert first["name"] == "left parotid gland"
    assert first["labelValue"] == 1
    assert [round(c * 255) for c in first["color"]] == [200, 100, 50]
    assert first["terminology"]["type"] == ["SCT", "45289007", "Parotid gland"]
    assert first["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert first["extent"] == [0, 13, 0, 11, 0, 9]
    tags = first["tags"]
    assert tags["DICOM.SegmentAlgorithmType"] == "AUTOMATIC"
    assert tags["DICOM.SegmentAlgorithmName"] == "RefSAM3D refsam3d-test"
    wanted = {"Prompt": "left parotid gland", "Verdict": "present", "Presence": "0.9712", "Confidence": "0.8000", "Model": "refsam3d-test"}
    wanted |= {"ModelSHA256": "ab" * 32, "Device": "cpu", "Version": "1.2.3", "Adapter": "mine.safetensors", "Label": "1"}
    assert {key: tags["RefSAM3D." + key] for key in wanted} == wanted
    assert tags["RefSAM3D.Date"].endswith("+00:00")


def test_overlapping_segments_take_as_many_layers_as_they_need(tmp_path: Path):
    large, inner = MASKS["large box"], np.zeros_like(MASKS["large box"])
    inner[np.argwhere(large)[5:40, 0], np.argwhere(large)[5:40, 1], np.argwhere(large)[5:40, 2]] = True
    results = [result("mandible", large), result("larynx", inner), result("brainstem", MASKS["small box"]), result("esophagus", inner)]
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, results, PHANTOM, INFO)
    header = nrrd.read_header(str(path))
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    assert header["sizes"].tolist() == [3, 14, 12, 10]
    assert [header[f"Segment{n}_Layer"] for n in range(4)] == ["0", "1", "0", "2"]
    segments, geometry = read_segmentation(path)
    assert geometry == PHANTOM.geometry
    assert all(np.array_equal(mask, r.mask) for (_, mask, _), r in zip(segments, results, strict=True))
    found = slicerio.read_segmentation(str(path))  # (layer, i, j, k)
    assert np.array_equal(found["voxels"][1].T == 2, inner)


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_overlaps_in_a_label_map_are_an_error_that_advises_seg_nrrd(tmp_path: Path, ending: str):
    results = [result("mandible", MASKS["large box"]), result("larynx", MASKS["large box"])]
    count = MASKS["large box"].sum()
    with pytest.raises(OutputError, match=rf"'mandible' and 'larynx' overlap in {count} voxels.*; write a \.seg\.nrrd file instead"):
        write_segmentation(tmp_path / f"a.{ending}", results, PHANTOM, INFO)
    assert not list(tmp_path.iterdir())


def test_absent_and_unknown_results_keep_their_number_and_make_no_segment(tmp_path: Path):
    empty = np.zeros_like(MASKS["small box"])
    results = [
        result("esophagus", empty, verdict=Verdict.ABSENT),
        result("liver", empty, "", Verdict.UNKNOWN),
        result("mandible", MASKS["small box"], verdict=Verdict.UNCERTAIN),
    ]
    for ending in ("seg.nrrd", "nrrd", "nii.gz"):
        write_segmentation(tmp_path / f"a.{ending}", results, PHANTOM, INFO)
        segments, _ = read_segmentation(tmp_path / f"a.{ending}")
        assert len(segments) == 1
        assert segments[0][2]["RefSAM3D.Label"] == "3"
        assert np.array_equal(segments[0][1], MASKS["small box"])
    assert np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))).tolist() == [0, 3]


@pytest.mark.parametrize("ending", ["seg.nrrd", "nrrd", "nii.gz", "mha"])
def test_nothing_found_is_a_file_without_segments(tmp_path: Path, ending: str):
    absent = result("larynx", np.zeros_like(MASKS["small box"]), verdict=Verdict.ABSENT)
    write_segmentation(tmp_path / f"a.{ending}", [absent], PHANTOM, INFO)
    assert read_segmentation(tmp_path / f"a.{ending}")[0] == []


def test_more_than_255_results_need_16_bits(tmp_path: Path):
    masks = np.zeros((300, *PHANTOM.geometry.shape_dhw), dtype=bool)
    masks.reshape(300, -1)[np.arange(300), np.arange(300)] = True
    results = [result(f"thing {n}", mask) for n, mask in enumerate(masks, 1)]
    for ending in ("seg.nrrd", "nii.gz"):
        path = tmp_path / f"a.{ending}"
        write_segmentation(path, results, PHANTOM, INFO)
        assert sitk.ReadImage(str(path)).GetPixelIDTypeAsString() == "16-bit unsigned integer"
        assert all(np.array_equal(found[1], mask) for found, mask in zip(read_segmentation(path)[0], masks, strict=True))


@pytest.mark.parametrize("prompt", ["a|b", "50% of it", "100%7C", "moëlle épinière", "腮腺", " blank ", "back\\slash \\n", "x: y", "tab\tnew\nline"])
def test_any_prompt_survives_the_header(tmp_path: Path, prompt: str):
    write_segmentation(tmp_path / "a.seg.nrrd", [result(prompt, MASKS["small box"], "")], PHANTOM, INFO)
    (segment,) = read_segmentation(tmp_path / "a.seg.nrrd")[0]
    assert segment[2]["RefSAM3D.Prompt"] == prompt
    assert segment[0].isascii()
    assert segment[0]


@given(st.text(max_size=60))
def test_encoded_tags_are_plain_and_decode_to_the_same_text(text: str):
    coded = encode_tag(text)
    assert coded.isascii()
    assert "|" not in coded
    assert coded == coded.strip()
    assert coded.isprintable()
    assert decode_tag(coded) == text


def test_two_results_of_one_name_get_two_names(tmp_path: Path):
    write_segmentation(tmp_path / "a.seg.nrrd", [result("larynx", MASKS["small box"]), result("larynx", MASKS["large box"])], PHANTOM, INFO)
    assert [s[0] for s in read_segmentation(tmp_path / "a.seg.nrrd")[0]] == ["larynx", "larynx (2)"]


def test_a_segmentation_that_slicer_cropped_is_put_back_into_the_image(tmp_path: Path):
    """As Slicer saves it: cropped, names in UTF-8, own tags, another space."""
    mask = MASKS["small box"]
    k0, k1, j0, j1, i0, i1 = box_of(mask)
    matrix = np.array(PHANTOM.geometry.ijk_to_ras)
    matrix[:3, 3] = (matrix @ [i0, j0, k0, 1])[:3]
    header = {
        "space": "right-anterior-superior",
        "space directions": matrix[:3, :3].T,
        "space origin": matrix[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "raw",
        "Segment0_ID": "Segment_7",
        "Segment0_LabelValue": "4",
        "Segment0_Layer": "0",
        "Segment0_Name": "L@sion",
        "Segment0_Tags": "Segmentation.Status:inprogress|my 100%41:5%41|",
    }
    path = tmp_path / "a.seg.nrrd"
    nrrd.write(str(path), np.where(mask[k0:k1, j0:j1, i0:i1], 4, 0).astype(np.uint8), header, index_order="C")
    path.write_bytes(path.read_bytes().replace(b"L@sion", "Läsion".encode()))
    ((name, cropped, tags),), grid = read_segmentation(path)
    assert name == "Läsion"
    assert cropped.shape == (k1 - k0, j1 - j0, i1 - i0)
    assert tags == {"Segmentation.Status": "inprogress", "my 100%41": "5%41"}
    assert grid != PHANTOM.geometry
    ((_, placed, _),), same = read_segmentation(path, PHANTOM.geometry)
    assert same == PHANTOM.geometry
    assert np.array_equal(placed, mask)
    with pytest.raises(InputError, match="has another grid than the image"):
        read_segmentation(path, moved(PHANTOM, np.diag([1.0, 1.1, 1, 1])).geometry)
    far = np.eye(4)
    far[2, 3] = PHANTOM.geometry.spacing_xyz_mm[2] * 8
    with pytest.raises(InputError, match=r"part of .* lies outside the image"):
        read_segmentation(path, moved(PHANTOM, far).geometry)


# -- DICOM SEG ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["series", "tilted", "multi-frame"])
def dicom_volume(tmp_path: Path, request) -> Volume:
    stored = np.random.default_rng(0).integers(0, 3000, (10, 12, 14)).astype(np.int16)
    step = (0.0, 0.5, 2.4) if request.param == "tilted" else (0.0, 0.0, 2.5)
    places = np.array([-20.0, -30.0, 100.0]) + np.outer(np.arange(10), step)
    if request.param == "multi-frame":
        shuffled = np.random.default_rng(1).permutation(10)
        write_multiframe(tmp_path / "in" / "a.dcm", stored[shuffled], places[shuffled])
    else:
        write_series(tmp_path / "in", stored, positions=places)
    return load_volume(tmp_path / "in")


def test_a_dicom_seg_comes_back_to_the_voxel_the_place_and_the_tag(tmp_path: Path, dicom_volume: Volume):
    import highdicom as hd

    results = [result("esophagus", np.zeros((10, 12, 14), bool), verdict=Verdict.ABSENT), *results_of(MASKS)]
    results[1].prompt = "glande parotide | gauche é"
    path = tmp_path / "a.dcm"
    write_segmentation(path, results, dicom_volume, INFO)
    segments, geometry = read_segmentation(path)
    assert geometry == dicom_volume.geometry
    assert [s[0] for s in segments] == list(NAMES)
    for (_, mask, tags), wanted, label in zip(segments, results[1:], "234", strict=True):
        assert np.array_equal(mask, wanted.mask)
        assert tags["RefSAM3D.Prompt"] == wanted.prompt
        assert tags["RefSAM3D.Label"] == label
        assert tags["RefSAM3D.ModelSHA256"] == "ab" * 32
    seg = hd.seg.segread(path)
    assert seg.PatientID == "4711"
    first = seg.get_segment_description(1)
    assert first.segmented_property_type.meaning == "Parotid gland"
    assert first.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert first.algorithm_type.value == "AUTOMATIC"
    assert first.SegmentLabel == "left parotid gland"
    source = {str(ref.ReferencedSOPInstanceUID) for s in seg.ReferencedSeriesSequence for ref in s.ReferencedInstanceSequence}
    import pydicom

    assert source == {str(pydicom.dcmread(name, stop_before_pixels=True).SOPInstanceUID) for name in dicom_volume.dicom_files}


def test_a_name_that_highdicom_doubts_is_not_printed(tmp_path: Path, recwarn):
    import pydicom

    write_series(tmp_path / "in", np.random.default_rng(0).integers(0, 3000, (10, 12, 14)).astype(np.int16))
    for path in (tmp_path / "in").iterdir():
        alter(path, PatientName="MUSTER-4711")
    write_segmentation(tmp_path / "a.dcm", results_of(MASKS), load_volume(tmp_path / "in"), INFO)
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientName == "MUSTER-4711"
    assert not [w for w in recwarn if "MUSTER" in str(w.message)]


def test_a_dicom_seg_of_another_program_reaches_as_far_as_its_slices(tmp_path: Path):
    import pydicom

    write_series(tmp_path / "in", np.random.default_rng(0).integers(0, 3000, (10, 12, 14)).astype(np.int16))
    volume = load_volume(tmp_path / "in")
    mask = np.zeros((10, 12, 14), bool)
    mask[3:5, 2:6, 3:9] = mask[7, 1, 1] = True
    write_segmentation(tmp_path / "a.dcm", [result("larynx", mask)], volume, INFO)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    del data.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    data.save_as(tmp_path / "b.dcm")
    ((name, cropped, tags),), geometry = read_segmentation(tmp_path / "b.dcm")
    assert (name, tags) == ("larynx", {})
    assert np.array_equal(cropped, mask[3:8])
    assert geometry.shape_dhw == (5, 12, 14)
    ((_, placed, _),), _ = read_segmentation(tmp_path / "b.dcm", volume.geometry)
    assert np.array_equal(placed, mask)


def test_a_dicom_seg_without_a_voxel_or_without_dicom_input_is_refused(tmp_path: Path, dicom_volume: Volume):
    nothing = [result("larynx", np.zeros((10, 12, 14), bool), verdict=Verdict.ABSENT)]
    with pytest.raises(OutputError, match=r"No structure was found.*; write a \.seg\.nrrd file instead"):
        write_segmentation(tmp_path / "a.dcm", nothing, dicom_volume, INFO)
    with pytest.raises(OutputError, match=r"needs a DICOM series as input; write a \.seg\.nrrd"):
        write_segmentation(tmp_path / "a.dcm", results_of(MASKS), PHANTOM, INFO)
    Path(dicom_volume.dicom_files[0]).unlink()
    with pytest.raises(OutputError, match=r"source images .* cannot be read again"):
        write_segmentation(tmp_path / "a.dcm", results_of(MASKS), dicom_volume, INFO)
    assert not (tmp_path / "a.dcm").exists()
    assert not list(tmp_path.glob(".*"))


def test_something_else_than_a_segmentation_is_refused(tmp_path: Path):
    write_series(tmp_path, np.ones((1, 5, 4), np.int16), positions=np.zeros((1, 3)), names=["ct.dcm"])
    (tmp_path / "a.seg.nrrd").write_bytes(b"rubbish")
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).random((3, 4, 5))), str(tmp_path / "float.mha"))
    for name, sentence in [
        ("no.seg.nrrd", "does not exist; check its name"),
        ("ct.dcm", r"is no binary DICOM SEG \(it is CT"),
        ("a.seg.nrrd", "damaged or truncated; save it again"),
        ("float.mha", "fractional values, so it is no label map"),
    ]:
        with pytest.raises(InputError, match=sentence):
            read_segmentation(tmp_path / name)


# -- Probability -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "mha"])
def test_probability_is_3d_for_one_result_and_a_frame_per_result_for_several(tmp_path: Path, ending: str):
    rng = np.random.default_rng(0)
    levels = [rng.random(PHANTOM.geometry.shape_dhw).astype(np.float16) for _ in range(2)]
    results = results_of(MASKS)
    results[0].probability, results[2].probability = levels
    write_probability(tmp_path / f"one.{ending}", results[:1], PHANTOM)
    one = load_volume(tmp_path / f"one.{ending}")
    assert one.array.dtype == np.float32
    assert np.array_equal(one.array, levels[0].astype(np.float32))
    assert one.geometry == PHANTOM.geometry
    write_probability(tmp_path / f"many.{ending}", results, PHANTOM)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"many.{ending}")))
    if ending == "nrrd":
        array = np.moveaxis(array, -1, 0)
        assert nrrd.read_header(str(tmp_path / "many.nrrd"))["kinds"][0] == "list"
    assert np.array_equal(array, np.stack([levels[0], np.zeros_like(levels[0]), levels[1]]).astype(np.float32))


def test_a_probability_without_any_is_refused(tmp_path: Path):
    with pytest.raises(OutputError, match="No result has a probability"):
        write_probability(tmp_path / "p.nrrd", results_of(MASKS), PHANTOM)


# -- Names, disks, kills -----------------------------------------------------------------------------------------------------------------


def test_names_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path, monkeypatch):
    with pytest.raises(OutputError, match=r"ending that is not written; use one of \.seg\.nrrd, \.nii\.gz"):
        check_segmentation_output("a.png")
    with pytest.raises(OutputError, match=r"needs one of the endings \.nii\.gz.*no \.seg\.nrrd"):
        check_probability_output("a.seg.nrrd")
    with pytest.raises(OutputError, match="image is sheared"):
        check_probability_output("a.nii.gz", GRIDS["sheared"])
    check_segmentation_output("A.SEG.NRRD", GRIDS["sheared"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OutputError, match="needs the package highdicom: pip install"):
        check_segmentation_output("a.dcm")


@pytest.mark.parametrize("ending", ["seg.nrrd", "nrrd"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch, ending: str):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")
    real = nrrd.write

    def fill(file, *args, **kwargs):
        real(file, *args, **kwargs)
        os.truncate(file, 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nrrd, "write", fill)
    with pytest.raises(OutputError, match=r"Could not write .*No space left"):
        write_segmentation(path, results_of(MASKS), PHANTOM, INFO, overwrite=True)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["nii.gz", "mha"])
def test_a_writer_of_itk_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch, ending: str):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")

    def fail(_image, name, **_):
        Path(name).write_bytes(b"half")
        raise RuntimeError("ITK ERROR: write failed")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(OutputError, match="disk may be full"):
        write_segmentation(path, results_of(MASKS), PHANTOM, INFO, overwrite=True)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["seg.nrrd", "nii.gz"])
def test_nothing_is_overwritten_unasked(tmp_path: Path, ending: str):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        write_segmentation(path, results_of(MASKS), PHANTOM, INFO)
    assert path.read_bytes() == b"old"
    write_segmentation(path, results_of(MASKS), PHANTOM, INFO, overwrite=True)
    assert len(read_segmentation(path)[0]) == 3


def test_a_mask_of_another_grid_is_refused(tmp_path: Path):
    with pytest.raises(OutputError, match=r"has shape \(2, 2, 2\), the image \(10, 12, 14\)"):
        write_segmentation(tmp_path / "a.nrrd", [result("larynx", np.ones((2, 2, 2), bool))], PHANTOM, INFO)


@pytest.mark.data
def test_labels_of_a_real_volume_survive_every_format(tmp_path: Path, data_folder: Path):
    listing = json.loads((data_folder / "openkbp_ct" / "datalist.json").read_text())
    entry = listing["training"][0]
    volume = load_volume(data_folder / "openkbp_ct" / entry["image"])
    truth, grid = read_segmentation(data_folder / "openkbp_ct" / entry["label"])
    assert grid == volume.geometry
    results = [result(listing["labels"][tags["RefSAM3D.Label"]], mask) for _, mask, tags in truth]
    for ending in ("seg.nrrd", "nii.gz", "nrrd", "mha"):
        write_segmentation(tmp_path / f"a.{ending}", results, volume, INFO)
        segments, back = read_segmentation(tmp_path / f"a.{ending}")
        assert back == volume.geometry
        assert all(np.array_equal(found[1], r.mask) for found, r in zip(segments, results, strict=True))
