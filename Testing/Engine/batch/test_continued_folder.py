"""A result folder that is continued after something around it has changed: added cases, moved data, a corrected list."""

from __future__ import annotations

import contextlib
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from batch_fake_engine import FakeEngine
from batch_volumes import small_volume, write_dicom_series, write_volume

from RefSAM3DLib.batch import BatchOptions, BatchOutcome, run_batch
from RefSAM3DLib.batch.folder_state import FolderState
from RefSAM3DLib.errors import Cancelled, InputError
from RefSAM3DLib.review import ReviewSession, export_manifest


def batch(source: Path, output: Path, **values: object) -> BatchOutcome:
    return run_batch(source, output, BatchOptions(prompts=("mandible",), engine="batch_fake_engine:make", workers=0, **values))


def patients(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        write_volume(root / name / "ct.nrrd", seed=int(name[1:]))
    return root


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_added_case_and_moved_data_repeat_nothing(tmp_path: Path, pseudonyms: bool) -> None:
    source, output = patients(tmp_path / "in", "P2"), tmp_path / "out"
    batch(source, output, pseudonyms=pseudonyms)
    session = ReviewSession(output, "A")
    (item,) = session.items
    session.decide(item, "accept")
    assert batch(patients(source, "P1", "P3"), output, pseudonyms=pseudonyms).counts == {"done": 2, "unchanged": 1}
    moved = source.rename(tmp_path / "other_disk")
    assert batch(moved, output, pseudonyms=pseudonyms).counts == {"unchanged": 3}
    session = ReviewSession(output, "A")
    assert session.find(item.id).status == "accept"
    assert session.find(item.id).image == str(moved / "P2" / "ct.nrrd")
    assert {i.status for i in session.items if i.id != item.id} == {""}
    for one in session.items:
        session.volume(one)
    assert len({i.patient for i in session.items}) == (3 if pseudonyms else 1)


def write_list(folder: Path, text: str) -> Path:
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


def test_patient_that_is_added_to_the_list_reaches_the_export(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    batch(write_list(tmp_path, "image,patient\na.nii.gz,\nbroken.nii.gz,\n"), tmp_path / "out")
    outcome = batch(write_list(tmp_path, "image,patient\na.nii.gz,P7\nbroken.nii.gz,P8\n"), tmp_path / "out")
    assert outcome.counts == {"unchanged": 1, "failed_before": 1}
    state = FolderState.read(tmp_path / "out").cases
    assert [(c.status, c.entry["patient"], bool(c.entry.get("error"))) for c in state.values()] == [("done", "P7", False), ("failed", "P8", True)]
    lines = len(FolderState.read(tmp_path / "out").log.entries)
    batch(tmp_path / "list.csv", tmp_path / "out")
    assert len(FolderState.read(tmp_path / "out").log.entries) == lines + 2, "begin and end of the run, and nothing about cases"
    session = ReviewSession(tmp_path / "out", "A")
    session.decide(session.find("a/1"), "accept")
    exported = json.loads(export_manifest(session, tmp_path / "export").manifest.read_text())
    assert exported["training"][0]["patient"] == "P7"


def test_corrected_reference_is_compared_anew(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", seed=1)
    truth = np.abs(small_volume(1) - 200) < 20
    listed = write_list(tmp_path, "image\na.nii.gz\n")
    assert "reference_dice" not in batch(listed, tmp_path / "out").rows[0]
    content = {"labels": {"7": "mandible"}, "training": [{"image": "a.nii.gz", "label": "reference.nii.gz", "labelled": [7]}]}
    manifest = tmp_path / "datalist.json"
    manifest.write_text(json.dumps(content))
    write_volume(tmp_path / "reference.nii.gz", np.roll(truth, 2, axis=2) * 7.0, seed=1)
    assert batch(manifest, tmp_path / "out").rows[0]["reference_dice"] < 0.9
    write_volume(tmp_path / "reference.nii.gz", truth * 7.0, seed=1)
    outcome = batch(manifest, tmp_path / "out")
    assert (outcome.counts, outcome.rows[0]["reference_dice"]) == ({"done": 1}, 1.0)
    assert batch(manifest, tmp_path / "out").counts == {"unchanged": 1}


def test_folder_that_lost_its_pseudonyms_is_not_continued_under_others(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "in" / "study")
    batch(tmp_path / "in", tmp_path / "out")
    kept = (tmp_path / "out" / "identifiers.json").rename(tmp_path / "kept.json")
    with pytest.raises(InputError, match=r"identifiers.json' was removed or replaced.*put it back, or use a new folder"):
        batch(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "identifiers.json").exists()
    kept.rename(tmp_path / "out" / "identifiers.json")
    assert batch(tmp_path / "in", tmp_path / "out").counts == {"unchanged": 1}


def test_image_that_is_off_line_leaves_the_result_in_place(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(2):
        write_volume(tmp_path / "in" / f"c{n}.nii.gz", seed=n)
    listed = tmp_path / "in" / "list.csv"
    listed.write_text("image\nc0.nii.gz\nc1.nii.gz\n")

    def run() -> BatchOutcome:
        return batch(listed, tmp_path / "out")

    run()
    session = ReviewSession(tmp_path / "out", "A")
    session.decide(session.find("c0/1"), "accept")
    (tmp_path / "in" / "c0.nii.gz").rename(tmp_path / "archived.nii.gz")
    outcome = run()
    assert (outcome.exit_code, outcome.counts, list(outcome.failures)) == (1, {"failed": 1, "unchanged": 1}, ["c0"])
    assert [(row["case"], row["verdict"], row["review_key"]) for row in outcome.rows] == [("c0", "present", "accept"), ("c1", "present", "")]
    assert ReviewSession(tmp_path / "out", "A").find("c0/1").status == "accept"
    (tmp_path / "archived.nii.gz").rename(tmp_path / "in" / "c0.nii.gz")
    assert run().counts == {"unchanged": 2}
    (tmp_path / "in" / "c0.nii.gz").write_bytes(b"another one, which cannot be read")
    assert [row["verdict"] for row in run().rows] == ["failed", "present"]
    shutil.rmtree(tmp_path / "out" / "cases" / "c1")
    (tmp_path / "in" / "c1.nii.gz").unlink()
    assert [(row["case"], "not there any more" in row["error"]) for row in run().rows if row["verdict"] == "failed"] == [("c0", False), ("c1", True)]


def ask(source: Path, output: Path, *prompts: str, **values: object) -> BatchOutcome:
    return run_batch(source, output, BatchOptions(prompts=prompts, engine="batch_fake_engine:make", workers=0, **values))


def test_reviewed_results_are_not_replaced_by_those_of_another_question(tmp_path: Path) -> None:
    source, output = patients(tmp_path / "in", "P1", "P2"), tmp_path / "out"
    ask(source, output, "larynx")
    assert ask(source, output, "mandible").counts == {"done": 2}, "nobody decided on the first ones"
    session = ReviewSession(output, "A")
    for item in session.items:
        session.decide(item, "accept")
    with pytest.raises(InputError, match=r"2 cases of this folder have 2 decisions on results .*\(other prompts: mandible there, larynx now\); give a new"):
        ask(source, output, "larynx")
    with pytest.raises(InputError, match=r"with --allow-unknown"):
        ask(source, output, "mandible", allow_unknown=True)
    assert [row["review_key"] for row in ask(source, output, "mandible").rows] == ["accept", "accept"]
    assert ask(source, output, "mandible", probability=True).counts == {"done": 2}, "the masks are the same, and so the decisions stand"
    assert ask(source, output, "larynx", force=True).counts == {"done": 2}
    assert len(list((output / "superseded").iterdir())) == 6


def test_result_is_set_aside_when_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = patients(tmp_path / "in", "P1"), tmp_path / "out"
    ask(source, output, "larynx")
    (place,) = (output / "cases").iterdir()
    before = (place / f"{place.name}.json").read_bytes()

    def stop(*args: object, **keywords: object) -> None:
        raise error

    for error in (Cancelled("The user stopped it."), InputError("No.")):
        with monkeypatch.context() as patch:
            patch.setattr(FakeEngine, "segment", stop)
            with pytest.raises(Cancelled) if isinstance(error, Cancelled) else contextlib.nullcontext():
                ask(source, output, "mandible")
        assert (place / f"{place.name}.json").read_bytes() == before
        assert list((output / "cases").iterdir()) == [place]
        assert not (output / "superseded").exists()
    assert ask(source, output, "larynx").counts == {"recovered": 1}, "nothing of it is made again"
    assert [row["structure"] for row in ask(source, output, "mandible").rows] == ["mandible"]
    place.rename(place.with_name(f".{place.name}.part"))  # killed between the last two renames
    assert ask(source, output, "mandible").counts == {"unchanged": 1}


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_patients_one_by_one_do_not_replace_each_other(tmp_path: Path, pseudonyms: bool) -> None:
    source, output = patients(tmp_path / "in", "P1", "P2"), tmp_path / "out"
    batch(source / "P1", output, pseudonyms=pseudonyms)
    for second in (source / "P2", source / "P2" / "ct.nrrd"):
        with pytest.raises(InputError, match=r"'ct' of this folder is '.*P1.ct.nrrd', which is still there.*give the folder above"):
            batch(second, output, pseudonyms=pseudonyms)
    shutil.copytree(source / "P1", tmp_path / "copy")
    assert batch(tmp_path / "copy", output, pseudonyms=pseudonyms).counts == {"unchanged": 1}
    shutil.rmtree(tmp_path / "copy")
    assert batch(source / "P1", output, pseudonyms=pseudonyms).counts == {"unchanged": 1}
    shutil.copytree(source / "P1", tmp_path / "archive")
    shutil.copyfile(source / "P2" / "ct.nrrd", source / "P1" / "ct.nrrd")
    assert batch(tmp_path / "archive", output, pseudonyms=pseudonyms).counts == {"unchanged": 1}, "another patient's image lies where it was"
    if not pseudonyms:
        shutil.copyfile(tmp_path / "archive" / "ct.nrrd", source / "P1" / "ct.nrrd")
        assert batch(source, tmp_path / "other").counts == {"done": 2}


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_name_whose_accents_are_stored_apart_is_the_same_case(tmp_path: Path, pseudonyms: bool) -> None:
    source = tmp_path / "in"
    source.mkdir()
    names = [unicodedata.normalize(form, "Müller.nii.gz") for form in ("NFD", "NFC")]
    write_volume(source / names[0])
    batch(source, tmp_path / "out", pseudonyms=pseudonyms)
    (source / names[0]).rename(source / names[1])
    assert batch(source, tmp_path / "out", pseudonyms=pseudonyms).counts == {"unchanged": 1}


def test_pseudonyms_that_were_forgotten_the_next_time_are_given_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "Mustermann.nii.gz")
    batch(tmp_path / "in", tmp_path / "out", pseudonyms=True)
    write_volume(tmp_path / "in" / "Musterfrau.nii.gz", seed=1)
    outcome = batch(tmp_path / "in", tmp_path / "out")
    assert (outcome.counts, len(outcome.notes)) == ({"unchanged": 1, "done": 1}, 1)
    for path in (tmp_path / "out").rglob("*"):
        assert "uster" not in path.name
        assert not path.is_file() or path.name == "identifiers.json" or b"uster" not in path.read_bytes(), path
    batch(tmp_path / "in", tmp_path / "named")
    with pytest.raises(InputError, match=r"names 2 cases already.*give a new folder"):
        batch(tmp_path / "in", tmp_path / "named", pseudonyms=True)
