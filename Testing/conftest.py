"""What is run: by default all that needs neither the real volumes nor packages of the operating system, the rest is listed."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

REASONS = {
    "data": "needs the real volumes (REFSAM3D_DATA, else ../shared/data)",
    "apt": "needs packages of the operating system (Testing/apt-packages.txt)",
}
_NOT_RUN = pytest.StashKey[list[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--everything`` makes the real volumes and the system packages a must."""
    parser.addoption("--everything", action="store_true", help="also run what needs the real volumes and system packages; fail if they are missing")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real volumes; tests that ask for it carry the marker ``data`` and are skipped, with the reason, without it."""
    folder = real_volumes()
    if not folder.is_dir():
        pytest.skip(f"the real volumes are not in {folder}; set REFSAM3D_DATA")
    return folder


def real_volumes() -> Path:
    """Where they should be."""
    return Path(os.environ.get("REFSAM3D_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse ``--everything`` without the volumes: a skipped test must not count as passed."""
    config.stash[_NOT_RUN] = []
    if config.getoption("--everything"):
        folder = real_volumes()
        if not folder.is_dir():
            raise pytest.UsageError(f"--everything needs the real volumes, and '{folder}' does not exist; set REFSAM3D_DATA.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs more than this run has, and remember it."""
    if config.getoption("--everything"):
        return
    kept, left = [], []
    for item in items:
        marks = [mark for mark in REASONS if item.get_closest_marker(mark)]
        if marks:
            left.append(item)
            config.stash[_NOT_RUN].append((item.nodeid.split("::")[0], REASONS[marks[0]]))
        else:
            kept.append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List what was not run and why."""
    counts = Counter(config.stash[_NOT_RUN])
    if counts:
        terminalreporter.section("NOT RUN (make test-all runs them)")
        for (file, reason), count in sorted(counts.items()):
            terminalreporter.write_line(f"NOT RUN {count:3d} tests of {file}: {reason}")
