"""What a tile is and what is asked about it: sides follow flips, only trained wordings, unknown structures are not asked."""

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
from refsam3d_training import augmentation_benchmark as benchmark
from refsam3d_training.sampling import _augment_intensity, _resample
from refsam3d_training.setup_run import make_trainer


@pytest.fixture(scope="module")
def sampler(tiny_data, tmp_path_factory):
    from refsam3d_training.config import DomainShare, TrainConfig

    config = TrainConfig(name="t", model="test_tiny", sets=("phantoms_ct:head_neck",), shares=(DomainShare("head_neck", 0.6, 0.4),), phantoms=0, steps=2)
    return make_trainer(config, tiny_data, tmp_path_factory.mktemp("sampling") / "run").sampler


@pytest.fixture(scope="module")
def tiles(sampler):
    return [tile for step in range(60) for tile in sampler.batch(step)]


def named(sampler, tile):
    """Structure of each asked prompt."""
    spoken = {w.lower(): s.name for s in sampler.vocabulary.structures for w in (s.name, *s.synonyms)}
    longest = sorted(spoken, key=len, reverse=True)
    return [next(spoken[w] for w in longest if w in p.lower()) for p in tile.prompts[: tile.asked]]


def test_left_and_right_keep_their_places_although_half_of_the_tiles_are_flipped(sampler, tiles):
    orders = []
    for tile in tiles:
        centre = {}
        for name, mask in zip(named(sampler, tile), tile.targets, strict=False):
            if "parotid" in name and mask.any():
                centre[name] = mask.nonzero()[:, 2].double().mean().item()
        if len(centre) == 2:
            orders.append(centre["left parotid gland"] > centre["right parotid gland"])
    assert len(orders) > 20
    assert len(set(orders)) == 1


def test_only_trained_wordings_are_spoken_and_held_out_ones_never(sampler, tiles):
    vocabulary = sampler.vocabulary
    trained = {w for s in vocabulary.structures for w in (s.name, *s.synonyms)} | set(vocabulary.distractors)
    allowed = trained | {t.format(w) for t in vocabulary.templates for w in trained}
    spoken = {p for tile in tiles for p in tile.prompts}
    assert spoken <= allowed
    assert len(spoken) > 100
    held = {w for s in vocabulary.structures for w in s.held_out}
    assert not spoken & (held | {t.format(w) for t in (*vocabulary.templates, *vocabulary.held_out_templates) for w in held})


def test_unknown_structures_are_not_asked_and_absent_names_have_empty_targets(sampler, tiles):
    by_count = {len(c.known) for c in sampler.by_grid["head_neck"]}
    assert by_count == {6, 7}  # the esophagus is unknown in every second case
    assert {tile.asked for tile in tiles} <= by_count
    for tile in tiles:
        assert len(tile.prompts) == tile.asked + 2
        assert not tile.targets[tile.asked :].any()


def test_images_of_one_grid_alone_never_deny_what_they_hold(sampler):
    """A site's cases stand on one grid: there is no image from elsewhere to show that something is absent."""
    drawn = [sampler._draw(np.random.default_rng(n), sampler.model.grids[0], False, True, 0.0) for n in range(6)]
    assert all(tile.targets[: tile.asked].any() for tile in drawn)


def test_one_sided_name_is_asked_for_in_mirrored_words_where_the_image_is_mirrored(sampler):
    """As the engine asks its mirror image; a name with a counterpart becomes that one, a name without a side stays."""
    alone = copy.copy(sampler)
    alone.vocabulary = sampler.vocabulary.restricted_to([n for n in sampler.vocabulary.names if n != "right parotid gland"])
    values = {n: v for c in sampler.by_grid["head_neck"] for v, n in c.known.items()}
    asked = {}
    for vocabulary, one in (("alone", alone), ("paired", sampler)):
        for name in ("left parotid gland", "larynx"):
            case = dataclasses.replace(sampler.by_grid["head_neck"][0], known={values[name]: name})
            for flip in (False, True):
                empty = torch.zeros(8, 8, 8)
                tile = one._ask(np.random.default_rng(0), one.model.grids[0], case, empty[None], empty, flip, False, False)
                asked[vocabulary, name, flip] = tile.prompts[0]
    for vocabulary in ("alone", "paired"):
        assert re.search(r"\b(right|r|rt)\b", asked[vocabulary, "left parotid gland", True].lower())
        assert re.search(r"\b(left|l|lt)\b", asked[vocabulary, "left parotid gland", False].lower())
        assert asked[vocabulary, "larynx", True] == asked[vocabulary, "larynx", False]


