"""What is run: by default all that needs neither the real volumes nor packages of the operating system, the rest is listed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

REASONS = {
    "data": "needs the real volumes (REFSAM3D_DATA, else ../shared/data); make test-all runs it",
    "apt": "needs packages of the operating system (Testing/apt-packages.txt); make test-all runs it",
    "mount": "needs the right to mount a file system (root, and a container that allows it)",
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


@cache
def can_mount() -> bool:
    """Whether this process may mount a file system of its own."""
    with tempfile.TemporaryDirectory() as place:
        try:
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False).returncode == 0
        except OSError:
            return False
        if mounted:
            subprocess.run(["umount", place], check=True)
    return mounted


def pytest_configure(config: pytest.Config) -> None:
    """Refuse ``--everything`` without the volumes: a skipped test must not count as passed."""
    config.stash[_NOT_RUN] = []
    if config.getoption("--everything"):
        folder = real_volumes()
        if not folder.is_dir():
            raise pytest.UsageError(f"--everything needs the real volumes, and '{folder}' does not exist; set REFSAM3D_DATA.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs more than this run has, and remember it. No command installs the right to mount, so --everything cannot ask for it."""
    kept, left = [], []
    for item in items:
        missing = [] if config.getoption("--everything") else [mark for mark in ("data", "apt") if item.get_closest_marker(mark)]
        if item.get_closest_marker("mount") and not can_mount():
            missing.append("mount")
        if missing:
            left.append(item)
            config.stash[_NOT_RUN].append((item.nodeid.split("::")[0], REASONS[missing[0]]))
        else:
            kept.append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under ``--everything`` a skipped test fails the run."""
    if _skipped(session.config) and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List what was not run and why."""
    counts = Counter(config.stash[_NOT_RUN])
    if counts:
        terminalreporter.section("NOT RUN")
        for (file, reason), count in sorted(counts.items()):
            terminalreporter.write_line(f"NOT RUN {count:3d} tests of {file}: {reason}")
    if _skipped(config):
        terminalreporter.section("SKIPPED, which fails a run with --everything")


def _skipped(config: pytest.Config) -> int:
    """How many tests and files were skipped although everything was asked for."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter and config.getoption("--everything") else 0
