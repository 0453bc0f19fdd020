"""The runner against real worker processes: results, cancel, crash, kill, quit. Needs neither Slicer nor Qt."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "RefSAM3D"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from RefSAM3DLib import worker_protocol as protocol
from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DSlicer.runner import SENT, EngineRunner
from RefSAM3DSlicer.runs import EngineChoice, Run, RunOptions, RunState
from RefSAM3DSlicer.worker_process import _ThreadReader
from runner_cases import (
    CHOICE,
    OPTIONS,
    ROOT,
    command,  # noqa: F401 - for the script below
    endsSoon,
    finish,
    isRunning,
    leftovers,
    makeRunner,  # noqa: F401 - a fixture
    start,
    volume,
)


def test_full_memory_device_is_an_error_with_a_sentence_and_no_crash(runner, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    one = runner()
    run = finish(one, start(one, volume(), "larynx"))
    assert run.state is RunState.FAILED
    assert "No space left" in run.failure.message
    monkeypatch.undo()
    assert finish(one, start(one, volume(), "larynx")).state is RunState.DONE
    assert leftovers() == []


def test_a_prompt_comes_back_as_the_voxels_of_its_box_alone(runner):
    source, one = volume(), runner()
    run = finish(one, start(one, source, "left parotid gland"))
    assert run.state is RunState.DONE, run.failure
    (result,) = run.results
    assert result.box == (3, 6, 4, 9, 10, 20)
    assert result.mask.shape == (3, 5, 10)
    assert result.mask.all()
    assert result.volumeMl == pytest.approx(150 * 2 / 1000)
    assert run.engine.modelName == "fake-default"
    assert leftovers() == []


def test_percentage_rises_to_one_and_never_falls(runner):
    one, seen = runner(), []
    run = Run(["larynx"], onProgress=lambda r: seen.append(r.fraction))
    one.segment(volume(), run, CHOICE, OPTIONS)
    finish(one, run)
    assert seen == sorted(seen)
    assert run.fraction == 1.0
    assert len(set(seen)) > 5
    assert run.results[0].verdict == "absent"
    assert run.results[0].mask is None


def test_second_prompt_sends_no_voxels_and_an_edited_volume_is_sent_again(runner):
    source, one = volume(), runner()
    finish(one, start(one, source, "larynx"))
    run = finish(one, start(one, source, "left parotid gland"))
    assert (source.copies, run.results[0].details["cached"]) == (1, True)
    pid = one.processId
    source.array[0, 0, 0], source._key = 2000, ""  # what the bridge does when the voxels' time stamp changed
    run = finish(one, start(one, source, "left parotid gland"))
    assert (source.copies, run.results[0].details["cached"], run.results[0].box[0]) == (2, False, 0)
    assert one.processId == pid


def test_an_image_that_the_worker_dropped_is_sent_again(runner):
    one, first = runner(), volume()
    finish(one, start(one, first, "larynx"))
    for number in (1, 2):
        other = volume()
        other.array[11, 0, 0] = number
        finish(one, start(one, other, "larynx"))
    assert finish(one, start(one, first, "larynx")).state is RunState.DONE
    assert first.copies == 2


def test_an_image_that_went_for_a_cancelled_run_is_sent_again(runner):
    """The worker keeps two images and gives one up as it opens a third, whether that is finished or not."""
    one, first = runner({"FAKE_STEP_S": "0.1"}), volume()
    finish(one, start(one, first, "larynx"))
    for number in (1, 2):
        other = volume()
        other.array[11, 0, 0] = number
        run = start(one, other, "larynx")
        if number == 2:
            while run.fraction <= SENT:
                one.poll()
                time.sleep(0.005)
            one.cancel()
        finish(one, run)
    assert run.state is RunState.CANCELLED
    again = finish(one, start(one, first, "larynx"))
    assert again.state is RunState.DONE, again.failure


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_cancel_is_honoured_within_a_second_and_the_engine_survives(runner, delay):
    one, source = runner({"FAKE_STEP_S": "0.1"}), volume()
    finish(one, start(one, source, "larynx"))
    source.array[0] += 1
    source._key = ""
    run = start(one, source, "larynx")
    end = time.monotonic() + delay
    while time.monotonic() < end:
        one.poll()
        time.sleep(0.005)
    began, pid = time.monotonic(), one.processId
    one.cancel()
    finish(one, run)
    assert run.state is RunState.CANCELLED
    assert time.monotonic() - began < 1.0
    assert one.processId == pid, "a worker that listens is kept"


def test_a_deaf_worker_is_killed_within_a_second(runner):
    one = runner({"FAKE_STEP_S": "0.06"})
    run = start(one, volume(), "deaf")
    while run.stage != "encoding" or run.fraction < 0.25:
        one.poll()
        time.sleep(0.005)
    pid, began = one.processId, time.monotonic()
    one.cancel()
    finish(one, run)
    assert (run.state, time.monotonic() - began < 1.0) == (RunState.CANCELLED, True)
    assert endsSoon(pid), "killed; a busy machine may take a moment to take it away"
    assert finish(one, start(one, volume(), "larynx")).state is RunState.DONE


def test_cancel_while_the_model_loads(runner):
    one = runner({"FAKE_LOAD_S": "20"})
    run = start(one, volume(), "larynx")
    for _ in range(100):
        one.poll()
        time.sleep(0.005)
    began = time.monotonic()
    one.cancel()
    finish(one, run)
    assert run.state is RunState.CANCELLED
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    ("word", "category", "text"),
    [
        ("crash", "internal", "native library"),
        ("killed", "memory", "ran out of memory"),
        ("memory", "memory", "99 GiB"),
        ("input", "input", "non-finite"),
        ("bug", "internal", "bug"),
    ],
)
def test_every_misfortune_says_what_happened_and_the_next_run_works(runner, word, category, text):
    one = runner()
    run = finish(one, start(one, volume(), word))
    assert run.state is RunState.FAILED
    assert run.failure.category == category
    assert text in run.failure.message
    assert run.results == []
    assert finish(one, start(one, volume(), "larynx")).state is RunState.DONE
    assert leftovers() == []


def test_load_failures_are_named_and_another_model_can_be_tried(runner):
    one = runner()
    run = finish(one, start(one, volume(), "larynx", choice=EngineChoice(model="/no/such/weights.safetensors")))
    assert (run.failure.category, "/no/such" in run.failure.message) == ("checkpoint", True)
    run = finish(one, start(one, volume(), "larynx", choice=EngineChoice(device="cuda")))
    assert run.failure.category == "device"
    assert finish(one, start(one, volume(), "larynx")).state is RunState.DONE


def test_missing_packages_are_their_own_category(runner):
    one = runner({"FAKE_LOAD_ERROR": "package"})
    run = finish(one, start(one, volume(), "larynx"))
    assert run.failure.category == "packages"
    assert "a_package_that_nobody_has" in run.failure.message


def test_a_program_that_does_not_exist_fails_the_run_and_nothing_else(runner, tmp_path):
    one = EngineRunner(lambda owner: ([str(tmp_path / "no such program")], dict(os.environ)), logFolder=str(tmp_path))
    run = start(one, volume(), "larynx")
    assert run.state is RunState.FAILED
    assert "could not be started" in run.failure.message


def test_a_worker_of_another_protocol_is_refused(runner, tmp_path):
    script = tmp_path / "old worker.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from RefSAM3DLib import worker_protocol as p\n"
        "sys.stdout.buffer.write(p.encode(p.Hello(99, '9', 1))); sys.stdout.flush(); sys.stdin.read()\n"
    )
    one = EngineRunner(lambda owner: ([sys.executable, str(script)], dict(os.environ)), logFolder=str(tmp_path))
    run = finish(one, start(one, volume(), "larynx"))
    assert "99" in run.failure.message
    one.stop()


def test_garbage_on_the_pipe_fails_the_run_with_a_sentence(runner, tmp_path):
    code = "import sys, time; print('x' * 4096, flush=True); time.sleep(60)"
    one = EngineRunner(lambda owner: ([sys.executable, "-c", code], dict(os.environ)), logFolder=str(tmp_path))
    run = finish(one, start(one, volume(), "larynx"))
    assert "no message" in run.failure.message
    one.stop()


def test_two_runs_at_once_are_refused(runner):
    one = runner()
    run = start(one, volume(), "larynx")
    with pytest.raises(RefSAM3DError, match="running already"):
        start(one, volume(), "larynx")
    assert finish(one, run).state is RunState.DONE


def test_stop_in_the_middle_of_a_run_leaves_no_process_and_no_buffer(runner):
    one = runner({"FAKE_STEP_S": "1"})
    run = start(one, volume(), "larynx")
    while run.fraction < 0.06:
        one.poll()
        time.sleep(0.005)
    pid = one.processId
    one.stop()
    one.stop()
    assert run.state is RunState.CANCELLED
    assert not isRunning(pid)
    assert leftovers() == []


@pytest.mark.parametrize("way", ["exit", "kill", "hard exit"])
def test_no_orphan_when_the_application_ends_in_the_middle_of_a_run(way, tmp_path):
    """A process of its own plays the application: it starts a run of 20 s, tells the worker's number, and ends."""
    script = tmp_path / "application.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, time
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "RefSAM3D")!r}, {str(ROOT / "Testing" / "Slicer")!r}, {str(ROOT / "Testing/harness")!r}]
        from test_runner_processes import *
        one = EngineRunner(lambda owner: command(owner, {{"FAKE_STEP_S": "1"}}), logFolder={str(tmp_path)!r})
        run = start(one, volume(), "larynx")
        while run.fraction < 0.06: one.poll(); time.sleep(0.005)
        print(one.processId, flush=True)
        if {way!r} == "exit": sys.exit(0)
        if {way!r} == "hard exit": os._exit(1)
        time.sleep(60)
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as application:
        pid = int(application.stdout.readline())
        if way == "kill":
            application.send_signal(signal.SIGKILL)
        application.wait(20)
    assert endsSoon(pid)


