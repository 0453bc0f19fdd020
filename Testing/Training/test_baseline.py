"""The reference network: unknown structures take no loss, it stops when validation stops rising, it scores like the engine."""

import numpy as np
import pytest
import torch
from refsam3d_training.baseline import known_targets
from refsam3d_training.evaluation.baseline_scores import paired_differences, score_baseline
from refsam3d_training.manifest import Manifest
from refsam3d_training.setup_run import make_baseline


@pytest.fixture(scope="module")
def baseline(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline") / "run"
    return make_baseline("phantoms_ct:head_neck", tiny_data, folder, {"filters": 2, "steps": 4, "validate_steps": 2, "patience": 2}, model_name="test_tiny")


def test_an_unknown_structure_gets_no_gradient(baseline):
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
    baseline.network.zero_grad(set_to_none=True)


def test_it_trains_resumes_and_is_scored_on_native_grids(baseline, tiny_data):
    best = baseline.run()
    assert baseline.step <= 4
    assert best == baseline.best_score
    manifest = Manifest.read(tiny_data / "phantoms_ct")
    result = score_baseline(baseline, manifest, "test", baseline.folder)
    assert result["structures"]["mandible"]["dice"]["n"] == 1
    assert (baseline.folder / "baseline_evaluation.json").is_file()
    volume = manifest.cases["test"][0].volume()
    assert all(m.shape == volume.array.shape for m in baseline.segment(volume).values())
    step = baseline.step
    baseline.step = 0
    assert baseline.resume()
    assert baseline.step == step


def test_paired_differences_say_undecided_where_the_interval_spans_the_margin():
    rng = np.random.default_rng(0)

    def records(shift, spread):
        scores = 0.8 + shift + spread * rng.normal(size=20)
        return [{"case": f"c{n}", "grid": "head_neck", "modality": "ct", "structures": {"larynx": {"dice": s}}} for n, s in enumerate(scores)]

    flat = records(0, 0)
    assert paired_differences(records(0.05, 0.01), flat, 0.01)["larynx"]["verdict"] == "above"
    assert paired_differences(records(-0.002, 0.001), flat, 0.01)["larynx"]["verdict"] == "within"
    assert paired_differences(records(-0.1, 0.01), flat, 0.01)["larynx"]["verdict"] == "below"
    assert paired_differences(records(-0.01, 0.2), flat, 0.01)["larynx"]["verdict"] == "undecided"


def test_network_halves_each_axis_as_often_as_the_tile_allows():
    from refsam3d_training.baseline import make_network

    from RefSAM3DLib.config import ModelConfig
    from RefSAM3DLib.resources import resource_path

    model = ModelConfig.load(resource_path("Configs", "vit_t.json"))
    for grid in model.grids:
        network = make_network(grid, 3, 2)
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, *grid.tile_dhw)).shape == (1, len(grid.structures), *grid.tile_dhw)
