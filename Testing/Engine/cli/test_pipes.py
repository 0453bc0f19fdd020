"""A reader that leaves (``refsam3d ... | head``) ends no work, and hides no exit code."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import RefSAM3DLib
from RefSAM3DLib.batch.folder_state import FolderState

ROOT = Path(RefSAM3DLib.__file__).parent.parent
BATCH = ROOT / "Testing" / "harness" / "fake_batch.py"


def first_exit_code(command: list[str], rest: str) -> int:
    line = f"{shlex.join(command)} {rest}; echo ${{PIPESTATUS[0]}} >&3"
    done = subprocess.run(["bash", "-c", f"exec 3>&1; {{ {line}; }} >/dev/null"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "Broken" not in done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(("flags", "rest"), [(["--json-progress"], "| true"), ([], "2>&1 | true")], ids=["json", "table"])
def test_batch_goes_on_and_ends_with_its_own_code(tmp_path: Path, image: Path, flags: list[str], rest: str) -> None:
    (tmp_path / "in").mkdir()
    for n in range(4):
        (tmp_path / "in" / f"case_{n}.nrrd").write_bytes(image.read_bytes())
    command = [sys.executable, str(BATCH), "batch", str(tmp_path / "in"), "-p", "mandible", "-o", str(tmp_path / "out"), "--workers", "0", *flags]
    assert first_exit_code(command, rest) == 0
    assert [case.status for case in FolderState.read(tmp_path / "out").cases.values()] == ["done"] * 4
    (tmp_path / "in" / "broken.nrrd").write_bytes(b"no image")
    assert first_exit_code(command, rest) == 1


def test_segmentation_is_written_though_nobody_reads_what_is_said_of_it(tmp_path: Path, image: Path) -> None:
    code = (
        "import sys\n"
        f"sys.path.append({str(ROOT / 'Testing' / 'harness')!r})\n"
        "from cli_double import FakeEngine\n"
        "from RefSAM3DLib.cli import segment\n"
        "from RefSAM3DLib.cli.main import main\n"
        "segment.make_engine = lambda *_: FakeEngine()\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "o.seg.nrrd"
    assert first_exit_code([sys.executable, "-c", code, "segment", str(image), "-p", "mandible", "-o", str(out)], "2>&1 | true") == 0
    assert out.is_file()
