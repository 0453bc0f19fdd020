"""The reference network: unknown structures take no loss, it stops when validation stops rising, it scores like the engine."""

import json

import pytest
import torch
from refsam3d_training.baseline import known_targets, make_network, tile_loss
from refsam3d_training.curves import read_curve
from refsam3d_training.evaluation.baseline_scores import score_baseline
from refsam3d_training.losses import soft_dice_loss, weighted_cross_entropy
from refsam3d_training.manifest import Manifest
from refsam3d_training.setup_run import make_baseline

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.resources import resource_path

SETTINGS = {"filters": 2, "steps": 4, "least_steps": 1, "validate_steps": 2, "patience": 2, "validate_cases": 1}


def make(tiny_data, folder, **changes):
    return make_baseline("phantoms_ct:head_neck", tiny_data, folder, {**SETTINGS, **changes}, model_name="test_tiny")


@pytest.fixture(scope="module")
def baseline(tiny_data, tmp_path_factory):
    """Trained to its end."""
    made = make(tiny_data, tmp_path_factory.mktemp("baseline") / "run")
    assert made.run() == made.best_score
    return made


def test_an_unknown_structure_gets_no_gradient(tiny_data, tmp_path):
    baseline = make(tiny_data, tmp_path / "run")
    structures = baseline.grid.structures
    tiles = [t for step in range(40) for t in baseline.sampler.batch(step)]
    tile = next(t for t in tiles if "esophagus" not in t.prompts[: t.asked] and t.asked)
    index, targets = known_targets(tile, structures)
    assert structures.index("esophagus") not in index
    assert len(index) == len(targets) == tile.asked
    baseline.loss([tile], 1.0).backward()
    last = next(p for n, p in baseline.network.named_parameters() if n.startswith("output_block"))
    assert last.grad[structures.index("esophagus")].abs().sum() == 0
    assert last.grad[index[0]].abs().sum() > 0


def test_it_trains_resumes_and_is_scored_on_native_grids(baseline, tiny_data):
    assert 0 < baseline.step <= 4
    manifest = Manifest.read(tiny_data / "phantoms_ct")
    result = score_baseline(baseline, manifest, "test", baseline.folder)
    assert result["structures"]["mandible"]["dice"]["n"] == 1
    assert (baseline.folder / "baseline_evaluation.json").is_file()
    volume = manifest.cases["test"][0].volume()
    assert all(m.shape == volume.array.shape for m in baseline.segment(volume, baseline.best_network()).values())
    with pytest.raises(InputError, match="trained with filters 2 instead of 3"):
        make(tiny_data, baseline.folder, filters=3).resume()
    other = make(tiny_data, baseline.folder)
    assert other.resume()
    other = make_baseline("phantoms_ct:head_neck", tiny_data, baseline.folder, SETTINGS, 1, model_name="test_tiny")
    with pytest.raises(InputError, match="trained on other cases"):
        other.resume()