def test_image_and_labels_are_moved_together():
    labels = torch.zeros(30, 30, 30, dtype=torch.uint8)
    labels[8:20, 10:24, 6:18] = 1
    for seed in range(6):
        rng = np.random.default_rng(seed)
        low, high = np.zeros(3), np.full(3, 30.0)
        image, truth = _resample(rng, labels.float(), labels, (24, 24, 24), np.full(3, 14.5), 1.0, low, high, bool(seed % 2), True)
        assert ((image > 0.5) != truth.bool()).float().mean() < 0.02
        assert 800 < truth.sum() < 4000


def test_intensity_is_augmented_within_bounds_and_computed_tomography_keeps_its_order():
    volume = torch.linspace(-1, 1, 8 * 8 * 8).reshape(1, 8, 8, 8)
    for seed in range(30):
        out = _augment_intensity(np.random.default_rng(seed), volume, "ct")
        assert out.shape == volume.shape
        assert out.abs().max() <= 1.5
        assert np.corrcoef(out.flatten(), volume.flatten())[0, 1] > 0.9


def test_the_benchmarks_pipelines_give_tiles_of_the_same_form():
    values, labels = torch.rand(benchmark.SHAPE), torch.randint(0, 3, benchmark.SHAPE).byte()
    image, truth = benchmark.fused(values, labels)(1)
    theirs = benchmark.composed(values, labels, True)(1)
    assert tuple(theirs["image"].shape) == tuple(image.shape) == (3, *benchmark.TILE)
    assert tuple(theirs["label"].shape[1:]) == tuple(truth.shape)
    assert set(np.unique(theirs["label"])) <= {0.0, 1.0, 2.0}


def test_painted_structures_are_asked_and_known_to_be_absent(sampler, tiny_data, tmp_path):
    """Fewer structures show up than without painting, and none of them is dropped from what is asked."""
    from dataclasses import replace

    config = sampler.config
    share = replace(config.shares[0], painted=1.0)
    painted = make_trainer(replace(config, shares=(share,)), tiny_data, tmp_path / "run").sampler
    pairs = [(a, b) for step in range(20) for a, b in zip(sampler.batch(step), painted.batch(step), strict=True)]
    assert all(a.asked == b.asked for a, b in pairs)
    shown = [sum(int(t.any()) for pair in pairs for t in pair[n].targets[: pair[n].asked]) for n in (0, 1)]
    assert shown[1] < 0.9 * shown[0]


