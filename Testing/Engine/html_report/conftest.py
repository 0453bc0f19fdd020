"""Every test of reports starts processes that must find the fake engine; helpers lie beside the tests."""

import sys
from pathlib import Path

import pytest

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _doubles(importable_by_workers: None) -> None:
    """See the fixture of the folder above."""
