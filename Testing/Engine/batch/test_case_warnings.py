"""What a case has to say about itself reaches the tables and the reviewer, and names nobody."""

from __future__ import annotations

import csv
import json
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from batch_fake_engine import FakeEngine
from batch_volumes import small_volume, write_dicom_series, write_volume

from RefSAM3DLib.batch import BatchOptions, BatchOutcome, run_batch
from RefSAM3DLib.batch.cases import Case
from RefSAM3DLib.batch.pseudonyms import hide_identity
from RefSAM3DLib.review import ReviewSession


def batch(source: Path, output: Path, **values: object) -> BatchOutcome:
    defaults = {"prompts": ("mandible",), "engine": "batch_fake_engine:make", "workers": 0}
    return run_batch(source, output, BatchOptions(**{**defaults, **values}))


def without_orientation(path: Path) -> Path:
    """A NIfTI file of a program that states none."""
    import nrrd

    nrrd.write(str(path), small_volume().astype(np.int16).transpose(2, 1, 0))
    return path


def table(output: Path) -> list[dict[str, str]]:
    with open(output / "summary.csv", encoding="utf-8-sig", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_doubt_about_the_sides_is_in_every_table_and_in_the_review(tmp_path: Path, pseudonyms: bool) -> None:
    (tmp_path / "in").mkdir()
    without_orientation(tmp_path / "in" / "Mustermann.nrrd")
    (row,) = batch(tmp_path / "in", tmp_path / "out", pseudonyms=pseudonyms).rows
    assert "left and right may be exchanged" in row["warnings"][0]
    assert "has a warning" in row["reasons"]
    assert "left and right may be exchanged" in table(tmp_path / "out")[0]["warnings"]
    assert "left and right may be exchanged" in (tmp_path / "out" / "report.html").read_text()
    session = ReviewSession(tmp_path / "out", "A")
    (item,) = session.items
    assert "left and right may be exchanged" in item.warnings[0]
    session.reprompt(item, "brainstem", FakeEngine())
    assert "left and right may be exchanged" in item.warnings[0], "it holds for the answer to other words too"
    if pseudonyms:
        for path in (tmp_path / "out").rglob("*"):
            if path.is_file() and path.name not in ("identifiers.json", "batch.json"):
                assert b"ustermann" not in path.read_bytes(), path


def test_file_names_in_results_of_earlier_versions_do_not_reach_the_tables(tmp_path: Path) -> None:
    from RefSAM3DLib.batch import refresh_tables

    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "Mustermann.nii.gz")
    (row,) = batch(tmp_path / "in", tmp_path / "out", pseudonyms=True).rows
    stored = tmp_path / "out" / "cases" / row["case"] / f"{row['case']}.json"
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "warnings": ["'Mustermann.nii.gz' does not state its orientation."]}))
    (row,) = refresh_tables(tmp_path / "out")
    assert row["warnings"] == [f"'{row['case']}' does not state its orientation."]


def test_engine_that_falls_back_says_so_in_the_case_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(3):
        write_volume(tmp_path / "in" / f"case_{n}.nii.gz", seed=n)
    rows = batch(tmp_path / "in", tmp_path / "out", engine_arguments={"short_on": "case_1"}).rows
    told = [json.loads((tmp_path / "out" / row["folder"] / f"{row['case']}.json").read_text()) for row in rows]
    assert [report["device"] for report in told] == ["graphics card", "cpu", "cpu"]
    assert [len(report["warnings"]) for report in told] == [0, 1, 0]
    assert "fell back to the CPU" in rows[1]["warnings"][0]
    segments, _ = ReviewSession(tmp_path / "out", "A").masks.segments(tmp_path / "out" / rows[1]["segmentation"])
    assert segments[0][2]["RefSAM3D.Device"] == "cpu"


@pytest.mark.parametrize("private", [False, True])
def test_missing_reference_costs_the_comparison_alone_and_its_place_is_not_told(tmp_path: Path, private: bool) -> None:
    place = tmp_path / "Mustermann_Erika"
    place.mkdir()
    write_volume(place / "a.nii.gz")
    (place / "list.csv").write_text("case,image,segmentation\nx,a.nii.gz,Mustermann.seg.nrrd\n")
    outcome = batch(place / "list.csv", tmp_path / "out", pseudonyms=private)
    assert outcome.counts == {"done": 1}
    (row,) = outcome.rows
    assert "Nothing was compared with the reference" in row["warnings"][0]
    for name in ("summary.csv", "report.html", "journal.jsonl")[: 3 if private else 2]:
        text = (tmp_path / "out" / name).read_text()
        assert "Mustermann_Erika" not in text
        assert ("Mustermann.seg.nrrd" in text) == (not private)
    write_volume(place / "Mustermann.nii.gz")
    (place / "list.csv").write_text("case,image,segmentation\nx,a.nii.gz,Mustermann.nii.gz\n")
    assert batch(place / "list.csv", tmp_path / "out", pseudonyms=private).counts == {"done": 1}, "the reference is there now"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'/data/Erika M/ct' holds no series.", "'KEY' holds no series."),
        ("'/data/Erika M/ct/Erika M 1.dcm' is damaged.", "'KEY' is damaged."),
        ("'/data/Erika M/beside.dcm' is damaged (1 of 2).", "'KEY' is damaged (1 of 2)."),
        ("Cannot read /data/Erika M/ct/1.dcm.", "Cannot read KEY"),
        ("'/refs/M.seg.nrrd' and 'M.seg.nrrd' do not exist.", "'KEY' and 'KEY' do not exist."),
        ("Series 1.2.3 of 'ct', not 1.2.34, is a CT of 5 ct.", "Series KEY of 'KEY', not 1.2.34, is a CT of 5 ct."),
        ("It has 1.2.826.0.1.3680043 (CT, 4 slices).", "It has KEY (CT, 4 slices)."),
    ],
)
def test_sentences_about_a_private_case_name_no_path_file_or_series(text: str, shown: str) -> None:
    case = Case("KEY", "KEY", "/data/Erika M/ct", series="1.2.3", segmentation="/refs/M.seg.nrrd", private=True)
    assert hide_identity(text, case) == shown
    assert hide_identity(text, Case("x", "x", "/data/Erika M/ct")) == text


