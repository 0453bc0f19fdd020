"""Questions, releases and changed files while the engine works: no message, result or warning is lost or shown twice."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "RefSAM3D"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from RefSAM3DLib import worker_protocol as protocol
from RefSAM3DLib.worker_streams import patient_reader
from RefSAM3DSlicer.runs import EngineChoice, RunState
from runner_cases import (
    finish,
    leftovers,
    makeRunner,  # noqa: F401 - a fixture
    start,
    volume,
)


def test_a_question_takes_no_message_of_the_run(runner):
    """The application was busy, all answers wait in the pipe, and the panel asks for the memory before the next tick."""
    one, answers = runner(), []
    run = start(one, volume(), "left parotid gland")
    while run.stage != "encoding":
        one.poll()
        time.sleep(0.002)
    time.sleep(1.0)
    one.ask(protocol.Status, answers.append)
    finish(one, run, timeout=20)
    assert run.state is RunState.DONE
    assert run.results[0].mask.all()
    while not answers:
        one.poll()
    assert answers[0]["cached_bytes"] > 0
    run.release()
    assert leftovers() == []


def test_a_question_to_an_engine_that_has_just_died_leaves_the_run_to_end(runner):
    one, answers = runner({"FAKE_STEP_S": "0.02"}), []
    run = start(one, volume(), "killed")
    while run.stage != "encoding":
        one.poll()
        time.sleep(0.002)
    while not one._link.worker.hasExited():
        time.sleep(0.005)
    one.ask(protocol.Diagnose, answers.append)
    finish(one, run, timeout=20)
    assert run.state is RunState.FAILED
    assert "memory" in run.failure.message
    assert answers == [None]


def test_results_stay_until_the_next_run_whatever_is_asked(runner):
    """Windows gives shared memory back with its last handle: the worker must hold on until the application has read."""
    from RefSAM3DLib.worker import Worker

    sent = []
    worker = Worker(type("Box", (), {"send": sent.append}), None, None)
    closed = []
    worker._results.append(type("Buffer", (), {"close": lambda self: closed.append(True)})())
    worker._engine = type("Engine", (), {"cached_bytes": 0, "device_name": "cpu", "release": lambda self: None, "warnings": []})()
    worker.handle(protocol.Status(1))
    worker.handle(protocol.Release(2))
    assert not closed
    assert [type(m).__name__ for m in sent] == ["Report", "Report"]
    worker.handle(protocol.Segment(3, "no such image", [1, 1, 1], "int16", [0.0] * 16, ["liver"]))
    assert closed


def test_a_model_that_was_written_again_is_read_again(runner, tmp_path):
    model = tmp_path / "own.safetensors"
    model.write_bytes(b"first")
    one, source, choice = runner(), volume(), EngineChoice(model=str(model))

    def again():
        assert finish(one, start(one, source, "left parotid gland", choice=choice)).state is RunState.DONE
        return one.info

    first = again()
    assert again() is first, "the same file is not loaded twice"
    model.write_bytes(b"second")
    os.utime(model, ns=(1, 1))
    assert again() is not first


def test_warnings_belong_to_their_run_and_the_device_is_the_one_it_ended_on(runner):
    one, source = runner(), volume()
    source.modality = "mr"
    first = finish(one, start(one, source, "larynx"))
    second = finish(one, start(one, source, "larynx"))
    assert first.warnings == second.warnings == ("This model was not trained for MR images.",)
    other = volume()
    other.array[0] += 1
    assert finish(one, start(one, other, "larynx")).warnings == ()
    moved = finish(one, start(one, other, "moves to the CPU"))
    assert moved.engine.device == "cpu after a shortage"
    assert moved.engine.modelName == first.engine.modelName


def test_what_the_image_says_it_is_reaches_the_engine(runner):
    """An ultrasound is read by its voxels, as CT or MR: without its word nobody would be warned."""
    one, source = runner(), volume()
    source.modality, source.stated = "", "US"
    assert any("says US (ultrasound)" in w and "Do not rely" in w for w in finish(one, start(one, source, "larynx")).warnings)


def test_a_system_that_gives_no_memory_for_the_volume_ends_the_run(runner, monkeypatch):
    def refused(*_arguments, **_options):
        raise OSError(1455, "The paging file is too small")

    monkeypatch.setattr("RefSAM3DSlicer.volume_transfer.SharedBuffer.create", refused)
    one = runner()
    run = finish(one, start(one, volume(), "larynx"), timeout=20)
    assert run.failure.category == "memory"
    assert "paging file is too small" in run.failure.message


def test_a_crash_behind_slicers_launcher_is_told_from_an_error_of_python(runner, tmp_path):
    """The launcher ends with 1 whatever killed its child."""
    launcher = tmp_path / "launcher"
    launcher.write_text(f"#!{sys.executable}\nimport subprocess, sys\nsys.exit(1 if subprocess.call(sys.argv[1:]) else 0)\n")
    launcher.chmod(0o755)
    one = runner(launcher=[str(launcher)])
    run = finish(one, start(one, volume(), "killed"))
    assert run.failure.category == "memory"
    assert "ran out of memory" in run.failure.message


def test_the_reader_for_windows_reads_only_what_is_there():
    """It asks first; what it reads and the end of the stream are those of the pipe."""
    ours, theirs = os.pipe()
    waiting = [0, 0, 3, 2]
    asked = []

    def count():
        asked.append(True)
        if not waiting:
            raise BrokenPipeError
        return waiting.pop(0)

    read = patient_reader(ours, count)
    os.write(theirs, b"abcde")
    assert (read(), len(asked)) == (b"abc", 3)
    assert read() == b"de"
    assert read() == b""
    os.close(ours)
    os.close(theirs)


def test_what_a_library_reads_from_standard_input_is_not_a_message(runner):
    one = runner()
    run = finish(one, start(one, volume(), "reads standard input"))
    assert run.state is RunState.DONE, run.failure
    assert run.results[0].details["read"] == ""
    assert run.results[0].mask.all()
