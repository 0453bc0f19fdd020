"""The command line's contract: flags, exit codes, one sentence per error, and no file that is half written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from interrupts import default_interrupt

import RefSAM3DLib
from RefSAM3DLib import report as report_module
from RefSAM3DLib.cli import doctor, segment
from RefSAM3DLib.cli.main import COMMANDS, main
from RefSAM3DLib.cli.progress import ProgressBar
from RefSAM3DLib.errors import Cancelled, DeviceError
from RefSAM3DLib.phantoms.simple import asymmetric_blocks
from RefSAM3DLib.places import box_of
from RefSAM3DLib.segmentation_io import read_segmentation
from RefSAM3DLib.text.prompts import resolve_all
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.types import PromptResult, PromptStatus, Verdict
from RefSAM3DLib.volume_io import load_volume

ROOT = Path(RefSAM3DLib.__file__).parent.parent
PHANTOM, MASKS = asymmetric_blocks((10, 12, 14))
BRIGHT = {"mandible": 1100, "left parotid gland": 300, "right parotid gland": 700}


class FakeEngine:
    """The engine's interface on thresholds of the phantom; remembers what it was asked."""

    model_name, model_sha256, device_name = "fake", "f" * 64, "cpu"

    def __init__(self) -> None:
        self.vocabulary = Vocabulary.default()
        self.warnings = ["This is a fake."]
        self.calls: list[str] = []
        self.roi = None

    def resolve(self, prompts):
        return resolve_all(prompts, self.vocabulary)

    def embed(self, volume, progress=None, cancel=None):
        self.calls.append("embed")
        progress(0.5, "reading the image")
        return volume

    def segment(self, volume, prompts, progress=None, cancel=None, probability=False, allow_unknown=False, roi=None):
        self.calls.append("segment")
        self.roi = roi
        results = []
        for prompt in self.resolve(prompts):
            progress(1.0, prompt.prompt)
            known = prompt.status is PromptStatus.KNOWN or allow_unknown
            mask = np.isclose(volume.array, BRIGHT.get(prompt.resolved, -9999), atol=100) & (volume.array > 0)
            if roi:
                keep = np.zeros_like(mask)
                keep[roi[0] : roi[1], roi[2] : roi[3], roi[4] : roi[5]] = True
                mask &= keep
            verdict = Verdict.UNKNOWN if not known else Verdict.PRESENT if mask.any() else Verdict.ABSENT
            nan = float("nan")
            results.append(
                PromptResult(
                    prompt=prompt.prompt,
                    resolved=prompt.resolved,
                    verdict=verdict,
                    presence={Verdict.PRESENT: 0.98, Verdict.ABSENT: 0.02}.get(verdict, nan),
                    confidence=0.9 if mask.any() else nan,
                    mask=mask,
                    volume_ml=float(mask.sum()) * volume.geometry.voxel_volume_ml,
                    box=box_of(mask),
                    elapsed_s=0.01,
                    probability=mask.astype(np.float16) if probability and known else None,
                    warnings=("Look at the border.",) if prompt.resolved == "mandible" else (),
                    suggestions=prompt.suggestions,
                )
            )
        return results


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(segment, "make_engine", lambda model, adapter, device: fake)
    return fake


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ä image.nrrd"
    picture = sitk.GetImageFromArray(PHANTOM.array)
    picture.SetSpacing(PHANTOM.geometry.spacing_xyz_mm)
    picture.SetOrigin(PHANTOM.geometry.ijk_to_lps[:3, 3].tolist())
    sitk.WriteImage(picture, str(path))
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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


def test_an_unknown_prompt_costs_no_encoding_unless_it_is_asked_for(tmp_path: Path, image: Path, engine: FakeEngine):
    command = ["segment", str(image), "-p", "liver", "-o", str(tmp_path / "o.seg.nrrd"), "--overwrite"]
    assert main(command) == 0
    assert engine.calls == ["segment"]
    assert read_segmentation(tmp_path / "o.seg.nrrd")[0] == []
    assert main([*command, "--allow-unknown"]) == 0
    assert engine.calls[1:] == ["embed", "segment"]


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


# -- Regions -----------------------------------------------------------------------------------------------------------------------------


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


# -- Errors ------------------------------------------------------------------------------------------------------------------------------


