"""What a run began with: a model file's steps and hours count towards the model that comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from RefSAM3DLib.atomic import write_aside
from RefSAM3DLib.checkpoint import Checkpoint, load_checkpoint

FILE = "origin.json"


def origin_of(base: Checkpoint | Path) -> dict[str, Any]:
    """Name, hashes and training values of a model file."""
    base = load_checkpoint(base) if isinstance(base, Path) else base
    tensors = base.card.get("tensors_sha256", "")  # unlike the file's, it survives a new calibration
    published = {"sources": base.card["sources"]} if "sources" in base.card else {}
    return {"name": base.config.name, "sha256": base.sha256, "tensors_sha256": tensors, "training": base.card.get("training", {}), **published}


def write_origin(base: Checkpoint, run: Path) -> None:
    """Remember in a run folder what the run starts from."""
    with write_aside(run / FILE, overwrite=True) as aside:
        aside.write_text(json.dumps(origin_of(base), indent=1), encoding="utf-8")


def read_origin(run: Path) -> dict[str, Any] | None:
    """What :func:`write_origin` wrote; None for a run from random weights."""
    path = run / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
