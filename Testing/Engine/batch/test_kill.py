"""kill -9 at random moments: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from batch_volumes import write_volume
from interrupts import default_interrupt

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.case_work import read_result
from RefSAM3DLib.batch.folder_state import FolderState, case_folder

CASES = 30
RUN = """
import sys
from RefSAM3DLib.batch import BatchOptions, run_batch
source, output, diary, workers = sys.argv[1:5]
run_batch(source, output, BatchOptions(prompts=("brainstem", "mandible"), engine="batch_fake_engine:make", workers=int(workers),
          engine_arguments={"diary": diary, "seconds": 0.1}))
"""


def whole_results(output: Path) -> set[str]:
    """Cases whose files are all there."""
    found = set()
    for place in (output / "cases").glob("*") if (output / "cases").is_dir() else []:
        stored = read_result(place, place.name)
        if stored and all((place / name).is_file() for name in stored["outputs"]):
            found.add(place.name)
    return found


def diary_lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def wait_for_lines(diary: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until work was begun ``count`` times; however busy the machine is, the kill then hits a batch at work."""
    for _ in range(1200):
        if len(diary_lines(diary)) >= count or process.poll() is not None:
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_batch_killed_at_ten_random_moments(tmp_path: Path) -> None:
    source, output, diary = tmp_path / "in", tmp_path / "out", tmp_path / "diary"
    source.mkdir()
    for n in range(CASES):
        write_volume(source / f"case_{n:03d}.nii.gz", seed=n)
    dice = random.Random(4)
    kills, finished_before = 0, set()
    while kills < 10:
        process = subprocess.Popen([sys.executable, "-c", RUN, str(source), str(output), str(diary), "2"], stderr=subprocess.DEVNULL)
        wait_for_lines(diary, len(diary_lines(diary)) + dice.randint(0, 3), process)
        try:
            process.wait(dice.uniform(0.0, 0.25))  # anywhere between two cases: reading, drawing, writing, recording
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            kills += 1
            _, alive = psutil.wait_procs(children, timeout=5)
            assert not alive, "workers outlived their killed parent"
            state = FolderState.read(output)
            done = {key for key, case in state.cases.items() if case.status == "done"}
            assert done <= whole_results(output), "the journal says done before the files are there"
            assert finished_before <= whole_results(output), "a finished case was lost"
            finished_before = whole_results(output)
            continue
        break
    outcome = run_batch(
        source,
        output,
        BatchOptions(prompts=("brainstem", "mandible"), engine="batch_fake_engine:make", workers=0, engine_arguments={"diary": str(diary)}),
    )
    assert kills == 10
    assert outcome.exit_code == 0
    assert len(whole_results(output)) == CASES
    assert len(outcome.rows) == 2 * CASES
    state = FolderState.read(output)
    entries = Counter(entry["case"] for entry in state.log.entries if entry.get("event") == "done")
    assert set(entries.values()) == {1}, "a case was recorded as done twice"
    # A case may be begun again if the kill hit it, and only then: per kill at most one per worker.
    begun = Counter(line.split()[0] for line in diary.read_text().splitlines())
    assert sum(begun.values()) - CASES <= 2 * kills
    assert len(begun) == CASES


def test_case_killed_half_way_is_repeated_whole(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_volume(source / "a.nii.gz")
    options = BatchOptions(prompts=("brainstem",), engine="batch_fake_engine:make", workers=0)
    run_batch(source, output, options)
    place = case_folder(output, "a")
    (place / "a.json").unlink()  # the last file a case writes
    (output / "journal.jsonl").unlink()
    (place / "a.seg.nrrd").write_bytes(b"half")
    assert run_batch(source, output, options).counts == {"done": 1}
    assert (place / "a.seg.nrrd").stat().st_size > 4


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    source, output, diary = tmp_path / "in", tmp_path / "out", tmp_path / "diary"
    source.mkdir()
    for n in range(6):
        write_volume(source / f"case_{n}.nii.gz", seed=n)
    code = RUN.replace('"seconds": 0.1', '"seconds": 30.0').replace("run_batch(source", "from RefSAM3DLib.errors import Cancelled\ntry:\n  run_batch(source")
    code += "except Cancelled as stop:\n  sys.stderr.write(str(stop)); sys.exit(130)\n"
    command = [sys.executable, "-c", code, str(source), str(output), str(diary), "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=default_interrupt)
    for _ in range(600):
        if diary.exists():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues it" in errors
    assert FolderState.read(output).log.entries[-1]["ended"] == "cancelled"
    assert (output / "report.html").exists()
