"""The reference: MONAI's DynUNet in nnU-Net's shape, one network per data set, no text, on the same tiles and augmentation."""

from __future__ import annotations

import copy
import hashlib
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
from RefSAM3DLib.batch.content_hash import hash_request
from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.inference.embed import GridEmbedding
from RefSAM3DLib.inference.postprocess import remove_specks, to_native
from RefSAM3DLib.inference.preprocess import apply_windows
from RefSAM3DLib.types import Volume

from .cases import Case
from .config import DomainShare, TrainConfig
from .evaluation.measures import dice
from .losses import soft_dice_loss, weighted_cross_entropy
from .precision import half_precision
from .sampling import Tile, TileSampler

logger = logging.getLogger(__name__)

#: nnU-Net doubles from 32 up to 320 channels.
MOST_FILTERS = 320
SMALLEST_EDGE = 4


@dataclass(frozen=True)
class BaselineConfig:
    """One reference run.

    Attributes:
        steps: most steps, and the length of the cosine. least_steps: before them it never stops (a small organ's score stays at
            zero for a while, which is no plateau). patience: validations without a better score before it stops.
        bf16: half precision while training, on devices that have it; what is scored at the end is read in full precision.
        validate_cases: evenly spaced cases of the validation list that are looked at while training.
    """

    grid: str
    filters: int = 32
    steps: int = 6000
    least_steps: int = 3000
    batch_size: int = 2
    learning_rate: float = 1e-3
    validate_steps: int = 250
    validate_cases: int = 8
    patience: int = 6
    foreground_weight: float = 50.0
    seed: int = 0
    bf16: bool = False
    checkpoint_minutes: float = 5.0


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
    # nnU-Net supervises every decoder level but the lowest; the last one is the output itself.
    extra = max(1, len(strides) - 3)
    network = DynUNet(
        spatial_dims=3, in_channels=channels, out_channels=len(grid.structures), kernel_size=[[3, 3, 3]] * len(strides), strides=strides,
        upsample_kernel_size=strides[1:], filters=widths, res_block=False, deep_supervision=True, deep_supr_num=extra,
    )  # fmt: skip
    # oneDNN's backward convolutions are faster on channels-last weights (two AVX2 cores, 16 filters): a step of head and neck takes 0.98 s
    # instead of 1.08 to 1.37 s, of the hippocampus 0.68 s instead of 0.86 s, of the limb 1.9 s instead of 2.3 s.
    return network.to(memory_format=torch.channels_last_3d)


def known_targets(tile: Tile, structures: tuple[str, ...]) -> tuple[list[int], Tensor]:
    """(channels that are known in this tile, their targets): unknown structures take no loss, nor does the mirror image of one whose other
    side has no channel."""
    rows = [row for row, name in enumerate(tile.prompts[: tile.asked]) if name in structures]
    return [structures.index(tile.prompts[row]) for row in rows], tile.targets[rows].float()


def tile_loss(levels: Tensor, targets: Tensor, foreground: float) -> Tensor:
    """Dice and cross-entropy of the known channels, weighted as the text-prompted network's.

    Args:
        levels: (levels, channels, D, H, W), the finest first; each counts half as much as the one before, as in nnU-Net.
    """
    weights = [0.5**n for n in range(len(levels))]
    losses = [weighted_cross_entropy(x, targets, foreground) + soft_dice_loss(x.sigmoid(), targets).mean() for x in levels]
    return torch.stack([w / sum(weights) * loss for w, loss in zip(weights, losses, strict=True)]).sum()


