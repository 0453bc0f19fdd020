"""The reference: MONAI's DynUNet in nnU-Net's shape, one network per data set, no text, on the same tiles and augmentation."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.inference.embed import GridEmbedding
from RefSAM3DLib.inference.postprocess import remove_specks, to_native
from RefSAM3DLib.inference.preprocess import apply_windows
from RefSAM3DLib.types import Volume

from .cases import Case
from .config import DomainShare, TrainConfig
from .evaluation.measures import dice
from .losses import CROSS_ENTROPY_SCALE, soft_dice_loss
from .sampling import Tile, TileSampler

logger = logging.getLogger(__name__)

#: nnU-Net doubles from 32 up to 320 channels.
MOST_FILTERS = 320
SMALLEST_EDGE = 4


@dataclass(frozen=True)
class BaselineConfig:
    """One reference run. patience: validations without a better score before it stops."""

    grid: str
    filters: int = 32
    steps: int = 6000
    batch_size: int = 2
    learning_rate: float = 1e-3
    validate_steps: int = 250
    patience: int = 6
    foreground_weight: float = 50.0
    seed: int = 0


class CanonicalSampler(TileSampler):
    """The same tiles, asked by canonical names: the network has one output per structure and reads no text."""

    def wording(self, rng: np.random.Generator, name: str) -> str:
        """The structure itself, after the flip has swapped the sides."""
        rng.random()
        return name


def make_network(grid: GridConfig, channels: int, filters: int) -> nn.Module:
    """DynUNet: halve each axis while at least ``SMALLEST_EDGE`` voxels are left, double the width up to ``MOST_FILTERS``."""
    from monai.networks.nets import DynUNet

    sizes, strides = list(grid.tile_dhw), [[1, 1, 1]]
    while max(sizes) >= 2 * SMALLEST_EDGE and len(strides) < 6:
        step = [2 if n >= 2 * SMALLEST_EDGE and n % 2 == 0 else 1 for n in sizes]
        if max(step) == 1:
            break
        strides.append(step)
        sizes = [n // s for n, s in zip(sizes, step, strict=True)]
    widths = [min(MOST_FILTERS, filters * 2**n) for n in range(len(strides))]
    return DynUNet(
        spatial_dims=3, in_channels=channels, out_channels=len(grid.structures), kernel_size=[[3, 3, 3]] * len(strides), strides=strides,
        upsample_kernel_size=strides[1:], filters=widths, norm_name="instance", res_block=False, deep_supervision=False,
    )  # fmt: skip


def known_targets(tile: Tile, structures: tuple[str, ...]) -> tuple[list[int], Tensor]:
    """(channels that are known in this tile, their targets): unknown structures take no loss."""
    index = [structures.index(p) for p in tile.prompts[: tile.asked]]
    return index, tile.targets[: tile.asked].float()


def tile_loss(logits: Tensor, targets: Tensor, foreground: float) -> Tensor:
    """Dice and cross-entropy of the known channels, weighted as the text-prompted network's."""
    share = targets.flatten(1).mean(1)
    factor = (0.5 * (1 - share) / share.clamp(min=1e-6)).clamp(min=1.0, max=foreground)
    weight = 1 + (factor - 1)[:, None, None, None] * targets
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, targets, weight=weight) * CROSS_ENTROPY_SCALE
    return entropy + soft_dice_loss(logits.sigmoid(), targets).mean()


