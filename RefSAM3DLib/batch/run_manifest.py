"""``batch.json``: which model, version, machine and command made what is in an output folder."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ..atomic import SYSTEM_FILES, write_aside
from ..errors import OutputError
from ..image_files import check_name
from .append_log import utc_now

NAME = "batch.json"
FORMAT = 1
#: Files that a run leaves before its manifest is written; a folder with only these may be used.
_FIRST_FILES = {"batch.lock", "journal.jsonl", "identifiers.json", NAME}
_PACKAGES = ("torch", "numpy", "SimpleITK", "open_clip_torch", "slicerio", "highdicom", "pydicom", "ray")


def prepare_folder(folder: Path) -> None:
    """Make the output folder, or accept one that is empty or was made by a batch.

    Raises:
        OutputError: it holds other files, or cannot be made.
    """
    try:
        check_name(folder)  # our own writers pass through SimpleITK too
        folder.mkdir(parents=True, exist_ok=True)
        names = {name for name in os.listdir(folder) if not name.startswith(".") and name.lower() not in SYSTEM_FILES}
    except OSError as error:
        raise OutputError(f"The output folder '{folder}' cannot be made: {error.strerror}; choose another one.") from error
    if NAME not in names and (others := sorted(names - _FIRST_FILES)):
        raise OutputError(f"The output folder '{folder}' holds other files (such as '{others[0]}'); choose an empty or a new one.")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of the manifest, {} if there is none yet.

    Raises:
        OutputError: it is damaged or from a later version.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = int(content["format"])
        if not isinstance(content.get("runs", []), list) or not isinstance(content.get("engine", {}), dict):
            raise TypeError("runs and engine are not what a batch writes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"'{path}' is damaged ({error}); restore it from a backup, or use a new folder.") from error
    if found > FORMAT:
        raise OutputError(f"'{path}' has format {found}, this version reads up to {FORMAT}; install a later version, or use a new folder.")
    return content


def check_same_engine(folder: Path, content: dict[str, Any], engine: dict[str, Any], force: bool) -> list[str]:
    """Refuse to mix models or versions in one folder; with ``force`` return what differs.

    Raises:
        OutputError: another model, adapter or version made this folder.
    """
    before = content.get("engine") or {}
    names = {"sha256": "model", "adapter_sha256": "adapter", "version": "version"}
    different = [
        f"{title} {_short(before[field]) or 'none'} there, {_short(engine.get(field, '')) or 'none'} now"
        for field, title in names.items()
        if field in before and before[field] != engine.get(field, "")
    ]
    if different and not force:
        raise OutputError(
            f"The folder '{folder}' was made by another model or version ({'; '.join(different)});"
            " choose a new folder, or --force to do all cases again (older results are set aside)."
        )
    return different


def start_run(folder: Path, content: dict[str, Any], engine: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Add a run to the manifest and write it."""
    content = content or {"format": FORMAT, "created": utc_now()}
    content["engine"] = engine
    content.setdefault("runs", []).append({**run, "started": utc_now(), "machine": describe_machine(), "engine": engine})
    write(folder, content)
    return content


def write(folder: Path, content: dict[str, Any]) -> None:
    """Store the manifest."""
    with write_aside(Path(folder) / NAME, overwrite=True) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")


def describe_machine() -> dict[str, Any]:
    """Versions and machine of this run, without the names of its users."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"system": platform.platform(), "python": sys.version.split()[0], "cpus": os.cpu_count(), "packages": versions}


def _short(text: Any) -> str:
    return str(text or "")[:12]
