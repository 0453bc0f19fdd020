"""A batch with the real engine (random weights): workers load a model file, and do what the engine does alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_random_model import write_random_checkpoint
from batch_volumes import write_volume
from tiny_checkpoint import write_tiny_pair

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.content_hash import hash_file, hash_mask

pytestmark = pytest.mark.slow
PROMPTS = ("brainstem", "left and right parotid glands", "nonsense organ")


def test_workers_give_the_masks_that_the_engine_gives(tmp_path: Path) -> None:
    from RefSAM3DLib import RefSAM3DEngine, load_volume

    model = write_random_checkpoint(tmp_path / "tiny.safetensors")
    (tmp_path / "in").mkdir()
    for n in range(3):
        write_volume(tmp_path / "in" / f"case_{n}.nii.gz", seed=n, spacing=(6.0, 6.0, 8.0))
    arguments = {"model": str(model), "adapter": "", "device": "cpu"}
    outcome = run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=PROMPTS, engine_arguments=arguments, workers=2))
    assert outcome.failures == {}
    assert [row["prompt"] for row in outcome.rows[:4]] == [PROMPTS[0], PROMPTS[1], PROMPTS[1], PROMPTS[2]]
    engine = RefSAM3DEngine.from_checkpoint(model, device="cpu")
    for n in range(3):
        volume = load_volume(tmp_path / "in" / f"case_{n}.nii.gz")
        alone = engine.segment(volume, list(PROMPTS))
        rows = [row for row in outcome.rows if row["case"] == f"case_{n}"]
        assert [row["verdict"] for row in rows] == [result.verdict.value for result in alone]
        assert [row["mask_sha256"] for row in rows] == [hash_mask(result.mask, volume.geometry) for result in alone]
    again = run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=PROMPTS, engine_arguments=arguments, workers=1))
    assert again.counts == {"unchanged": 3}


def test_which_network_answered_is_in_every_record(tmp_path: Path) -> None:
    from RefSAM3DLib import RefSAM3DEngine
    from RefSAM3DLib.review import ReviewSession
    from RefSAM3DLib.review.decision_table import decision_rows
    from RefSAM3DLib.segmentation_io import read_segmentation

    model, adapter = write_tiny_pair(tmp_path / "Dr Muster", ("larynx",))
    (tmp_path / "in").mkdir()
    image = write_volume(tmp_path / "in" / "a.nii.gz", spacing=(6.0, 6.0, 8.0))
    arguments = {"model": str(model), "adapter": str(adapter), "device": "cpu"}
    outcome = run_batch(image.parent, tmp_path / "out", BatchOptions(prompts=("larynx", "brainstem"), engine_arguments=arguments, workers=0))
    assert outcome.failures == {}
    base = {"name": "test-tiny", "sha256": hash_file(model)}
    tuned = {**base, "adapter": "site.safetensors", "adapter_sha256": hash_file(adapter)}
    assert [row["answered_by"] for row in outcome.rows] == ["adapter", "base"]
    assert all(row["model"] == tuned for row in outcome.rows)
    segments, _ = read_segmentation(tmp_path / "out" / "cases" / "a" / "a.seg.nrrd")
    keys = ("RefSAM3D.Model", "RefSAM3D.ModelSHA256", "RefSAM3D.Adapter", "RefSAM3D.AdapterSHA256")
    assert [[tags[key] for key in keys] for _, _, tags in segments] == [list(tuned.values()), [*base.values(), "", ""]]

    session = ReviewSession(tmp_path / "out", "A")
    by_adapter, by_base = session.find("a/1"), session.find("a/2")
    assert (by_adapter.model, by_base.model) == (tuned, base)
    session.decide(by_adapter, "accept")
    session.decide(by_base, "accept_edited", edited_mask=~session.machine_mask(by_base)[0])
    assert session.masks.segments(tmp_path / "out" / by_base.decision["mask_file"])[0][0][2]["RefSAM3D.Adapter"] == ""
    session.reprompt(by_base, "larynx", RefSAM3DEngine.from_checkpoint(model, "cpu", adapter))
    assert by_base.model == tuned, "the item now shows what the adapter answered"
    assert session.masks.segments(by_base.segmentation)[0][0][2]["RefSAM3D.Adapter"] == "site.safetensors"
    answer = session.reprompt(by_base, "larynx", RefSAM3DEngine.from_checkpoint(model, "cpu"))
    assert by_base.model == base
    assert (by_base.presence, by_base.verdict) == (pytest.approx(answer.presence, abs=1e-5), answer.verdict.value), "the numbers are of the same answer"
    entry = session.decide(by_base, "accept")
    assert entry["machine"] == {"verdict": by_base.verdict, "presence": by_base.presence, "confidence": by_base.confidence}
    named = [(row["adapter"], row["adapter_sha256"]) for row in decision_rows(session.trail.read().entries)]
    site = ("site.safetensors", hash_file(adapter))
    assert named == [site, (None, None), site, (None, None), (None, None)]
    records = [*(tmp_path / "out" / "cases").rglob("*.json"), tmp_path / "out" / "review.jsonl"]
    assert "Muster" not in "".join(path.read_text(encoding="utf-8") for path in records)


def test_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    from RefSAM3DLib.errors import RefSAM3DError

    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "a.nii.gz")
    arguments = {"model": str(tmp_path / "none.safetensors"), "adapter": "", "device": "cpu"}
    with pytest.raises(RefSAM3DError, match=r"none\.safetensors"):
        run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=PROMPTS, engine_arguments=arguments))
