"""Review of a segmentation that no batch made."""

from __future__ import annotations

import json
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
    assert (item.assisted, item.model["name"]) == (False, "m")
    mask, geometry = session.machine_mask(item)
    assert item.centre_ras is not None
    index = np.linalg.inv(geometry.ijk_to_ras) @ [*item.centre_ras, 1.0]
    assert mask[tuple(int(v) for v in np.round(index[2::-1]))]
    assert (session.volume(item).array[mask] == 400).all()
    session.decide(item, "accept_edited", edited_mask=np.roll(mask, 1, axis=0))
    assert ReviewSession(folder, "A").progress() == (1, 2)
    from RefSAM3DLib.batch import refresh_tables

    assert len(refresh_tables(folder)) == 2


def test_what_a_person_drew_before_the_review_is_never_called_automatic(tmp_path: Path) -> None:
    from RefSAM3DLib.review import export_manifest
    from RefSAM3DLib.segmentation_io import read_segmentation

    image, path = segmentation(tmp_path)
    # as the Segment Editor leaves it: one segment edited, the other one drawn by hand, without any tag of ours
    raw = path.read_bytes().replace(b"SegmentAlgorithmType:AUTOMATIC", b"SegmentAlgorithmType:SEMIAUTOMATIC", 1)
    head, mark, rest = raw.rpartition(b"DICOM.SegmentAlgorithmType:AUTOMATIC")
    path.write_bytes(head + b"Nothing:here" + rest)
    assert mark
    session = ReviewSession(folder_for_segmentation(tmp_path / "review", image, path), "A")
    assert [item.assisted for item in session.items] == [True, True]
    copied, _ = read_segmentation(session.items[0].segmentation)
    assert [tags["DICOM.SegmentAlgorithmType"] for _, _, tags in copied] == ["SEMIAUTOMATIC"] * 2
    for item in session.items:
        session.decide(item, "accept")
    content = json.loads(export_manifest(session, tmp_path / "export").manifest.read_text())
    assert [r["algorithm_type"] for r in content["training"][0]["review"]] == ["SEMIAUTOMATIC"] * 2


def test_segmentation_on_another_grid_is_refused(tmp_path: Path) -> None:
    _, path = segmentation(tmp_path)
    other = write_volume(tmp_path / "other.nii.gz", seed=4)
    with pytest.raises(InputError, match=r"lies outside|another grid"):
        folder_for_segmentation(tmp_path / "review", other, path)