def bad(tmp_path: Path, image: Path, name: str) -> tuple[list[str], str]:
    out = str(tmp_path / "o.seg.nrrd")
    base = ["segment", str(image), "-p", "mandible", "-o", out]
    (tmp_path / "there.json").write_text("{}")
    return {
        "no input": (["segment", str(tmp_path / "no.nrrd"), "-p", "x", "-o", out], "does not exist"),
        "empty folder": (["segment", str(ROOT / "Docs"), "-p", "x", "-o", out], "holds no DICOM image series"),
        "empty prompt": (["segment", str(image), "-p", " ", "-o", out], "The prompt is empty"),
        "long prompt": (["segment", str(image), "-p", "a" * 10_000, "-o", out], "has 10000 characters"),
        "control character": (["segment", str(image), "-p", "a\x07b", "-o", out], "invisible character U+0007"),
        "ending": (["segment", str(image), "-p", "x", "-o", str(tmp_path / "o.png")], "ending that is not written"),
        "no folder": (["segment", str(image), "-p", "x", "-o", str(tmp_path / "no" / "o.nrrd")], "does not exist; create it"),
        "output exists": ([*base, "--report", str(tmp_path / "there.json")], "exists already; give another name, or --overwrite"),
        "report ending": ([*base, "--report", str(tmp_path / "r.txt")], "needs the ending .json"),
        "probability ending": ([*base, "--probability", str(tmp_path / "p.seg.nrrd")], "needs one of the endings"),
        "same output twice": (["segment", str(image), "-p", "x", "-o", str(tmp_path / "o.nrrd"), "--probability", str(tmp_path / "o.nrrd")], "Two"),
        "output is input": (["segment", str(image), "-p", "x", "-o", str(image), "--overwrite"], "is the input; give another name"),
        "dcm without dicom": (["segment", str(image), "-p", "x", "-o", str(tmp_path / "o.dcm")], "needs a DICOM series as input"),
    }[name]


BAD = ["no input", "empty folder", "empty prompt", "long prompt", "control character", "ending", "no folder", "output exists", "report ending"]
BAD += ["probability ending", "same output twice", "output is input", "dcm without dicom"]


@pytest.mark.parametrize("name", BAD)
def test_user_errors_end_with_1_and_one_sentence_before_anything_is_computed(tmp_path: Path, image: Path, monkeypatch, capsys, name: str):
    monkeypatch.setattr(segment, "make_engine", lambda *_: pytest.fail("computed"))
    command, sentence = bad(tmp_path, image, name)
    before = {file: (tmp_path / file).read_bytes() for file in files(tmp_path)}
    assert main(command) == 1
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.err.endswith(".\n")
    assert shown.out == ""
    assert {file: (tmp_path / file).read_bytes() for file in files(tmp_path)} == before


@pytest.mark.parametrize(
    ("name", "error", "code", "sentence"),
    [
        ("device", DeviceError("The device 'cuda' is not there; use --device cpu."), 1, "The device 'cuda' is not there"),
        ("memory", MemoryError(), 1, "The memory is not enough; close other programs"),
        ("package", ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "The package 'torch' is missing; install it"),
        ("bug", KeyError("bug"), 1, "Unexpected error (KeyError: 'bug'); please report it"),
        ("cancel", Cancelled(), 130, "Cancelled."),
        ("Ctrl-C", KeyboardInterrupt(), 130, "Cancelled."),
    ],
)
@pytest.mark.parametrize("stage", ["load_volume", "make_engine", "resolve", "embed", "segment", "write_segmentation", "write_report"])
def test_whatever_happens_at_any_stage_is_an_exit_code_and_no_half_written_file(
    tmp_path: Path, image: Path, engine: FakeEngine, monkeypatch, capsys, name: str, error: BaseException, code: int, sentence: str, stage: str
):
    def fail(*_args, **_kwargs):
        raise error

    places = {"load_volume": "RefSAM3DLib.volume_io", "write_segmentation": "RefSAM3DLib.segmentation_io", "write_report": "RefSAM3DLib.report"}
    if stage in places:
        monkeypatch.setattr(f"{places[stage]}.{stage}", fail)
    else:
        monkeypatch.setattr(segment if stage == "make_engine" else engine, stage, fail)
    out = tmp_path / "o.seg.nrrd"
    assert main(["segment", str(image), "-p", "mandible", "-o", str(out), "--report", str(tmp_path / "r.json")]) == code
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert files(tmp_path) == sorted([image.name] + ([out.name] if stage == "write_report" else []))


