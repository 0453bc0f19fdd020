"""A command that another program started ends as with Ctrl-C when that program closes its standard input, and only if it was asked to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_double import files

import RefSAM3DLib
from RefSAM3DLib.cli.input_end import VARIABLE

ROOT = Path(RefSAM3DLib.__file__).parent.parent
#: ``refsam3d`` whose engine does something else; it says when it begins.
PROGRAM = """
import os, subprocess, sys, time
from RefSAM3DLib.cli import input_end, segment
from RefSAM3DLib.cli.main import main
def engine(*_):
    {prepare}
    print("computing", flush=True)
    {work}
segment.make_engine = engine
sys.exit(main(sys.argv[1:]))
"""


def start(work: str, image: Path, *, prepare: str = "pass", asked: bool = True, stdin: int = subprocess.PIPE, **more: object) -> subprocess.Popen[str]:
    output = str(image.parent / "o.seg.nrrd")
    command = [sys.executable, "-c", PROGRAM.format(prepare=prepare, work=work), "segment", str(image), "-p", "mandible", "-o", output]
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | ({VARIABLE: "1"} if asked else {})
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # type: ignore[call-overload]  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "computing\n", process.communicate()[1]
    return process


def close(process: subprocess.Popen[str], timeout: float = 30) -> tuple[str, float]:
    """Close its standard input; what it said on standard error, and how long its end took."""
    began = time.monotonic()
    _, err = process.communicate(timeout=timeout)
    return err, time.monotonic() - began


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("prepare", [None, ignore_interrupts], ids=["foreground", "background job"])
def test_closing_the_input_is_ctrl_c(image: Path, prepare: object):
    process = start("time.sleep(60)", image, preexec_fn=prepare)
    err, _ = close(process)
    assert (process.returncode, err) == (130, "Cancelled.\n")
    assert files(image.parent) == [image.name]


def test_the_middle_of_a_native_call_is_left_as_soon_as_it_returns(image: Path):
    prepare = "import torch; torch.set_num_threads(1); a = torch.rand(1500, 1500)"
    process = start("while True: a @ a", image, prepare=prepare)
    time.sleep(0.2)
    err, seconds = close(process)
    assert (process.returncode, err) == (130, "Cancelled.\n")
    assert seconds < 10, "a fraction of a second on a machine that does nothing else"


def test_what_does_not_stop_is_ended(image: Path):
    deaf = "exec('while True:\\n try: time.sleep(60)\\n except KeyboardInterrupt: pass')"
    process = start(deaf, image, prepare="input_end.GRACE_S = 0.2")
    close(process)
    assert process.returncode == 130


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE], ids=["no input", "closed input"])
def test_nobody_is_stopped_unasked(image: Path, stdin: int):
    process = start("time.sleep(0.5); raise MemoryError", image, asked=False, stdin=stdin)
    err, _ = close(process)
    assert process.returncode == 1
    assert "The memory is not enough" in err


def test_input_that_stays_open_stops_nothing_and_is_kept_from_everybody_else(image: Path):
    look = f"print([os.read(0, 5), {VARIABLE!r} in os.environ], flush=True); time.sleep(0.3); raise MemoryError"
    process = start(look, image)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("words\n")
    process.stdin.flush()
    assert process.stdout.readline() == "[b'', False]\n"
    assert process.wait(30) == 1, "it is not stopped by what comes there"
    close(process)
