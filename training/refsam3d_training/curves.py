"""The learning curve as a picture and for TensorBoard, from ``curve.jsonl`` and ``validation.jsonl``."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.errors import InputError

logger = logging.getLogger(__name__)


class LiveScalars:
    """Writes scalars for TensorBoard while a run trains; a context manager.

    Args:
        step: where the run goes on; what an earlier, killed run wrote beyond it is hidden. wanted: False writes nothing.
    """

    def __init__(self, run: Path, step: int, wanted: bool = True) -> None:
        self.run, self.step, self.wanted = run, step, wanted
        self.writer: Any = None

    def __enter__(self) -> LiveScalars:
        if self.wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                logger.warning("TensorBoard is not installed, so no scalars are written for it; pip install tensorboard.")
                return self
            self.writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.step + 1, flush_secs=20)
        return self

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step."""
        if self.writer is not None:
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)

    def __exit__(self, *exception: object) -> None:
        if self.writer is not None:
            self.writer.close()


def read_curve(run: Path, name: str = "curve.jsonl") -> list[dict[str, Any]]:
    """Rows by step. Steps that were taken again after a kill count once, as last written.

    Raises:
        InputError: the run has no curve.
    """
    path = run / name
    if not path.is_file():
        raise InputError(f"'{run}' holds no {name}; train first, or give another run folder.")
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short by a kill
        rows = {step: kept for step, kept in rows.items() if step < row["step"]}
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def write_curves(run: Path) -> Path:
    """``curve.png``, and one event file in ``tensorboard/`` in place of those that were written live."""
    rows = read_curve(run)
    scores = read_curve(run, "validation.jsonl") if (run / "validation.jsonl").is_file() else [r for r in rows if r.get("dice") is not None]
    _draw(run, rows, scores)
    for old in (run / "tensorboard").glob("events.out.tfevents.*"):
        with contextlib.suppress(OSError):  # on Windows TensorBoard holds what it shows; it then shows the points twice
            old.unlink()
    with LiveScalars(run, 0) as live:
        for row in rows:
            live.add(row["step"], {key: row[key] for key in ("loss", "lr")})
        for row in scores:
            live.add(row["step"], {"validation/mean": row["dice"], **{f"validation/{n}": v for n, v in row.get("structures", {}).items()}})
    return run / "curve.png"


def _draw(run: Path, rows: list[dict[str, Any]], scores: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3 if scores else 2, figsize=(13 if scores else 9, 3.4))
    axes[0].plot([r["step"] for r in rows], [r["loss"] for r in rows], color="#1c6ea4")
    axes[0].set(xlabel="step", ylabel="loss", yscale="log", title=f"{run.name}: loss")
    axes[1].plot([r["seconds"] / 60 for r in rows], [r["loss"] for r in rows], color="#1c6ea4")
    axes[1].set(xlabel="minutes of training", ylabel="loss", yscale="log", title="against time")
    if scores:
        for name in scores[-1].get("structures", {}):
            axes[2].plot([r["step"] for r in scores], [r["structures"].get(name) for r in scores], linewidth=0.8, label=name)
        axes[2].plot([r["step"] for r in scores], [r["dice"] for r in scores], color="black", linewidth=2, label="mean")
        axes[2].set(xlabel="step", ylabel="Dice", title="validation", ylim=(0, 1))
        axes[2].legend(fontsize=6)
    figure.tight_layout()
    with write_aside(run / "curve.png", overwrite=True) as aside:
        figure.savefig(aside, dpi=120)
    plt.close(figure)
