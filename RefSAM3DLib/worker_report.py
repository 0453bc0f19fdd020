"""What the worker's Python can do: for the panel's diagnostics page. Every line is measured here, nothing is assumed."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import __version__

#: Module to import and the package that brings it.
_NEEDED = (
    ("numpy", "numpy"),
    ("SimpleITK", "SimpleITK"),
    ("safetensors", "safetensors"),
    ("torch", "torch"),
    ("open_clip", "open_clip_torch"),
)


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; 0 where the system does not tell without extra packages."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def report(engine: Any = None) -> dict[str, Any]:
    """Versions, devices, disk and a smoke test, as plain values."""
    found: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "cpu_count": os.cpu_count(),
        "free_disk_gb": round(shutil.disk_usage(tempfile.gettempdir()).free / 2**30, 1),
        "resident_mb": round(resident_bytes() / 2**20),
        "packages": {},
        "problems": [],
        "devices": ["cpu"],
    }
    for module, package in _NEEDED:
        try:
            importlib.import_module(module)
            found["packages"][package] = importlib.metadata.version(package)
        except Exception as error:  # a broken binary raises anything
            found["packages"][package] = None
            found["problems"].append(f"{package} cannot be imported: {error}"[:300])
    if found["packages"]["torch"]:
        _torch(found)
    if engine is not None:
        found["model"] = {"name": str(engine.model_name), "sha256": str(engine.model_sha256), "device": str(engine.device_name)}
    return found


def _torch(found: dict[str, Any]) -> None:
    import torch

    if torch.__version__.startswith("2.9."):
        found["problems"].append(f"torch {torch.__version__}: 3D convolutions are slow or wrong in 2.9; install another version.")
    found["torch_build"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                free, total = torch.cuda.mem_get_info(index)
                name = torch.cuda.get_device_name(index)
            except RuntimeError as error:  # a full card, or one that another program has for itself
                found["problems"].append(f"cuda:{index} cannot be asked: {str(error).splitlines()[0]}"[:300])
                continue
            found["devices"].append(f"cuda:{index} {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GB free")
    elif torch.version.cuda:
        found["problems"].append("torch was built for CUDA, but no GPU can be used: check the driver, or ignore this and compute on the CPU.")
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        found["devices"].append("mps")
    started = time.monotonic()
    product = torch.nn.functional.conv3d(torch.ones(1, 1, 8, 8, 8), torch.ones(1, 1, 3, 3, 3), padding=1)
    if float(product[0, 0, 4, 4, 4]) != 27.0:
        found["problems"].append("A 3D convolution gave a wrong number: reinstall torch.")
    found["smoke_test_s"] = round(time.monotonic() - started, 3)
