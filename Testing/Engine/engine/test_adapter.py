"""An adapter answers for the structures that it was tuned on, and cannot change what the base says about any other."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_checkpoint import adapted, tiny_checkpoint
from tiny_engine import blocks, encoded

from RefSAM3DLib.checkpoint import Calibration
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.types import Verdict

TUNED = ("left parotid gland", "larynx")
OTHERS = ["brainstem", "right parotid gland", "mandible"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "mirrored too"])
def pair(request) -> tuple[RefSAM3DEngine, RefSAM3DEngine, RefSAM3DEngine]:
    """The base alone, the adapter's network alone, and the base with the adapter."""
    base = tiny_checkpoint(mirror_views=request.param)
    tuned = adapted(base, TUNED)
    return RefSAM3DEngine(base, "cpu"), RefSAM3DEngine(tuned, "cpu"), RefSAM3DEngine(base, "cpu", tuned=tuned)


def test_other_structures_are_answered_by_the_base_to_the_bit(pair) -> None:
    base, _, engine = pair
    engine.segment(blocks(), list(TUNED))  # in either order: nothing of the adapter may stay in what the base reads
    for found, wanted in zip(engine.segment(blocks(), OTHERS, probability=True), base.segment(blocks(), OTHERS, probability=True), strict=True):
        assert wanted.mask.any()
        assert np.array_equal(found.probability, wanted.probability)
        assert found.details["answered_by"] == "base"
        assert (found.presence, found.verdict, found.warnings) == (wanted.presence, wanted.verdict, wanted.warnings)


def test_tuned_structures_are_answered_by_the_adapter_to_the_bit(pair) -> None:
    base, alone, engine = pair
    found, wanted, before = (e.segment(blocks(), list(TUNED), probability=True) for e in (engine, alone, base))
    for mine, same, old in zip(found, wanted, before, strict=True):
        assert np.array_equal(mine.probability, same.probability)
        assert mine.presence == same.presence
        assert (mine.details["answered_by"], "answered_by" in same.details) == ("adapter", False)
        assert not np.array_equal(mine.probability, old.probability)


def test_prompt_of_both_kinds_takes_each_structure_from_its_own_network(pair) -> None:
    base, _, engine = pair
    joint = engine.segment(blocks(), ["larynx plus brainstem"], probability=True)[0]
    tuned, old = engine.segment(blocks(), ["larynx", "brainstem"], probability=True)
    assert joint.details["answered_by"] == "adapter"
    assert np.array_equal(joint.probability, np.maximum(tuned.probability, old.probability))
    assert not np.array_equal(joint.probability, base.segment(blocks(), ["larynx plus brainstem"], probability=True)[0].probability)


def test_voxels_and_frozen_weights_are_kept_once(pair) -> None:
    engine = pair[2]
    engine.release()
    volume = blocks()
    engine.segment(volume, ["brainstem"])
    embedding = engine.embed(volume)
    before, bytes_before = encoded(embedding), embedding.bytes
    engine.segment(volume, ["larynx"])
    assert encoded(embedding) > before  # the adapter reads the image with its own eyes
    for (name, coarse, mirrored, branch), grid in embedding.grids.items():
        if branch:
            assert grid.values is embedding.grids[name, coarse, mirrored, 0].values
    tiles = sum(t.bytes for key, g in embedding.grids.items() if key[3] for t in g.tiles.values())
    whole = sum(g.bytes for key, g in embedding.grids.items() if key[3])
    assert tiles > 0
    assert embedding.bytes == bytes_before + whole
    frozen, tuned = (dict(b.model.named_parameters()) for b in engine.branches)
    shared = [n for n in frozen if tuned[n].data_ptr() == frozen[n].data_ptr()]
    assert any(".attn.qkv." in n for n in shared)
    assert not any(n.startswith("projector.") for n in shared)


def test_verdict_of_a_mixed_prompt_does_not_depend_on_the_order_of_its_words() -> None:
    """Each network has its own limits: the structure that is likeliest there is judged by its own."""
    base = tiny_checkpoint(calibration=Calibration(scale=0.001, bias=-3.0))  # presence about 0.05: absent below 0.3
    own = Calibration(scale=0.001, bias=-1.4, absent_below=0.05, mask_threshold=0.02)
    tuned = dataclasses.replace(adapted(base, ("larynx",)), calibration={"head_neck": own})
    engine = RefSAM3DEngine(base, "cpu", tuned=tuned)
    one, other = (engine.segment(blocks(), [text])[0] for text in ("larynx plus brainstem", "brainstem plus larynx"))
    assert one.verdict is other.verdict is Verdict.UNCERTAIN
    assert np.array_equal(one.mask, other.mask)
    assert one.mask.any()


def test_what_the_adapter_still_draws_is_not_lost_to_a_likelier_one_that_the_base_denies() -> None:
    base = tiny_checkpoint(calibration=Calibration(scale=0.0, bias=math.log(0.28 / 0.72)))
    own = {"head_neck": Calibration(scale=0.0, bias=math.log(0.2 / 0.8), absent_below=0.05, mask_threshold=0.02)}
    engine = RefSAM3DEngine(base, "cpu", tuned=dataclasses.replace(adapted(base, ("larynx",)), calibration=own))
    alone, denied, joint = (engine.segment(blocks(), [text])[0] for text in ("larynx", "brainstem", "brainstem plus larynx"))
    assert (alone.verdict, denied.verdict, joint.verdict) == (Verdict.UNCERTAIN, Verdict.ABSENT, Verdict.UNCERTAIN)
    assert np.array_equal(joint.mask, alone.mask)
    assert "'brainstem' was not found; the result is without it." in joint.warnings


def test_weights_stay_shared_after_a_move(pair) -> None:
    engine = pair[2]
    engine._move_to(torch.device("cpu"))
    frozen, tuned = (dict(b.model.named_parameters()) for b in engine.branches)
    assert any(tuned[n].data_ptr() == frozen[n].data_ptr() for n in frozen)


def test_without_its_structures_an_adapter_changes_nothing() -> None:
    base = tiny_checkpoint()
    engine = RefSAM3DEngine(base, "cpu", tuned=adapted(base, ()))
    found, wanted = (e.segment(blocks(), ["larynx"], probability=True)[0] for e in (engine, RefSAM3DEngine(base, "cpu")))
    assert np.array_equal(found.probability, wanted.probability)
