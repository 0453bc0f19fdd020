"""Time of one augmented tile: our fused resampling against MONAI transforms that do the same, one after another.

``python -m refsam3d_training.augmentation_benchmark [-o FILE]``: CPU seconds of one thread on a generated CT, so that a busy machine
gives the same figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.resources import resource_path

from .sampling import MAX_ROTATION, SCALE_RANGE, _augment_intensity, _resample

#: Voxels of a head-and-neck CT at 3 mm, body box.
SHAPE, TILE = (97, 91, 158), (48, 48, 48)
WINDOWS = ((-1.0, 1.0), (-0.5, 0.2), (-0.2, 3.0))
ROUNDS = 30


def fused(values: torch.Tensor, labels: torch.Tensor) -> Callable[[int], object]:
    """What ``sampling.TileSampler`` does to one tile."""

    def one(seed: int) -> object:
        rng = np.random.default_rng(seed)
        centre, low, high = np.array(SHAPE) / 2, np.zeros(3), np.array(SHAPE, float)
        image, truth = _resample(rng, values, labels, TILE, centre, 1.0, low, high, rng.random() < 0.5, True)
        channels = torch.stack([((image - lo) / (hi - lo) * 2 - 1).clamp(-1, 1) for lo, hi in WINDOWS])
        return _augment_intensity(rng, channels, "ct"), truth

    return one


def composed(values: torch.Tensor, labels: torch.Tensor, random_crop_first: bool) -> Callable[[int], object]:
    """MONAI: crop, rotate and scale, flip, windows, intensity.

    Args:
        random_crop_first: cut a box that is large enough for any rotation before the affine transform; else read the whole volume.
    """
    from monai import transforms as mt

    both, modes = ["image", "label"], ("bilinear", "nearest")
    around = [n + 2 * int(0.25 * n) for n in TILE]
    steps: list[Any] = [mt.RandSpatialCropd(both, around, random_size=False)] if random_crop_first else []
    reach = [(1 / SCALE_RANGE[1] - 1, 1 / SCALE_RANGE[0] - 1)] * 3
    steps += [
        mt.RandAffined(both, prob=1.0, rotate_range=[MAX_ROTATION] * 3, scale_range=reach, spatial_size=TILE, mode=modes, padding_mode="border"),
        mt.RandFlipd(both, prob=0.5, spatial_axis=2),
        mt.Lambdad("image", lambda x: torch.cat([((x - lo) / (hi - lo) * 2 - 1).clamp(-1, 1) for lo, hi in WINDOWS])),
        mt.RandScaleIntensityd("image", factors=0.075, prob=1.0),
        mt.RandShiftIntensityd("image", offsets=0.06, prob=1.0),
        mt.RandGaussianNoised("image", prob=0.3, std=0.12),
        mt.RandGaussianSmoothd("image", prob=0.075, sigma_x=(0.8, 0.8), sigma_y=(0.8, 0.8), sigma_z=(0.8, 0.8)),
        mt.RandSimulateLowResolutiond("image", prob=0.075, zoom_range=(0.33, 0.5)),
    ]
    pipeline = mt.Compose(steps)

    def one(seed: int) -> object:
        pipeline.set_random_state(seed)
        return pipeline({"image": values[None], "label": labels[None].float()})

    return one


def seconds(one: Callable[[int], object], rounds: int = ROUNDS) -> float:
    """Median CPU seconds of a tile."""
    one(0)
    times = []
    for seed in range(1, rounds + 1):
        started = time.process_time()
        one(seed)
        times.append(time.process_time() - started)
    return float(np.median(times))


def main(argv: list[str] | None = None) -> int:
    """Print and, with ``-o``, write the times; with the forward and backward pass of a training step of two tiles beside them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("-o", "--output", type=Path)
    args = options.parse_args(argv)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=SHAPE).astype(np.float32)).half()
    labels = torch.from_numpy(rng.integers(0, 8, SHAPE).astype(np.uint8))
    result = {
        "shape": SHAPE, "tile": TILE, "threads": 1, "torch": torch.__version__.split("+")[0], "clock": "CPU seconds, median",
        "fused_s": seconds(fused(values, labels)),
        "monai_crop_then_affine_s": seconds(composed(values.float(), labels, True)),
        "monai_affine_of_the_whole_s": seconds(composed(values.float(), labels, False)),
        "network_step_s": seconds(_network_step(), 5),
    }  # fmt: skip
    text = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}, indent=1)
    sys.stdout.write(text + "\n")
    if args.output:
        with write_aside(args.output, overwrite=True) as aside:
            aside.write_text(text + "\n", encoding="utf-8")
    return 0


def _network_step() -> Callable[[int], object]:
    """Image encoder of the shipped size on two tiles, forward and backward."""
    from RefSAM3DLib.modeling.build import build_model

    config = ModelConfig.load(resource_path("Configs", "vit_t.json"))
    model = build_model(config)
    tiles, domain = torch.randn(2, config.image.in_channels, *TILE), torch.zeros(2, dtype=torch.long)

    def one(seed: int) -> object:
        features, pixels = model.encode_image(tiles, domain)
        assert pixels is not None  # the "cached" decoder
        total = torch.stack([level.square().mean() for level in (*features.levels, pixels)]).sum()
        total.backward()
        return total

    return one


if __name__ == "__main__":
    sys.exit(main())
