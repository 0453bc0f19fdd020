"""The volumes that every contestant reads, written once into ``build/performance/volumes`` (never committed).

``python Testing/Performance/volumes.py`` writes all of them. Plain ``.npy`` files and a JSON, so that a peer's environment needs nothing
of ours to read them.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "performance"
FOLDER = WORK / "volumes"
#: A structure that the phantoms lack although its place is in view, and one that belongs to another part of the body.
ABSENT, ELSEWHERE = "esophagus", "soft tissue sarcoma"
SEED = 3_000_000


@dataclass(frozen=True)
class BenchVolume:
    """title for people. shape (D, H, W); spacing (x, y, z) in mm; None for the real CT, which has its own."""

    title: str
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None


#: The cubes have one voxel size and a growing field of view: that is what growth with voxels means here.
VOLUMES = {
    "128": BenchVolume("phantom 128 x 128 x 128, 1.5 mm", (128, 128, 128), (1.5, 1.5, 1.5)),
    "192": BenchVolume("phantom 192 x 192 x 192, 1.5 mm", (192, 192, 192), (1.5, 1.5, 1.5)),
    "256": BenchVolume("phantom 256 x 256 x 256, 1.5 mm", (256, 256, 256), (1.5, 1.5, 1.5)),
    "512": BenchVolume("phantom 512 x 512 x 300, 0.8 x 0.8 x 1.5 mm", (300, 512, 512), (0.8, 0.8, 1.5)),
    "real": BenchVolume("real head-and-neck CT (OpenKBP, first validation case)"),
}
REFERENCE = "512"


@dataclass
class Stored:
    """array (D, H, W) HU; truth: uint8 labels (place in ``structures``, from 1); matrix: ijk to RAS."""

    array: np.ndarray
    truth: np.ndarray
    structures: list[str]
    spacing: tuple[float, float, float]
    matrix: list[list[float]]

    def present(self) -> list[str]:
        """Structures with at least one voxel."""
        return [name for n, name in enumerate(self.structures, start=1) if (self.truth == n).any()]

    def box(self, name: str) -> tuple[int, int, int, int, int, int] | None:
        """Half-open native box of a structure, None if it is not there."""
        inside = self.truth == self.structures.index(name) + 1
        if not inside.any():
            return None
        out: list[int] = []
        for axis in range(3):
            index = inside.any(tuple(a for a in range(3) if a != axis)).nonzero()[0]
            out += [int(index[0]), int(index[-1]) + 1]
        return out[0], out[1], out[2], out[3], out[4], out[5]


def load(name: str) -> Stored:
    """A volume that :func:`ensure` wrote."""
    import numpy as np

    folder = FOLDER / name
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    array, truth = (np.load(folder / f"{part}.npy", allow_pickle=False) for part in ("array", "truth"))
    return Stored(array, truth, facts["structures"], tuple(facts["spacing"]), facts["matrix"])


def data_folder() -> Path:
    """Where the real volumes are."""
    return Path(os.environ.get("REFSAM3D_DATA") or ROOT.parent / "shared" / "data")


def ensure(name: str) -> None:
    """Write a volume if it is not there yet.

    Raises:
        SystemExit: the real CT is asked for, and the data folder is not there.
    """
    folder = FOLDER / name
    if (folder / "facts.json").is_file():
        return
    import numpy as np

    volume, masks = _phantom(VOLUMES[name]) if VOLUMES[name].shape else _real()
    truth = np.zeros(volume.array.shape, np.uint8)
    structures = sorted({*masks, ABSENT})
    for n, structure in enumerate(structures, start=1):
        if structure in masks:
            truth[masks[structure]] = n
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "array.npy", volume.array.astype(np.int16))
    np.save(folder / "truth.npy", truth)
    facts = {"structures": structures, "spacing": volume.geometry.spacing_xyz_mm, "matrix": np.asarray(volume.geometry.ijk_to_ras).tolist()}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _phantom(wanted: BenchVolume) -> tuple[Any, dict[str, Any]]:
    from RefSAM3DLib.phantoms import STRUCTURES, head_and_neck_ct

    assert wanted.spacing is not None
    return head_and_neck_ct(SEED, wanted.spacing, wanted.shape, structures=[s for s in STRUCTURES if s != ABSENT])


def _real() -> tuple[Any, dict[str, Any]]:
    import SimpleITK as sitk

    from RefSAM3DLib import load_volume
    from RefSAM3DLib.phantoms import STRUCTURES

    folder = data_folder() / "openkbp_ct"
    if not (folder / "datalist.json").is_file():
        raise SystemExit(f"The real CT of the benchmark is not in '{folder}'; set REFSAM3D_DATA, or leave it out with --volumes.")
    lists = json.loads((folder / "datalist.json").read_text(encoding="utf-8"))
    entry = lists["validation"][0]
    volume = load_volume(folder / entry["image"], modality="ct")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / entry["label"])))
    masks = {name: labels == int(value) for value, name in lists["labels"].items() if name in STRUCTURES}
    return volume, {name: mask for name, mask in masks.items() if mask.any()}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for each in VOLUMES:
        ensure(each)
