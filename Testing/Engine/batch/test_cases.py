"""Finding cases: folders of any mix, lists, manifests, and every fault of a list in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from batch_volumes import write_dicom_series, write_volume
from hypothesis import given, settings
from hypothesis import strategies as st

from RefSAM3DLib.batch.cases import Case, find_cases, slug, with_known_keys, with_unique_keys
from RefSAM3DLib.errors import InputError


def test_folder_of_any_mix_is_searched_and_results_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nrrd", "c.mha"):
        write_volume(tmp_path / name)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_volume(tmp_path / "deep" / "er" / "a.nii")
    write_volume(tmp_path / "b.seg.nrrd")
    (tmp_path / "notes.txt").write_text("no image")
    write_dicom_series(tmp_path / "dicom")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "batch.json").write_text("{}")
    write_volume(tmp_path / "old" / "x.nii.gz")
    cases, notes = find_cases(tmp_path)
    assert sorted(case.name for case in cases if not case.private) == ["a", "b", "c", "deep/er/a"]
    assert sum(case.private for case in cases) == 1
    assert len({case.key for case in cases}) == 5
    assert "output of a batch" in notes[0]


@settings(deadline=None)  # a busy machine is no fault
@given(st.text(min_size=1, max_size=300))
def test_every_name_becomes_a_safe_file_name(name: str) -> None:
    key = slug(name)
    assert key
    assert len(key) <= 71
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert slug(key) == key


def test_names_that_differ_only_in_lost_characters_keep_different_keys() -> None:
    assert slug("a/b") != slug("a b")
    assert slug("NUL") != "NUL"


def test_same_file_name_in_two_folders_gives_two_keys() -> None:
    cases = with_unique_keys([Case("x", "x", "/a/x.nii"), Case("x", "X", "/b/X.nii")])
    assert cases[0].key.lower() != cases[1].key.lower()


def table(folder: Path, text: str) -> Path:
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


def test_csv_with_prompts_per_case_and_excels_semicolons(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz")
    path = table(tmp_path, '\ufeffcase;image;prompts\n"A, first";a.nii.gz;brainstem | "left, parotid" \n')
    (case,), _ = find_cases(path)
    assert case.name == "A, first"
    assert case.prompts == ("brainstem", '"left, parotid"')
    path = table(tmp_path, 'case,image,prompts\r\nA,a.nii.gz,"brainstem; mandible"\r\n\r\n')
    (case,), _ = find_cases(path)
    assert case.prompts == ("brainstem", "mandible")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,picture\nA,a.nii.gz\n", "no column 'image'.*case, picture"),
        ("case,image\nA,a.nii.gz\nA,b.nii.gz\n", "'A' of line 3.*already in line 2"),
        ("case,image\nA,../../etc/passwd\n", "lies outside.*--root"),
        ("case,image\nA,/etc/passwd\n", "lies outside"),
        ("case,image\nA,\n", "image of line 2.*empty"),
        ("case,image\nA,a.nii.gz,more,fields\n", "Line 2.*more fields"),
        ("case,image,modality\nA,a.nii.gz,xray\n", "modality 'xray' of line 2.*ct, mr, pet"),
        ("image,case,image\na.nii.gz,A,b.nii.gz\n", "column 'image' twice"),
        ("", "no column 'image'"),
        ("case,image\n", "No image was found"),
    ],
)
def test_faults_of_a_csv_name_line_and_next_step(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_cases(table(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no readable JSON"),
        ('"text"', "neither a list"),
        ('{"labels": {"a": "x"}, "training": [{"image": "a.nii"}]}', "labels of .* no table"),
        ('{"labels": ["x"], "training": [{"image": "a.nii"}]}', "labels of .* no table"),
        ('{"labels": {"1": "x"}, "training": [{"image": "a.nii", "labelled": "1"}]}', "'labelled' of entry 1 .* list of label values"),
        ("[" * 100_000, "no readable JSON"),
        ('[{"image": ["a.nii"]}]', "image of entry 1 .* no text"),
        ('[{"case": "A"}]', "Entry 1.*no 'image'"),
        ('[{"image": "a.nii", "prompts": [1]}]', "no list of texts"),
        ('{"labels": {"1": "x"}, "training": [{"label": "a"}]}', "no 'image'"),
    ],
)
def test_faults_of_a_json_list(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=words):
        find_cases(tmp_path / "list.json")


def test_manifest_prompts_only_for_what_is_labelled(tmp_path: Path) -> None:
    manifest = {
        "labels": {"1": "brainstem", "2": "mandible"},
        "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "labelled": [2]}],
        "test": [{"image": "images/b.nii.gz", "label": "labels/b.nii.gz", "labelled": [1, 2]}],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(manifest))
    cases, notes = find_cases(tmp_path)
    assert "datalist.json" in notes[0]
    assert [case.prompts for case in cases] == [("mandible",), ("brainstem", "mandible")]
    assert [case.name for case in find_cases(tmp_path / "datalist.json", split=["test"])[0]] == ["b"]
    with pytest.raises(InputError, match="'held'"):
        find_cases(tmp_path / "datalist.json", split=["held"])


def test_input_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_cases(tmp_path / "nowhere")


def test_dicom_files_that_are_named_by_their_uid_are_found_among_others(tmp_path: Path) -> None:
    folder = write_dicom_series(tmp_path / "archive")
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"1.2.840.113619.2.55.{number}")
    for number in range(6):
        (folder / f"0_note_{number}.txt").write_text("first in the order")
    cases, notes = find_cases(tmp_path)
    assert [(case.private, bool(case.series)) for case in cases] == [(True, True)], notes


@pytest.mark.parametrize("count", [7, 5000])
def test_a_series_is_found_behind_hidden_files_and_many_others(tmp_path: Path, count: int) -> None:
    folder = write_dicom_series(tmp_path / "disc")
    for path in sorted(folder.iterdir()):
        (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))  # as macOS writes beside each file on a foreign disc
    for number in range(count):
        (folder / f"A{number:05d}").write_text("no DICOM, and first in the order")
    (tmp_path / "plain").mkdir()
    for number in range(7):
        (tmp_path / "plain" / f"README{number}").write_text("no DICOM at all")
    cases, notes = find_cases(tmp_path)
    assert [case.image for case in cases] == [str(folder)]
    assert notes == []


def test_a_series_in_two_folders_is_not_taken_for_two_whole_ones(tmp_path: Path) -> None:
    folder, other = write_dicom_series(tmp_path / "in" / "1"), tmp_path / "in" / "2"
    write_dicom_series(tmp_path / "in" / "whole")
    other.mkdir()
    for path in sorted(folder.iterdir())[::2]:
        path.rename(other / path.name)
    cases, notes = find_cases(tmp_path / "in")
    assert [case.image for case in cases] == [str(tmp_path / "in" / "whole")]
    assert any("files in 2 folders" in note for note in notes)


def test_index_of_a_disc_does_not_hide_its_series(tmp_path: Path) -> None:
    folder = write_dicom_series(tmp_path / "in" / "DICOM" / "ST1" / "SE1")
    (tmp_path / "in" / "DICOMDIR").write_bytes((folder / "IM0000").read_bytes())
    cases, notes = find_cases(tmp_path / "in")
    assert [case.image for case in cases] == [str(folder)], notes
    assert not notes


def test_loose_slice_above_a_series_costs_neither(tmp_path: Path) -> None:
    folder, other = write_dicom_series(tmp_path / "in" / "study"), write_dicom_series(tmp_path / "scout", seed=1)
    (other / "IM0000").rename(tmp_path / "in" / "scout.dcm")
    cases, notes = find_cases(tmp_path / "in")
    assert sorted(case.image for case in cases) == [str(tmp_path / "in"), str(folder)]
    assert len({case.series for case in cases}) == 2
    assert not notes


def test_keys_depend_neither_on_other_cases_nor_on_where_the_folder_lies(tmp_path: Path) -> None:
    def keys(root: Path, names: tuple[str, ...]) -> dict[str, str]:
        for name in names:
            (root / name).mkdir(parents=True)
            write_volume(root / name / "ct.nrrd")
        return {case.name: case.key for case in find_cases(root)[0]}

    two, three = keys(tmp_path / "a", ("P2", "P3")), keys(tmp_path / "b", ("P1", "P2", "P3"))
    assert {name: three[name] for name in two} == two
    assert len(set(three.values())) == 3
    assert "ct" not in three.values(), "whose it would be depended on the order"
    write_volume(tmp_path / "a" / "P2" / "ct.nii")
    assert len({case.key for case in find_cases(tmp_path / "a")[0]}) == 3, "two files of one name"


def test_keys_of_a_folder_are_kept_and_never_given_to_another_case() -> None:
    known = {
        "ct": {"name": "P2/ct", "image": "/old/P2/ct.nrrd", "series": ""},
        "ct-0ld0ld00": {"name": "P3/ct", "image": "/old/P3/ct.nrrd", "series": ""},
        "head": {"name": "head", "image": "/old/P4/head.nrrd", "series": ""},
    }

    def keys(*cases: Case) -> list[str]:
        return [case.key for case in with_known_keys(with_unique_keys(cases), known)]

    moved = [Case(f"P{n}/ct", "ct", f"/new/P{n}/ct.nrrd") for n in (1, 2, 3)]
    assert keys(*moved)[1:] == ["ct", "ct-0ld0ld00"]
    assert keys(moved[0]) == keys(*moved)[:1] != ["ct"], "alone it would have taken the key of another patient"
    assert keys(Case("P4/head", "head", "/old/P4/head.nrrd")) == ["head"], "the folder above is searched now: the same file"
    assert keys(Case("head", "head", "/new/other.nrrd")) == ["head"], "another image under the name of the list"
    assert keys(Case("P5/head", "head", "/new/P5/head.nrrd")) != ["head"]


def test_dicom_file_of_a_list_is_private_and_stands_for_its_whole_series(tmp_path: Path) -> None:
    from RefSAM3DLib.batch.inputs import case_files

    folder, other = write_dicom_series(tmp_path / "a"), write_dicom_series(tmp_path / "b", seed=1)
    first = (folder / "IM0000").rename(folder / "Mustermann.dcm")
    (other / "IM0001").rename(folder / "of_another_series")
    write_volume(tmp_path / "c.nrrd")
    cases, _ = find_cases(table(tmp_path, "image\na/Mustermann.dcm\nc.nrrd\ngone/Mustermann\ngone.nii.gz\n"))
    assert [case.private for case in cases] == [True, False, True, False], "what is gone and has no other ending was DICOM"
    files = case_files(cases[0])
    assert files[0] == first
    assert sorted(files) == sorted(path for path in folder.iterdir() if path.name != "of_another_series")


def test_what_cannot_be_searched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    write_volume(tmp_path / "in" / "a.nii.gz")
    write_volume(tmp_path / "else" / "b.nii.gz")
    try:
        (tmp_path / "in" / "link").symlink_to(tmp_path / "else", target_is_directory=True)
    except OSError:
        pytest.skip("this system has no links")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    cases, notes = find_cases(tmp_path / "in")
    assert [case.name for case in cases] == ["a"]
    assert "link' is a link to another folder and was not searched" in notes[0]
    assert "closed' could not be searched (Permission denied)" in notes[1]


def test_junction_is_told_as_a_link_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    (tmp_path / "junction").mkdir()
    write_volume(tmp_path / "a.nii.gz")
    monkeypatch.setattr(os.path, "isjunction", lambda path: Path(path).name == "junction", raising=False)
    (note,) = find_cases(tmp_path)[1]
    assert "junction' is a link to another folder and was not searched" in note


def test_dicom_without_preamble_is_found(tmp_path: Path) -> None:
    for path in write_dicom_series(tmp_path / "whole").iterdir():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{path.name}.dcm").write_bytes(path.read_bytes()[132:])
    (case,), _ = find_cases(tmp_path / "in")
    assert case.private


def test_headers_of_a_flat_folder_are_read_once_for_all_its_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RefSAM3DLib import dicom_series
    from RefSAM3DLib.batch.inputs import case_files

    (tmp_path / "in").mkdir()
    for n in range(3):
        for path in write_dicom_series(tmp_path / f"s{n}", seed=n).iterdir():
            path.rename(tmp_path / "in" / f"{n}_{path.name}")
    read, real = [], dicom_series._read_header
    monkeypatch.setattr(dicom_series, "_read_header", lambda path: (read.append(path), real(path))[1])
    cases, _ = find_cases(tmp_path / "in")
    assert [len(case_files(case)) for case in cases] == [20, 20, 20]
    assert len(read) == 60
    (tmp_path / "in" / "0_IM0000").unlink()
    assert sorted(len(case_files(case)) for case in cases) == [19, 20, 20], "a folder that changed is read again"


def test_lists_of_a_manifest_are_asked_of_other_inputs_in_vain_and_it_is_said(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz")
    (tmp_path / "list.csv").write_text("image\na.nii.gz\n")
    (tmp_path / "list.json").write_text('["a.nii.gz"]')
    (tmp_path / "datalist.txt.json").write_text('{"labels": {"1": "larynx"}, "test": [{"image": "a.nii.gz"}]}')
    for name in ("", "list.csv", "list.json", "a.nii.gz"):
        cases, notes = find_cases(tmp_path / name, split=("test",))
        assert len(cases) == 1
        assert len(notes) == 1
        assert "is no training manifest, which alone has lists: --split test is ignored, and all its cases are taken." in notes[0]
        assert find_cases(tmp_path / name)[1] == []
    assert find_cases(tmp_path / "datalist.txt.json", split=("test",))[1] == []


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        (";=1+1", ";'=1+1"),
        ("Larynx; =1+1", "Larynx; '=1+1"),
        ("one\n@two", "one\n'@two"),
        (["a", "-b"], "a; '-b"),
        ("T2; 3 mm; a = b", "T2; 3 mm; a = b"),
        (-1.5, -1.5),
    ],
)
def test_cell_is_no_formula_whatever_its_separator(value: object, cell: object) -> None:
    from RefSAM3DLib.batch.summary import plain_cell

    assert plain_cell(value) == cell
