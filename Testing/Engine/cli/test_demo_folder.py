"""What a demo may replace: an earlier demo of the same volume that nobody has worked on since."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
from cli_double import FakeEngine

from RefSAM3DLib.cli import demo
from RefSAM3DLib.cli.main import main
from RefSAM3DLib.errors import OutputError

pytest.importorskip("matplotlib")


def run(folder: Path, image: Path, *flags: str) -> int:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    asked = parser.parse_args(["--input", str(image), "-p", "mandible", "--output", str(folder), *flags])
    return demo.run_demo(asked, lambda device, model: FakeEngine())


def test_demo_of_another_volume_is_not_replaced(tmp_path: Path, image: Path) -> None:
    other = Path(shutil.copy(image, tmp_path / "other.nrrd"))
    out = tmp_path / "out"
    assert run(out, image) == 0
    assert run(out, image) == 0, "the same volume again"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match=r"holds the demo of another volume \('.*image\.nrrd'\); give another folder with --output, or --overwrite"):
        run(out, other)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(out, other, "--overwrite") == 0
    assert run(tmp_path / "new" / "folder", other, "--overwrite") == 0


def test_generated_and_own_volume_do_not_share_a_folder(tmp_path: Path, image: Path) -> None:
    assert run(tmp_path / "out", image) == 0
    with pytest.raises(OutputError, match="holds the demo of another volume"):
        demo._may_refresh(tmp_path / "out", None)


@pytest.mark.parametrize("has_hash", [True, False])
def test_segmentation_that_was_edited_is_not_replaced(tmp_path: Path, image: Path, has_hash: bool) -> None:
    out = tmp_path / "out"
    assert run(out, image) == 0
    segmentation, report = out / demo.SEGMENTATION_FILE, out / demo.REPORT_FILE
    if not has_hash:  # as an earlier version left it
        report.write_text(json.dumps({k: v for k, v in json.loads(report.read_text()).items() if k != "segmentation_sha256"}))
        assert run(out, image) == 0
        report.write_text(json.dumps({k: v for k, v in json.loads(report.read_text()).items() if k != "segmentation_sha256"}))
    segmentation.write_bytes(segmentation.read_bytes() + b" ")
    os.utime(segmentation, (segmentation.stat().st_atime + 60, report.stat().st_mtime + 60))
    with pytest.raises(OutputError, match=r"demo\.seg\.nrrd' was changed after the demo wrote it; save it under another name"):
        run(out, image)
    segmentation.unlink()
    assert run(out, image) == 0, "nothing is lost"


def test_negative_seed_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seed", "-1", "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "--seed is -1; give a whole number from 0 on.\n"
    assert not (tmp_path / "out").exists()
