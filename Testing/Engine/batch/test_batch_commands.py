"""The commands batch, review and compare as a shell sees them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from batch_volumes import small_volume, write_volume

from RefSAM3DLib.batch import options as batch_options
from RefSAM3DLib.cli import batch, compare, review
from RefSAM3DLib.errors import RefSAM3DError


@pytest.fixture(autouse=True)
def _fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_options.BatchOptions.__init__, "__defaults__", _with_fake(batch_options.BatchOptions.__init__.__defaults__))


def _with_fake(defaults: tuple) -> tuple:
    return tuple("batch_fake_engine:make" if value == batch_options.DEFAULT_ENGINE else value for value in defaults)


def call(module, *words: str) -> int:
    parser = argparse.ArgumentParser(prog=f"refsam3d {module.NAME}")
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for n in range(2):
        write_volume(tmp_path / "in" / f"case_{n}.nii.gz", small_volume(n), seed=n)
    assert call(batch, tmp_path / "in", "-p", "brainstem", "-p", "mandible", "-o", tmp_path / "out", "--workers", "0") == 0
    return tmp_path / "out"


def test_batch_prints_cases_rate_and_time_left(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"no image")
    assert call(batch, tmp_path / "in", "-p", "brainstem", "-p", "mandible", "-o", folder, "--workers", "0") == 1
    output, errors = capfd.readouterr()
    assert "2 cases done, 1 failed" in output
    assert "cases/min" in errors
    assert "left" in errors
    assert "1 case(s) failed, first 'broken'" in errors


def test_batch_progress_as_json_lines(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capfd.readouterr()
    words = (tmp_path / "in", "-p", "brainstem", "-p", "mandible", "-o", folder, "--workers", "0", "--json-progress")
    assert call(batch, *words) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [e["status"] for e in events if e["event"] == "end"] == ["unchanged", "unchanged"]


def test_batch_refuses_an_impossible_number_of_workers(tmp_path: Path) -> None:
    with pytest.raises(RefSAM3DError, match="--workers is -1"):
        call(batch, tmp_path, "-o", tmp_path / "o", "--workers", "-1")


def test_review_from_list_to_export(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = ("--reviewer", "A")
    assert call(review, "list", folder, *me) == 0
    assert "0 of 4 decided by A" in capsys.readouterr().out
    edited = folder / "cases" / "case_1" / "case_1.seg.nrrd"
    assert call(review, "decide", folder, "case_0/1", "accept", *me) == 0
    assert call(review, "decide", folder, "case_0/2", "reject", "--reason", "wrong side", *me) == 0
    assert call(review, "decide", folder, "case_1/2", "accept_edited", "--edited", edited, *me) == 0
    assert call(review, "decide", folder, "case_0/2", "accept", "--reviewer", "B") == 0
    with pytest.raises(RefSAM3DError, match="no item 'nowhere/1'"):
        call(review, "decide", folder, "nowhere/1", "accept", *me)
    monkeypatch.setattr(batch_options, "DEFAULT_ENGINE", "batch_fake_engine:make")
    assert call(review, "reprompt", folder, "case_1/1", "larynx", *me) == 0
    assert "case_1/1: larynx, present" in capsys.readouterr().out
    assert call(review, "agreement", folder, "--json") == 0
    assert '"items": 1' in capsys.readouterr().out
    assert call(review, "csv", folder, "-o", tmp_path / "d.csv") == 0
    assert call(review, "result", folder, "case_0", "-o", tmp_path) == 0
    assert call(review, "export", folder, "-o", tmp_path / "export") == 0
    assert "2 cases" in capsys.readouterr().out
    assert call(review, "report", folder) == 0
    assert call(review, "verify", folder) == 0
    trail = folder / "review.jsonl"
    trail.write_text(trail.read_text().replace("wrong side", "fine"))
    assert call(review, "verify", folder) == 1


def test_edits_of_another_program_are_taken_by_value_or_as_the_only_structure(folder: Path, tmp_path: Path) -> None:
    import SimpleITK as sitk

    from RefSAM3DLib.compare import to_image
    from RefSAM3DLib.geometry import Geometry
    from RefSAM3DLib.review import ReviewSession

    session = ReviewSession(folder, "A")
    item = session.find("case_1/2")
    machine, geometry = session.machine_mask(item)
    edited = np.roll(machine, 1, axis=2)

    def decide(values: np.ndarray, grid: Geometry = geometry) -> int:
        sitk.WriteImage(to_image(values.astype(np.uint8), grid), str(tmp_path / "edit.nii.gz"))
        return call(review, "decide", folder, "case_1/2", "accept_edited", "--edited", tmp_path / "edit.nii.gz", "--reviewer", "A")

    for values in (edited * 1, edited * 2 + machine * ~edited * 1):  # a binary mask; a label map in which the item has its own value
        assert decide(values) == 0
        entry = ReviewSession(folder, "A").find("case_1/2").decision
        assert entry is not None
        assert (session.masks.read(folder / entry["mask_file"], item.structure, entry["mask"])[0] == edited).all()
    with pytest.raises(RefSAM3DError, match=r"no value 2 \(it has 'label 5', 'label 7'\)"):
        decide(edited * 5 + ~edited * 7)
    with pytest.raises(RefSAM3DError, match="it has nothing"):
        decide(edited * 0)
    matrix = geometry.ijk_to_ras.copy()
    matrix[:3, 3] += 1000
    with pytest.raises(RefSAM3DError, match="lies outside the image"):
        decide(edited * 1, Geometry(geometry.shape_dhw, matrix))


def test_compare_prints_and_writes_differences(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = (folder / "cases" / f"case_{n}" / f"case_{n}.seg.nrrd" for n in (0, 1))
    assert call(compare, first, second, "--differences", tmp_path / "d.seg.nrrd", "--csv", tmp_path / "t.csv") == 0
    assert "brainstem" in capsys.readouterr().out
    assert (tmp_path / "d.seg.nrrd").is_file()
    with pytest.raises(RefSAM3DError, match="exists already"):
        call(compare, first, second, "--csv", tmp_path / "t.csv")
    assert call(compare, first, first, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["dice"] == 1.0


def test_verify_approves_only_what_it_can_know(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for place in (tmp_path / "in", tmp_path / "mistyped"):
        with pytest.raises(RefSAM3DError, match="holds no batch; choose the output folder"):
            call(review, "verify", place)
    assert call(review, "verify", folder) == 0
    assert "nothing was decided in this folder yet, or the file was removed" in capsys.readouterr().out
    for n in (1, 2):
        assert call(review, "decide", folder, f"case_0/{n}", "accept", "--reviewer", "A") == 0
    trail = folder / "review.jsonl"
    last = json.loads(trail.read_text().splitlines()[-1])
    assert call(review, "verify", folder) == 0
    told = capsys.readouterr().out
    assert "All 2 entries are in order" in told
    assert last["hash"] in told
    assert "taken off the end leave no trace" in told
    before, _, changed = trail.read_text().rpartition('"accept"')
    trail.write_text(f'{before}"reject"{changed}')
    assert call(review, "verify", folder) == 1
    assert "Line 2 of" in capsys.readouterr().out


def test_compare_goes_by_the_names_in_our_label_maps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from batch_fake_engine import FakeEngine

    from RefSAM3DLib.segmentation_io import write_segmentation
    from RefSAM3DLib.volume_io import load_volume

    volume = load_volume(write_volume(tmp_path / "image.nrrd", small_volume(1)))

    def written(name: str, *prompts: str) -> Path:
        write_segmentation(tmp_path / name, FakeEngine().segment(volume, list(prompts)), volume, {})
        return tmp_path / name

    def rows(*words: object) -> dict[str, float]:
        assert call(compare, *words, "--json") == 0
        return {row["structure"]: row["dice"] for row in json.loads(capsys.readouterr().out)}

    ours, segments = written("a.nrrd", "brainstem", "mandible"), written("b.seg.nrrd", "mandible", "brainstem")
    assert rows(ours, segments) == {"brainstem": 1.0, "mandible": 1.0}
    assert rows(ours, written("more.nii.gz", "brainstem", "mandible", "larynx")) == {"brainstem": 1.0, "mandible": 1.0, "label 3": 0.0}
    assert rows(written("c.nii.gz", "brainstem"), written("d.mha", "brainstem")) == {"label 1": 1.0}
    with pytest.raises(RefSAM3DError, match=r"value 1 is 'brainstem' in '.*a\.nrrd' and 'mandible' in '.*e\.nrrd'; write them as \.seg\.nrrd"):
        rows(ours, written("e.nrrd", "mandible", "brainstem"))
    assert set(rows(ours, tmp_path / "e.nrrd", "--labels", "1=one")) == {"one"}


def test_only_segment_of_another_structure_is_no_edit(folder: Path, tmp_path: Path) -> None:
    import SimpleITK as sitk

    from RefSAM3DLib.compare import to_image
    from RefSAM3DLib.review import ReviewSession
    from RefSAM3DLib.segmentation_io import write_segmentation
    from RefSAM3DLib.types import PromptResult, Verdict
    from RefSAM3DLib.volume_io import load_volume

    volume = load_volume(tmp_path / "in" / "case_1.nii.gz")
    mask = ReviewSession(folder, "A").machine_mask(ReviewSession(folder, "A").find("case_1/1"))[0]

    def decide(name: str) -> int:
        result = PromptResult(name, name, Verdict.PRESENT, 1.0, 1.0, mask, 1.0, None, 0.0)
        write_segmentation(tmp_path / "edit.seg.nrrd", [result], volume, {}, overwrite=True)
        return call(review, "decide", folder, "case_1/1", "accept_edited", "--edited", tmp_path / "edit.seg.nrrd", "--reviewer", "A")

    for name, meaning in (("mandible", "mandible"), ("Mandible", "mandible"), ("larynx", "larynx"), ("left_parotid", "left parotid gland")):
        with pytest.raises(RefSAM3DError, match=f"only segment of .* is '{name}', which is {meaning}, and 'case_1/1' is brainstem; give the file"):
            decide(name)
    sitk.WriteImage(to_image(mask.astype(np.uint8) * 2, volume.geometry), str(tmp_path / "edit.nii.gz"))
    with pytest.raises(RefSAM3DError, match="'label 2', which is mandible"):
        call(review, "decide", folder, "case_1/1", "accept_edited", "--edited", tmp_path / "edit.nii.gz", "--reviewer", "A")
    assert not (folder / "review.jsonl").exists()
    for name in ("Segment_1", "Brainstem", "brain stem", "edited"):
        assert decide(name) == 0


def test_an_edit_that_looks_like_another_file_is_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The image itself, and a mask that shares nothing with the machine's; an edit says what it changed."""
    import SimpleITK as sitk

    from RefSAM3DLib.compare import to_image
    from RefSAM3DLib.review import ReviewSession

    session = ReviewSession(folder, "A")
    machine, geometry = session.machine_mask(session.find("case_1/2"))

    def decide(values: np.ndarray, *more: str) -> int:
        sitk.WriteImage(to_image(values.astype(np.int16), geometry), str(tmp_path / "edit.nii.gz"))
        return call(review, "decide", folder, "case_1/2", "accept_edited", "--edited", tmp_path / "edit.nii.gz", "--reviewer", "A", *more)

    with pytest.raises(RefSAM3DError, match="values, as an image does"):
        decide(np.arange(machine.size).reshape(machine.shape) % 900)
    far = np.zeros_like(machine)
    far[0, 0, :3] = True
    far &= ~machine
    assert far.any()
    with pytest.raises(RefSAM3DError, match=r"shares a Dice of 0\.000 with the machine's mask of 'case_1/2'.*--far"):
        decide(far)
    assert not session.trail.read().entries
    assert decide(far, "--far") == 0
    assert "(Dice 0.000 with the machine's mask, " in capfd.readouterr().out
    with pytest.raises(RefSAM3DError, match="give --reason 'wrong structure', or another"):
        call(review, "decide", folder, "case_1/1", "reject", "--reviewer", "A")
    with pytest.raises(RefSAM3DError, match="this case has case_1/1, case_1/2"):
        call(review, "decide", folder, "case_1", "accept", "--reviewer", "A")
    assert call(review, "list", folder, "--all", "--reviewer", "A") == 0
    assert "confidence        mL" in capfd.readouterr().out
