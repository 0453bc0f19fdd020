"""What cannot be written is refused in a sentence, and the old file stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from results_to_write import GRIDS, INFO, MASKS, PHANTOM, result, results_of

from RefSAM3DLib.errors import OutputError
from RefSAM3DLib.segmentation_io import (
    check_probability_output,
    check_segmentation_output,
    read_segmentation,
    write_segmentation,
)


def test_names_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path, monkeypatch):
    with pytest.raises(OutputError, match=r"ending that is not written; use one of \.seg\.nrrd, \.nii\.gz"):
        check_segmentation_output("a.png")
    with pytest.raises(OutputError, match=r"needs one of the endings \.nii\.gz.*no \.seg\.nrrd"):
        check_probability_output("a.seg.nrrd")
    with pytest.raises(OutputError, match="image is sheared"):
        check_probability_output("a.nii.gz", GRIDS["sheared"])
    check_segmentation_output("A.SEG.NRRD", GRIDS["sheared"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OutputError, match="needs the package highdicom; install it with: pip install highdicom"):
        check_segmentation_output("a.dcm")


@pytest.mark.parametrize("ending", ["seg.nrrd", "nrrd"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch, ending: str):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")
    real = nrrd.write

    def fill(file, *args, **kwargs):
        real(file, *args, **kwargs)
        os.truncate(file, 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nrrd, "write", fill)
    with pytest.raises(OutputError, match=r"Could not write .*No space left"):
        write_segmentation(path, results_of(MASKS), PHANTOM, INFO, overwrite=True)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["nii.gz", "mha"])
def test_a_writer_of_itk_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch, ending: str):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")

    def fail(_image, name, **_):
        Path(name).write_bytes(b"half")
        raise RuntimeError("ITK ERROR: write failed")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(OutputError, match="disk may be full"):
        write_segmentation(path, results_of(MASKS), PHANTOM, INFO, overwrite=True)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["seg.nrrd", "nii.gz"])
def test_nothing_is_overwritten_unasked(tmp_path: Path, ending: str):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        write_segmentation(path, results_of(MASKS), PHANTOM, INFO)
    assert path.read_bytes() == b"old"
    write_segmentation(path, results_of(MASKS), PHANTOM, INFO, overwrite=True)
    assert len(read_segmentation(path)[0]) == 3


def test_a_mask_of_another_grid_is_refused(tmp_path: Path):
    with pytest.raises(OutputError, match=r"has shape \(2, 2, 2\), the image \(10, 12, 14\)"):
        write_segmentation(tmp_path / "a.nrrd", [result("larynx", np.ones((2, 2, 2), bool))], PHANTOM, INFO)
