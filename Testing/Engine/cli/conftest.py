"""A fake engine behind the command line, and an image on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
from cli_double import PHANTOM, FakeEngine

from RefSAM3DLib.cli import segment


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(segment, "make_engine", lambda model, adapter, device: fake)
    return fake


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ä image.nrrd"
    picture = sitk.GetImageFromArray(PHANTOM.array)
    picture.SetSpacing(PHANTOM.geometry.spacing_xyz_mm)
    picture.SetOrigin(PHANTOM.geometry.ijk_to_lps[:3, 3].tolist())
    sitk.WriteImage(picture, str(path))
    return path
