"""Training speed: steps per second, where a step's time goes, and the share of what the machine can do.

``python Testing/Performance/training_speed.py [--steps 30] [--device cpu]`` writes ``Docs/figures/training_speed.json``. Needs the real volumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "training"), str(Path(__file__).parent)]

import torch  # noqa: E402
import volumes  # noqa: E402
from measuring import calibration_gflops, machine, synchronise  # noqa: E402
from refsam3d_training.config import TrainConfig  # noqa: E402
from refsam3d_training.loop import Trainer  # noqa: E402
from refsam3d_training.setup_run import make_trainer  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from RefSAM3DLib.device import has_bf16  # noqa: E402

FIGURES = ROOT / "Docs" / "figures"


def convolution_gflops(device: str, dtype: str, repeats: int = 5) -> float:
    """GFLOP/s of a 3x3x3 convolution, 32 to 32 channels on two 64^3 tiles, best of a few."""
    weight = torch.randn(32, 32, 3, 3, 3, device=device, dtype=getattr(torch, dtype))
    x = torch.randn(2, 32, 64, 64, 64, device=device, dtype=weight.dtype)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            synchronise(device)
            started = time.perf_counter()
            torch.nn.functional.conv3d(x, weight, padding=1)
            synchronise(device)
            best = min(best, time.perf_counter() - started)
    return 2 * 27 * 32 * 32 * 2 * 64**3 / best / 1e9


class Parts:
    """Seconds of the parts of a step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one part."""
        synchronise(self.device)
        started = time.perf_counter()
        result = work()
        synchronise(self.device)
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result


def step(trainer: Trainer, parts: Parts) -> None:
    """:meth:`Trainer.train_step`, part by part."""
    tiles = parts.timed("cutting tiles", lambda: trainer.sampler.batch(trainer.step))
    loss = parts.timed("forward", lambda: trainer.batch_loss(tiles))
    trainer.optimizer.zero_grad(set_to_none=True)
    parts.timed("backward", loss.backward)

    def update() -> None:
        nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.config.clip_norm)
        trainer.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(trainer.average.parameters()), list(trainer.model.parameters()), 1 - trainer.config.ema)

    parts.timed("update", update)
    trainer.step += 1


def main() -> int:
    """Write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cases", type=int, default=4, help="of each set: the cost of a tile does not depend on how many there are")
    parser.add_argument("--config", type=Path, default=ROOT / "training" / "configs" / "default.toml")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--output", type=Path, help="default: training_speed.json, or training_speed-DEVICE.json beside it")
    args = parser.parse_args()
    args.output = args.output or FIGURES / f"training_speed{'' if args.device == 'cpu' else '-' + args.device}.json"
    config = TrainConfig.load(args.config)
    trainer = make_trainer(config, volumes.data_folder(), volumes.WORK / "training" / "run", args.device, limit=args.cases)
    for _ in range(3):  # the first steps build tables
        step(trainer, Parts(args.device))
    with FlopCounterMode(display=False) as counter:
        for _ in range(args.steps // 3):
            step(trainer, Parts(args.device))
    gflop = counter.get_total_flops() / (args.steps // 3) / 1e9
    parts = Parts(args.device)
    dtype = "bfloat16" if config.bf16 and has_bf16(args.device) else "float32"
    peaks = [(calibration_gflops(args.device, dtype), convolution_gflops(args.device, dtype))]
    for _ in range(args.steps):
        step(trainer, parts)
    peaks.append((calibration_gflops(args.device, dtype), convolution_gflops(args.device, dtype)))
    mean = {name: statistics.mean(values) for name, values in parts.seconds.items()}
    total = sum(mean.values())
    matmul, convolution = (max(p[n] for p in peaks) for n in (0, 1))
    values = {
        "config": args.config.name, "steps": args.steps, "tiles_per_step": config.batch_size, "dtype": dtype, "machine": machine(args.device),
        "steps_per_s": 1 / total, "seconds_per_part": mean, "share_of_step": {name: part / total for name, part in mean.items()},
        "gflop_per_step": gflop, "gflops": gflop / total, "matmul_gflops": matmul, "convolution_gflops": convolution,
        "share_of_matmul_peak": gflop / total / matmul, "share_of_convolution_peak": gflop / total / convolution,
    }  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
