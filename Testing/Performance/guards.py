"""Guards that are not the line of one optimisation: does the coarse look find what is there, and what does half precision change?

``python Testing/Performance/guards.py [--phantoms 6] [--device cpu]`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import own  # noqa: E402
import torch  # noqa: E402

from RefSAM3DLib import RefSAM3DEngine  # noqa: E402
from RefSAM3DLib.device import has_bf16  # noqa: E402
from RefSAM3DLib.inference.session import PromptSession  # noqa: E402
from RefSAM3DLib.phantoms import FIRST_HELD_OUT_SEED, STRUCTURES, head_and_neck_ct  # noqa: E402

#: Smaller structures are not asked of the coarse look, mm.
LEAST_MM = 10.0
SPACING = (2.0, 2.0, 2.5)


def coarse_recall(engine: RefSAM3DEngine, phantoms: int) -> dict[str, Any]:
    """Share of structures of at least ``LEAST_MM`` whose padded box holds them whole; per structure and over all.

    The seeds are held out of training.
    """
    found: dict[str, list[bool]] = {name: [] for name in STRUCTURES}
    held: dict[str, list[float]] = {name: [] for name in STRUCTURES}
    for seed in range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + phantoms):
        volume, masks = head_and_neck_ct(seed, SPACING)
        engine.release()
        embedding = engine._embedding(volume)
        session = PromptSession(engine, embedding, None, None, False, None)
        names = [n for n in STRUCTURES if n in masks and _least_extent(masks[n]) >= LEAST_MM]
        terms = [session._terms(prompt, False)[0] for prompt in engine.resolve(names)]
        session._look(terms)
        for name, term in zip(names, terms, strict=True):
            held[name].append(_share_inside(engine, embedding, term, masks[name]))
            found[name].append(held[name][-1] == 1.0)
    total = [ok for values in found.values() for ok in values]
    return {
        "phantoms": phantoms, "recall": float(np.mean(total)), "structures": len(total),
        "per_structure": {n: {"recall": float(np.mean(v)), "voxels_inside": float(np.mean(held[n])), "n": len(v)} for n, v in found.items() if v},
    }  # fmt: skip


def _least_extent(mask: np.ndarray) -> float:
    sizes = [np.ptp(np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))) + 1 for axis in range(3)]
    return min(n * s for n, s in zip(sizes, SPACING[::-1], strict=True))


def _share_inside(engine: RefSAM3DEngine, embedding: Any, term: Any, mask: np.ndarray) -> float:
    """Share of a structure's voxels whose centre lies in the box that the fine tiles will cover."""
    if term.box is None:
        return 0.0
    fine = embedding.grid(term.grid, coarse=False)
    k, j, i = np.nonzero(_oriented(mask, fine))
    points = np.stack([i, j, k, np.ones_like(i)]).astype(float)
    working = (np.linalg.inv(fine.frame.to_native) @ points)[2::-1] - np.array(fine.origin)[:, None]
    low, high = np.array(term.box[0::2])[:, None], np.array(term.box[1::2])[:, None]
    return float(((working >= low - 0.5) & (working <= high - 0.5)).all(0).mean())


def _oriented(mask: np.ndarray, view: Any) -> np.ndarray:
    from RefSAM3DLib.geometry import reorient

    return reorient(mask, view.frame.order, view.frame.flip)


def half_precision(engine: RefSAM3DEngine) -> dict[str, Any]:
    """Least Dice of bf16 masks against single precision, where the device has bf16."""
    kind = engine.device.type
    if not has_bf16(str(engine.device)):
        return {"dice": None, "reason": "this device has no bf16 instructions"}
    volume, _ = head_and_neck_ct(FIRST_HELD_OUT_SEED, SPACING)
    exact = engine.segment(volume, own.EIGHT[:6])
    engine.release()
    engine.branches[0].forget_texts()
    with torch.autocast(kind, torch.bfloat16):
        half = engine.segment(volume, own.EIGHT[:6])
    dice = [2 * float((a.mask & b.mask).sum()) / max(1.0, float(a.mask.sum() + b.mask.sum())) for a, b in zip(exact, half, strict=True) if a.mask.any()]
    return {"dice": min(dice), "reason": "autocast around the whole engine"}


def main() -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=6)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args()
    engine = RefSAM3DEngine.from_default(args.device)
    values = {"coarse_recall": coarse_recall(engine, args.phantoms), "bf16": half_precision(engine)}
    sys.stdout.write("\n" + json.dumps(values) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
