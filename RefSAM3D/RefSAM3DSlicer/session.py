"""The one engine of this application: shared by the panel, the effect and scripts, ended with the application."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import slicer

from .pythonqt import TickTimer
from .runner import EngineRunner

#: An engine that nobody uses, while the panel is not shown, ends after this time; so often it is looked at.
IDLE_S, IDLE_LOOK_MS = 600.0, 60_000
#: Further arguments and variables of the worker; tests choose another engine with them.
workerArguments: list[str] = []
workerEnvironment: dict[str, str] = {}

_runner: EngineRunner | None = None
_downloads: EngineRunner | None = None
_idleWatch: TickTimer | None = None
_isPanelShown = False


def root() -> str:
    """The folder that holds ``RefSAM3DLib``: the source tree's root, or Slicer's module folder once installed."""
    import RefSAM3DLib

    return str(Path(RefSAM3DLib.__file__).resolve().parent.parent)


def workerCommand(owner: str) -> tuple[list[str], dict[str, str]]:
    """How to start the engine. Inside Slicer ``sys.executable`` is PythonSlicer, which needs Slicer's own environment as it is."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(part for part in (root(), environment.get("PYTHONPATH", "")) if part)
    environment["PYTHONIOENCODING"] = "utf-8"
    environment["PYTHONSAFEPATH"] = "1"  # -m would look for modules in the current folder first, which is whatever Slicer was started in
    environment.update(workerEnvironment)
    return [sys.executable, "-m", "RefSAM3DLib.worker", "--owner", owner, *workerArguments], environment


def engineRunner() -> EngineRunner:
    """The runner; its process starts with the first run."""
    global _runner
    if _runner is None:
        folder = slicer.app.temporaryPath
        _runner = EngineRunner(workerCommand, TickTimer, folder if os.path.isdir(folder) else tempfile.gettempdir())
        slicer.app.connect("aboutToQuit()", stop)
    if not _isPanelShown:  # the effect and scripts never leave a panel
        _watchIdle()
    return _runner


def downloadRunner() -> EngineRunner:
    """A process of its own for downloads, so that one can segment meanwhile; it imports no torch."""
    global _downloads
    if _downloads is None:
        engineRunner()  # connects the end of the application
        _downloads = EngineRunner(workerCommand, TickTimer)
        _downloads.logPath = _downloads.logPath.with_name(_downloads.logPath.name.replace("engine", "download"))
    return _downloads


def startIdleWatch() -> None:
    """The panel was left: the engine's memory is given back when nobody has used it for some minutes."""
    global _isPanelShown
    _isPanelShown = False
    _watchIdle()


def stopIdleWatch() -> None:
    """The panel is shown again."""
    global _isPanelShown
    _isPanelShown = True
    if _idleWatch is not None:
        _idleWatch.stop()


def _watchIdle() -> None:
    global _idleWatch
    if _idleWatch is None:
        _idleWatch = TickTimer(_stopIfIdle, IDLE_LOOK_MS)
    _idleWatch.start()


def _stopIfIdle() -> None:
    """The watch goes on afterwards: the effect or a script may start the engine again."""
    if _runner is not None and _runner.isAlive and not _runner.isBusy and time.monotonic() - _runner.lastUsed > IDLE_S:
        _runner.stop()


def isBusy() -> bool:
    """True while a run is not over; starts nothing."""
    return _runner is not None and _runner.isBusy


def release() -> bool:
    """End the engine unless somebody's run needs it (the effect's, a review's); False if so. A download goes on."""
    if isBusy():
        return False
    if _runner is not None:
        _runner.stop()
    return True


def stop() -> None:
    """End every process of ours, whatever it does; idempotent. Called at quit and at reload."""
    for runner in (_runner, _downloads):
        if runner is not None:
            runner.stop()
