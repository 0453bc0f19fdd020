"""The runner against a real worker process with the fake engine: what its tests share. Needs neither Slicer nor Qt."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "RefSAM3D"), str(ROOT / "Testing" / "harness")]

from RefSAM3DSlicer.runner import EngineRunner  # noqa: E402
from RefSAM3DSlicer.runs import EngineChoice, Run, RunOptions  # noqa: E402

CHOICE, OPTIONS = EngineChoice(), RunOptions()


class ArraySource:
    """A volume without MRML."""

    def __init__(self, array, name="array"):
        self.array, self.name, self.modality, self.stated = array, name, "ct", ""
        self.shape, self.dtype = array.shape, array.dtype.str.lstrip("<|=")
        self.ijkToRas = [float(v) for v in np.diag([1.0, 1.0, 2.0, 1.0]).ravel()]
        self.copies, self._key = 0, ""

    def knownKey(self):
        return self._key

    def key(self):
        return self._key

    def copyInto(self, target, reserve):
        self.copies += 1
        for k in range(len(self.array)):
            reserve(k * self.array[k].nbytes, self.array[k].nbytes)
            target[k] = self.array[k]
            yield (k + 1) / len(self.array)
        self._key = f"{self.array.sum()}-{self.array.shape}"


def volume():
    array = np.zeros((12, 20, 24), np.int16)
    array[3:6, 4:9, 10:20] = 1000
    return ArraySource(array)


def command(owner, extra=(), launcher=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "Testing" / "harness")]), "OMP_NUM_THREADS": "1"}
    environment.update(extra)
    return [*launcher, sys.executable, "-m", "RefSAM3DLib.worker", "--owner", owner, "--engine", "fake_engine:create"], environment


@pytest.fixture(name="runner")
def makeRunner(tmp_path):
    made = []

    def make(extra=None, launcher=(), **options):
        one = EngineRunner(lambda owner: command(owner, extra or {}, launcher), logFolder=str(tmp_path), **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop()


def start(runner, source, *prompts, choice=CHOICE, options=OPTIONS):
    run = Run(list(prompts))
    runner.segment(source, run, choice, options)
    return run


def finish(runner, run, timeout=120.0):
    runner.wait(run, timeout=timeout)
    assert run.isOver, f"still {run.state} after {timeout} s"
    return run


def isRunning(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def endsSoon(pid, seconds=5.0):
    end = time.monotonic() + seconds
    while isRunning(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not isRunning(pid)


def leftovers():
    return [p.name for p in Path("/dev/shm").glob(f"refsam3d-{os.getpid()}-*")] if Path("/dev/shm").is_dir() else []
