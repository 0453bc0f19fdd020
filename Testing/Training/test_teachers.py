"""Soft masks of specialised networks as additional targets: what is asked, what they answer, where their loss is least."""

import json

import pytest
import torch
from refsam3d_training.config import DomainShare
from refsam3d_training.excluded import model_without
from refsam3d_training.export import load_state
from refsam3d_training.losses import soft_dice_loss, weighted_cross_entropy
from refsam3d_training.model_card import card_markdown, hours_of, make_card
from refsam3d_training.setup_run import make_baseline, make_trainer
from refsam3d_training.teachers import load_teachers, soft_target_loss

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.resources import named_config

SETTINGS = {"filters": 2, "steps": 2, "least_steps": 1, "validate_steps": 2, "patience": 2, "validate_cases": 1}


@pytest.fixture(scope="module")
def teacher(tiny_data, tmp_path_factory):
    """Run folder of a reference network of the tiny set."""
    run = tmp_path_factory.mktemp("teachers") / "dynunet"
    made = make_baseline("phantoms_ct:head_neck", tiny_data, run, SETTINGS, model_name="test_tiny")
    made.run()
    return run


@pytest.fixture
def taught(tiny_data, make_tiny_config, teacher, tmp_path):
    shares = (DomainShare("head_neck", 0.7, 0.3, painted=0.3),)
    return make_trainer(make_tiny_config(teachers=(str(teacher),), shares=shares), tiny_data, tmp_path / "run")


def test_every_structure_of_the_grid_is_taught_and_sides_follow_the_flip(taught):
    sampler = taught.sampler
    structures = sampler.model.grid("head_neck").structures
    spoken = {w.lower(): s.name for s in sampler.vocabulary.structures for w in (s.name, *s.synonyms)}
    longest = sorted(spoken, key=len, reverse=True)
    tiles = [tile for step in range(40) for tile in sampler.batch(step)]
    some = [t for t in tiles if t.taught]
    assert {t.coarse for t in some} == {False}
    assert any(len(t.prompts) > len(t.targets) for t in some), "a structure without a label is asked too"
    for tile in some:
        assert sorted(name for _, name in tile.taught) == sorted(structures)
        for row, name in tile.taught:
            assert next(spoken[w] for w in longest if w in tile.prompts[row].lower()) == name
            assert row < tile.asked or row >= len(tile.targets), "a name that is surely absent has no teacher"
    fine = [t for t in tiles if not t.coarse]
    assert 0 < len(some) < len(fine), "painted tiles are not taught: the teacher would draw what was painted over"


def test_tiles_are_the_same_with_and_without_a_teacher(taught, tiny_data, make_tiny_config, tmp_path):
    shares = (DomainShare("head_neck", 0.7, 0.3, painted=0.3),)
    alone = make_trainer(make_tiny_config(shares=shares), tiny_data, tmp_path / "alone")
    for step in range(6):
        for one, other in zip(taught.sampler.batch(step), alone.sampler.batch(step), strict=True):
            assert torch.equal(one.volume, other.volume)
            assert torch.equal(one.targets, other.targets)
            assert one.prompts[: len(one.targets)] == other.prompts
            assert not other.taught


def test_soft_masks_are_the_networks_own_in_the_order_asked(taught):
    teachers = taught.objective.teachers
    step = next(s for s in range(40) if all(t.taught for t in taught.sampler.batch(s)))
    tiles = taught.sampler.batch(step)
    volume = torch.stack([t.volume for t in tiles])
    network = teachers.by_grid["head_neck"].network
    structures = teachers.structures["head_neck"]
    with torch.no_grad():
        expected = network(volume).sigmoid()
    tiles[0].taught.reverse()
    for row, (tile, soft) in enumerate(zip(tiles, teachers.soft_masks(tiles, volume), strict=True)):
        torch.testing.assert_close(soft, expected[row][[structures.index(n) for _, n in tile.taught]])
    tiles[0].taught.clear()
    first, second = teachers.soft_masks(tiles, volume)
    assert len(first) == 0
    torch.testing.assert_close(second, expected[1][[structures.index(n) for _, n in tiles[1].taught]], rtol=1e-4, atol=1e-5)


def test_the_loss_is_least_where_the_probabilities_are_the_teachers():
    torch.manual_seed(0)
    soft = torch.rand(2, 4, 4, 4) * 0.8 + 0.1
    logits = torch.zeros_like(soft, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        soft_target_loss(logits, soft, 1.0).backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().sigmoid(), soft, rtol=0, atol=0.02)


def test_for_hard_targets_it_is_the_labels_loss():
    torch.manual_seed(0)
    logits, hard = torch.randn(3, 6, 6, 6), (torch.rand(3, 6, 6, 6) > 0.7).float()
    labels = weighted_cross_entropy(logits, hard, 5.0) + soft_dice_loss(logits.sigmoid(), hard).mean()
    torch.testing.assert_close(soft_target_loss(logits, hard, 5.0), labels)


def test_a_step_learns_from_the_teacher_and_leaves_it_as_it_is(taught):
    step = next(s for s in range(40) if all(t.taught for t in taught.sampler.batch(s)))
    tiles = taught.sampler.batch(step)
    network = taught.objective.teachers.by_grid["head_neck"].network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with_teacher = taught.objective(tiles, 1.0)
    with_teacher.backward()
    assert all(p.grad is None for p in network.parameters())
    for tile in tiles:
        tile.prompts, tile.taught = tile.prompts[: len(tile.targets)], []
    assert with_teacher > taught.objective(tiles, 1.0), "the teacher's loss is added"
    taught.train_step()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_card_names_the_teacher(taught):
    taught.run(1)
    state, stored = load_state(taught.folder)
    assert json.loads((taught.folder / "config.json").read_text())["teachers"] == stored["teachers"]
    card = make_card([], state, stored, None, "0" * 64, {}, "cores")
    assert card["training"]["teachers"][0]["grid"] == "head_neck"
    assert hours_of({"hours": 1.5, "teachers": [{"hours": 0.5}, {"hours": 0.25}]}) == 2.25
    assert card["training"]["hours_in_all"] == pytest.approx(hours_of(card["training"]), abs=0.01)
    assert "Soft masks of a DynUNet of the same training cases (head_neck, 2 filters, 2 steps" in card_markdown("tiny", card, "0" * 64, 1)


def test_a_teacher_that_is_not_there_or_does_not_fit_is_told(teacher, tmp_path):
    with pytest.raises(InputError, match=r"has no baseline\.pt; train it with `baseline"):
        load_teachers((str(tmp_path),), named_config("test_tiny"))
    with pytest.raises(InputError, match="Two teachers are for the grid 'head_neck'"):
        load_teachers((str(teacher), str(teacher)), named_config("test_tiny"))
    with pytest.raises(InputError, match="does not fit the grid 'head_neck'"):
        load_teachers((str(teacher),), model_without(named_config("test_tiny"), ["larynx"]))
