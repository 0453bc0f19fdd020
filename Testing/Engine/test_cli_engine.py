"""The command line with the real engine: random weights, so what is drawn means nothing, but the whole way is walked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series

from RefSAM3DLib.cli.main import main
from RefSAM3DLib.segmentation_io import read_segmentation
from RefSAM3DLib.volume_io import load_volume

sys.path.append(str(Path(__file__).parent / "batch_doubles"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from batch_random_model import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "random.safetensors")


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """A smooth CT of 70 x 90 x 90 mm as a tilted DICOM series."""
    folder = tmp_path_factory.mktemp("series")
    k, j, i = np.ogrid[:28, :60, :60]
    stored = 1024 + 300 * np.sin(i / 7) * np.cos(j / 9) * np.cos(k / 5)
    places = np.array([-20.0, -30.0, 100.0]) + np.outer(np.arange(28), (0.0, 0.4, 2.5))
    write_series(folder, stored.astype(np.int16), positions=places, pixel_spacing=(1.5, 1.5))
    return folder


def test_a_series_becomes_a_segmentation_on_its_own_grid_with_a_report(tmp_path: Path, model: Path, series: Path, capsys):
    common = ["segment", str(series), "--model", str(model), "--device", "cpu", "-p", "brainstem", "-p", "both parotid glands", "-p", "liver"]
    flags = ["--report", str(tmp_path / "r.json"), "--probability", str(tmp_path / "p.nrrd"), "--roi", "5,40,10,50,3,20"]
    assert main([*common, "-o", str(tmp_path / "o.seg.nrrd"), *flags]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert [row["resolved"] for row in report["prompts"]] == ["brainstem", "left parotid gland", "right parotid gland", ""]
    assert report["prompts"][3]["verdict"] == "unknown"
    assert len(report["model"]["sha256"]) == 64
    assert report["device"] == "cpu"
    segments, geometry = read_segmentation(tmp_path / "o.seg.nrrd")
    assert geometry == load_volume(series).geometry
    drawn = {tags["RefSAM3D.Label"]: mask for _, mask, tags in segments}
    for row in report["prompts"]:
        mask = drawn.get(str(row["label"]), np.zeros(geometry.shape_dhw, bool))
        assert row["volume_ml"] == pytest.approx(mask.sum() * geometry.voxel_volume_ml, abs=1e-4)
        outside = mask.copy()
        outside[3:20, 10:50, 5:40] = False
        assert not outside.any(), "the region is a limit"
    assert "brainstem" in capsys.readouterr().out


def test_a_damaged_checkpoint_and_a_missing_device_are_sentences(tmp_path: Path, model: Path, series: Path, capsys):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model.read_bytes()[:-1000])
    command = ["segment", str(series), "-p", "brainstem", "-o", str(tmp_path / "o.seg.nrrd")]
    for flags in (["--model", str(damaged)], ["--model", str(model), "--device", "toaster"], ["--model", str(model), "--adapter", "no.safetensors"]):
        assert main([*command, *flags]) == 1
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert shown.err.endswith(".\n")
        assert "Unexpected" not in shown.err
    assert not (tmp_path / "o.seg.nrrd").exists()
