"""The learning rate over a run, and the running average of the weights, with expected values written out."""

from types import SimpleNamespace

import pytest
import torch
from refsam3d_training.loop import Trainer

PEAK = 2.0


def rates(steps, warmup):
    """Learning rate of every step, and after the last."""
    trainer = Trainer.__new__(Trainer)
    trainer.config = SimpleNamespace(steps=steps, warmup=warmup, learning_rate=PEAK)
    found = []
    for trainer.step in range(steps + 1):
        found.append(trainer.learning_rate())
    return found


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine_to_a_hundredth():
    found = rates(100, 0.2)
    assert found[:20] == pytest.approx([PEAK * (n + 1) / 20 for n in range(20)])
    assert found[20] == pytest.approx(PEAK)
    assert found[40] == pytest.approx(PEAK * (0.01 + 0.99 * (1 + 2**-0.5) / 2)), "a quarter of the way down: cos 45 degrees"
    assert found[60] == pytest.approx(PEAK * 0.505)
    assert found[100] == pytest.approx(PEAK * 0.01)
    assert found[20:] == sorted(set(found[20:]), reverse=True)


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        (10, [PEAK, PEAK * 0.9873]),  # the warm-up is a third of a step, the cosine then at 13 of 180 degrees
        (50, [PEAK * 2 / 3, PEAK]),  # one and a half steps
        (1, [PEAK, PEAK * 0.01]),
    ],
)
def test_a_short_run_never_passes_the_peak(steps, first):
    found = rates(steps, 0.03)
    assert found[:2] == pytest.approx(first, rel=1e-3)
    assert max(found) <= PEAK


def test_the_running_average_follows_young_weights_closely_and_old_ones_at_its_own_pace():
    trainer = Trainer.__new__(Trainer)
    trainer.config = SimpleNamespace(steps=100, warmup=0.0, learning_rate=0.1, ema=0.3, clip_norm=1.0)
    trainer.step, trainer.device = 0, "cpu"
    trainer.model, trainer.average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    trainer.average.load_state_dict(trainer.model.state_dict())
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    trainer.sampler = SimpleNamespace(batch=lambda step, rank: [])
    trainer.batch_loss = lambda tiles: trainer.model.weight.sum()
    for kept in (2 / 11, 3 / 12, 0.3, 0.3):  # the next would be 4 / 13
        before = trainer.average.weight.item()
        trainer.train_step()
        assert trainer.average.weight.item() == pytest.approx(kept * before + (1 - kept) * trainer.model.weight.item(), abs=1e-6)