class Baseline:
    """One specialised network.

    Args:
        folder: holds ``baseline.pt`` (last and best weights) and ``curve.jsonl``.
    """

    def __init__(self, config: BaselineConfig, model: ModelConfig, train: list[Case], validation: list[Case], folder: Path, sampler: TileSampler) -> None:
        self.config, self.model_config, self.folder, self.sampler = config, model, folder, sampler
        self.grid = model.grid(config.grid)
        self.train_cases, self.validation = train, validation
        names = self.grid.structures
        others = [sampler.vocabulary.mirror(n) for n in names]
        #: channel of the same structure in a mirror image; one without is not trained on mirror images, and so not read from them
        self.mirrored = [names.index(other) if other in names else i for i, other in enumerate(others)]
        self.in_mirrors = torch.tensor([other in names for other in others])[:, None, None, None]
        torch.manual_seed(config.seed)
        self.network = make_network(self.grid, model.image.in_channels, config.filters)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate, weight_decay=1e-2)
        self.step, self.best_score, self.best_step, self.seconds = 0, -1.0, 0, 0.0
        self.recent: list[float] = []
        self.cases = hash_request(cases=[[c.name, sorted(c.known.items()), _digest(c.fine.labels)] for c in (*train, *validation)])

    def loss(self, tiles: list[Tile], foreground: float) -> Tensor:
        """Mean over the tiles. The network must be in training mode, where it returns (B, levels, channels, D, H, W)."""
        with half_precision(self.config.bf16):
            logits = self.network(torch.stack([t.volume for t in tiles])).float()
        values = []
        for row, tile in enumerate(tiles):
            index, targets = known_targets(tile, self.grid.structures)
            if index:
                values.append(tile_loss(logits[row][:, index], targets, foreground))
        return torch.stack(values).mean() if values else 0 * logits.sum()

    def finished(self) -> bool:
        """Whether all steps are done, or the validation score stopped rising."""
        c = self.config
        flat = self.step - self.best_step >= c.patience * c.validate_steps
        return self.step >= c.steps or (self.step >= c.least_steps and flat)

    def run(self, until: int | None = None) -> float:
        """Train until the validation score stops rising (or to ``until``), saving as it goes; returns the best mean Dice."""
        c = self.config
        started = saved = time.monotonic()
        before = self.seconds
        while not self.finished() and self.step != until:
            done = self.step / c.steps
            for group in self.optimizer.param_groups:
                group["lr"] = c.learning_rate * min(1.0, (self.step + 1) / (0.03 * c.steps)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
            loss = self.loss(self.sampler.batch(self.step), 1 + (c.foreground_weight - 1) * max(0.0, 1 - 1.5 * done))
            if not torch.isfinite(loss):
                raise InputError(f"The loss is {loss.item()} at step {self.step}; lower the learning rate. The best weights are in '{self.folder}'.")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            if not torch.isfinite(norm):
                raise InputError(f"The gradients are not finite at step {self.step}; lower the learning rate. The last good weights are in '{self.folder}'.")
            self.optimizer.step()
            self.step += 1
            self.recent.append(float(loss.detach()))
            keep = min(0.995, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
            self.seconds = before + time.monotonic() - started
            if self.step % c.validate_steps == 0 or self.step == c.steps:
                self._validate(sum(self.recent) / len(self.recent))
                self.seconds = before + time.monotonic() - started
            if self.step % c.validate_steps == 0 or self.step in (c.steps, until) or time.monotonic() - saved > c.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()
        return self.best_score

    def _validate(self, loss: float) -> None:
        score = self.validation_dice()
        if score is None or score > self.best_score:  # without a score the last average is the best there is
            self.best_score, self.best_step = -1.0 if score is None else score, self.step
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        rate = self.optimizer.param_groups[0]["lr"]
        row = {"step": self.step, "loss": round(loss, 4), "dice": None if score is None else round(score, 4), "lr": rate, "seconds": round(self.seconds, 1)}
        with open(self.folder / "curve.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
        self.recent.clear()
        said = "no validation case to score" if score is None else f"validation Dice {score:.3f} (best {self.best_score:.3f})"
        logger.info("step %d/%d  loss %.3f  %s", self.step, self.config.steps, loss, said)

    def validation_dice(self) -> float | None:
        """Mean over structures of mean Dice of the running average on the working grid, on ``validate_cases`` of the cases; None where none
        of them holds a structure."""
        scores: dict[str, list[float]] = {}
        every = max(1, -(-len(self.validation) // self.config.validate_cases))
        for case in self.validation[::every]:
            values = torch.stack([((case.fine.values.float() - lo) / (hi - lo) * 2 - 1).clamp(-1, 1) for lo, hi in case.windows])
            with half_precision(self.config.bf16):
                masks = self.logits(values, self.average, overlap=0.25) > 0
            for value, name in case.known.items():
                truth = case.fine.labels == value
                if truth.any() and name in self.grid.structures:
                    scores.setdefault(name, []).append(dice(masks[self.grid.structures.index(name)].numpy(), truth.numpy()))
        return float(np.mean([np.mean(v) for v in scores.values()])) if scores else None

    def logits(self, channels: Tensor, network: nn.Module, overlap: float = 0.5) -> Tensor:
        """(C, D, H, W) -> (structures, D, H, W), sliding window with Gaussian blending as in nnU-Net."""
        from monai.inferers import sliding_window_inference

        with torch.inference_mode():
            return sliding_window_inference(
                channels[None], self.grid.tile_dhw, 2, network.eval(), overlap=overlap, mode="gaussian", padding_mode="constant", cval=-1.0
            )[0]

    def best_network(self) -> nn.Module:
        """The weights with the best validation score."""
        network = make_network(self.grid, self.model_config.image.in_channels, self.config.filters)
        network.load_state_dict(self.best)
        return network

    def segment(self, volume: Volume, network: nn.Module) -> dict[str, np.ndarray]:
        """Masks of ``network`` (see :meth:`best_network`) on the volume's own grid, written back as the engine does: the mean of the image
        and its mirror image, with the sides exchanged."""
        embedding = GridEmbedding(None, self.model_config, self.grid, False, volume, torch.device("cpu"))  # type: ignore[arg-type]
        values = apply_windows(embedding.values, embedding.windows)
        plain, mirrored = self.logits(values, network), self.logits(values.flip(-1), network).flip(-1)[self.mirrored]
        logits = torch.where(self.in_mirrors, (plain + mirrored) / 2, plain)
        out = {}
        for name, values in zip(self.grid.structures, logits, strict=True):
            native = to_native(embedding, values, embedding.whole_box())
            out[name] = embedding.frame.place(remove_specks(native.values > 0.5), native.box).whole()
        return out

    def save(self) -> None:
        """Everything needed to go on or to evaluate."""
        state = {
            "config": asdict(self.config), "cases": self.cases, "network": self.network.state_dict(), "average": self.average.state_dict(), "best": self.best,
            "optimizer": self.optimizer.state_dict(), "step": self.step, "best_score": self.best_score, "best_step": self.best_step, "seconds": self.seconds,
            "recent": self.recent,
        }  # fmt: skip
        with write_aside(self.folder / "baseline.pt", overwrite=True) as aside:
            torch.save(state, aside)

    def resume(self) -> bool:
        """Go on from ``baseline.pt`` if it is there.

        Raises:
            InputError: it was trained with other settings, or on other cases.
        """
        path = self.folder / "baseline.pt"
        if not path.is_file():
            return False
        state: dict[str, Any] = torch.load(path, weights_only=True)
        other = [k for k, v in asdict(self.config).items() if state["config"].get(k) != v and k != "checkpoint_minutes"]
        if other:
            given = ", ".join(f"{k} {state['config'].get(k)} instead of {getattr(self.config, k)}" for k in other)
            raise InputError(f"'{path}' was trained with {given}; give the same settings, or a new --run folder.")
        if state.get("cases") != self.cases:
            raise InputError(f"'{path}' was trained on other cases, or on other labels of these; give a new --run folder.")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_score, self.best_step = state["best"], state["best_score"], state["best_step"]
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]
        return True


def _digest(labels: Tensor) -> str:
    """Of a label map's values."""
    return hashlib.blake2b(np.ascontiguousarray(labels.numpy()).data, digest_size=16).hexdigest()


def sampler_config(config: BaselineConfig, train: TrainConfig) -> TrainConfig:
    """Fine tiles of one grid alone, the rest as in the text-prompted training."""
    share = DomainShare(config.grid, fine=1.0, coarse=0.0, foreign=0.0)
    return replace(train, shares=(share,), seed=config.seed, batch_size=config.batch_size, absent_prompts=0)
