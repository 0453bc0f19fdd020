"""A test that is left out is listed with its reason, and one that is skipped where everything was asked for fails the run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[1]
RUNS = "def test_runs(): pass\n"
SKIPPED = "import pytest\n@pytest.mark.skip(reason='no tool')\ndef test_tool(): pass\n"
FILE_SKIPPED = "import pytest\npytest.importorskip('package_of_nobody')\ndef test_package(): pass\n"
LEFT_OUT = "import pytest\n@pytest.mark.apt\ndef test_system_package(): pass\n"
BROKEN = "import a_module_that_was_renamed\ndef test_module(): pass\n"


@pytest.fixture
def tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tests with the real configuration and runner."""
    folder = tmp_path / "Testing"
    (folder / "Slicer").mkdir(parents=True)
    for name in ("conftest.py", "run_slicer_tests.py"):
        shutil.copy(TESTING / name, folder)
    monkeypatch.setenv("REFSAM3D_DATA", str(tmp_path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # other plugins take a second per run
    return folder


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a program in that folder."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("skipping", [SKIPPED, FILE_SKIPPED])
def test_a_skip_fails_where_everything_was_asked_for(tests: Path, skipping: str) -> None:
    (tests / "test_a.py").write_text(RUNS)
    (tests / "test_b.py").write_text(skipping)
    assert run(tests, "-m", "pytest")[0] == 0
    code, output = run(tests, "-m", "pytest", "--everything")
    assert code == 1
    assert "SKIPPED, which fails a run with --everything" in output


def test_what_needs_more_is_deselected_with_its_reason_and_run_where_asked_for(tests: Path) -> None:
    (tests / "test_a.py").write_text(RUNS + LEFT_OUT)
    code, output = run(tests, "-m", "pytest")
    assert code == 0
    assert "NOT RUN   1 tests of test_a.py: needs packages of the operating system" in output
    code, output = run(tests, "-m", "pytest", "--everything")
    assert (code, "2 passed" in output, "NOT RUN" in output) == (0, True, False)


@pytest.mark.parametrize(
    ("content", "arguments", "code", "said"),
    [
        (RUNS, (), 0, "1 passed, 0 failed, 0 skipped, 0 of 1 files failed"),
        (RUNS + SKIPPED, (), 0, "1 passed, 0 failed, 1 skipped, 0 of 1 files failed"),
        (RUNS + SKIPPED, ("--everything",), 1, "FAILED Slicer/test_a.py: ended with code 1"),
        (SKIPPED, (), 1, "FAILED Slicer/test_a.py: no test was run"),
        (FILE_SKIPPED, (), 1, "FAILED Slicer/test_a.py: no test was run"),
        ("", (), 1, "FAILED Slicer/test_a.py: no test was run"),
        (LEFT_OUT, (), 0, "NOT RUN   1 tests of Testing/Slicer/test_a.py"),
        (BROKEN, (), 1, "FAILED Slicer/test_a.py: ended with code 2"),
    ],
)
def test_a_file_of_slicers_tests_that_runs_none_fails_unless_all_were_left_out(
    tests: Path, content: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (tests / "Slicer" / "test_a.py").write_text(content)
    found, output = run(tests.parent, str(tests / "run_slicer_tests.py"), "--", *arguments)
    assert (found, said in output) == (code, True), output
