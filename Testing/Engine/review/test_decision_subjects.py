"""What a decision stands for: the mask, structure and image that were looked at, not what has the same label or is just as empty."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from batch_fake_engine import FakeEngine
from batch_volumes import small_volume, write_volume

from RefSAM3DLib.batch import BatchOptions, refresh_tables, run_batch
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.review import ReviewSession, add_segmentation, export_manifest, write_structured_result

ABSENT = ("larynx", "mandible")


def batch(root: Path, *prompts: str) -> None:
    run_batch(root / "in", root / "out", BatchOptions(prompts=prompts, engine="batch_fake_engine:make", workers=0, force=True))


def patient(root: Path, number: int = 0, leave_out: tuple[str, ...] = ABSENT) -> None:
    """Another patient's image in the place of the one before, on the same grid."""
    (root / "in").mkdir(exist_ok=True)
    write_volume(root / "in" / "c.nii.gz", small_volume(number, leave_out=leave_out)[:, :: -1 if number else 1].copy())


def statuses(root: Path) -> list[tuple[str, str]]:
    return [(item.structure, item.status) for item in ReviewSession(root / "out", "A").items]


def in_summary(root: Path) -> list[tuple[str, str]]:
    return [(row["structure"], row["review_key"]) for row in refresh_tables(root / "out")]


def as_an_earlier_version_wrote_it(trail: Path) -> None:
    entries = [json.loads(line) for line in trail.read_text().splitlines()]
    for entry in entries:
        for name in ("batch_structure", "input_sha256", "batch_empty", "hash", "previous"):
            entry.pop(name)
    trail.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.mark.parametrize("version", ["this", "earlier"])
def test_absence_of_one_structure_is_not_that_of_another(tmp_path: Path, version: str) -> None:
    patient(tmp_path)
    batch(tmp_path, "larynx")
    session = ReviewSession(tmp_path / "out", "A")
    session.decide(session.items[0], "accept")
    if version == "earlier":
        as_an_earlier_version_wrote_it(tmp_path / "out" / "review.jsonl")
        assert statuses(tmp_path) == [("larynx", "accept")]
    batch(tmp_path, "mandible", "larynx")
    assert statuses(tmp_path) == in_summary(tmp_path) == [("mandible", "changed"), ("larynx", "")]
    session = ReviewSession(tmp_path / "out", "A")
    session.decide(session.find("c/2"), "reject", reason="leak")
    with pytest.raises(InputError, match=r"not reviewed completely.*mandible"):
        write_structured_result(session, "c", tmp_path)
    with pytest.raises(InputError, match="nothing to export"):
        export_manifest(session, tmp_path / "export")


def test_absence_in_one_patient_is_not_that_in_another(tmp_path: Path) -> None:
    patient(tmp_path)
    batch(tmp_path, *ABSENT)
    session = ReviewSession(tmp_path / "out", "A")
    for item in session.items:
        session.decide(item, "accept")
    assert statuses(tmp_path) == [("larynx", "accept"), ("mandible", "accept")]
    patient(tmp_path, 1)
    batch(tmp_path, *ABSENT)
    assert statuses(tmp_path) == in_summary(tmp_path) == [("larynx", "changed"), ("mandible", "changed")]


def test_drawn_mask_stands_for_its_image_however_that_is_packed(tmp_path: Path) -> None:
    import gzip

    patient(tmp_path, leave_out=("mandible",))
    batch(tmp_path, "larynx", "mandible")
    session = ReviewSession(tmp_path / "out", "A")
    for item in session.items:
        session.decide(item, "accept")
    image = tmp_path / "in" / "c.nii.gz"
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes()), 1))
    batch(tmp_path, "larynx", "mandible")
    assert statuses(tmp_path) == [("larynx", "accept"), ("mandible", "changed")]


def test_failure_of_another_image_is_looked_at_anew(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for content in (b"no image", b"no image either"):
        (tmp_path / "in" / "c.nii.gz").write_bytes(content)
        batch(tmp_path, "larynx")
        session = ReviewSession(tmp_path / "out", "A")
        assert session.find("c/0").is_open
        session.decide(session.find("c/0"), "reject", reason="image not usable")


def test_new_words_and_drafts_are_not_carried_over_to_another_patient(tmp_path: Path) -> None:
    patient(tmp_path)
    batch(tmp_path, *ABSENT)
    session = ReviewSession(tmp_path / "out", "A")
    session.reprompt(session.find("c/1"), "brainstem", FakeEngine())
    drawn = np.ones_like(session.machine_mask(session.find("c/2"))[0])
    session.store_draft(session.find("c/2"), drawn)
    kept = ReviewSession(tmp_path / "out", "A")
    assert (kept.find("c/1").structure, len(kept.drafts())) == ("brainstem", 1)
    patient(tmp_path, 1)
    batch(tmp_path, *ABSENT)
    anew = ReviewSession(tmp_path / "out", "A")
    assert (anew.find("c/1").structure, anew.drafts(), anew.draft(anew.find("c/2"))) == ("larynx", [], None)


def test_single_segmentation_knows_its_image(tmp_path: Path) -> None:
    from RefSAM3DLib.segmentation_io import write_segmentation
    from RefSAM3DLib.volume_io import load_volume

    patient(tmp_path, leave_out=())
    volume = load_volume(tmp_path / "in" / "c.nii.gz")
    write_segmentation(tmp_path / "c.seg.nrrd", FakeEngine().segment(volume, ["larynx"]), volume, {})
    add_segmentation(tmp_path / "out", tmp_path / "in" / "c.nii.gz", tmp_path / "c.seg.nrrd")
    session = ReviewSession(tmp_path / "out", "A")
    entry = session.decide(session.items[0], "accept")
    stored = json.loads((tmp_path / "out" / "cases" / "c" / "c.json").read_text())
    assert (entry["input_sha256"], entry["batch_structure"], entry["batch_empty"]) == (stored["voxels_sha256"], "larynx", False)


def test_agreement_compares_only_decisions_about_one_result(tmp_path: Path) -> None:
    patient(tmp_path, leave_out=("mandible",))
    batch(tmp_path, "brainstem", "larynx")
    first = ReviewSession(tmp_path / "out", "A")
    first.decide(first.find("c/1"), "accept")
    first.decide(first.find("c/2"), "reject", reason="leak")
    batch(tmp_path, "brainstem", "left parotid gland")
    second = ReviewSession(tmp_path / "out", "B")
    for item in second.items:
        second.decide(item, "accept")
    rows = {row["structure"]: (row["items"], row["left_out"], row["same_verdict"]) for row in second.agreement()}
    assert rows == {"all structures": (1, 1, 1), "brainstem": (1, 0, 1), "larynx": (0, 1, 0)}
