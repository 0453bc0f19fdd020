"""The report that a user copies into a question: what is installed, what the engine's Python can do, what it wrote last."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from RefSAM3DLib import __version__
from RefSAM3DLib.worker_protocol import Diagnose

from . import installer, session


def applicationLines() -> list[str]:
    """What can be said without the engine."""
    app = slicer.app
    version = ".".join(str(getattr(app, name, "?")) for name in ("majorVersion", "minorVersion"))
    lines = [
        f"RefSAM3D {__version__}",
        f"Slicer {version} ({getattr(app, 'revision', '?')}), Python {platform.python_version()}, numpy {np.__version__}",
        f"System: {platform.platform()}",
        f"Engine's Python: {sys.executable}",
        f"Free disk: {shutil.disk_usage(tempfile.gettempdir()).free / 2**30:.1f} GB in {tempfile.gettempdir()}",
    ]
    missing = installer.missingPackages()
    lines.append("Packages: complete" if not missing else "Missing packages: " + ", ".join(missing))
    return lines


def engineLines(data: dict[str, Any] | None, logTail: str) -> list[str]:
    """What the worker reported; None if it could not."""
    if data is None or "error" in data:
        return ["The engine's process could not be started or ended; the end of its log:", logTail or "(empty)"]
    lines = [f"Engine: Python {data.get('python')}, {data.get('cpu_count')} processors, {data.get('resident_mb')} MB in use"]
    lines += [f"  {name} {version or 'NOT IMPORTABLE'}" for name, version in data.get("packages", {}).items()]
    if "torch_build" in data:
        lines.append(f"  torch build: {data['torch_build']}; smoke test {data.get('smoke_test_s')} s")
    lines.append("Devices: " + "; ".join(data.get("devices", [])))
    if "model" in data:
        lines.append(f"Model: {data['model']['name']} ({data['model']['sha256'][:16]}) on {data['model']['device']}")
    problems = data.get("problems", [])
    lines += ["Problems:", *(f"  {p}" for p in problems)] if problems else ["No problems found."]
    return lines


def withoutHome(text: str) -> str:
    """User names in paths are nobody's business."""
    home = str(Path.home())
    for written in (home.replace("\\", "\\\\"), home, home.replace("\\", "/")):  # the text of an error doubles Windows' separators, Slicer turns them
        text = re.sub(re.escape(written), "~", text, flags=re.IGNORECASE if os.name == "nt" else 0)
    return text


def makeReport(show: Callable[[str], None]) -> None:
    """Show what is known at once, and the whole report when the engine has answered."""
    lines = applicationLines()
    show(withoutHome("\n".join([*lines, "Asking the engine…"])))
    runner = session.engineRunner()
    runner.ask(Diagnose, lambda data: show(withoutHome("\n".join([*lines, *engineLines(data, engineLog())]))))


def engineLog() -> str:
    """The end of the engine's log."""
    try:
        return Path(session.engineRunner().logPath).read_bytes()[-4000:].decode("utf-8", "replace")
    except OSError:
        return ""
