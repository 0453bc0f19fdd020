"""A batch with the real engine (random weights): workers load a model file, and do what the engine does alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from batch_random_model import write_random_checkpoint
from batch_volumes import write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.content_hash import hash_mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("RefSAM3DLib.engine") is None, reason="the engine is not there"),
]
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


def test_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    from RefSAM3DLib.errors import RefSAM3DError

    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "a.nii.gz")
    arguments = {"model": str(tmp_path / "none.safetensors"), "adapter": "", "device": "cpu"}
    with pytest.raises(RefSAM3DError, match=r"none\.safetensors"):
        run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=PROMPTS, engine_arguments=arguments))
