"""Review of a segmentation that no batch made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from batch_fake_engine import FakeEngine
from batch_volumes import write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.review import ReviewSession, add_segmentation


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
    folder = tmp_path / "review"
    assert add_segmentation(folder, image, path) == "scan"
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
    add_segmentation(tmp_path / "review", image, path)
    session = ReviewSession(tmp_path / "review", "A")
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
        add_segmentation(tmp_path / "review", other, path)


def test_output_of_a_batch_is_not_mixed_with_a_single_segmentation(tmp_path: Path) -> None:
    image, path = segmentation(tmp_path)
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "scan.nii.gz", seed=3)
    run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=("brainstem",), engine="batch_fake_engine:make", workers=0))
    before = (tmp_path / "out" / "batch.json").read_bytes()
    with pytest.raises(InputError, match="output of a batch"):
        add_segmentation(tmp_path / "out", image, path)
    assert (tmp_path / "out" / "batch.json").read_bytes() == before


def test_a_second_segmentation_keeps_what_the_first_one_was_decided_on(tmp_path: Path) -> None:
    from RefSAM3DLib.segmentation_io import write_segmentation
    from RefSAM3DLib.volume_io import load_volume

    image, path = segmentation(tmp_path)
    folder = tmp_path / "review"
    assert add_segmentation(folder, image, path) == "scan"
    session = ReviewSession(folder, "A")
    entry = session.decide(session.find("scan/1"), "accept")
    assert add_segmentation(folder, image, path) == "scan", "the same again changes nothing"
    assert ReviewSession(folder, "A").find("scan/1").status == "accept"

    (tmp_path / "other").mkdir()
    other = write_volume(tmp_path / "other" / "scan.nii.gz", seed=4)
    write_segmentation(tmp_path / "other" / "scan.seg.nrrd", FakeEngine().segment(load_volume(other), ["mandible"]), load_volume(other), {})
    assert add_segmentation(folder, other, tmp_path / "other" / "scan.seg.nrrd") == "scan-2", "another patient's image is another case"
    session = ReviewSession(folder, "A")
    assert session.find("scan/1").status == "accept"
    assert session.find("scan-2/1").structure == "mandible"

    volume = load_volume(image)
    write_segmentation(path, FakeEngine().segment(volume, ["larynx"]), volume, {}, overwrite=True)
    assert add_segmentation(folder, image, path) == "scan"
    assert ReviewSession(folder, "A").find("scan/1").status == "changed"
    (kept,) = (folder / "superseded").glob("scan-*/scan.seg.nrrd")
    from RefSAM3DLib.batch.content_hash import hash_mask
    from RefSAM3DLib.segmentation_io import read_segmentation

    segments, geometry = read_segmentation(kept)
    assert entry["mask"] in {hash_mask(mask, geometry) for _, mask, _ in segments}
    assert [run["id"] for run in json.loads((folder / "batch.json").read_text())["runs"]] == ["single"] * 4
