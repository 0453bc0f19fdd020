"""Memory does not grow with the number of cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batch_volumes import write_volume

RUN = """
import json, os, sys
import psutil
from RefSAM3DLib.batch import BatchOptions, LiveTable, run_batch

class Watch(LiveTable):
    seen = []
    def end(self, outcome):
        super().end(outcome)
        me = psutil.Process()
        self.seen.append((me.memory_info().rss, sum(c.memory_info().rss for c in me.children())))

table = Watch(sys.stderr, 0, quiet=True)
options = BatchOptions(prompts=("brainstem", "mandible", "larynx"), engine="batch_fake_engine:make", workers=1)
outcome = run_batch(sys.argv[1], sys.argv[2], options, table=table)
print(json.dumps({"counts": outcome.counts, "seen": table.seen}))
"""


@pytest.mark.slow
def test_two_hundred_cases_need_no_more_memory_than_twenty(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    array = np.random.default_rng(0).normal(-50, 5, (40, 64, 64)).astype(np.float32)
    array[10:20, 20:30, 20:40] = 100
    array[25:30, 20:30, 20:40] = 200
    for n in range(200):
        write_volume(tmp_path / "in" / f"case_{n:03d}.nrrd", array, seed=n)
    result = subprocess.run([sys.executable, "-c", RUN, str(tmp_path / "in"), str(tmp_path / "out")], capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["counts"] == {"done": 200}
    seen = np.array(found["seen"], dtype=float) / 2**20
    parent, worker = seen[:, 0], seen[:, 1]
    growth = [float(np.median(line[-20:]) - np.median(line[10:30])) for line in (parent, worker)]
    sys.stdout.write(f"MB after cases 10-30 / 180-200: parent {np.median(parent[10:30]):.1f} / {np.median(parent[-20:]):.1f},")
    sys.stdout.write(f" worker {np.median(worker[10:30]):.1f} / {np.median(worker[-20:]):.1f}\n")
    assert growth[0] < 5
    assert growth[1] < 8
