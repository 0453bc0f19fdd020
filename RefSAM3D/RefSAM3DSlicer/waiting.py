"""Waits that hold the main thread: reading a large image into the scene cannot be done elsewhere, so at least it is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import qt
import slicer


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """The hourglass, and in the status bar what is waited for; both end with the block, also where it raises."""
    bar = slicer.util.mainWindow().statusBar() if slicer.util.mainWindow() is not None else None
    if bar is not None:
        bar.showMessage(text)
        bar.repaint()  # the event loop does not run before the wait is over
    slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
    try:
        yield
    finally:
        slicer.app.restoreOverrideCursor()
        if bar is not None:
            bar.clearMessage()