def test_nothing_that_an_image_holds_on_another_grid_is_called_absent(sampler):
    """One volume on two grids, as fine-tuning reads it; a hippocampus crop, which may show the brainstem; an image of another grid."""
    from refsam3d_training.cases import Case, GridImage
    from refsam3d_training.config import DomainShare, TrainConfig
    from refsam3d_training.sampling import TileSampler

    from RefSAM3DLib.config import ModelConfig
    from RefSAM3DLib.resources import resource_path

    model = ModelConfig.load(resource_path("Configs", "vit_t.json"))

    def case(name, grid, structure):
        labels = torch.zeros(24, 24, 24, dtype=torch.uint8)
        labels[8:16, 8:16, 8:16] = 1
        image = GridImage(torch.zeros(24, 24, 24).half(), labels)
        return Case(name, grid, "ct", {1: structure}, [(-1.0, 1.0)] * 3, (72.0, 72.0, 72.0), image, image)

    cases = [case("both", "head_neck", "larynx"), case("both", "limb", "soft tissue sarcoma"), case("leg", "limb", "soft tissue sarcoma"),
             case("crop", "hippocampus", "anterior hippocampus")]  # fmt: skip
    shares = tuple(DomainShare(g.name, 1.0, 1.0, foreign=0.5) for g in model.grids)
    made = TileSampler(cases, TrainConfig("t", "vit_t", (), shares, phantoms=0, steps=2), model, sampler.vocabulary)
    held = {"both": {"larynx", "soft tissue sarcoma"}, "leg": {"soft tissue sarcoma"}, "crop": {"anterior hippocampus", "hippocampus", "brainstem"}}
    ask, denied = made._ask, {name: set() for name in held}

    def watched(rng, grid, case, *rest):
        tile = ask(rng, grid, case, *rest)
        spoken = {w.lower(): s.name for s in made.vocabulary.structures for w in (s.name, *s.synonyms)}
        longest = sorted(spoken, key=len, reverse=True)
        for prompt, target in zip(tile.prompts, tile.targets, strict=True):
            known = next((spoken[w] for w in longest if w in prompt.lower()), "")
            if known and (not target.any()) and (known not in case.known.values()):
                denied[case.name].add(known)
        return tile

    made._ask = watched
    for step in range(150):
        made.batch(step)
    for name, there in held.items():
        assert denied[name], name
        assert not denied[name] & there, name


def test_what_a_case_labels_is_neither_called_absent_nor_drawn_for_where_its_grid_has_no_such_name(sampler):
    """A whole-body CT with a labelled liver and spleen on the grid of the head and neck."""
    from refsam3d_training.cases import Case, GridImage
    from refsam3d_training.config import DomainShare, TrainConfig
    from refsam3d_training.sampling import TileSampler

    from RefSAM3DLib.config import ModelConfig
    from RefSAM3DLib.errors import InputError
    from RefSAM3DLib.resources import resource_path

    model = ModelConfig.load(resource_path("Configs", "vit_t.json"))
    labels = torch.zeros(24, 24, 24, dtype=torch.uint8)
    labels[2:8], labels[8:16], labels[18:] = 1, 2, 3
    image = GridImage(torch.zeros(24, 24, 24).half(), labels)

    def sampler_of(known):
        case = Case("body", "head_neck", "ct", known, [(-1.0, 1.0)] * 3, (72.0, 72.0, 72.0), image, image)
        return TileSampler([case], TrainConfig("t", "vit_t", (), (DomainShare("head_neck", 1.0, 1.0),), phantoms=0, steps=2), model, sampler.vocabulary)

    made = sampler_of({1: "liver", 2: "larynx", 3: "spleen"})
    rng = np.random.default_rng(0)
    grid = model.grid("head_neck")
    assert {made._choose_case(rng, grid, False)[1] for _ in range(60)} == {"larynx"}
    asked = [made._absent_wording(rng, grid, made.by_grid["head_neck"][0]).lower() for _ in range(600)]
    assert any("pancreas" in text for text in asked)
    assert not [text for text in asked if "liver" in text or "spleen" in text]
    with pytest.raises(InputError, match="No case shows a voxel of a structure of head_neck"):
        sampler_of({1: "liver", 3: "spleen"})


