"""The learning curve as a picture and for TensorBoard, from ``curve.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.errors import InputError


def read_curve(run: Path) -> list[dict[str, float]]:
    """Rows by step. Steps that were taken again after a kill count once, as last written.

    Raises:
        InputError: the run has no curve.
    """
    path = run / "curve.jsonl"
    if not path.is_file():
        raise InputError(f"'{run}' holds no curve.jsonl; train first, or give another run folder.")
    rows: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short by a kill
        rows = {step: kept for step, kept in rows.items() if step < row["step"]}
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def write_curves(run: Path, tensorboard: bool = True) -> Path:
    """``curve.png``, and an event file in ``tensorboard/``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_curve(run)
    steps = [r["step"] for r in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    left.plot(steps, [r["loss"] for r in rows], color="#1c6ea4")
    left.set(xlabel="step", ylabel="loss", yscale="log", title=f"{run.name}: loss")
    right.plot([r["seconds"] / 60 for r in rows], [r["loss"] for r in rows], color="#1c6ea4")
    right.set(xlabel="minutes of training", ylabel="loss", yscale="log", title="against time")
    figure.tight_layout()
    with write_aside(run / "curve.png", overwrite=True) as aside:
        figure.savefig(aside, dpi=120)
    plt.close(figure)
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        for old in (run / "tensorboard").glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(run / "tensorboard")) as writer:
            for row in rows:
                for key in ("loss", "lr"):
                    writer.add_scalar(key, row[key], int(row["step"]))
    return run / "curve.png"
