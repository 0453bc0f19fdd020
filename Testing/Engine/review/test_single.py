"""Review of a segmentation that no batch made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from batch_fake_engine import FakeEngine
from batch_volumes import write_volume

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.review import ReviewSession, folder_for_segmentation


def segmentation(tmp_path: Path) -> tuple[Path, Path]:
    from RefSAM3DLib.segmentation_io import write_segmentation
    from RefSAM3DLib.volume_io import load_volume

    image = write_volume(tmp_path / "scan.nii.gz", seed=3)
    volume = load_volume(image)
    results = FakeEngine().segment(volume, ["brainstem", "larynx"])
    write_segmentation(tmp_path / "scan.seg.nrrd", results, volume, {"name": "m", "sha256": "ab", "device": "cpu", "version": "0"})
    return image, tmp_path / "scan.seg.nrrd"


def test_segmentation_is_reviewed_like_a_case_of_a_batch(tmp_path: Path) -> None:
    image, path = segmentation(tmp_path)
    folder = folder_for_segmentation(tmp_path / "review", image, path)
    session = ReviewSession(folder, "A")
    assert [item.structure for item in session.queue()] == ["brainstem", "larynx"]
    item = session.find("scan/2")
    mask, geometry = session.machine_mask(item)
    assert item.centre_ras is not None
    index = np.linalg.inv(geometry.ijk_to_ras) @ [*item.centre_ras, 1.0]
    assert mask[tuple(int(v) for v in np.round(index[2::-1]))]
    assert (session.volume(item).array[mask] == 400).all()
    session.decide(item, "accept_edited", edited_mask=np.roll(mask, 1, axis=0))
    assert ReviewSession(folder, "A").progress() == (1, 2)
    from RefSAM3DLib.batch import refresh_tables

    assert len(refresh_tables(folder)) == 2


def test_segmentation_on_another_grid_is_refused(tmp_path: Path) -> None:
    _, path = segmentation(tmp_path)
    other = write_volume(tmp_path / "other.nii.gz", seed=4)
    with pytest.raises(InputError, match=r"lies outside|another grid"):
        folder_for_segmentation(tmp_path / "review", other, path)