def test_a_full_disk_while_the_report_is_written_keeps_the_old_one(tmp_path: Path, image: Path, engine: FakeEngine, monkeypatch, capsys):
    (tmp_path / "r.json").write_text("old")

    def fill(self, *_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fill)
    flags = ["-o", str(tmp_path / "o.nrrd"), "--report", str(tmp_path / "r.json"), "--overwrite"]
    assert main(["segment", str(image), "-p", "mandible", *flags]) == 1
    assert "No space left on device; free some disk space" in capsys.readouterr().err
    assert (tmp_path / "r.json").read_text() == "old"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["sgement"],
        ["segment"],
        ["segment", "a.nrrd", "-o", "b.nrrd"],
        ["segment", "a.nrrd", "-p", "x"],
        ["segment", "a.nrrd", "-p", "x", "-o", "b.nrrd", "--modality", "xray"],
        ["segment", "a.nrrd", "-p", "x", "-o", "b.nrrd", "--unheard-of"],
        ["doctor", "--nothing"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_says_how(command: list[str], capsys):
    assert main(command) == 2
    assert "usage: refsam3d" in capsys.readouterr().err


def test_help_names_every_command_and_every_flag(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main(["segment", "--help"]) == 0
    shown = capsys.readouterr().out
    flags = "-p -o --report --model --adapter --device --probability --modality --series --roi --allow-unknown --overwrite --quiet"
    assert all(flag in shown for flag in flags.split())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"refsam3d {RefSAM3DLib.__version__}\n"


# -- Processes ---------------------------------------------------------------------------------------------------------------------------


def python(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, **more)  # type: ignore[call-overload]


def test_help_loads_nothing_heavy():
    code = "import sys; from RefSAM3DLib.cli.main import main; main(['--help']); heavy = ('torch', 'numpy', 'SimpleITK', 'tqdm')"
    done = python("-c", code + "; sys.exit(str([m for m in heavy if m in sys.modules]))")
    assert done.stderr.strip() == "[]"


def test_the_module_runs_as_a_program():
    done = python("-m", "RefSAM3DLib", "--version")
    assert (done.returncode, done.stdout) == (0, f"refsam3d {RefSAM3DLib.__version__}\n")


def test_a_closed_pipe_is_no_error():
    program = f"'{sys.executable}' -m RefSAM3DLib vocabulary --json"
    done = subprocess.run(["bash", "-c", f"{program} | head -c 1; echo ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].lstrip("{") == "0"
    assert "Broken" not in done.stderr
    closed = subprocess.run(["bash", "-c", f"{program} >&-"], cwd=ROOT, capture_output=True, text=True)
    assert closed.returncode == 0
    assert "Traceback" not in closed.stderr


def test_ctrl_c_in_a_real_process_ends_with_130_and_leaves_nothing(tmp_path: Path, image: Path):
    code = (
        "import sys, time\n"
        "from RefSAM3DLib.cli import segment\n"
        "from RefSAM3DLib.cli.main import main\n"
        "def engine(*_):\n"
        "    print('computing', flush=True)\n"
        "    time.sleep(60)\n"
        "segment.make_engine = engine\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "segment", str(image), "-p", "mandible", "-o", str(tmp_path / "o.seg.nrrd")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default_interrupt)
    assert process.stdout is not None
    assert process.stdout.readline() == "computing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "Cancelled.\n"
    assert files(tmp_path) == [image.name]


# -- Progress, report, other commands ----------------------------------------------------------------------------------------------------


class Terminal:
    """Collects what is written; says that it is a terminal or not."""

    encoding = "utf-8"

    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal, self.text = is_terminal, ""

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


def drive(stream: Terminal, quiet: bool = False) -> str:
    with ProgressBar(quiet, stream) as bar:
        bar.part("1/2 ")
        for fraction in (0.0, 0.25, 0.5):
            bar(fraction, "reading the image")
        bar(1.0, "done")
    return stream.text


def test_progress_is_a_bar_on_a_terminal_lines_elsewhere_and_nothing_when_quiet():
    shown = drive(Terminal(True))
    assert "50%" in shown
    assert "1/2 reading the image" in shown
    assert shown.endswith("\r"), "the bar is removed"
    assert drive(Terminal(False)) == "1/2 reading the image\n1/2 done\n"
    assert drive(Terminal(True), quiet=True) == ""


def test_a_report_has_null_for_numbers_that_do_not_exist(tmp_path: Path):
    nothing = PromptResult("x", "", Verdict.UNKNOWN, float("nan"), float("inf"), np.zeros((1, 1, 1), bool), 0.0, None, 0.1)
    content = report_module.build_report(PHANTOM, [nothing], {"name": "m", "adapter": "/secret/a.safetensors", "adapter_sha256": "1"}, {})
    report_module.write_report(tmp_path / "r.json", content)
    stored = json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert stored["prompts"][0]["presence"] is None
    assert stored["prompts"][0]["confidence"] is None
    assert stored["elapsed_s"] == {"load": None, "embed": None, "total": None}
    assert stored["model"]["adapter"] == "a.safetensors"


def test_vocabulary_lists_every_structure(capsys):
    assert main(["vocabulary", "--json"]) == 0
    assert Vocabulary.from_json(capsys.readouterr().out).names
    assert main(["vocabulary"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name}" in f"\n{shown}" for name in ("left parotid gland", "brainstem"))
    assert main(["vocabulary", "--model", "no-such-model.safetensors"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_doctor_says_everything_and_survives_what_is_broken(monkeypatch, capsys):
    assert main(["doctor", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["SimpleITK"]
    assert found["torch"]["build"]
    assert found["cpu"]["capability"]
    assert any(device["name"] == "cpu" and device["passed"] for device in found["devices"])
    assert found["disk"][0]["free_gb"] > 0
    assert found["weights"]["path"].endswith("refsam3d-small.safetensors")

    def broken(*_):
        raise RuntimeError("libtorch is\nbroken")

    monkeypatch.setattr(doctor, "_torch", broken)
    monkeypatch.setattr(doctor, "_NEEDED", (("no_such_module", "no-such-package"),))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "PROBLEM torch: RuntimeError: libtorch is broken" in shown
    assert "PROBLEM The package no-such-package is missing" in shown
    assert "Disk " in shown


def test_peak_memory_grows_with_what_is_held():
    code = "from RefSAM3DLib.memory import peak_memory_mb as p; a = p(); b = bytearray(200 << 20); print(p() - a)"
    assert 190 < float(python("-c", code).stdout) < 260
