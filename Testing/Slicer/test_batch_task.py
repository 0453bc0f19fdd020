"""``logic.batch``: a real child process with the batch's own command line."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed (the timers)")

import slicer_app

application, qt, ctk = slicer_app.start_gui()

import slicer  # noqa: E402
from RefSAM3DLib.errors import ConfigError  # noqa: E402
from RefSAM3DSlicer import session  # noqa: E402
from RefSAM3DSlicer.logic import RefSAM3DLogic  # noqa: E402
from RefSAM3DSlicer.review import cli_task  # noqa: E402
from RefSAM3DSlicer.review.batch_task import BatchState, batchArguments  # noqa: E402
from review_cases import makeImages  # noqa: E402

FAKE = str(Path(slicer_app.__file__).parent / "fake_batch.py")


@pytest.fixture
def logic(monkeypatch):
    monkeypatch.setattr(cli_task, "program", [sys.executable, FAKE])
    session.workerEnvironment.clear()
    session.workerEnvironment.update({"OMP_NUM_THREADS": "1"})
    yield RefSAM3DLogic()
    cli_task.stopAll()
    session.workerEnvironment.clear()


def until(condition, timeout=60.0):
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.005)
    assert condition()


def isAlive(pid):
    return os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def behindLauncher(logic, tmp_path, monkeypatch):
    """PythonSlicer may be a launcher that starts the real Python as a child."""
    launcher = tmp_path / "Python Slicer ä"
    launcher.write_text(f"#!{sys.executable}\nimport subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))\n")
    launcher.chmod(launcher.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(cli_task, "program", [str(launcher), sys.executable, FAKE])
    session.workerEnvironment["FAKE_BATCH_SECONDS"] = "60"
    return logic


def startLong(logic, tmp_path):
    """A batch in the middle of its first case, and the number of the process that holds its folder."""
    begun = []
    task = logic.batch(makeImages(tmp_path / "in", count=2, broken=False), "brainstem", tmp_path / "out", onProgress=begun.append)
    until(lambda: begun)
    return task, json.loads((tmp_path / "out" / "batch.lock").read_text())["pid"]


def howItEnded(tmp_path):
    return json.loads((tmp_path / "out" / "batch.json").read_text())["runs"][-1]["how"]


def test_arguments_are_those_of_the_command_line():
    from RefSAM3DLib.cli.main import build_parser

    options = {
        "model": "m.safetensors", "adapter": "-a", "device": "cpu", "modality": "ct", "workers": 2, "ray": "", "root": "r",
        "split": ["test"], "allowUnknown": True, "retryFailed": True, "force": False,
    }  # fmt: skip
    arguments = batchArguments("in folder", ["left parotid gland", "-odd"], "out", options)
    args = build_parser(arguments).parse_args(arguments)
    assert (args.input, args.output, args.prompt) == (Path("in folder"), Path("out"), ["left parotid gland", "-odd"])
    assert (args.model, args.adapter, args.workers, args.split) == ("m.safetensors", "-a", 2, ["test"])
    assert (args.allow_unknown, args.retry_failed, args.force, args.json_progress) == (True, True, False, True)


def test_every_option_of_the_command_line_has_a_counterpart():
    import argparse

    from RefSAM3DLib.cli.batch import add_arguments
    from RefSAM3DSlicer.review import batch_task

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    # arguments of logic.batch itself, and what only a terminal needs
    own = {"--prompt", "--output", "--split", "--help", "--quiet", "--json-progress"}
    assert options - own == {*batch_task._FLAGS.values(), *batch_task._VALUES.values()}


def test_unknown_option_is_refused_before_anything_runs(logic, tmp_path):
    with pytest.raises(ConfigError, match="no option 'speed'"):
        logic.batch(tmp_path, "brainstem", tmp_path / "out", speed=3)


def test_batch_runs_beside_the_application_and_says_how_far_it_is(logic, tmp_path):
    source = makeImages(tmp_path / "in", count=4)
    seen, ends = [], []
    task = logic.batch(
        source, ["brainstem", "mandible"], tmp_path / "out", workers=1, onProgress=lambda t: seen.append((t.finished, t.total)), onEnd=ends.append
    )
    assert not task.isOver
    until(lambda: task.isOver)
    assert ends == [task]
    assert task.state is BatchState.FAILED  # one file is no image
    assert task.exitCode == 1
    assert (task.finished, task.total, task.fraction) == (5, 5, 1.0)
    assert (1, 5) in seen
    assert list(task.errors) == ["broken"]
    assert "1 case(s) failed" in task.message
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(list((tmp_path / "out" / "cases").glob("*/*.seg.nrrd"))) == 4
    assert not task.logPath.exists()


def test_waiting_and_unchanged_cases(logic, tmp_path):
    source = makeImages(tmp_path / "in", count=2, broken=False)
    assert logic.batch(source, "brainstem", tmp_path / "out", wait=True).state is BatchState.DONE
    again = logic.batch(source, "brainstem", tmp_path / "out", wait=True)
    assert again.state is BatchState.DONE
    assert set(again.statuses.values()) == {"unchanged"}


def test_cancel_keeps_what_is_done_and_the_next_call_goes_on(logic, tmp_path):
    session.workerEnvironment["FAKE_BATCH_SECONDS"] = "0.5"
    source = makeImages(tmp_path / "in", count=8, broken=False)
    task = logic.batch(source, "brainstem", tmp_path / "out")
    until(lambda: task.finished >= 1)
    task.cancel()
    task.cancel()
    until(lambda: task.isOver, 30)
    assert task.state is BatchState.CANCELLED
    done = len(list((tmp_path / "out" / "cases").glob("*/*.json")))
    assert 1 <= done < 8
    session.workerEnvironment["FAKE_BATCH_SECONDS"] = "0"
    again = logic.batch(source, "brainstem", tmp_path / "out", wait=True)
    assert again.state is BatchState.DONE
    assert sum(status == "done" for status in again.statuses.values()) <= 8 - done


def test_a_mistake_is_said_in_the_engine_s_own_sentence(logic, tmp_path):
    task = logic.batch(tmp_path / "nowhere", "brainstem", tmp_path / "out", wait=True)
    assert task.state is BatchState.FAILED
    assert "nowhere" in task.message


def test_killed_batch_ends_the_task(logic, tmp_path):
    session.workerEnvironment["FAKE_BATCH_SECONDS"] = "0.5"
    task = logic.batch(makeImages(tmp_path / "in", count=6, broken=False), "brainstem", tmp_path / "out")
    until(lambda: task.finished >= 1)
    task._process.kill()
    until(lambda: task.isOver, 20)
    assert task.state is BatchState.FAILED


def test_quitting_ends_the_batch(logic, tmp_path):
    session.workerEnvironment["FAKE_BATCH_SECONDS"] = "0.5"
    ends = []
    task = logic.batch(makeImages(tmp_path / "in", count=6, broken=False), "brainstem", tmp_path / "out", onEnd=ends.append)
    until(lambda: task.finished >= 1)
    slicer.app.signals.emit("aboutToQuit()")
    assert ends == [task]
    assert not isAlive(task._process.pid)


def test_the_application_stays_alive_meanwhile(logic, tmp_path):
    source = makeImages(tmp_path / "in", count=4, broken=False)
    task = logic.batch(source, "brainstem", tmp_path / "out")
    longest = 0.0
    while not task.isOver:
        began = time.perf_counter()
        application.processEvents()
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.005)
    assert longest < 0.5


def test_cancel_reaches_the_python_behind_a_launcher(behindLauncher, tmp_path):
    task, pid = startLong(behindLauncher, tmp_path)
    assert isAlive(pid)
    assert pid != task._process.pid
    task.cancel()
    until(lambda: task.isOver, 15)
    assert (task.state, task.exitCode) == (BatchState.CANCELLED, 130)
    assert not isAlive(pid)
    assert not (tmp_path / "out" / "batch.lock").exists()
    assert howItEnded(tmp_path) == "cancelled"
    session.workerEnvironment["FAKE_BATCH_SECONDS"] = "0"
    assert behindLauncher.batch(tmp_path / "in", "brainstem", tmp_path / "out", wait=True).state is BatchState.DONE


def test_quitting_reaches_the_python_behind_a_launcher(behindLauncher, tmp_path):
    task, pid = startLong(behindLauncher, tmp_path)
    slicer.app.signals.emit("aboutToQuit()")
    assert task.isOver
    until(lambda: not isAlive(pid), 15)
    assert not (tmp_path / "out" / "batch.lock").exists()
    assert howItEnded(tmp_path) == "cancelled"
