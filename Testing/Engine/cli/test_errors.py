"""Exit codes, one sentence per error, and no file that is half written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cli_double import FakeEngine, files

import RefSAM3DLib
from RefSAM3DLib.cli import segment
from RefSAM3DLib.cli.main import COMMANDS, main
from RefSAM3DLib.errors import Cancelled, DeviceError

ROOT = Path(RefSAM3DLib.__file__).parent.parent


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
