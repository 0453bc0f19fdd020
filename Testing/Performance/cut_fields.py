"""Does a model know where a small image's structures lie? Dice when some voxels are cut off one side of the image, which moves everything.

``python Testing/Performance/cut_fields.py ../shared/data MODEL [MODEL ...] -o training/figures/cut_fields.json``

Each validation image of the hippocampus is read whole, and with ``--voxels`` cut off one side of one axis (six images more) wherever no label is lost.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "training")]


def cuts(labels: np.ndarray, voxels: int) -> list[tuple[slice, slice, slice]]:
    """The part of the image that stays, for each side that can go without a labelled voxel."""
    out = []
    for axis in range(3):
        held = np.flatnonzero(labels.any(axis=tuple(a for a in range(3) if a != axis)))
        for part in (slice(voxels, None), slice(0, labels.shape[axis] - voxels)):
            low, high, _ = part.indices(labels.shape[axis])
            if low <= held[0] and held[-1] < high:
                out.append(tuple(part if a == axis else slice(None) for a in range(3)))
    return out  # type: ignore[return-value]


def main() -> int:
    """Write a row per model."""
    from refsam3d_training.evaluation.measures import described, dice
    from refsam3d_training.manifest import Manifest

    from RefSAM3DLib.engine import RefSAM3DEngine
    from RefSAM3DLib.types import Volume

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--voxels", type=int, default=4)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    cases = Manifest.read(args.data / "msd_hippocampus").cases["validation"]
    rows = []
    for path in args.models:
        engine = RefSAM3DEngine.from_checkpoint(path, "cpu")
        scores: dict[str, dict[str, list[tuple[float, str]]]] = {"whole": {}, "cut": {}}
        for case in cases:
            volume = case.volume()
            truth = case.truth(volume)
            parts = cuts(np.logical_or.reduce(list(truth.values())), args.voxels)
            for kind, part in [("whole", (slice(None),) * 3), *(("cut", p) for p in parts)]:
                corner = [s.indices(n)[0] for s, n in zip(part, volume.array.shape, strict=True)]
                array = np.ascontiguousarray(volume.array[part])
                matrix = volume.geometry.ijk_to_ras.copy()
                matrix[:3, 3] += matrix[:3, :3] @ corner[::-1]
                image = Volume(array, type(volume.geometry)(array.shape, matrix), volume.modality, "file")
                for result in engine.segment(image, list(truth)):
                    scores[kind].setdefault(result.resolved, []).append((dice(result.mask, truth[result.resolved][part]), case.name))
            engine.release()
        # The cuts of one image are no independent draws.
        told = {kind: {name: described(*zip(*rows, strict=True)) for name, rows in by_name.items()} for kind, by_name in scores.items()}
        rows.append({"model": path.name, "tensors_sha256": engine.model_card.get("tensors_sha256"), **told})
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
    args.output.write_text(json.dumps({"voxels": args.voxels, "cases": len(cases), "models": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
