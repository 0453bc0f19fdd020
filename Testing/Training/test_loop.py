"""The loop: resumable to the step, the same on several processes, and stopped by a loss that is no number."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from refsam3d_training.__main__ import main
from refsam3d_training.curves import LiveScalars, read_curve, write_curves
from refsam3d_training.loop import NonFiniteLossError
from refsam3d_training.setup_run import make_trainer

from RefSAM3DLib.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.text.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]


def states_equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_interrupted_run_equals_uninterrupted_run(tiny_data, tiny_run, make_tiny_config, tmp_path):
    for until in (3, 4, None):
        trainer = make_trainer(make_tiny_config(), tiny_data, tmp_path / "run")
        trainer.resume()
        trainer.run(until)
    whole = torch.load(tiny_run / "state.pt", weights_only=True)
    pieces = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert states_equal(whole["model"], pieces["model"])
    assert states_equal(whole["average"], pieces["average"])
    assert [(r["step"], r["loss"], r["lr"]) for r in read_curve(tiny_run)] == [(r["step"], r["loss"], r["lr"]) for r in read_curve(tmp_path / "run")]


def test_non_finite_loss_stops_with_the_batch_named_and_keeps_the_last_checkpoint(tiny_data, make_tiny_config, tmp_path, monkeypatch):
    trainer = make_trainer(make_tiny_config(), tiny_data, tmp_path / "run")
    trainer.run(2)
    kept = (tmp_path / "run" / "state.pt").read_bytes()
    draw = trainer.sampler.batch

    def broken(step, rank=0):
        tiles = draw(step, rank)
        if step == 3:
            tiles[0].volume[0, 0, 0, 0] = float("nan")
        return tiles

    monkeypatch.setattr(trainer.sampler, "batch", broken)
    with pytest.raises(NonFiniteLossError, match=r"step 3 on a 'head_neck' batch asking \[\["):
        trainer.run()
    assert (tmp_path / "run" / "state.pt").read_bytes() == kept
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_gradients_that_are_no_numbers_stop_before_they_reach_the_weights(tiny_data, make_tiny_config, tmp_path, monkeypatch):
    """A finite loss can have them; the step after it would save weights that are no numbers over the last good ones."""
    trainer = make_trainer(make_tiny_config(), tiny_data, tmp_path / "run")
    trainer.run(2)
    kept = (tmp_path / "run" / "state.pt").read_bytes()

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("nan")

    whole = trainer.batch_loss
    monkeypatch.setattr(trainer, "batch_loss", lambda tiles: Poison.apply(whole(tiles)))
    with pytest.raises(NonFiniteLossError, match="gradients are not finite"):
        trainer.run()
    assert (tmp_path / "run" / "state.pt").read_bytes() == kept
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_two_processes_equal_one_with_the_double_batch(tiny_data, make_tiny_config, tmp_path):
    """Losses and weights after two steps, gloo on the CPU."""
    one = make_trainer(make_tiny_config(), tiny_data, tmp_path / "one")
    draw = one.sampler.batch
    one.sampler.batch = lambda step, rank=0: [*draw(step, 0), *draw(step, 1)]
    losses = [one.train_step() for _ in range(2)]
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from refsam3d_training import distributed\n"
        "from refsam3d_training.config import TrainConfig, from_dict\n"
        "from refsam3d_training.setup_run import make_trainer\n"
        "torch.set_num_threads(1)\n"
        "data, run, config = Path(sys.argv[1]), Path(sys.argv[2]), from_dict(TrainConfig, json.loads(sys.argv[3]))\n"
        "with distributed.process_group('cpu') as device:\n"
        "    trainer = make_trainer(config, data, run, device)\n"
        "    losses = [trainer.train_step() for _ in range(2)]\n"
        "    trainer.save()\n"
        "    if distributed.rank() == 0:\n"
        "        (run / 'losses.json').write_text(json.dumps(losses))\n"
    )
    import dataclasses

    config = json.dumps(dataclasses.asdict(make_tiny_config()))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'training'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(tiny_data), str(tmp_path / "two"), config]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "two" / "losses.json").read_text()) == pytest.approx(losses, rel=1e-4)
    state = torch.load(tmp_path / "two" / "state.pt", weights_only=True)["model"]
    # AdamW divides by the gradient's size: where that is rounding noise the step's sign may differ, so a bound of one step.
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_every_process_tries_its_own_card(monkeypatch):
    from refsam3d_training import distributed

    from RefSAM3DLib.errors import DeviceError

    asked = []
    monkeypatch.setattr(distributed, "choose_device", lambda request: (asked.append(request), (torch.device("cpu"), ["a word"]))[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for environment in ({}, {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert distributed.own_device("cuda") == "cpu"
        distributed.own_device("cpu")
    assert asked == ["cuda", "cpu", "cuda:3", "cpu"]
    monkeypatch.undo()
    with pytest.raises(DeviceError, match="unknown"):
        distributed.own_device("gpu")


def test_half_precision_is_a_switch_that_keeps_the_loss_close(tiny_data, make_tiny_config, tmp_path, monkeypatch):
    import refsam3d_training.precision as precision

    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    exact = make_trainer(make_tiny_config(), tiny_data, tmp_path / "exact")
    half = make_trainer(make_tiny_config(bf16=True), tiny_data, tmp_path / "half")
    tiles = exact.sampler.batch(0)
    assert half.batch_loss(tiles).item() == pytest.approx(exact.batch_loss(tiles).item(), rel=0.05)
    half.train_step()
    assert next(half.model.parameters()).dtype == torch.float32


def test_curves_count_steps_that_were_taken_again_once_and_are_drawn(tmp_path):
    rows = [{"step": s, "loss": v, "lr": 1e-3, "seconds": s} for s, v in ((50, 3.0), (100, 2.0), (150, 9.0), (100, 2.5), (150, 1.0))]
    (tmp_path / "curve.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 20')
    assert [(r["step"], r["loss"]) for r in read_curve(tmp_path)] == [(50, 3.0), (100, 2.5), (150, 1.0)]
    assert write_curves(tmp_path).read_bytes()[:4] == b"\x89PNG"
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, round(e.value, 4)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_are_written_while_it_trains_and_a_resumed_run_hides_what_a_kill_left(tmp_path):
    with LiveScalars(tmp_path, 0) as live:
        for step in (2, 4):
            live.add(step, {"loss": step / 10})
    time.sleep(1.1)  # TensorBoard orders files by their second, and within one by a number as text: "10" before "9"
    with LiveScalars(tmp_path, 2) as live:  # step 4 was lost by a kill, and is taken again
        live.add(4, {"loss": 0.9})
    assert scalars(tmp_path)["loss"] == [(2, 0.2), (4, 0.9)]


def test_validation_scores_are_taken_as_often_as_asked_and_change_no_weight(tiny_data, tiny_run, make_tiny_config, tmp_path):
    trainer = make_trainer(make_tiny_config(validate_steps=4, validate_cases=1), tiny_data, tmp_path / "run")
    trainer.run()
    rows = read_curve(tmp_path / "run", "validation.jsonl")
    assert [r["step"] for r in rows] == [4, 6]
    assert "larynx" in rows[0]["structures"]
    assert rows[0]["dice"] == pytest.approx(sum(rows[0]["structures"].values()) / len(rows[0]["structures"]), abs=1e-4)
    assert states_equal(torch.load(tiny_run / "state.pt", weights_only=True)["model"], torch.load(tmp_path / "run" / "state.pt", weights_only=True)["model"])
    live = scalars(tmp_path / "run")
    assert [step for step, _ in live["validation/mean"]] == [4, 6]
    assert [step for step, _ in live["loss"]] == [2, 4, 6]


@pytest.mark.parametrize("tower", ["", "ViT-S-32-alt"])
def test_an_inflated_checkpoint_can_be_trained_and_its_card_says_what_it_began_with(tiny_data, tmp_path, tower, capsys):
    """A published image encoder with a random small tower that knows no word yet, and with a published tower that reads CLIP's own tokens."""
    from RefSAM3DLib.resources import resource_path

    values = json.loads(resource_path("Configs", "test_tiny.json").read_text(encoding="utf-8"))
    if tower:
        values["text"] |= {"name": tower}
    (tmp_path / "own.json").write_text(json.dumps(values), encoding="utf-8")
    model = ModelConfig.load(tmp_path / "own.json")
    card = {"sources": [{"file": "sam_vit_t.pth"}], "limits": "untrained adapters"}
    inflated = Checkpoint(model, Vocabulary.default(), None if tower else (), build_model(model).state_dict(), card=card)
    save_checkpoint(inflated, tmp_path / "inflated.safetensors")
    config = tmp_path / "c.toml"
    config.write_text(
        f'name = "own"\nmodel = "{tmp_path / "own.json"}"\nsets = ["phantoms_ct:head_neck"]\nphantoms = 0\nsteps = 1\nreport_steps = 1\n'
        '[[shares]]\ngrid = "head_neck"\nfine = 1.0\ncoarse = 0.0\n'
    )
    run, where = tmp_path / "run", ["--data", str(tiny_data)]
    assert main(["train", str(config), "--run", str(run), "--init", str(tmp_path / "inflated.safetensors"), *where]) == 0
    assert main(["train", str(config), "--run", str(run), *where]) == 0  # goes on
    assert main(["export", str(run), "-o", str(tmp_path / "out.safetensors"), *where]) == 0
    trained = load_checkpoint(tmp_path / "out.safetensors")
    assert (trained.tokens is None) == bool(tower)
    before, after = inflated.state["image_encoder.patch_embed.plane"], trained.state["image_encoder.patch_embed.plane"].float()
    assert (before - after).abs().max() < 0.01, "it began there"
    assert any("sam_vit_t.pth" in limit for limit in trained.card["limits"])
    assert not any("no SAM or CLIP" in limit for limit in trained.card["limits"])
    trained.build()
    other = json.loads((tmp_path / "own.json").read_text(encoding="utf-8"))
    other["image"]["dim"] *= 2
    (tmp_path / "own.json").write_text(json.dumps(other), encoding="utf-8")
    assert main(["train", str(config), "--run", str(tmp_path / "again"), "--init", str(tmp_path / "inflated.safetensors"), *where]) == 1
    assert "different: image" in capsys.readouterr().err
