"""What a review leaves: tables, a training manifest, signed results."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from batch_fake_engine import FakeEngine
from batch_volumes import REVIEWED_PROMPTS, small_volume, write_dicom_series, write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.errors import InputError, OutputError
from RefSAM3DLib.review import ReviewSession


def shifted(mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, 1, axis=2)


def test_csv_has_every_decision_and_no_formula(folder: Path, tmp_path: Path) -> None:
    session = ReviewSession(folder, "=cmd()")
    session.decide(session.find("case_0/1"), "reject", reason="+leak", comment='a "quoted", text')
    session.decide(session.find("case_0/1"), "accept")
    session.export_csv(tmp_path / "d.csv")
    with open(tmp_path / "d.csv", encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["verdict"] for row in rows] == ["reject", "accept"]
    assert rows[0]["reviewer"] == "'=cmd()"
    assert rows[0]["reason"] == "'+leak"
    assert rows[0]["comment"] == 'a "quoted", text'
    assert rows[1]["corrects"] == rows[0]["id"]
    with pytest.raises(OutputError, match="exists already"):
        session.export_csv(tmp_path / "d.csv")


def test_export_is_a_training_manifest_of_what_was_accepted(folder: Path, tmp_path: Path) -> None:
    import SimpleITK as sitk

    from RefSAM3DLib.review import export_manifest

    session = ReviewSession(folder, "A")
    session.decide(session.find("case_0/1"), "accept")
    machine, _ = session.machine_mask(session.find("case_0/2"))
    session.decide(session.find("case_0/2"), "accept_edited", edited_mask=shifted(machine))
    session.decide(session.find("case_0/3"), "accept")  # unknown wording: says nothing about the image
    session.decide(session.find("case_1/1"), "reject", reason="leak")
    session.decide(session.find("case_2/2"), "accept")  # accepted as absent
    outcome = export_manifest(session, tmp_path / "export")
    content = json.loads(outcome.manifest.read_text())
    assert content["labels"] == {"1": "brainstem", "2": "mandible"}
    by_image = {entry["image"]: entry for entry in content["training"]}
    assert set(by_image) == {"images/case_0.nii.gz", "images/case_2.nii.gz"}
    assert by_image["images/case_0.nii.gz"]["labelled"] == [1, 2]
    assert by_image["images/case_2.nii.gz"]["labelled"] == [2]
    kinds = [(r["structure"], r["algorithm_type"], r["reviewer"]) for r in by_image["images/case_0.nii.gz"]["review"]]
    assert kinds == [("brainstem", "AUTOMATIC", "A"), ("mandible", "SEMIAUTOMATIC", "A")]
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "export" / by_image["images/case_0.nii.gz"]["label"])))
    assert ((array == 2) == shifted(machine)).all()
    with pytest.raises(OutputError, match="not empty"):
        export_manifest(session, tmp_path / "export")
    from RefSAM3DLib.batch import find_cases

    assert len(find_cases(outcome.manifest)[0]) == 2  # the loop closes: a batch takes the manifest as it is


def test_export_names_a_re_prompted_structure_as_its_reviewer_saw_it(folder: Path, tmp_path: Path) -> None:
    from RefSAM3DLib.review import export_manifest, write_structured_result

    session = ReviewSession(folder, "A")
    item = session.find("case_0/3")
    session.reprompt(item, "larynx", FakeEngine())
    session.decide(item, "accept")
    colleague = ReviewSession(folder, "B")
    assert colleague.find("case_0/3").structure == "liver"
    content = json.loads(export_manifest(colleague, tmp_path / "export").manifest.read_text())
    assert content["labels"] == {"1": "larynx"}
    for label in (1, 2):
        session.decide(session.find(f"case_0/{label}"), "reject", reason="leak")
    (path,) = write_structured_result(colleague, "case_0", tmp_path / "new" / "folder")
    signed = json.loads(path.read_text())["findings"][2]
    assert (signed["structure"], signed["prompt"]) == ("larynx", "larynx")
    mask, geometry = session.machine_mask(item)
    assert mask.any()
    assert signed["volume_ml"] == pytest.approx(mask.sum() * geometry.voxel_volume_ml), "of the mask that was accepted, not of the batch's"


def test_masks_that_nobody_has_seen_are_not_signed_off(folder: Path, tmp_path: Path) -> None:
    from RefSAM3DLib.review import write_structured_result

    session = ReviewSession(folder, "A")
    for item in [i for i in session.items if i.case == "case_0"]:
        session.decide(item, "reject", reason="leak")
    write_structured_result(session, "case_0", tmp_path / "before")
    write_volume(tmp_path / "in" / "case_0.nii.gz", small_volume(9), seed=9)
    run_batch(tmp_path / "in", folder, BatchOptions(prompts=REVIEWED_PROMPTS, engine="batch_fake_engine:make", workers=0))
    with pytest.raises(InputError, match=r"not reviewed completely.*brainstem"):
        write_structured_result(ReviewSession(folder, "A"), "case_0", tmp_path / "after")
    assert not (tmp_path / "after").exists()


def test_export_that_fails_half_way_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    from RefSAM3DLib.review import export_manifest

    session = ReviewSession(folder, "A")
    session.decide(session.find("case_0/1"), "accept")
    (tmp_path / "in" / "case_0.nii.gz").unlink()
    (tmp_path / "place").mkdir()
    with pytest.raises(InputError, match=r"None of the accepted cases could be exported.*left out"):
        export_manifest(session, tmp_path / "place" / "export")
    assert list((tmp_path / "place").iterdir()) == []
    (tmp_path / "a_file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        export_manifest(session, tmp_path / "a_file")


def test_export_of_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    from RefSAM3DLib.review import export_manifest

    with pytest.raises(InputError, match="nothing to export"):
        export_manifest(ReviewSession(folder, "A"), tmp_path / "export")


def test_result_names_algorithm_and_reviewer_in_json_and_dicom(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    from RefSAM3DLib.review import write_structured_result

    write_dicom_series(tmp_path / "in" / "Mustermann")
    run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=("brainstem", "mandible"), engine="batch_fake_engine:make", workers=0))
    session = ReviewSession(tmp_path / "out", "Dr. Anna Muster")
    first, second = session.items
    session.decide(first, "accept")
    with pytest.raises(InputError, match=r"not reviewed completely.*mandible"):
        write_structured_result(session, first.case, tmp_path)
    session.decide(second, "accept_edited", edited_mask=shifted(session.machine_mask(second)[0]))
    json_path, seg_path = write_structured_result(session, first.case, tmp_path)
    report = json.loads(json_path.read_text())
    assert report["findings"][0]["review"]["reviewer"] == "Dr. Anna Muster"
    assert "Mustermann" not in json_path.read_text()
    dataset = pydicom.dcmread(seg_path)
    assert dataset.Modality == "SEG"
    assert str(dataset.ContentCreatorName) == "Muster^Dr. Anna"
    assert [s.SegmentAlgorithmType for s in dataset.SegmentSequence] == ["AUTOMATIC", "SEMIAUTOMATIC"]
    assert dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName.startswith("RefSAM3D")
    import highdicom as hd

    seg = hd.seg.segread(seg_path)
    for segment, kind in zip(dataset.SegmentSequence, ("AUTOMATIC", "SEMIAUTOMATIC"), strict=True):
        tags = json.loads(segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)
        assert (tags["DICOM.SegmentAlgorithmType"], tags["RefSAM3D.Reviewer"]) == (kind, "Dr. Anna Muster")
    assert "accepted with edits by Dr. Anna Muster" in dataset.SegmentSequence[1].SegmentDescription
    drawn = seg.get_volume(combine_segments=False).array
    expected = [session.machine_mask(first)[0].sum(), session.machine_mask(second)[0].sum()]
    assert [int(drawn[..., n].sum()) for n in range(2)] == [int(v) for v in expected]


def test_everything_erased_is_an_edit_too(folder: Path, tmp_path: Path) -> None:
    from RefSAM3DLib.review import export_manifest

    session = ReviewSession(folder, "A")
    item = session.find("case_0/1")
    machine, _ = session.machine_mask(item)
    entry = session.decide(item, "accept_edited", edited_mask=np.zeros_like(machine))
    assert entry["metrics"]["dice"] == 0.0
    assert entry["metrics"]["mean_surface_mm"] is None
    outcome = export_manifest(session, tmp_path / "export")
    assert json.loads(outcome.manifest.read_text())["training"][0]["labelled"] == [1]


def test_accepted_unknown_wording_trains_no_absence(folder: Path, tmp_path: Path) -> None:
    from RefSAM3DLib.review import export_manifest

    session = ReviewSession(folder, "A")
    session.decide(session.find("case_0/1"), "accept")
    item = session.find("case_0/2")
    with pytest.raises(InputError, match="does not know 'jawbone of another name', so nothing was recorded"):
        session.reprompt(item, "jawbone of another name", FakeEngine())
    assert [e["verdict"] for e in session.trail.read().entries] == ["accept"]
    # As earlier versions recorded it.
    session.record_reprompt(item, "jawbone of another name", FakeEngine().segment(session.volume(item), ["jawbone of another name"])[0])
    session.decide(item, "accept")
    for reader in ("A", "B"):  # for B the item shows the batch's answer
        content = json.loads(export_manifest(ReviewSession(folder, reader), tmp_path / reader).manifest.read_text())
        assert content["labels"] == {"1": "brainstem"}


def test_signed_result_of_a_pseudonymous_case_names_no_place(tmp_path: Path) -> None:
    from RefSAM3DLib.review import write_structured_result

    place = tmp_path / "Mustermann"
    place.mkdir()
    write_volume(place / "Mustermann.nii.gz")
    write_dicom_series(place / "study")
    (place / "list.csv").write_text("image,case\nMustermann.nii.gz,a\nstudy,b\n")
    run_batch(place / "list.csv", tmp_path / "out", BatchOptions(prompts=("brainstem",), engine="batch_fake_engine:make", workers=0, pseudonyms=True))
    session = ReviewSession(tmp_path / "out", "A")
    assert len(session.items) == 2
    for item in session.items:
        session.decide(item, "reject", reason="leak")
        (path,) = write_structured_result(session, item.case, tmp_path / "signed")
        assert json.loads(path.read_text())["input"] == item.case
        assert "ustermann" not in path.read_text()


def test_export_of_a_pseudonymous_case_leaves_its_header_behind(tmp_path: Path) -> None:
    import SimpleITK as sitk

    from RefSAM3DLib.review import export_manifest

    path = write_volume(tmp_path / "Mustermann.nrrd")
    image = sitk.ReadImage(str(path))
    image.SetMetaData("DICOM.PatientName", "Mustermann^Erika")
    sitk.WriteImage(image, str(path))
    run_batch(path, tmp_path / "out", BatchOptions(prompts=("brainstem",), engine="batch_fake_engine:make", workers=0, pseudonyms=True))
    session = ReviewSession(tmp_path / "out", "A")
    session.decide(session.items[0], "accept")
    content = json.loads(export_manifest(session, tmp_path / "export").manifest.read_text())
    for exported in (path for path in (tmp_path / "export").rglob("*") if path.is_file()):
        assert b"ustermann" not in exported.read_bytes()
    copy = sitk.ReadImage(str(tmp_path / "export" / content["training"][0]["image"]))
    assert (sitk.GetArrayFromImage(copy) == sitk.GetArrayFromImage(image)).all()
    assert (copy.GetOrigin(), copy.GetSpacing(), copy.GetDirection()) == (image.GetOrigin(), image.GetSpacing(), image.GetDirection())


def test_result_of_an_image_that_is_no_dicom_needs_the_image_no_more(folder: Path, tmp_path: Path) -> None:
    from RefSAM3DLib.review import write_structured_result

    session = ReviewSession(folder, "A")
    for item in [item for item in session.items if item.case == "case_0"]:
        session.decide(item, "accept")
    (tmp_path / "in" / "case_0.nii.gz").rename(tmp_path / "archived.nii.gz")
    (path,) = write_structured_result(ReviewSession(folder, "A"), "case_0", tmp_path / "signed")
    assert json.loads(path.read_text())["dicom_seg"] is None


@pytest.mark.parametrize("kind", ["nrrd", "dicom"])
def test_export_of_a_sheared_image_keeps_its_shear_in_image_and_label(tmp_path: Path, kind: str) -> None:
    """ITK writes the tilt of a gantry to NIfTI as a straight grid, without a word."""
    import SimpleITK as sitk

    from RefSAM3DLib.image_files import read_image_file
    from RefSAM3DLib.review import export_manifest

    step = (0.0, 0.8, 3.0)
    if kind == "dicom":
        pydicom = pytest.importorskip("pydicom")
        for k, path in enumerate(sorted(write_dicom_series(tmp_path / "in").iterdir())):
            data = pydicom.dcmread(path)
            data.ImagePositionPatient = [0.0, step[1] * k, step[2] * k]
            data.save_as(path)
    else:
        (tmp_path / "in").mkdir()
        image = sitk.ReadImage(str(write_volume(tmp_path / "straight.nrrd")))
        length = float(np.hypot(*step[1:]))
        image.SetSpacing((2.0, 1.5, length))
        image.SetDirection((1, 0, 0, 0, 1, step[1] / length, 0, 0, step[2] / length))
        sitk.WriteImage(image, str(tmp_path / "in" / "tilted.nrrd"))
    run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=("brainstem",), engine="batch_fake_engine:make", workers=0))
    session = ReviewSession(tmp_path / "out", "A")
    machine, geometry = session.machine_mask(session.items[0])
    assert abs(float(geometry.directions[:, 1] @ geometry.directions[:, 2])) > 0.2
    session.decide(session.items[0], "accept")
    (entry,) = json.loads(export_manifest(session, tmp_path / "export").manifest.read_text())["training"]
    label, label_grid, _ = read_image_file(tmp_path / "export" / entry["label"])
    _, image_grid, _ = read_image_file(tmp_path / "export" / entry["image"])
    assert np.array_equal(label == entry["labelled"][0], machine)
    for grid in (label_grid, image_grid):
        np.testing.assert_allclose(grid.ijk_to_ras, geometry.ijk_to_ras, atol=1e-4)
