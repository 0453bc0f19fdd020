"""Every test of reviews starts processes that must find the fake engine; a small batch to review."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_volumes import REVIEWED_PROMPTS, small_volume, write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch


@pytest.fixture(autouse=True)
def _doubles(importable_by_workers: None) -> None:
    """See the fixture of the folder above."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    for n in range(3):
        write_volume(source / f"case_{n}.nii.gz", small_volume(n, leave_out=("mandible",) if n == 2 else ()), seed=n)
    (source / "broken.nii.gz").write_bytes(b"no image")
    run_batch(source, tmp_path / "out", BatchOptions(prompts=REVIEWED_PROMPTS, engine="batch_fake_engine:make", workers=0))
    return tmp_path / "out"