def test_windows_paths_are_hidden_however_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error's own text doubles the separators, other programs turn them round."""
    monkeypatch.setattr("RefSAM3DLib.batch.pseudonyms.Path", PureWindowsPath)
    place = r"D:\PACS\Muster_Erika"
    case = Case("KEY", "KEY", place + r"\IM1", private=True)
    for written in (place, place.replace("\\", "\\\\"), place.replace("\\", "/")):
        slash = written[written.index("PACS") + 4 : written.index("Muster")]
        for text in (f"[Errno 13] Permission denied: '{written}{slash}IM1'", f"cannot open {written}{slash}x.dcm twice"):
            assert "Muster" not in hide_identity(text, case)


def test_two_wordings_of_one_structure_are_one_result(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "a.nii.gz")
    rows = batch(tmp_path / "in", tmp_path / "out", prompts=("mandible", "segment the mandible", "brainstem", "brainstem")).rows
    assert [(row["label"], row["structure"]) for row in rows] == [(1, "mandible"), (2, "brainstem")]
    assert "'segment the mandible' asks for 'mandible', as 'mandible' does" in rows[0]["warnings"][0]


def test_left_out_dicom_seg_is_a_warning_of_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name == "highdicom" else found(name, package))
    write_dicom_series(tmp_path / "in" / "study")
    (row,) = batch(tmp_path / "in", tmp_path / "out").rows
    assert "No DICOM SEG was written" in row["warnings"][0]


def test_series_that_cannot_carry_a_seg_keeps_its_result(tmp_path: Path) -> None:
    import pydicom

    for path in write_dicom_series(tmp_path / "in" / "study").iterdir():
        data = pydicom.dcmread(path)
        del data.FrameOfReferenceUID
        data.save_as(path)
    outcome = batch(tmp_path / "in", tmp_path / "out")
    assert outcome.counts == {"done": 1}
    (row,) = outcome.rows
    (warning,) = row["warnings"]
    assert "No DICOM SEG was written" in warning
    assert "FrameOfReferenceUID" in warning
    assert "4711" not in warning
    assert (tmp_path / "out" / row["segmentation"]).is_file()
    assert not list((tmp_path / "out").rglob("*.dcm"))
    assert batch(tmp_path / "in", tmp_path / "out").counts == {"unchanged": 1}


def test_several_series_of_a_listed_folder_are_told_without_their_descriptions(tmp_path: Path) -> None:
    import pydicom

    for n in range(2):
        for path in write_dicom_series(tmp_path / "Mustermann" / f"s{n}", seed=n).iterdir():
            data = pydicom.dcmread(path)
            data.SeriesDescription = "Head Mustermann"
            data.save_as(path)
    (tmp_path / "list.csv").write_text("image\nMustermann\n")
    outcome = batch(tmp_path / "list.csv", tmp_path / "out")
    (error,) = outcome.failures.values()
    assert error == "The folder of this case holds 2 DICOM series, and the list does not say which one; fill in the column 'series' with its UID."
    for name in ("summary.csv", "report.html", "journal.jsonl"):
        assert "Mustermann" not in (tmp_path / "out" / name).read_text()


def test_two_rows_of_one_series_in_two_places_are_refused(tmp_path: Path) -> None:
    import shutil

    from RefSAM3DLib.errors import InputError
    from RefSAM3DLib.volume_io import list_series

    uid = list_series(write_dicom_series(tmp_path / "a"))[0].uid
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "list.csv").write_text(f"case,image,series,prompts\none,a,{uid},brainstem\ntwo,b,{uid},mandible\n")
    with pytest.raises(InputError, match="'one' and 'two' of the list are the same DICOM series"):
        batch(tmp_path / "list.csv", tmp_path / "out")


def test_reference_without_names_is_told(tmp_path: Path) -> None:
    import numpy as np
    from batch_volumes import small_volume

    write_volume(tmp_path / "a.nii.gz")
    write_volume(tmp_path / "labels.nii.gz", (np.abs(small_volume() - 400) < 20).astype(np.int16))
    (tmp_path / "list.csv").write_text("case,image,segmentation,prompts\nx,a.nii.gz,labels.nii.gz,brainstem\n")
    (row,) = batch(tmp_path / "list.csv", tmp_path / "out").rows
    assert "reference_dice" not in row
    assert row["warnings"] == [
        "Nothing was compared with the reference: it is a label map, and this list does not name its values; give a .seg.nrrd file with named segments,"
        " or a datalist.json with 'labels'."
    ]


def test_reference_without_what_was_asked_is_told(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz")
    (reference,) = batch(tmp_path / "a.nii.gz", tmp_path / "first", prompts=("brainstem",)).rows
    segmentation = f"first/{reference['segmentation']}"
    for prompts, compared in (("mandible", [False]), ("brainstem;mandible", [True, False])):
        (tmp_path / "list.csv").write_text(f'case,image,segmentation,prompts\nx,a.nii.gz,{segmentation},"{prompts}"\n')
        rows = batch(tmp_path / "list.csv", tmp_path / prompts[:4]).rows
        assert ["reference_dice" in row for row in rows] == compared
        told = "Nothing was compared with the reference: none of its structures is called 'mandible'; rename them, or ask for them by their names."
        assert rows[0]["warnings"] == ([] if any(compared) else [told])