def test_a_worker_behind_a_launcher_is_killed_too(runner, tmp_path):
    """PythonSlicer may be a launcher that starts the real Python as a child."""
    launcher = tmp_path / "Python Slicer ä"
    launcher.write_text(f"#!{sys.executable}\nimport subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))\n")
    launcher.chmod(launcher.stat().st_mode | stat.S_IEXEC)
    one = runner({"FAKE_STEP_S": "0.06"}, launcher=[str(launcher)])
    run = start(one, volume(), "deaf")
    while run.fraction < 0.25:
        one.poll()
        time.sleep(0.005)
    pid = one.processId
    one.cancel()
    finish(one, run)
    assert endsSoon(pid)


def test_the_thread_reader_of_older_windows_pythons_works_too(runner, monkeypatch):
    monkeypatch.setattr("RefSAM3DSlicer.worker_process.WorkerProcess.__init__.__defaults__", (_ThreadReader,))
    one = runner()
    assert finish(one, start(one, volume(), "left parotid gland")).results[0].box == (3, 6, 4, 9, 10, 20)
    assert finish(one, start(one, volume(), "crash")).state is RunState.FAILED


def test_status_release_and_diagnose(runner):
    one, source, answers = runner(), volume(), []
    one.ask(protocol.Status, answers.append)
    assert answers == [None], "no engine is started only to say that it is idle"
    finish(one, start(one, source, "larynx"))

    def asked(kind):
        answers.clear()
        one.ask(kind, answers.append)
        end = time.monotonic() + 400  # the report imports torch
        while not answers and time.monotonic() < end:
            one.poll()
            time.sleep(0.005)
        return answers[0]

    assert asked(protocol.Status)["cached_bytes"] == source.array.nbytes
    assert asked(protocol.Release)["cached_bytes"] == 0
    assert asked(protocol.Diagnose)["packages"]["numpy"] == np.__version__
    finish(one, start(one, source, "larynx"))
    assert source.copies == 2, "a released image is sent again"


def test_probability_comes_on_the_whole_grid(runner):
    one, source = runner(), volume()
    run = finish(one, start(one, source, "left parotid gland", options=RunOptions(probability=True, roi=(4, 12, 0, 20, 0, 24))))
    (result,) = run.results
    assert result.box[0] == 4
    assert result.probability.shape == source.shape
    assert result.probability.dtype == np.float16
