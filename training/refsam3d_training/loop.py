"""The training loop: readable on one screen, resumable to the step, the same curve whether interrupted or not (on a CPU to the digit)."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.checkpoint import TOKEN_TABLE, Checkpoint
from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.modeling.build import build_model
from RefSAM3DLib.modeling.refsam3d import RefSAM3D
from RefSAM3DLib.modeling.text_encoder import pad_tokens
from RefSAM3DLib.text.tokenizer import PromptTokenizer

from . import distributed
from .config import TrainConfig
from .curves import LiveScalars
from .losses import is_finite, tile_loss
from .precision import half_precision
from .sampling import Tile, TileSampler
from .teachers import Teachers, soft_target_loss

logger = logging.getLogger(__name__)

#: Steps after which a run says how long it will take, before its first row.
FIRST_WORD = 5


class NonFiniteLossError(RefSAM3DError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class BatchObjective(nn.Module):
    """Mean loss of a batch of tiles: one forward pass, as DistributedDataParallel wants it."""

    def __init__(
        self, model: RefSAM3D, config: TrainConfig, model_config: ModelConfig, tokenizer: PromptTokenizer, device: str, teachers: Teachers | None = None
    ) -> None:
        super().__init__()
        self.model, self.config, self.model_config, self.tokenizer, self.device = model, config, model_config, tokenizer, device
        self.teachers = teachers or Teachers({})

    def forward(self, tiles: list[Tile], foreground: float) -> torch.Tensor:
        """Scalar loss; ``foreground``: greatest weight of foreground voxels in fine tiles."""
        volume = torch.stack([t.volume for t in tiles]).to(self.device)
        domain = torch.tensor([self.model_config.domain(t.grid, t.coarse) for t in tiles], device=self.device)
        features, pixels = self.model.encode_image(volume, domain)
        ids = pad_tokens([self.tokenizer.encode(p) for t in tiles for p in t.prompts], self.model_config.text.context_length)
        prompts = self.model.encode_text(ids.to(self.device))
        soft = self.teachers.soft_masks(tiles, volume)
        losses, first = [], 0
        for index, tile in enumerate(tiles):
            count = len(tile.prompts)
            output = self.model.forward_tile(features, pixels, index, prompts.select(slice(first, first + count)))
            first += count
            c = self.config
            weight = c.coarse_foreground_weight if tile.coarse else foreground
            labelled = output.first(len(tile.targets))
            loss = tile_loss(labelled, tile.targets.to(self.device).float(), tile.asked, tile.coarse, weight, c.presence_weight, c.coarse_weight)
            if tile.taught:
                rows = [row for row, _ in tile.taught]
                loss = loss + c.teacher_weight * soft_target_loss(output.mask[rows].float(), soft[index], weight)
            losses.append(loss)
        return torch.stack(losses).mean()


class Trainer:
    """Model, its running average, optimiser and the step counter.

    Under ``torchrun`` each process draws its own tiles of a step and the gradients are averaged.

    Args:
        folder: run folder; holds ``state.pt``, ``curve.jsonl`` and, while and after training, ``tensorboard/``.
        initial: network to start from (default: random weights); parameters without gradient are not trained. teachers: whose soft masks are
            additional targets.

    Attributes:
        validation: Dice loss per structure of a network, asked every ``validate_steps`` (none: never) into ``validation.jsonl``.
    """

    def __init__(
        self, config: TrainConfig, model_config: ModelConfig, tokenizer: PromptTokenizer, sampler: TileSampler, folder: Path, device: str = "cpu",
        initial: RefSAM3D | None = None, teachers: Teachers | None = None,
    ) -> None:  # fmt: skip
        self.config, self.model_config, self.tokenizer, self.sampler, self.folder = config, model_config, tokenizer, sampler, folder
        self.device = device
        torch.manual_seed(config.seed)
        self.model: RefSAM3D = (initial if initial is not None else build_model(model_config)).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
        self.objective = distributed.wrapped(BatchObjective(self.model, config, model_config, tokenizer, device, teachers))
        self.step = 0
        self.seconds = 0.0
        self.recent: list[float] = []
        self.validation: Callable[[RefSAM3D], dict[str, float]] | None = None

    @property
    def state_file(self) -> Path:
        """Where the run continues from."""
        return self.folder / "state.pt"

    def fraction(self) -> float:
        """Progress in [0, 1]."""
        return self.step / self.config.steps

    def learning_rate(self) -> float:
        """Linear warm-up, then cosine to 1 % of the peak."""
        done, warm = self.fraction(), self.config.warmup
        if done < warm:
            return self.config.learning_rate * min(1.0, (self.step + 1) / (warm * self.config.steps))  # a run of few steps warms up in part of one
        return self.config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))))

    def foreground_weight(self) -> float:
        """From the configured weight to 1 over the first two thirds."""
        return 1 + (self.config.foreground_weight - 1) * max(0.0, 1 - 1.5 * self.fraction())

    def batch_loss(self, tiles: list[Tile]) -> torch.Tensor:
        """Mean loss of a batch, in half precision where that is configured and the device has it."""
        with half_precision(self.config.bf16, self.device):
            return self.objective(tiles, self.foreground_weight())

    def train_step(self) -> float:
        """One optimiser step.

        Raises:
            NonFiniteLossError: names the step and the batch.
        """
        tiles = self.sampler.batch(self.step, distributed.rank())
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = self.batch_loss(tiles)
        shared = distributed.mean(loss.detach())
        if not is_finite(shared):
            asked = [t.prompts for t in tiles]
            raise NonFiniteLossError(
                f"The loss is {loss.item()} at step {self.step} on a '{tiles[0].grid}' batch asking {asked}; the checkpoint of the "
                f"last good step is in '{self.state_file}'. Lower learning_rate and resume."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if not is_finite(norm):  # before the step: weights that are not numbers would overwrite the last good checkpoint
            raise NonFiniteLossError(
                f"The gradients are not finite ({float(norm)}) at step {self.step} on a '{tiles[0].grid}' batch asking {[t.prompts for t in tiles]}; the "
                f"checkpoint of the last good step is in '{self.state_file}'. Lower learning_rate and resume."
            )
        self.optimizer.step()
        self.step += 1
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
        return float(shared)

    def run(self, until: int | None = None, report: Callable[[str], None] = logger.info) -> None:
        """Train to ``until`` (default: the end), saving as it goes."""
        until = min(until or self.config.steps, self.config.steps)
        started = saved = time.monotonic()
        before, first = self.seconds, self.step
        with LiveScalars(self.folder, self.step, wanted=not distributed.rank()) as live:
            while self.step < until:
                self.recent.append(self.train_step())
                self.seconds = before + time.monotonic() - started
                last = self.step == self.config.steps
                if self.step - first == FIRST_WORD and self.config.report_steps > FIRST_WORD and not last and not distributed.rank():
                    rate = FIRST_WORD / (time.monotonic() - started)
                    report(f"step {self.step}/{self.config.steps}  {rate:.2f} steps/s  {(self.config.steps - self.step) / rate / 60:.0f} min left")
                if self.step % self.config.report_steps == 0 or last:
                    self._report_row((self.step - first) / (time.monotonic() - started), report, live)
                if self.validation is not None and (self.step % self.config.validate_steps == 0 or last):
                    self._validate(report, live)
                if time.monotonic() - saved > self.config.checkpoint_minutes * 60 or self.step == until:
                    self.save()
                    saved = time.monotonic()

    def _report_row(self, rate: float, report: Callable[[str], None], live: LiveScalars) -> None:
        row = {"step": self.step, "loss": round(sum(self.recent) / len(self.recent), 4), "lr": self.learning_rate(), "seconds": round(self.seconds, 1)}
        self.recent.clear()
        if distributed.rank():
            return
        self._append("curve.jsonl", row)
        live.add(self.step, {"loss": row["loss"], "lr": row["lr"]})
        left = (self.config.steps - self.step) / rate / 60
        report(f"step {self.step}/{self.config.steps}  loss {row['loss']:.3f}  {rate:.2f} steps/s  {left:.0f} min left")

    def _validate(self, report: Callable[[str], None], live: LiveScalars) -> None:
        if distributed.rank() or self.validation is None:
            return
        scores = {name: round(1 - loss, 4) for name, loss in self.validation(self.average).items()}
        mean = sum(scores.values()) / max(1, len(scores))
        self._append("validation.jsonl", {"step": self.step, "dice": round(mean, 4), "structures": scores})
        live.add(self.step, {"validation/mean": mean, **{f"validation/{name}": value for name, value in scores.items()}})
        report(f"step {self.step}/{self.config.steps}  soft Dice on validation tiles {mean:.3f}")

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with open(self.folder / name, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write the state aside and rename it."""
        if distributed.rank():
            return
        state = {
            "step": self.step, "seconds": self.seconds, "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "kept": None if self.tokenizer.kept is None else list(self.tokenizer.kept), "recent": self.recent,
        }  # fmt: skip
        with write_aside(self.state_file, overwrite=True) as aside:
            torch.save(state, aside)

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Begin with the weights of a model file instead of random ones (the optimiser begins anew).

        Raises:
            RefSAM3DError: the file's network or token table is another one.
        """
        theirs, own = checkpoint.config, self.model_config
        different = [part for part in ("image", "prompt", "decoder") if getattr(theirs, part) != getattr(own, part)]
        untaught = checkpoint.tokens == ()  # an inflated checkpoint whose small tower is random and knows no word yet
        different += ["words"] if not untaught and checkpoint.tokens != self.tokenizer.kept else []
        if different:
            raise RefSAM3DError(
                f"'{checkpoint.path}' is another network than '{self.config.model}', which the configuration asks for (different: {', '.join(different)}); "
                "start from one of the same model and vocabulary."
            )
        state = {name: value.float() for name, value in checkpoint.state.items()}
        if untaught:
            state[TOKEN_TABLE] = self.model.state_dict()[TOKEN_TABLE]
        self.model.load_state_dict(state)
        self.average.load_state_dict(state)

    def resume(self) -> bool:
        """Continue from ``state.pt`` if it is there.

        Raises:
            RefSAM3DError: another vocabulary, or a process that does not find the state which the others have.
        """
        there = self.state_file.is_file()
        if not distributed.agree(there, self.device):
            raise RefSAM3DError(f"Only some of the processes find '{self.state_file}'; put the run folder where all machines see it, or give each a copy.")
        if not there:
            return False
        # To the CPU first: the optimiser's step counters belong there, and each parameter is copied to where it lives.
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        if (None if state["kept"] is None else tuple(state["kept"])) != self.tokenizer.kept:
            raise RefSAM3DError(f"'{self.state_file}' was trained with another vocabulary; use a new run folder.")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state.get("recent", [])
        return True


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases, norms, embeddings and temperatures do not."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        (free if parameter.ndim < 2 or "embed" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
