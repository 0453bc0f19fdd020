"""Run the tests that need Slicer's libraries, one process per file (one scene and one Qt application each), and sum up.

``python Testing/run_slicer_tests.py [words of file names] [-- pytest arguments]``
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTING = Path(__file__).resolve().parent
#: A file that takes longer than this hangs.
TIMEOUT_S = 900
NO_TESTS_COLLECTED = 5
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected)")


def failure_reason(code: int, counts: dict[str, int]) -> str:
    """Why a file does not count as passed, or "": a test that was left out on purpose is deselected, with its reason."""
    if code not in (0, NO_TESTS_COLLECTED):
        return f"ended with code {code}"
    if not counts.get("passed") and (counts.get("skipped") or not counts.get("deselected")):
        return "no test was run"
    return ""


def main(arguments: list[str]) -> int:
    """Exit code 1 if anything failed, or if a file ran no test although it was asked to."""
    words, extra = (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]) if "--" in arguments else (arguments, [])
    files = sorted(path for folder in ("Slicer", "Qt") for path in (TESTING / folder).glob("test_*.py"))
    files = [path for path in files if not words or any(word in path.name for word in words)]
    total = {"passed": 0, "failed": 0, "skipped": 0}
    not_run, failures = [], []
    environment = {"OMP_NUM_THREADS": "1", "QT_QPA_PLATFORM": "offscreen", **os.environ}
    for path in files:
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(path), *extra]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, cwd=TESTING.parent, check=False)
            output, code = process.stdout + process.stderr, process.returncode
        except subprocess.TimeoutExpired as error:
            output, code = str(error.stdout or ""), -1
        last = next((line for line in reversed(output.splitlines()) if _COUNT.search(line)), "")
        counts = {kind.removesuffix("s"): int(n) for n, kind in _COUNT.findall(last)}
        total["passed"] += counts.get("passed", 0)
        total["skipped"] += counts.get("skipped", 0)
        total["failed"] += counts.get("failed", 0) + counts.get("error", 0)
        name, reason = path.relative_to(TESTING), failure_reason(code, counts)
        sys.stdout.write(f"{name}: {last.strip('= ') or f'ended with code {code}'}\n")
        not_run += [line if line.startswith("NOT RUN") else f"NOT RUN {line}" for line in output.splitlines() if line.startswith(("NOT RUN ", "SKIPPED"))]
        if reason:
            failures.append(f"FAILED {name}: {reason}")
            sys.stdout.write(output[-6000:] + "\n")
        sys.stdout.flush()
    sys.stdout.write("".join(f"{line}\n" for line in [*not_run, *failures]))
    sys.stdout.write(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped, {len(failures)} of {len(files)} files failed\n")
    return int(bool(failures) or not files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
