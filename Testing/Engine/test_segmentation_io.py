"""What is written is read back to the voxel, in the same place, with every tag; what cannot be written is refused in a sentence."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from itertools import permutations, product
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from dicom_files import write_series
from hypothesis import given
from hypothesis import strategies as st
from results_to_write import GRIDS, INFO, MASKS, NAMES, PHANTOM, moved, result, results_of

from RefSAM3DLib.errors import InputError, OutputError
from RefSAM3DLib.geometry import Geometry, reorient
from RefSAM3DLib.places import box_of
from RefSAM3DLib.provenance import decode_tag, encode_tag
from RefSAM3DLib.segmentation_io import (
    read_segmentation,
    write_probability,
    write_segmentation,
)
from RefSAM3DLib.types import Placed, PromptResult, Verdict, Volume
from RefSAM3DLib.volume_io import load_volume


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


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_damaged_bit_of_a_compressed_segmentation_is_a_sentence(tmp_path: Path, place: float):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [result("larynx", np.random.default_rng(0).random(PHANTOM.geometry.shape_dhw) > 0.5)], PHANTOM, INFO)
    content = bytearray(path.read_bytes())
    voxels = content.index(b"\n\n") + 2
    content[voxels + int(place * (len(content) - voxels))] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or truncated; save it again"):
        read_segmentation(path)


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


def probable_results(count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> list[PromptResult]:
    """Results with a part of the grid each, as the engine gives them; of the last two, one is a whole array and one has no probability."""
    results = []
    for n in range(count):
        low = rng.integers(0, np.array(shape) // 2)
        high = low + np.maximum(1, np.array(shape) // 3)
        made = result(f"part {n}", np.zeros(shape, dtype=bool))
        box = tuple(int(v) for pair in zip(low, high, strict=True) for v in pair)
        made.probability = Placed(rng.random(high - low).astype(np.float16), box, shape)
        results.append(made)
    if count > 2:
        results[-1].probability, results[-2].probability = None, rng.random(shape).astype(np.float16)
    return results


def written_at_once(path: Path, results: list[PromptResult], volume: Volume) -> None:
    """The file as pynrrd or ITK make it of all frames together."""
    frames = [np.zeros(volume.geometry.shape_dhw, np.float32) if r.probability is None else r.probability.astype(np.float32) for r in results]
    lps, several = volume.geometry.ijk_to_lps, len(frames) > 1
    if path.suffix == ".nrrd":
        directions, kinds = lps[:3, :3].T, ["domain"] * 3
        header = {
            "space": "left-posterior-superior",
            "space directions": np.vstack([np.full(3, np.nan), directions]) if several else directions,
            "space origin": lps[:3, 3],
            "kinds": ["list", *kinds] if several else kinds,
            "encoding": "gzip",
            **{f"RefSAM3D.Label{n}": r.prompt for n, r in enumerate(results, 1)},
        }
        nrrd.write(str(path), np.stack(frames, -1) if several else frames[0], header, compression_level=6, index_order="C")
        return
    images = [sitk.GetImageFromArray(frame) for frame in frames]
    for image in images:
        image.SetSpacing(volume.geometry.spacing_xyz_mm)
        image.SetDirection((np.diag([-1.0, -1.0, 1.0]) @ volume.geometry.directions).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(sitk.JoinSeries(images) if several else images[0], str(path), useCompression=True)


def content_of(path: Path) -> bytes:
    """The bytes of a file without pynrrd's comment, which has the time, and without the time in gzip's own header."""
    if path.name.endswith(".gz"):
        return gzip.decompress(path.read_bytes())
    header, end, voxels = path.read_bytes().partition(b"\n\n" if path.suffix == ".nrrd" else b"ElementDataFile")
    return b"\n".join(line for line in header.split(b"\n") if not line.startswith(b"#")) + end + voxels


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "nii", "mha"])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("grid", [name for name in GRIDS if name != "sheared"])
def test_probabilities_written_one_by_one_make_the_file_of_all_at_once(tmp_path: Path, grid: str, count: int, ending: str):
    volume = GRIDS[grid]
    results = probable_results(count, volume.geometry.shape_dhw, np.random.default_rng(count))
    write_probability(tmp_path / f"a.{ending}", results, volume)
    written_at_once(tmp_path / f"b.{ending}", results, volume)
    assert content_of(tmp_path / f"a.{ending}") == content_of(tmp_path / f"b.{ending}")


@pytest.mark.parametrize(("ending", "frames_held"), [("nrrd", 1.0), ("nii", 3.0)])
def test_probabilities_are_written_without_a_copy_of_all_frames(tmp_path: Path, ending: str, frames_held: float):
    """ITK's own copy is not counted here."""
    shape = (60, 64, 64)
    volume = Volume(np.zeros(shape, np.int16), Geometry(shape, np.eye(4)))
    results = probable_results(12, shape, np.random.default_rng(0))[:10]
    write_probability(tmp_path / f"first.{ending}", results[:2], volume)  # imports
    tracemalloc.start()
    try:
        write_probability(tmp_path / f"a.{ending}", results, volume)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(vars(results[0])["probability"], Placed), "it stays a part"
    assert peak < frames_held * 4 * np.prod(shape)


def test_a_probability_of_another_grid_is_refused(tmp_path: Path):
    results = results_of(MASKS)
    results[1].probability = np.zeros((1, 2, 3), np.float16)
    with pytest.raises(OutputError, match=r"has shape \(1, 2, 3\), the image .*; run it again"):
        write_probability(tmp_path / "p.nrrd", results, PHANTOM)
    assert not list(tmp_path.iterdir())


def test_a_probability_without_any_is_refused(tmp_path: Path):
    with pytest.raises(OutputError, match="No result has a probability"):
        write_probability(tmp_path / "p.nrrd", results_of(MASKS), PHANTOM)


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
