"""Signs of life of the person in front of the application, looked at once a second.

An event filter over the whole application would call Python for every event and slow down everything; this costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer

from ..pythonqt import TickTimer

INTERVAL_MS = 1000


def signs() -> tuple[Any, ...]:
    """What changes when somebody moves the mouse, scrolls, zooms, or uses the editor."""
    place = qt.QCursor.pos()
    views = tuple(node.GetMTime() for name in ("vtkMRMLSliceNode", "vtkMRMLCameraNode") for node in slicer.util.getNodesByClass(name))
    editors = tuple(node.GetMTime() for node in slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode"))
    return (place.x(), place.y(), views, editors)


class PresenceWatch:
    """Calls ``onSign`` when anything of ``more()`` or of the application has changed since the last look."""

    def __init__(self, onSign: Callable[[], None], more: Callable[[], tuple[Any, ...]]) -> None:
        self._onSign, self._more = onSign, more
        self._before: tuple[Any, ...] = ()
        self._timer = TickTimer(self.look, INTERVAL_MS)

    def start(self) -> None:
        """Look from now on."""
        self._before = (*signs(), *self._more())
        self._timer.start()

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()

    def look(self) -> None:
        """One look."""
        now = (*signs(), *self._more())
        if now != self._before:
            self._before = now
            self._onSign()