class Baseline:
    """One specialised network.

    Args:
        folder: holds ``baseline.pt`` (last and best weights) and ``curve.jsonl``.
    """

    def __init__(self, config: BaselineConfig, model: ModelConfig, train: list[Case], validation: list[Case], folder: Path, sampler: TileSampler) -> None:
        self.config, self.model_config, self.folder, self.sampler = config, model, folder, sampler
        self.grid = model.grid(config.grid)
        self.train_cases, self.validation = train, validation
        torch.manual_seed(config.seed)
        self.network = make_network(self.grid, model.image.in_channels, config.filters)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate, weight_decay=1e-2)
        self.step, self.best_score, self.best_step, self.seconds = 0, -1.0, 0, 0.0

    def loss(self, tiles: list[Tile], foreground: float) -> Tensor:
        """Mean over the tiles."""
        logits = self.network(torch.stack([t.volume for t in tiles]))
        values = []
        for row, tile in enumerate(tiles):
            index, targets = known_targets(tile, self.grid.structures)
            if index:
                values.append(tile_loss(logits[row, index], targets, foreground))
        return torch.stack(values).mean()

    def run(self) -> float:
        """Train until the validation score stops rising; returns the best mean Dice."""
        c = self.config
        started, before = time.monotonic(), self.seconds
        recent: list[float] = []
        while self.step < c.steps and (self.step - self.best_step) < c.patience * c.validate_steps:
            done = self.step / c.steps
            for group in self.optimizer.param_groups:
                group["lr"] = c.learning_rate * min(1.0, (self.step + 1) / (0.03 * c.steps)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
            loss = self.loss(self.sampler.batch(self.step), 1 + (c.foreground_weight - 1) * max(0.0, 1 - 1.5 * done))
            if not torch.isfinite(loss):
                raise InputError(f"The loss is {loss.item()} at step {self.step}; lower the learning rate. The best weights are in '{self.folder}'.")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            recent.append(float(loss.detach()))
            keep = min(0.995, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
            self.seconds = before + time.monotonic() - started
            if self.step % c.validate_steps == 0 or self.step == c.steps:
                self._validate(sum(recent) / len(recent))
                recent.clear()
        self.average.load_state_dict(self.best)
        return self.best_score

    def _validate(self, loss: float) -> None:
        score = self.validation_dice()
        if score > self.best_score:
            self.best_score, self.best_step = score, self.step
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        rate = self.optimizer.param_groups[0]["lr"]
        row = {"step": self.step, "loss": round(loss, 4), "dice": round(score, 4), "lr": rate, "seconds": round(self.seconds, 1)}
        with open(self.folder / "curve.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
        logger.info("step %d/%d  loss %.3f  validation Dice %.3f (best %.3f)", self.step, self.config.steps, loss, score, self.best_score)
        self.save()

    def validation_dice(self) -> float:
        """Mean over structures of mean Dice on the working grid."""
        scores: dict[str, list[float]] = {}
        for case in self.validation:
            values = torch.stack([((case.fine.values.float() - lo) / (hi - lo) * 2 - 1).clamp(-1, 1) for lo, hi in case.windows])
            masks = self.logits(values) > 0
            for value, name in case.known.items():
                truth = case.fine.labels == value
                if truth.any() and name in self.grid.structures:
                    scores.setdefault(name, []).append(dice(masks[self.grid.structures.index(name)].numpy(), truth.numpy()))
        return float(np.mean([np.mean(v) for v in scores.values()])) if scores else 0.0

    def logits(self, channels: Tensor) -> Tensor:
        """(C, D, H, W) -> (structures, D, H, W), sliding window with Gaussian blending as in nnU-Net."""
        from monai.inferers import sliding_window_inference

        self.average.eval()
        with torch.inference_mode():
            return sliding_window_inference(
                channels[None], self.grid.tile_dhw, 2, self.average, overlap=0.5, mode="gaussian", padding_mode="constant", cval=-1.0
            )[0]

    def segment(self, volume: Volume) -> dict[str, np.ndarray]:
        """Masks on the volume's own grid, written back as the engine does."""
        embedding = GridEmbedding(None, self.model_config, self.grid, False, volume, torch.device("cpu"))  # type: ignore[arg-type]
        logits = self.logits(apply_windows(embedding.values, embedding.windows))
        out = {}
        for name, values in zip(self.grid.structures, logits, strict=True):
            native = to_native(embedding, values, embedding.whole_box())
            out[name] = embedding.frame.to_native_array(remove_specks(native.values > 0.5), native.box)
        return out

    def save(self) -> None:
        """Everything needed to go on or to evaluate."""
        state = {
            "config": asdict(self.config), "network": self.network.state_dict(), "average": self.average.state_dict(), "best": self.best,
            "optimizer": self.optimizer.state_dict(), "step": self.step, "best_score": self.best_score, "best_step": self.best_step, "seconds": self.seconds,
        }  # fmt: skip
        with write_aside(self.folder / "baseline.pt", overwrite=True) as aside:
            torch.save(state, aside)

    def resume(self) -> bool:
        """Go on from ``baseline.pt`` if it is there."""
        path = self.folder / "baseline.pt"
        if not path.is_file():
            return False
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_score, self.best_step = state["best"], state["best_score"], state["best_step"]
        self.step, self.seconds = state["step"], state["seconds"]
        return True


def sampler_config(config: BaselineConfig, train: TrainConfig) -> TrainConfig:
    """Fine tiles of one grid alone, the rest as in the text-prompted training."""
    share = DomainShare(config.grid, fine=1.0, coarse=0.0, foreign=0.0)
    return replace(train, shares=(share,), seed=config.seed, batch_size=config.batch_size, absent_prompts=0)
