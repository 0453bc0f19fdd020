"""Puts the fake engine where the tests and their worker processes find it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

DOUBLES = Path(__file__).resolve().parents[1] / "batch_doubles"
ROOT = DOUBLES.parents[2]
for _place in (str(Path(__file__).parent), str(DOUBLES), str(ROOT)):
    if _place not in sys.path:
        sys.path.insert(0, _place)


@pytest.fixture(autouse=True)
def _importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DOUBLES), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
