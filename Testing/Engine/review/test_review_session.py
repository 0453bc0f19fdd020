"""A reviewer's session over a small batch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from batch_fake_engine import FakeEngine
from batch_volumes import REVIEWED_PROMPTS, small_volume, write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.append_log import AppendLog
from RefSAM3DLib.errors import InputError, OutputError
from RefSAM3DLib.review import QueueFilter, ReviewSession, ReviewVerdict


def shifted(mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, 1, axis=2)


def test_queue_begins_with_failures_and_unknown_wordings(folder: Path) -> None:
    session = ReviewSession(folder, "A. Muster")
    queue = session.queue()
    assert [item.verdict for item in queue[:4]] == ["failed", "unknown", "unknown", "unknown"]
    assert len(queue) == 10
    assert session.progress() == (0, 10)
    assert {item.structure for item in session.queue(QueueFilter(structures=("mandible",)))} == {"mandible"}
    assert [item.case for item in session.queue(QueueFilter(text="CASE_1", sort="case"))] == ["case_1"] * 3


def test_decisions_are_on_disk_at_once_and_the_queue_shrinks(folder: Path) -> None:
    session = ReviewSession(folder, "A. Muster")
    item = session.find("case_0/1")
    session.decide(item, "accept", comment="fine", seconds=3.2)
    (entry,) = AppendLog(folder / "review.jsonl").read().entries
    assert entry["reviewer"] == "A. Muster"
    assert (entry["machine_mask"], entry["model"]["sha256"], entry["prompt"]) == (item.mask_sha256, "ab" * 32, "brainstem")
    assert item.status_words == "accepted"
    assert item not in session.queue()
    assert item in session.queue(QueueFilter())


def test_edit_is_measured_and_stored_before_it_is_recorded(folder: Path) -> None:
    session = ReviewSession(folder, "A. Muster")
    item = session.find("case_0/2")
    machine, geometry = session.machine_mask(item)
    entry = session.decide(item, ReviewVerdict.ACCEPT_EDITED, edited_mask=shifted(machine), seconds=12)
    size = int(machine.sum())
    gone = int((machine & ~shifted(machine)).sum())
    assert entry["metrics"]["dice"] == pytest.approx((size - gone) / size, abs=1e-4)
    assert entry["metrics"]["added_ml"] == pytest.approx(gone * geometry.voxel_volume_ml, abs=1e-4)
    assert entry["metrics"]["removed_ml"] == pytest.approx(entry["metrics"]["added_ml"])
    assert 0 < entry["metrics"]["mean_surface_mm"] <= geometry.spacing_xyz_mm[0]
    assert entry["metrics"]["max_surface_mm"] == pytest.approx(geometry.spacing_xyz_mm[0], abs=1e-3)
    stored, _ = session.masks.read(folder / entry["mask_file"], item.structure, entry["edited_mask"])
    assert (stored == shifted(machine)).all()
    (_, _, tags), *_ = session.masks.segments(folder / entry["mask_file"])[0]
    assert (tags["DICOM.SegmentAlgorithmType"], tags["RefSAM3D.Reviewer"]) == ("SEMIAUTOMATIC", "A. Muster")
    assert tags["RefSAM3D.Confidence"] == ""  # of the machine's mask, not of this one


@pytest.mark.parametrize(
    ("item", "verdict", "more", "words"),
    [
        ("case_0/1", "reject", {}, "needs a reason"),
        ("case_0/1", "reject", {"reason": "  "}, "needs a reason"),
        ("case_0/1", "accept_edited", {}, "needs the edited mask"),
        ("case_0/1", "accept", {"edited_mask": np.zeros((2, 2, 2), bool)}, "only it takes one"),
        ("case_0/1", "accept_edited", {"edited_mask": np.zeros((2, 2, 2), bool)}, "shape"),
        ("broken/0", "accept", {}, "failed, there is nothing to accept"),
        ("case_0/1", "skip", {"comment": "x" * 3000}, "3000 characters"),
    ],
)
def test_incomplete_decisions_are_refused_and_not_recorded(folder: Path, item: str, verdict: str, more: dict, words: str) -> None:
    session = ReviewSession(folder, "A")
    with pytest.raises(InputError, match=words):
        session.decide(session.find(item), verdict, **more)
    assert not AppendLog(folder / "review.jsonl").read().entries


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 81])
def test_reviewer_needs_a_name(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="reviewer's name"):
        ReviewSession(folder, name)


def test_folder_without_a_batch(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no batch"):
        ReviewSession(tmp_path, "A")


def test_reopened_session_stands_where_it_was_and_offers_the_edit_back(folder: Path) -> None:
    session = ReviewSession(folder, "A")
    queue = session.queue()
    session.decide(queue[0], "skip")
    at = session.queue()[4]
    session.set_position(at)
    machine, _ = session.machine_mask(session.find("case_1/1"))
    session.store_draft(session.find("case_1/1"), shifted(machine), seconds=40, comment="not done")
    again = ReviewSession(folder, "A")
    resumed = again.resume()
    assert resumed is not None
    assert resumed.id == at.id
    (draft,) = again.drafts()
    assert (draft.case, draft.label, draft.seconds, draft.comment) == ("case_1", 1, 40, "not done")
    assert (draft.mask == shifted(machine)).all()
    again.decide(again.find("case_1/1"), "accept_edited", edited_mask=draft.mask, seconds=50)
    assert ReviewSession(folder, "A").drafts() == []
    assert ReviewSession(folder, "B").drafts() == []


def test_draft_left_by_a_kill_after_its_decision_is_not_offered(folder: Path) -> None:
    session = ReviewSession(folder, "A")
    item = session.find("case_1/1")
    edited = shifted(session.machine_mask(item)[0])
    session.store_draft(item, edited)
    kept = session.draft_store.path(item.case, item.label).read_bytes()
    session.decide(item, "accept_edited", edited_mask=edited)
    session.draft_store.path(item.case, item.label).write_bytes(kept)
    assert ReviewSession(folder, "A").drafts() == []


def test_damaged_draft_is_passed_over(folder: Path) -> None:
    session = ReviewSession(folder, "A")
    item = session.find("case_1/1")
    session.store_draft(item, session.machine_mask(item)[0])
    path = session.draft_store.path(item.case, item.label)
    path.write_bytes(path.read_bytes()[:100])
    assert session.drafts() == []


def test_new_wording_is_run_recorded_and_then_under_review(folder: Path) -> None:
    session = ReviewSession(folder, "A")
    item = session.find("case_0/3")
    assert item.verdict == "unknown"
    result = session.reprompt(item, "larynx", FakeEngine())
    assert result.mask.any()
    assert (item.status, item.prompt, item.structure) == ("reprompt", "larynx", "larynx")
    assert item in session.queue()
    assert (session.machine_mask(item)[0] == result.mask).all()
    (_, _, tags), *_ = session.masks.segments(item.segmentation)[0]
    told = [tags[name] for name in ("DICOM.SegmentAlgorithmType", "RefSAM3D.Reviewer", "RefSAM3D.Prompt", "RefSAM3D.Resolved")]
    assert told == ["AUTOMATIC", "A", "larynx", "larynx"]
    voxel_ml = session.machine_mask(item)[1].voxel_volume_ml
    assert item.volume_ml == pytest.approx(result.mask.sum() * voxel_ml)
    assert item.probability is None, "that of the other wording"
    inside = np.linalg.inv(session.machine_mask(item)[1].ijk_to_ras) @ [*item.centre_ras, 1.0]
    assert result.mask[tuple(int(v) for v in np.round(inside[2::-1]))], "the place to look at is in the new mask"
    entry = session.decide(item, "accept")
    assert entry["mask_file"].startswith("review/reprompts/")
    reopened = ReviewSession(folder, "A").find("case_0/3")
    assert (reopened.status, reopened.structure) == ("accept", "larynx")


def test_of_several_answers_to_new_words_the_one_about_the_item_counts() -> None:
    from RefSAM3DLib.review.session import answer_of

    left, right = (SimpleNamespace(resolved=f"{side} parotid gland") for side in ("left", "right"))
    assert answer_of([left, right], "right parotid gland") is right
    assert answer_of([left], "larynx") is left
    with pytest.raises(InputError, match="name 2 structures \\('left parotid gland', 'right parotid gland'\\)"):
        answer_of([left, right], "larynx")


def test_new_mask_of_the_batch_ends_an_older_rewording(folder: Path) -> None:
    session = ReviewSession(folder, "A")
    session.reprompt(session.find("case_0/3"), "larynx", FakeEngine())
    stored = folder / "cases" / "case_0" / "case_0.json"
    content = json.loads(stored.read_text())
    row = next(row for row in content["prompts"] if row["label"] == 3)
    row |= {"mask_sha256": "0" * 64, "verdict": "present", "presence": 0.9}
    stored.write_text(json.dumps(content))
    item = ReviewSession(folder, "A").find("case_0/3")
    assert (item.status, item.mask_sha256, item.verdict, item.presence) == ("changed", "0" * 64, "present", 0.9)
    session = ReviewSession(folder, "A")
    session.decide(session.find("case_0/3"), "accept")
    for item in (session.find("case_0/3"), ReviewSession(folder, "A").find("case_0/3")):
        assert (item.status, item.mask_sha256, item.prompt) == ("accept", "0" * 64, row["prompt"])


def test_read_only_trail_keeps_the_decision_and_adds_it_later(folder: Path) -> None:
    session = ReviewSession(folder, "A")
    session.decide(session.find("case_0/1"), "accept")
    trail = folder / "review.jsonl"
    trail.chmod(0o444)
    with pytest.raises(OutputError, match=r"read-only.*decision is kept in"):
        session.decide(session.find("case_0/2"), "reject", reason="wrong side")
    assert session.find("case_0/2").status == "reject"
    assert len(AppendLog(trail).read().entries) == 1
    trail.chmod(0o644)
    again = ReviewSession(folder, "A")
    assert "1 decision(s)" in again.notes[0]
    assert [e["verdict"] for e in AppendLog(trail).read().entries] == ["accept", "reject"]
    assert ReviewSession(folder, "A").notes == []


def test_decisions_stand_when_the_clock_jumps_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RefSAM3DLib.review import audit_trail

    session = ReviewSession(folder, "A")
    session.decide(session.find("case_0/1"), "reject", reason="leak")
    monkeypatch.setattr(audit_trail, "utc_now", lambda: "1999-01-01T00:00:00+00:00")
    session.decide(session.find("case_0/1"), "accept")
    assert ReviewSession(folder, "A").find("case_0/1").status == "accept"


def test_mask_that_the_batch_made_anew_is_open_again(folder: Path, tmp_path: Path) -> None:
    session = ReviewSession(folder, "A")
    session.decide(session.find("case_0/1"), "accept")
    write_volume(tmp_path / "in" / "case_0.nii.gz", small_volume(9), seed=9)
    run_batch(tmp_path / "in", folder, BatchOptions(prompts=REVIEWED_PROMPTS, engine="batch_fake_engine:make", workers=0))
    item = ReviewSession(folder, "A").find("case_0/1")
    assert item.status_words == "changed since review"
    assert item.is_open


def test_two_reviewers_agree_in_numbers(folder: Path) -> None:
    a, b = ReviewSession(folder, "A"), ReviewSession(folder, "B")
    for case in ("case_0", "case_1"):
        a.decide(a.find(f"{case}/1"), "accept")
        a.decide(a.find(f"{case}/2"), "reject", reason="leak")
    b.decide(b.find("case_0/1"), "accept")
    machine, _ = b.machine_mask(b.find("case_1/1"))
    b.decide(b.find("case_1/1"), "accept_edited", edited_mask=shifted(machine))
    b.decide(b.find("case_0/2"), "reject", reason="leak")
    b.decide(b.find("case_1/2"), "reject", reason="other")
    rows = {row["structure"]: row for row in a.agreement()} or {}
    a.refresh()
    rows = {row["structure"]: row for row in a.agreement()}
    total = rows["all structures"]
    # verdicts: (acc, acc), (acc, edit), (rej, rej) x 2: observed 3/4, expected 1/2 * 1/4 + 1/2 * 1/2 = 3/8
    assert total["kappa"] == pytest.approx((0.75 - 0.375) / 0.625, abs=1e-4)
    from RefSAM3DLib.surfaces import dice

    assert rows["brainstem"]["dice"] == pytest.approx((1 + dice(machine, shifted(machine))) / 2, abs=1e-4)
    assert rows["mandible"]["dice"] is None
    assert a.find("case_1/1").others["B"]["verdict"] == "accept_edited"
    assert not any(i.case == "case_0" and i.label == 1 for i in a.queue(QueueFilter(status=("open",), undecided_by_others=True)))


def test_state_of_the_review_is_in_summary_and_report(folder: Path) -> None:
    from RefSAM3DLib.batch import refresh_tables

    session = ReviewSession(folder, "Dr. <b>A</b>")
    session.decide(session.find("case_0/1"), "accept")
    rows = refresh_tables(folder)
    assert next((r["review"], r["reviewer"]) for r in rows if r["case"] == "case_0") == ("accepted", "Dr. <b>A</b>")
    page = (folder / "report.html").read_text()
    assert "Dr. &lt;b&gt;A&lt;/b&gt;" in page
    assert "Dr. <b>" not in page


@pytest.mark.parametrize(
    "entry",
    [
        {"verdict": "accept"},
        {"verdict": ["accept"], "case": "case_0", "label": 1, "reviewer": "A", "id": "x"},
        {"verdict": "accept", "case": "case_0", "label": "x", "reviewer": "A", "id": "x"},
        {"verdict": "accept", "case": "case_0", "label": 1, "reviewer": ["A"], "id": "x"},
        {"verdict": "reprompt", "case": "case_0", "label": 1, "reviewer": "A", "id": "x"},
        {"verdict": "accept", "case": "case_0", "label": 1, "reviewer": "A", "id": "x", "mask_file": "../../secret.nrrd", "mask": ""},
    ],
)
def test_lines_of_another_hand_are_skipped_and_reported(folder: Path, entry: dict) -> None:
    from RefSAM3DLib.batch import refresh_tables

    session = ReviewSession(folder, "A")
    session.decide(session.find("case_1/1"), "accept")
    with open(folder / "review.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps({"event": "decision", **entry}) + "\n")
    again = ReviewSession(folder, "A")
    assert "1 decision(s) that this program did not write" in again.notes[0]
    assert again.progress() == (1, 10)
    again.agreement()
    assert sum(row["review"] == "accepted" for row in refresh_tables(folder)) == 1
    assert "inserted" in again.trail.log.verify()[0]


@pytest.mark.parametrize("text", ["{}", "[]", '{"prompts": 3}', '{"pro', '{"prompts":[{}],"segmentation":"x","model":{},"warnings":[],"outputs":[]}'])
def test_damaged_result_is_a_failed_case_that_the_batch_makes_anew(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "cases" / "case_0" / "case_0.json").write_text(text)
    item = ReviewSession(folder, "A").find("case_0/0")
    assert (item.verdict, "run the batch again" in item.error) == ("failed", True)
    outcome = run_batch(tmp_path / "in", folder, BatchOptions(prompts=REVIEWED_PROMPTS, engine="batch_fake_engine:make", workers=0))
    assert outcome.counts == {"done": 1, "unchanged": 2, "failed_before": 1}


def test_own_reasons_of_a_folder(folder: Path) -> None:
    (folder / "review").mkdir()
    (folder / "review" / "reasons.json").write_text(json.dumps(["motion", "metal"]))
    assert ReviewSession(folder, "A").reasons == ("motion", "metal")
    (folder / "review" / "reasons.json").write_text("{}")
    with pytest.raises(InputError, match="no list of texts"):
        ReviewSession(folder, "A")


def test_next_and_previous_walk_the_queue(folder: Path) -> None:
    session = ReviewSession(folder, "A")
    first, second = session.queue()[:2]
    assert session.next_item(first) is second
    assert session.next_item(second, step=-1) is first
    session.decide(first, "reject", reason="image not usable")
    assert session.next_item(first) is second
