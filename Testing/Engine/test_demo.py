"""The demo with an engine that answers what each test wants: its table, files and honesty do not depend on a trained model."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from RefSAM3DLib.cli import demo
from RefSAM3DLib.errors import OutputError, PromptError
from RefSAM3DLib.phantoms import FIRST_HELD_OUT_SEED, STRUCTURES, head_and_neck_ct
from RefSAM3DLib.types import Modality, PromptResult, Verdict

pytest.importorskip("matplotlib")
sitk = pytest.importorskip("SimpleITK")

SHAPE, SPACING = (60, 72, 72), (6.0, 6.0, 5.5)


class OracleEngine:
    """Answers from the phantom's truth; ``swap`` exchanges left and right, ``invent`` draws what is not there."""

    model_name, model_sha256, device_name = "oracle", "0" * 64, "cpu"

    def __init__(self, swap=False, invent=False):
        self.swap, self.invent, self.warnings, self.asked = swap, invent, [], []
        _, self.truth = head_and_neck_ct(FIRST_HELD_OUT_SEED, SPACING, SHAPE, structures=STRUCTURES)

    def embed(self, volume, progress=None, cancel=None):
        if progress:
            progress(0.5, "encoding")
        return volume

    def segment(self, volume, prompts, progress=None, cancel=None, probability=False, allow_unknown=False, roi=None):
        self.asked += prompts
        return [self._answer(volume, prompt) for prompt in prompts]

    def _answer(self, volume, prompt):
        nothing = np.zeros(volume.array.shape, dtype=bool)
        if prompt not in (*STRUCTURES, demo.ABSENT):
            return PromptResult(prompt, "", Verdict.UNKNOWN, float("nan"), float("nan"), nothing, 0.0, None, 0.0)
        name = demo._other_side(prompt) if self.swap and demo._other_side(prompt) else prompt
        mask, verdict = self.truth.get(name, nothing), Verdict.PRESENT if name in self.truth else Verdict.ABSENT
        if volume.array.shape != SHAPE or (verdict is Verdict.ABSENT and self.invent):
            mask, verdict = volume.array > 300, Verdict.UNCERTAIN
        ml = float(mask.sum() * volume.geometry.voxel_volume_ml)
        return PromptResult(prompt, prompt, verdict, 0.9 if mask.any() else 0.02, 0.8, mask, ml, None, 0.1)


@pytest.fixture(autouse=True)
def small_phantom(monkeypatch):
    monkeypatch.setattr(demo, "SHAPE_DHW", SHAPE)
    monkeypatch.setattr(demo, "SPACING_XYZ_MM", SPACING)


def arguments(*texts):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(texts)


def run(tmp_path, *texts, engine=None):
    engine = engine or OracleEngine()
    code = demo.run_demo(arguments("--output", str(tmp_path / "out"), *texts), lambda device, model: engine)
    return code, json.loads((tmp_path / "out" / demo.REPORT_FILE).read_text()), engine


def test_a_perfect_engine_gets_a_clean_table(tmp_path, capsys):
    code, report, engine = run(tmp_path)
    out = capsys.readouterr().out
    assert code == 0
    assert tuple(engine.asked) == demo.PROMPTS
    rows = {row["prompt"]: row for row in report["prompts"]}
    assert [rows[p]["verdict"] for p in demo.PROMPTS] == ["present", "present", "present", "absent", "unknown", "present"]
    assert rows["mandible"]["dice"] == 1.0
    assert rows["left parotid gland"]["dice"] == 1.0
    assert rows["left parotid gland"]["dice_other_side"] == 0.0
    assert all(row["verdict"] == row["expected"] for row in rows.values())
    assert "Not as it should be" not in out
    assert "NOT the side" not in out
    assert "3D Slicer" in out


def test_every_file_is_there_and_opens(tmp_path):
    _, report, _ = run(tmp_path)
    folder = tmp_path / "out"
    assert sorted(p.name for p in folder.iterdir()) == sorted([demo.CT_FILE, demo.SEGMENTATION_FILE, demo.REPORT_FILE, demo.PICTURE_FILE])
    ct = sitk.ReadImage(str(folder / demo.CT_FILE))
    assert ct.GetSize() == SHAPE[::-1]
    assert ct.GetSpacing() == pytest.approx(SPACING)
    volume, _ = head_and_neck_ct(FIRST_HELD_OUT_SEED, SPACING, SHAPE, structures=STRUCTURES)
    assert np.array_equal(sitk.GetArrayFromImage(ct), volume.array)
    assert np.allclose(ct.GetOrigin(), volume.geometry.ijk_to_lps[:3, 3])
    assert (folder / demo.PICTURE_FILE).read_bytes()[1:4] == b"PNG"
    assert (folder / demo.SEGMENTATION_FILE).stat().st_size > 500
    fields = {"input", "modality", "model", "device", "prompts", "warnings", "elapsed_s", "peak_memory_mb", "version"}
    assert fields <= set(report)
    assert set(report["elapsed_s"]) == {"load", "embed", "total"}


