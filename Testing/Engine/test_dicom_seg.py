"""A DICOM SEG is read back to the voxel, the place and the tag."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import alter, write_multiframe, write_series
from results_to_write import INFO, MASKS, NAMES, PHANTOM, result, results_of

from RefSAM3DLib.errors import OutputError
from RefSAM3DLib.segmentation_io import (
    read_segmentation,
    write_segmentation,
)
from RefSAM3DLib.types import Verdict, Volume
from RefSAM3DLib.volume_io import load_volume


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


@pytest.mark.parametrize("maximum", [1, 100, 255])
def test_a_fractional_dicom_seg_is_what_is_more_than_half(tmp_path: Path, maximum: int):
    import pydicom

    write_series(tmp_path / "in", np.random.default_rng(0).integers(0, 3000, (10, 12, 14)).astype(np.int16))
    volume = load_volume(tmp_path / "in")
    mask = np.zeros((10, 12, 14), bool)
    mask[3:5, 2:6, 3:9] = mask[7, 1, 1] = True
    write_segmentation(tmp_path / "a.dcm", [result("larynx", mask)], volume, INFO)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    fractions = np.where(data.pixel_array == 1, maximum, maximum // 3).astype(np.uint8)
    data.SegmentationType, data.SegmentationFractionalType, data.MaximumFractionalValue = "FRACTIONAL", "PROBABILITY", maximum
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = fractions.tobytes() + bytes(fractions.size % 2)
    data.save_as(tmp_path / "b.dcm")
    ((_, found, _),), _ = read_segmentation(tmp_path / "b.dcm")
    assert np.array_equal(found, mask)


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