def test_it_reads_the_mirror_image_too_with_the_sides_exchanged(baseline, tiny_data, monkeypatch):
    """A network that sees nothing but the place: left of the middle the channel of the left parotid gland, right of it that of the right one."""
    names = baseline.grid.structures
    left, right = names.index("left parotid gland"), names.index("right parotid gland")
    assert [baseline.mirrored[n] for n in (left, right, names.index("larynx"))] == [right, left, names.index("larynx")]
    seen = []

    def logits(values, network):
        seen.append(values)
        out = torch.full((len(names), *values.shape[1:]), -9.0)
        out[left, ..., values.shape[-1] // 2 :] = 9
        out[right, ..., : values.shape[-1] // 2] = 9
        return out

    monkeypatch.setattr(baseline, "logits", logits)
    volume = Manifest.read(tiny_data / "phantoms_ct").cases["test"][0].volume()
    masks = baseline.segment(volume, baseline.best_network())
    assert torch.equal(seen[1], seen[0].flip(-1))
    assert masks["left parotid gland"].any()
    assert not (masks["left parotid gland"] & masks["right parotid gland"]).any(), "both readings put a side at the same place"


def test_a_run_that_was_killed_between_validations_ends_as_one_that_was_not(baseline, tiny_data, tmp_path):
    for until in (1, 3, None):
        pieces = make(tiny_data, tmp_path / "run")
        pieces.resume()
        pieces.run(until)
    for name in ("network", "average"):
        whole = getattr(baseline, name).state_dict()
        assert all(torch.equal(v, whole[k]) for k, v in getattr(pieces, name).state_dict().items())
    assert all(torch.equal(v, baseline.best[k]) for k, v in pieces.best.items())
    assert [(r["loss"], r["dice"]) for r in read_curve(tmp_path / "run")] == [(r["loss"], r["dice"]) for r in read_curve(baseline.folder)]


def test_it_stops_when_validation_stops_rising_but_not_before_the_least_steps(tiny_data, tmp_path, monkeypatch):
    from refsam3d_training.baseline import Baseline

    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    monkeypatch.setattr(Baseline, "validation_dice", lambda self: next(scores))
    monkeypatch.setattr(Baseline, "loss", lambda self, tiles, foreground: sum(p.sum() for p in self.network.parameters()) * 0)
    one = make(tiny_data, tmp_path / "a", steps=20, validate_steps=1, least_steps=3)
    one.run()
    assert (one.step, one.best_step) == (3, 1)
    scores = iter([0.0] * 20)
    other = make(tiny_data, tmp_path / "b", steps=20, validate_steps=1, least_steps=6)
    other.run()
    assert other.step == 6


def test_without_a_case_to_score_it_trains_to_the_end_and_takes_the_last_average(tiny_data, tmp_path):
    made = make(tiny_data, tmp_path / "run", steps=6, patience=1)
    made.validation = []
    made.run()
    assert made.step == made.best_step == 6
    assert all(torch.equal(made.best[k], v) for k, v in made.average.state_dict().items())
    assert [json.loads(line)["dice"] for line in (made.folder / "curve.jsonl").read_text().splitlines()] == [None] * 3


def test_one_side_alone_is_not_taught_from_mirror_images(tiny_data, tmp_path):
    """Flipped, a left parotid gland lies on the right: its channel must learn neither that it is there nor that it is not."""
    made = make_baseline("phantoms_ct:head_neck", tiny_data, tmp_path / "run", SETTINGS, model_name="test_tiny", structures=("left parotid gland",))
    tiles = [t for step in range(20) for t in made.sampler.batch(step)]
    flipped = [t for t in tiles if "right parotid gland" in t.prompts[: t.asked]]
    assert flipped
    assert len(flipped) < len(tiles)
    assert all(known_targets(t, made.grid.structures)[0] == [] for t in flipped)
    made.loss(flipped[:1], 1.0).backward()
    assert made.run() is not None


def test_one_side_alone_is_not_read_from_the_mirror_image(tiny_data, tmp_path, monkeypatch):
    """There it would be the other side, which the channel never saw."""
    made = make_baseline("phantoms_ct:head_neck", tiny_data, tmp_path / "run", SETTINGS, model_name="test_tiny", structures=("left parotid gland", "larynx"))
    side, middle = (made.grid.structures.index(n) for n in ("left parotid gland", "larynx"))

    def logits(values, network):
        """Whatever it is shown, it draws both in the left half of the array."""
        out = torch.full((2, *values.shape[1:]), -9.0)
        out[:, ..., : values.shape[-1] // 2] = 8
        return out

    monkeypatch.setattr(made, "logits", logits)
    volume = Manifest.read(tiny_data / "phantoms_ct").cases["test"][0].volume()
    masks = made.segment(volume, made.best_network())
    assert made.in_mirrors.flatten()[[side, middle]].tolist() == [False, True]
    assert masks["left parotid gland"].any(), "as the plain image says"
    assert not masks["larynx"].any(), "the mean of two readings that contradict one another"


def test_network_has_nn_unets_shape():
    """Axes halved down to 4 voxels at least, widths doubled, affine instance norm, deep supervision of all decoder levels but the lowest."""
    model = ModelConfig.load(resource_path("Configs", "vit_t.json"))
    for grid, levels in zip(model.grids, (2, 2, 3), strict=True):
        network = make_network(grid, 3, 2)
        assert any(n.endswith("norm1.weight") for n, _ in network.named_parameters())
        tile = torch.zeros(1, 3, *grid.tile_dhw)
        with torch.inference_mode():
            assert network.train()(tile).shape == (1, levels, len(grid.structures), *grid.tile_dhw)
            assert network.eval()(tile).shape == (1, len(grid.structures), *grid.tile_dhw)


def test_each_level_counts_half_as_much_as_the_finer_one():
    torch.manual_seed(0)
    levels, targets = torch.randn(2, 3, 4, 4, 4), (torch.rand(3, 4, 4, 4) > 0.7).float()
    fine, half = (weighted_cross_entropy(x, targets, 5.0) + soft_dice_loss(x.sigmoid(), targets).mean() for x in levels)
    assert tile_loss(levels, targets, 5.0) == pytest.approx(float((fine * 2 + half) / 3))
