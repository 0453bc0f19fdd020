"""``refsam3d doctor``: what a report of a fault needs, to copy."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAME = "doctor"
HELP = "show versions, devices, disk and weights, to copy into a report"
#: Module to import and the package that brings it; the second group is optional.
_NEEDED = (
    ("numpy", "numpy"),
    ("torch", "torch"),
    ("torchvision", "torchvision"),
    ("open_clip", "open_clip_torch"),
    ("SimpleITK", "SimpleITK"),
    ("safetensors", "safetensors"),
    ("slicerio", "slicerio"),
    ("nrrd", "pynrrd"),
)
_OPTIONAL = (("pydicom", "pydicom"), ("highdicom", "highdicom"), ("matplotlib", "matplotlib"), ("jinja2", "jinja2"), ("ray", "ray"))
_MIN_FREE_GB = 1.0


def package_of(module: str) -> str:
    """Name under which the registry has a module."""
    return dict(_NEEDED + _OPTIONAL).get(module.split(".")[0], module)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Look at everything. 1 if something is wrong."""
    found = examine()
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(lines_of(found)) + "\n")
    if found["problems"]:
        sys.stderr.write(f"{len(found['problems'])} problem(s) found, listed last.\n")
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """Versions, devices, disk, weights and problems as plain values. A broken part is a problem, never an exception."""
    from .. import __version__
    from ..memory import peak_memory_mb

    started = time.monotonic()
    problems: list[str] = []
    found: dict[str, Any] = {
        "refsam3d": __version__,
        "folder": str(Path(__file__).resolve().parents[1]),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cpu": {"cores": os.cpu_count(), "threads": None, "capability": None, "name": _cpu_name()},
        "packages": _packages(_NEEDED, problems),
        "optional_packages": _packages(_OPTIONAL, None),
        "torch": {},
        "devices": [],
        "disk": _disk(problems),
        "weights": {},
    }
    for part, examiner in (("torch", _torch), ("devices", _devices), ("weights", _weights)):
        try:
            found[part] = examiner(found, problems)
        except Exception as error:  # whatever is broken, the rest must still be shown
            problems.append(f"{part}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    found["problems"] = problems
    found["peak_memory_mb"] = peak_memory_mb()
    found["seconds"] = round(time.monotonic() - started, 2)
    return found


def lines_of(found: dict[str, Any]) -> list[str]:
    """The findings as text."""
    cpu, torch, weights = found["cpu"], found["torch"], found["weights"]
    lines = [
        f"RefSAM3D {found['refsam3d']} in {found['folder']}",
        f"Python {found['python']}",
        f"System {found['system']}",
        f"CPU {cpu['name'] or 'unknown'}: {cpu['cores']} cores, {cpu['threads'] or '?'} threads used, {cpu['capability'] or '?'}",
        "Packages " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["packages"].items()),
        "Optional " + ", ".join(f"{name} {version or 'not installed'}" for name, version in found["optional_packages"].items()),
        f"torch build {torch.get('build', 'unknown')}",
        *(f"Device {device['name']}: {device['check']}" for device in found["devices"]),
        *(f"Disk {place['use']}: {place['free_gb']} GB free in {place['folder']}" for place in found["disk"]),
        f"Default weights {weights.get('path', 'unknown')}: {weights.get('state', 'unknown')}",
    ]
    if weights.get("sha256"):
        lines.append(f"  sha256 {weights['sha256']}")
    lines.append(f"Memory at most {found['peak_memory_mb']} MB, {found['seconds']} s")
    return lines + ([f"PROBLEM {text}" for text in found["problems"]] or ["No problems found."])


def _packages(wanted: tuple[tuple[str, str], ...], problems: list[str] | None) -> dict[str, str | None]:
    """Version of each package. With ``problems`` it is also imported, since a package that is there can still be broken."""
    versions: dict[str, str | None] = {}
    for module, package in wanted:
        try:
            versions[package] = importlib.metadata.version(package)
            if problems is not None:
                importlib.import_module(module)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
            if problems is not None:
                problems.append(f"The package {package} is missing; install it with: pip install {package}.")
        except Exception as error:  # a broken binary raises anything
            if problems is not None:
                problems.append(f"{package} cannot be imported: {' '.join(str(error).split())[:300]}")
    return versions


def _torch(found: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    import torch

    found["cpu"] |= {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}
    if torch.__version__.startswith("2.9."):
        problems.append(f"torch {torch.__version__} is not supported: 3D convolutions are slow or wrong in 2.9; install another version.")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    if torch.version.cuda and not torch.cuda.is_available():
        build += ", but no GPU can be used here (no card or no driver)"
    return {"version": torch.__version__, "build": build}


def _devices(found: dict[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    try:
        from ..device import available_devices, device_title, self_check
    except ImportError as error:
        problems.append(f"The devices were not checked: {error}")
        return []
    import torch

    rows = []
    for name in available_devices():
        check = self_check(name)
        rows.append({"name": device_title(torch.device(name)), "passed": check.passed, "check": check.message})
        if not check.passed:
            problems.append(f"{check.message}; it is not used.")
    return rows


def _weights(found: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    from ..checkpoint import file_sha256
    from ..models_registry import DEFAULT_NAME, models_folder, read_registry

    path = models_folder() / f"{DEFAULT_NAME}.safetensors"
    if not path.is_file():
        problems.append(f"The default weights '{path}' are missing; install RefSAM3D again.")
        return {"path": str(path), "state": "missing", "sha256": None}
    sha256 = file_sha256(path)
    expected = {entry.name: entry.sha256 for entry in read_registry()}.get(DEFAULT_NAME)
    state = "not in the list of models" if expected is None else "as listed" if sha256 == expected else "NOT as listed"
    if expected is not None and sha256 != expected:
        problems.append(f"The default weights '{path}' are damaged or changed; install RefSAM3D again.")
    return {"path": str(path), "state": f"{path.stat().st_size / 1e6:.1f} MB, {state}", "sha256": sha256}


def _disk(problems: list[str]) -> list[dict[str, Any]]:
    rows = []
    for use, folder in (("of the current folder", os.getcwd()), ("for temporary files", tempfile.gettempdir())):
        try:
            free = round(shutil.disk_usage(folder).free / 2**30, 1)
        except OSError as error:
            problems.append(f"The free space in '{folder}' is unknown: {error}")
            continue
        rows.append({"use": use, "folder": folder, "free_gb": free})
        if free < _MIN_FREE_GB:
            problems.append(f"Only {free} GB are free in '{folder}'; free at least {_MIN_FREE_GB:g} GB.")
    return rows


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
