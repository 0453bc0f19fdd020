"""Every test of reviews starts processes that must find the fake engine."""

import pytest


@pytest.fixture(autouse=True)
def _doubles(importable_by_workers: None) -> None:
    """See the fixture of the folder above."""
