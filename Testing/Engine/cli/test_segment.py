"""The command line's contract: what `segment` writes, and regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cli_double import MASKS, PHANTOM, FakeEngine, files
from dicom_files import write_series

from RefSAM3DLib.cli import segment
from RefSAM3DLib.cli.main import main
from RefSAM3DLib.segmentation_io import read_segmentation
from RefSAM3DLib.volume_io import load_volume


def test_segment_writes_what_the_contract_says(tmp_path: Path, image: Path, engine: FakeEngine, capsys):
    out, report, probability = tmp_path / "o.seg.nrrd", tmp_path / "r.json", tmp_path / "p.nrrd"
    flags = ["-o", str(out), "--report", str(report), "--probability", str(probability)]
    code = main(["segment", str(image), "-p", "mandible", "-p", "both parotid glands", "-p", "larynx", "-p", "liver", *flags])
    assert code == 0
    segments, geometry = read_segmentation(out)
    assert geometry == load_volume(image).geometry
    assert [name for name, _, _ in segments] == ["mandible", "left parotid gland", "right parotid gland"]
    content = json.loads(report.read_text())
    assert set(content) >= {"input", "modality", "model", "device", "prompts", "warnings", "elapsed_s", "peak_memory_mb", "version"}
    assert content["model"] == {"name": "fake", "sha256": "f" * 64}
    assert content["modality"] == "ct"
    assert content["input"] == str(image)
    assert set(content["elapsed_s"]) == {"load", "embed", "total"}
    assert content["elapsed_s"]["total"] >= content["elapsed_s"]["load"] > 0
    assert content["peak_memory_mb"] > 20
    assert content["warnings"] == ["This is a fake.", "mandible: Look at the border."]
    rows = content["prompts"]
    fields = {"prompt", "resolved", "label", "verdict", "presence", "confidence", "volume_ml", "elapsed_s"}
    assert all(set(row) == fields for row in rows)
    assert [(row["label"], row["verdict"]) for row in rows] == [(1, "present"), (2, "present"), (3, "present"), (4, "absent"), (5, "unknown")]
    assert rows[1]["prompt"] == "both parotid glands"
    assert rows[4]["presence"] is None
    assert rows[4]["confidence"] is None
    assert rows[0]["volume_ml"] == pytest.approx(MASKS["small box"].sum() * geometry.voxel_volume_ml, abs=1e-5)
    assert sitk.ReadImage(str(probability)).GetNumberOfComponentsPerPixel() == 5
    shown = capsys.readouterr()
    for text in ("mandible", "present", "absent", "unknown", "0.98", str(out), str(report)):
        assert text in shown.out
    assert "Prompt 'liver' is unknown and is not drawn" in shown.err
    assert "Warning: This is a fake." in shown.err
    assert "\r" not in shown.err, "no bar where there is no terminal"
    assert files(tmp_path) == sorted([image.name, out.name, report.name, probability.name])


def test_a_label_map_has_the_number_of_the_result(tmp_path: Path, image: Path, engine: FakeEngine):
    out = tmp_path / "o.nii.gz"
    assert main(["segment", str(image), "-p", "larynx", "-p", "mandible", "-o", str(out)]) == 0
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    assert np.array_equal(array == 2, MASKS["small box"])
    assert set(np.unique(array)) == {0, 2}


def test_quiet_prints_nothing(tmp_path: Path, image: Path, engine: FakeEngine, capfd):
    assert main(["segment", str(image), "-p", "mandible", "-p", "liver", "-o", str(tmp_path / "o.nrrd"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_nothing_is_computed_or_written_where_no_prompt_is_known_unless_it_is_asked_for(tmp_path: Path, image: Path, engine: FakeEngine, capsys):
    command = ["segment", str(image), "-p", "liver", "-o", str(tmp_path / "o.seg.nrrd"), "--overwrite"]
    assert main(command) == 1
    assert "knows no such structure, so nothing would be drawn: Prompt 'liver' is unknown and is not drawn." in capsys.readouterr().err
    assert engine.calls == []
    assert files(tmp_path) == [image.name]
    assert main([*command, "-p", "spleen"]) == 1
    assert "knows none of the prompts" in capsys.readouterr().err
    assert main([*command, "--allow-unknown"]) == 0
    assert engine.calls == ["embed", "segment"]


def test_a_dicom_series_becomes_a_dicom_seg(tmp_path: Path, engine: FakeEngine, capsys):
    stored = (PHANTOM.array.astype(np.int32) + 1024).astype(np.int16)
    uid = write_series(tmp_path / "in", stored)
    write_series(tmp_path / "in", stored[:3], names=["x", "y", "z"])
    command = ["segment", str(tmp_path / "in"), "-p", "mandible", "-o", str(tmp_path / "o.dcm")]
    assert main(command) == 1
    assert f"holds 2 series; choose one with --series: {uid}" in capsys.readouterr().err
    assert main([*command, "--series", uid]) == 0
    ((name, mask, _),), _ = read_segmentation(tmp_path / "o.dcm")
    assert name == "mandible"
    assert np.array_equal(mask, MASKS["small box"])
    absent = ["segment", str(tmp_path / "in"), "-p", "larynx", "-o", str(tmp_path / "n.dcm"), "--series", uid, "--report", str(tmp_path / "r.json")]
    assert main(absent) == 0
    assert "n.dcm' was not written: nothing was found" in json.loads((tmp_path / "r.json").read_text())["warnings"][1]


def test_a_region_of_voxels_reaches_the_engine_half_open_in_array_order(tmp_path: Path, image: Path, engine: FakeEngine):
    assert main(["segment", str(image), "-p", "mandible", "-o", str(tmp_path / "o.nrrd"), "--roi", "2, 14,0,9,5,100"]) == 0
    assert engine.roi == (5, 10, 0, 9, 2, 14)


def markups(path: Path, **change: object) -> Path:
    """A region around the voxels i 4-6, j 3-5, k 2-7 of the phantom, as Slicer saves it (LPS)."""
    lps = PHANTOM.geometry.ijk_to_lps
    centre = (lps @ [5, 4, 4.5, 1])[:3]
    size = np.array([2.5, 2.5, 5.5]) * PHANTOM.geometry.spacing_xyz_mm
    roi = {"type": "ROI", "roiType": "Box", "coordinateSystem": "LPS", "center": centre.tolist(), "size": size.tolist()}
    roi["orientation"] = np.eye(3).ravel().tolist()
    path.write_text(json.dumps({"markups": [roi | change]}))
    return path


def test_a_markups_region_is_the_voxels_whose_centres_it_holds(tmp_path: Path, image: Path, engine: FakeEngine):
    command = ["segment", str(image), "-p", "mandible", "-o", str(tmp_path / "o.nrrd"), "--overwrite", "--roi"]
    assert main([*command, str(markups(tmp_path / "R.mrk.json"))]) == 0
    assert engine.roi == (2, 8, 3, 6, 4, 7)
    centre = json.loads((tmp_path / "R.mrk.json").read_text())["markups"][0]["center"]
    ras = [-centre[0], -centre[1], centre[2]]
    assert main([*command, str(markups(tmp_path / "R.mrk.json", coordinateSystem="RAS", center=ras))]) == 0
    assert engine.roi == (2, 8, 3, 6, 4, 7)
    quarter_turn = [0, -1, 0, 1, 0, 0, 0, 0, 1]
    turned = np.array([2.5, 2.5, 5.5]) * np.array(PHANTOM.geometry.spacing_xyz_mm)[[1, 0, 2]]
    assert main([*command, str(markups(tmp_path / "R.mrk.json", orientation=quarter_turn, size=turned.tolist()))]) == 0
    assert engine.roi == (2, 8, 3, 6, 4, 7)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1,2,3", "not six whole numbers in rising pairs; write it as i0,i1,j0,j1,k0,k1"),
        ("5,2,0,9,0,9", "not six whole numbers in rising pairs"),
        ("50,60,0,9,0,9", "has no voxel of the image, which has 14 x 12 x 10 voxels"),
        ("nowhere.mrk.json", "is no file; write it as"),
        ("inside out", "is inside out"),
        ("no size", "lacks a centre, a size or an orientation"),
        ("two", "has 2 regions; save one"),
        ("rubbish", "is not a markups file"),
    ],
)
def test_impossible_regions_are_refused_before_the_engine_is_made(tmp_path: Path, image: Path, monkeypatch, capsys, text: str, sentence: str):
    monkeypatch.setattr(segment, "make_engine", lambda *_: pytest.fail("computed"))
    path = tmp_path / "R.mrk.json"
    if text == "inside out":
        text = str(markups(path, insideOut=True))
    elif text == "no size":
        text = str(markups(path, size=None))
    elif text == "two":
        path.write_text(json.dumps({"markups": [{"type": "ROI"}, {"type": "ROI"}]}))
        text = str(path)
    elif text == "rubbish":
        path.write_text("hello")
        text = str(path)
    assert main(["segment", str(image), "-p", "mandible", "-o", str(tmp_path / "o.nrrd"), "--roi", text]) == 1
    assert sentence in capsys.readouterr().err


def test_two_wordings_of_one_structure_are_written_once_even_as_a_label_map(tmp_path: Path, image: Path, engine: FakeEngine, capsys):
    out, report = tmp_path / "o.nii.gz", tmp_path / "r.json"
    prompts = ("left parotid gland", "mandible", "the mandible", "both parotid glands")
    assert main(["segment", str(image), *(f"--prompt={text}" for text in prompts), "-o", str(out), "--report", str(report)]) == 0
    rows = json.loads(report.read_text())["prompts"]
    assert [(row["label"], row["resolved"]) for row in rows] == [(1, "left parotid gland"), (2, "mandible"), (3, "right parotid gland")]
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(out))))) == {0, 1, 2, 3}
    shown = capsys.readouterr()
    for sentence in ("'the mandible' asks for 'mandible', as 'mandible' does", "'both parotid glands' asks for 'left parotid gland'"):
        assert f"Warning: {sentence}" in shown.err
        assert sentence in report.read_text()