def test_the_generated_ct_is_loaded_as_what_it_is(tmp_path):
    from RefSAM3DLib.volume_io import load_volume

    run(tmp_path)
    volume = load_volume(tmp_path / "out" / demo.CT_FILE)
    assert volume.modality is Modality.CT
    assert volume.geometry.to_working_orientation() == ((0, 1, 2), (False, False, False))


def test_warnings_are_shown_and_kept_once(tmp_path, capsys):
    engine = OracleEngine()
    engine.warnings = ["The field of view is unusual."] * 2
    _, report, _ = run(tmp_path, engine=engine)
    assert report["warnings"] == ["The field of view is unusual."]
    assert "Note: The field of view is unusual." in capsys.readouterr().out


def test_numbers_that_do_not_exist_are_null(tmp_path):
    _, report, _ = run(tmp_path)
    liver = next(row for row in report["prompts"] if row["prompt"] == "liver")
    assert liver["presence"] is None
    assert liver["dice"] is None


def test_swapped_sides_are_told(tmp_path, capsys):
    code, report, _ = run(tmp_path, engine=OracleEngine(swap=True))
    assert code == 0
    left = next(row for row in report["prompts"] if row["prompt"] == "left parotid gland")
    assert (left["dice"], left["dice_other_side"]) == (0.0, 1.0)
    assert "'left parotid gland' is drawn on NOT the side asked for" in capsys.readouterr().out


def test_an_invented_structure_is_told(tmp_path, capsys):
    code, _, _ = run(tmp_path, engine=OracleEngine(invent=True))
    assert code == 0
    assert f"'{demo.ABSENT}' is absent here, the model says uncertain" in capsys.readouterr().out


def test_own_volume_has_no_truth_and_no_generated_ct(tmp_path, capsys):
    image = sitk.GetImageFromArray((np.mgrid[0:20, 0:24, 0:28].sum(axis=0) * 20 - 800).astype(np.int16))
    sitk.WriteImage(image, str(tmp_path / "own.nrrd"))
    code, report, engine = run(tmp_path, "--input", str(tmp_path / "own.nrrd"), "-p", "mandible", "--modality", "ct")
    assert code == 0
    assert engine.asked == ["mandible"]
    assert not (tmp_path / "out" / demo.CT_FILE).exists()
    assert "dice" not in report["prompts"][0]
    out = capsys.readouterr().out
    assert "Dice" not in out
    assert "No truth is known" in out


def test_own_volume_needs_a_prompt(tmp_path):
    with pytest.raises(PromptError, match="-p"):
        demo.run_demo(arguments("--input", "x.nrrd", "--output", str(tmp_path)), lambda device, model: OracleEngine())


def test_a_demo_is_repeated_into_its_own_folder_only(tmp_path):
    run(tmp_path)
    run(tmp_path)
    other = tmp_path / "mine"
    other.mkdir()
    (other / demo.PICTURE_FILE).write_text("mine")
    asked = arguments("--output", str(other))
    with pytest.raises(OutputError, match=r"demo\.png"):
        demo.run_demo(asked, lambda device, model: OracleEngine())
    assert [p.name for p in other.iterdir()] == [demo.PICTURE_FILE], "refused before anything was written"
    demo.run_demo(arguments("--output", str(other), "--overwrite"), lambda device, model: OracleEngine())
    assert (other / demo.PICTURE_FILE).read_bytes()[1:4] == b"PNG"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        demo.run_demo(arguments("--output", str(tmp_path / "file" / "out")), lambda device, model: OracleEngine())


def test_the_demo_asks_for_what_the_issue_wants():
    present = [p for p in demo.PROMPTS if p in STRUCTURES and p != demo.ABSENT]
    assert len(present) >= 3
    assert demo.ABSENT in demo.PROMPTS
    assert "liver" in demo.PROMPTS
    assert {demo._other_side(p) for p in demo.PROMPTS} & set(demo.PROMPTS)
