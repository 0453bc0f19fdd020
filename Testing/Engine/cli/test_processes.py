"""Real processes, progress, the report, and the other commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_double import PHANTOM, files
from interrupts import default_interrupt

import RefSAM3DLib
from RefSAM3DLib import report as report_module
from RefSAM3DLib.cli import doctor
from RefSAM3DLib.cli.main import main
from RefSAM3DLib.cli.progress import ProgressBar
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.types import PromptResult, Verdict

ROOT = Path(RefSAM3DLib.__file__).parent.parent


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
