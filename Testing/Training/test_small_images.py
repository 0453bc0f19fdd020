"""Images that fit into a tile: moved inside it, and never asked about what they may show."""

import dataclasses

import numpy as np
import pytest
import torch
from refsam3d_training.sampling import CUT_OFF, MOST_SHIFT, SURELY_ABSENT
from refsam3d_training.setup_run import make_trainer


@pytest.fixture(scope="module")
def sampler(tiny_data, tmp_path_factory):
    from refsam3d_training.config import DomainShare, TrainConfig

    config = TrainConfig(name="t", model="test_tiny", sets=("phantoms_ct:head_neck",), shares=(DomainShare("head_neck", 1.0, 0.0),), phantoms=0, steps=2)
    return make_trainer(config, tiny_data, tmp_path_factory.mktemp("small") / "run").sampler


def with_one_point(sampler, shape):
    """The sampler with one case: an image of ``shape`` with a cube in its middle."""
    case = sampler.by_grid["head_neck"][0]
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[tuple(slice(n // 2 - 2, n // 2 + 2) for n in shape)] = next(iter(case.known))
    image = dataclasses.replace(case.fine, values=labels.half(), labels=labels)
    small = dataclasses.replace(case, known=dict([next(iter(case.known.items()))]), fine=image, coarse=image)
    other = object.__new__(type(sampler))
    held = {next(iter(small.known.values())): [small]}
    other.__dict__ |= {**sampler.__dict__, "by_grid": {"head_neck": [small]}, "holding": {"head_neck": held}, "centres": {}}
    return other


def places(sampler, shape):
    """Centres of the cube in 60 tiles, voxels from the tile's middle."""
    one, grid = with_one_point(sampler, shape), sampler.model.grids[0]
    out = []
    for n in range(60):
        mask = one._draw(np.random.default_rng(n), grid, False, False, 0.0).targets[0]
        out.append(mask.nonzero().double().mean(0).numpy() - (np.array(mask.shape) - 1) / 2)
    return np.array(out)


def test_an_image_smaller_than_the_tile_is_moved_within_it(sampler):
    tile = np.array(sampler.model.grids[0].tile_dhw)
    spare = 6
    found = places(sampler, tuple(tile - spare))
    reach = min(spare / 2 + CUT_OFF, MOST_SHIFT)
    assert (np.abs(found).max(0) <= reach / 0.85 + 1).all(), "scaled by 0.85 at least, and half a voxel of rounding on each side"
    assert (found.std(0) > 0.4 * reach).all(), "a uniform draw has 0.58 of its reach"
    assert (np.abs(found.mean(0)) < 0.4 * reach).all()


def test_an_image_that_is_not_augmented_keeps_its_place(sampler):
    still = with_one_point(sampler, tuple(np.array(sampler.model.grids[0].tile_dhw) - 6))
    still.config = dataclasses.replace(sampler.config, augment=False)
    masks = [still._draw(np.random.default_rng(n), sampler.model.grids[0], False, False, 0.0).targets[0] for n in range(4)]
    assert all(torch.equal(m, masks[0]) for m in masks)


def test_a_name_that_an_image_may_show_is_never_asked_as_absent(sampler):
    spoken = {p.lower() for step in range(80) for tile in sampler.batch(step) for p in tile.prompts[tile.asked :]}
    visible = set(sampler.vocabulary.distractors) - SURELY_ABSENT["head_neck"]
    assert {"brain", "tongue", "trachea", "left eye"} <= visible
    assert not [p for p in spoken for name in visible if f" {name} " in f" {p} "]
    assert sum(any(name in p for name in SURELY_ABSENT["head_neck"]) for p in spoken) > 10


def test_a_vocabulary_with_none_of_the_sure_names_is_asked_for_those_it_has(sampler):
    own = object.__new__(type(sampler))
    own.__dict__ |= {**sampler.__dict__, "vocabulary": dataclasses.replace(sampler.vocabulary, distractors=("brain",))}
    spoken = {own._absent_wording(np.random.default_rng(n), sampler.model.grids[0], sampler.by_grid["head_neck"][0]) for n in range(20)}
    assert all("brain" in text for text in spoken)


def test_every_name_of_the_lists_is_a_name_of_the_vocabulary(sampler):
    assert set().union(*SURELY_ABSENT.values()) <= set(sampler.vocabulary.distractors)