def test_no_two_draws_of_a_step_have_the_same_seed(sampler, monkeypatch):
    """numpy fills a seed up with zeros: (seed, step, 7), which chooses the grid, is (seed, step, 7, 0), the first tile of the eighth process."""
    seeds = []
    made = np.random.default_rng

    def watched(seed):
        seeds.append(tuple(np.random.SeedSequence(seed).generate_state(4)))
        return made(seed)

    monkeypatch.setattr("refsam3d_training.sampling.np.random.default_rng", watched)
    for rank in range(10):
        sampler.batch(3, rank)
    choices, tiles = set(seeds[::3]), {*seeds[1::3], *seeds[2::3]}
    assert len(choices) == 1, "all processes draw one grid"
    assert len(tiles) == 20
    assert not choices & tiles


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shares": "hed_neck"}, "A share names the grid 'hed_neck', but the model has head_neck; correct"),
        ({"grid": "thorax", "phantoms": 12}, "A set of phantoms names the grid 'head_neck', but the model has thorax; set phantoms = 0, or"),
        ({"structure": "liver"}, "The vocabulary has no liver: .*brainstem.* Teach a new structure with `finetune`"),
    ],
)
def test_grids_and_names_that_training_does_not_know_are_told_before_any_case_is_read(make_tiny_config, tiny_data, tmp_path, monkeypatch, changes, said):
    import json

    from refsam3d_training.config import DomainShare
    from refsam3d_training.setup_run import make_baseline

    from RefSAM3DLib.errors import ConfigError
    from RefSAM3DLib.resources import resource_path

    values = json.loads(resource_path("Configs", "test_tiny.json").read_text())
    grid = values["grids"][0]
    grid["name"] = changes.get("grid", grid["name"])
    grid["structures"] = [*grid["structures"], *([changes["structure"]] if "structure" in changes else [])]
    (tmp_path / "own.json").write_text(json.dumps(values))
    config = make_tiny_config(model=str(tmp_path / "own.json"), phantoms=changes.get("phantoms", 0),
                              shares=(DomainShare(changes.get("shares", grid["name"]), 1.0, 0.0),))  # fmt: skip
    monkeypatch.setattr("refsam3d_training.setup_run.load_cases", lambda *rest: pytest.fail("a case was read"))
    with pytest.raises(ConfigError, match=said):
        make_trainer(config, tiny_data, tmp_path / "run")
    if "structure" in changes:
        with pytest.raises(ConfigError, match=said):
            make_baseline("phantoms_ct:head_neck", tiny_data, tmp_path / "dynunet", {}, model_name=config.model)


def test_a_union_that_the_manifest_names_is_asked_where_all_its_parts_are_known(sampler, tiny_data, tmp_path):
    import json
    import shutil

    from refsam3d_training.cases import load_cases
    from refsam3d_training.new_structures import structure_entry
    from refsam3d_training.sampling import TileSampler

    from RefSAM3DLib.text.vocabulary import Vocabulary

    shutil.copytree(tiny_data / "phantoms_ct", tmp_path / "set")
    values = json.loads((tmp_path / "set" / "datalist.json").read_text())
    values["composites"] = {"throat": [5, 6]}  # esophagus and larynx; the esophagus is unknown in every second case
    (tmp_path / "set" / "datalist.json").write_text(json.dumps(values))
    grid = dataclasses.replace(sampler.model.grids[0], structures=("throat", "brainstem"))
    model = dataclasses.replace(sampler.model, grids=(grid,))
    written = sampler.vocabulary.to_dict()
    written["structures"] = [*written["structures"], structure_entry("throat", ["throat"])]
    for again in (False, True):  # read, then from the cache
        cases = load_cases(tmp_path / "set", "training", model, "head_neck", tmp_path / "cache")
        assert [c.composites for c in cases] == [{"throat": ("esophagus", "larynx")}, {}], again
    made = TileSampler(cases, sampler.config, model, Vocabulary.from_json(written))
    assert set(made.holding["head_neck"]) == {"brainstem", "esophagus", "larynx"}, "tiles are drawn near the parts"
    for case, wanted in zip(cases, (["brainstem", "throat"], ["brainstem"]), strict=True):
        labels = case.fine.labels
        tile = made._ask(np.random.default_rng(0), grid, case, torch.zeros(1, *labels.shape), labels, False, False, False)
        assert ["throat" if "throat" in p else "brainstem" for p in tile.prompts[: tile.asked]] == wanted
        if tile.asked == 2:
            values = {n: v for v, n in case.known.items()}
            assert torch.equal(tile.targets[1], (labels == values["esophagus"]) | (labels == values["larynx"]))


def test_thick_slices_do_not_move_the_image_against_its_labels():
    from refsam3d_training.sampling import thick_slices

    for factor in (2, 3):
        rng = np.random.default_rng(0)
        moved = [float((thick_slices(rng, 48, factor).double() - torch.arange(48)).mean()) for _ in range(400)]
        assert abs(np.mean(moved)) < 0.1
