"""Small batches of generated volumes for the tests of batch and review."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOUBLES = ROOT / "Testing" / "Engine" / "batch_doubles"
for _place in (str(DOUBLES), str(ROOT)):
    if _place not in sys.path:
        sys.path.append(_place)

PROMPTS = ("brainstem", "mandible", "liver")


def makeImages(folder, count=3, broken=True):
    """Volumes with structures marked by their grey value; the last has no mandible; one file is no image."""
    from batch_volumes import small_volume, write_volume

    folder.mkdir(parents=True)
    for n in range(count):
        write_volume(folder / f"case_{n}.nii.gz", small_volume(n, leave_out=("mandible",) if n == count - 1 else ()), seed=n)
    if broken:
        (folder / "broken.nii.gz").write_bytes(b"no image")
    return folder


def makeBatch(folder, prompts=PROMPTS, probability=False, **images):
    """Output folder of a finished batch."""
    from RefSAM3DLib.batch import BatchOptions, run_batch

    os.environ["OMP_NUM_THREADS"] = "1"
    makeImages(folder / "in", **images)
    options = BatchOptions(prompts=tuple(prompts), engine="batch_fake_engine:make", workers=0, probability=probability)
    run_batch(folder / "in", folder / "out", options)
    return folder / "out"


def entries(folder):
    """The audit trail."""
    from RefSAM3DLib.batch.append_log import AppendLog

    return AppendLog(Path(folder) / "review.jsonl").read().entries
