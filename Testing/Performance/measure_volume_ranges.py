"""Write ``Resources/Report/volume_ranges.json`` from the training lists of the labelled sets.

    python Testing/Performance/measure_volume_ranges.py ../shared/data

Limits are the 1st and 99th percentile of the volumes of the training cases in which a structure is labelled, widened by 10 %:
they say what this data looks like, not what is healthy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

WIDEN = 1.1
TARGET = Path(__file__).resolve().parents[2] / "Resources" / "Report" / "volume_ranges.json"


def volumes_of(folder: Path) -> dict[str, list[float]]:
    """Volumes (mL) of each structure and composite of one set."""
    content = json.loads((folder / "datalist.json").read_text(encoding="utf-8"))
    names = {int(value): name for value, name in content["labels"].items()}
    found: dict[str, list[float]] = {}
    for entry in content["training"]:
        image = sitk.ReadImage(str(folder / entry["label"]))
        array, voxel_ml = sitk.GetArrayFromImage(image), float(np.prod(image.GetSpacing())) / 1000
        groups = {names[v]: [v] for v in entry["labelled"]}
        groups |= {name: values for name, values in content.get("composites", {}).items() if set(values) <= set(entry["labelled"])}
        for name, values in groups.items():
            if count := int(np.isin(array, values).sum()):
                found.setdefault(name, []).append(count * voxel_ml)
    return found


def main(data: Path) -> None:
    """Measure every set below ``data``."""
    structures = {}
    for path in sorted(data.glob("*/datalist.json")):
        for name, volumes in volumes_of(path.parent).items():
            low, high = np.percentile(volumes, (1, 99))
            limits = {"low_ml": round(float(low) / WIDEN, 3), "high_ml": round(float(high) * WIDEN, 3)}
            structures[name] = {**limits, "cases": len(volumes), "source": path.parent.name}
    content = {"format": 1, "note": "1st to 99th percentile of the training cases, widened by 10 %", "structures": structures}
    TARGET.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
