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
_COUNT = re.compile(r"(\d+) (passed|failed|error|errors|skipped)")


def main(arguments: list[str]) -> int:
    """Exit code 1 if anything failed."""
    words, extra = (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]) if "--" in arguments else (arguments, [])
    files = sorted(path for folder in ("Slicer", "Qt") for path in (TESTING / folder).glob("test_*.py"))
    files = [path for path in files if not words or any(word in path.name for word in words)]
    total = {"passed": 0, "failed": 0, "skipped": 0}
    not_run = []
    environment = {"OMP_NUM_THREADS": "1", "QT_QPA_PLATFORM": "offscreen", **os.environ}
    for path in files:
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(path), *extra]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, cwd=TESTING.parent, check=False)
            output, code = process.stdout + process.stderr, process.returncode
        except subprocess.TimeoutExpired as error:
            output, code = str(error.stdout or ""), -1
        last = next((line for line in reversed(output.splitlines()) if _COUNT.search(line)), "")
        counts = {kind.rstrip("s") if kind == "errors" else kind: int(n) for n, kind in _COUNT.findall(last)}
        total["passed"] += counts.get("passed", 0)
        total["skipped"] += counts.get("skipped", 0)
        bad = counts.get("failed", 0) + counts.get("error", 0)
        if code not in (0, 5) and not bad:
            bad = 1  # crashed, or timed out
        total["failed"] += bad
        sys.stdout.write(f"{path.relative_to(TESTING)}: {last.strip('= ') or f'ended with code {code}'}\n")
        not_run += [f"NOT RUN {line}" for line in output.splitlines() if line.startswith("SKIPPED")]
        if bad:
            sys.stdout.write(output[-6000:] + "\n")
        sys.stdout.flush()
    sys.stdout.write("".join(f"{line}\n" for line in not_run))
    sys.stdout.write(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped\n")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
