"""Path of the harness and of the doubles, which worker processes must find too."""

import os
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_DOUBLES = Path(__file__).resolve().parent / "batch_doubles"
for _folder in (_ROOT, _ROOT / "Testing" / "harness", _DOUBLES):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))


@pytest.fixture
def importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find the fake engine, and take one core each."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_DOUBLES), str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
