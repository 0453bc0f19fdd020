"""A made-up data set of phantoms, and a tiny network trained on it for a few steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

_ROOT = Path(__file__).resolve().parents[2]
for _folder in (_ROOT, _ROOT / "training", _ROOT / "Testing" / "harness"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))

STRUCTURES = ("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "esophagus", "larynx", "mandible")
#: Coarse voxels: a phantom is made in a moment, and nothing here depends on its detail.
SPACING_MM = (6.0, 6.0, 6.0)


def write_phantom_set(folder: Path, counts: dict[str, int], first_seed: int = 50, modality: str = "CT") -> Path:
    """Images, label maps and ``datalist.json``; the esophagus is unknown in every second case."""
    import SimpleITK as sitk

    from RefSAM3DLib.compare import to_image
    from RefSAM3DLib.phantoms import head_and_neck_ct

    lists: dict[str, list] = {}
    seed = first_seed
    for sub in ("images", "labels"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        lists[split] = []
        for _ in range(count):
            volume, truth = head_and_neck_ct(seed, SPACING_MM)
            labels = np.zeros(volume.array.shape, np.uint8)
            for value, name in enumerate(STRUCTURES, 1):
                if name in truth:
                    labels[truth[name]] = value
            known = [v for v, n in enumerate(STRUCTURES, 1) if n in truth and not (n == "esophagus" and seed % 2)]
            paths = {"image": f"images/p{seed}.nii.gz", "label": f"labels/p{seed}.nii.gz"}
            sitk.WriteImage(to_image(volume.array, volume.geometry), str(folder / paths["image"]))
            sitk.WriteImage(to_image(labels, volume.geometry), str(folder / paths["label"]))
            lists[split].append({**paths, "labelled": known, "patient": f"p{seed}"})
            seed += 1
    values = {"name": folder.name, "modality": modality, "labels": {str(v): n for v, n in enumerate(STRUCTURES, 1)}, "licence": "CC0", "citation": "made up"}
    (folder / "datalist.json").write_text(json.dumps({**values, **lists}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds the set ``phantoms_ct``."""
    data = tmp_path_factory.mktemp("data")
    write_phantom_set(data / "phantoms_ct", {"training": 2, "validation": 2, "test": 1})
    return data


def tiny_config(**changes):
    """A training configuration of a few steps."""
    from refsam3d_training.config import DomainShare, TrainConfig

    values = {
        "name": "tiny", "model": "test_tiny", "sets": ("phantoms_ct:head_neck",), "shares": (DomainShare("head_neck", 0.7, 0.3),), "phantoms": 0,
        "steps": 6, "batch_size": 2, "checkpoint_minutes": 1000.0, "report_steps": 2,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


@pytest.fixture
def make_tiny_config():
    """Builder of tiny training configurations."""
    return tiny_config


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    from refsam3d_training.setup_run import make_trainer

    run = tmp_path_factory.mktemp("runs") / "tiny"
    trainer = make_trainer(tiny_config(), tiny_data, run)
    trainer.run()
    return run


@pytest.fixture(scope="session")
def tiny_model(tiny_data: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model of that run, without calibration."""
    from refsam3d_training.__main__ import main

    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    assert main(["export", str(tiny_run), "-o", str(path), "--data", str(tiny_data)]) == 0
    return path
