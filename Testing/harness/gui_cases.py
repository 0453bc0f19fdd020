"""Start the application stand-in once, load both module files, and drive the widgets as a user does."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

import slicer_app

application, qt, ctk = slicer_app.start_gui()
module = slicer_app.load_module_file(slicer_app.ROOT / "RefSAM3D" / "RefSAM3D.py")
hidden = slicer_app.load_module_file(slicer_app.ROOT / "RefSAM3D" / "SegmentEditorRefSAM3D.py")

import slicer  # noqa: E402

slicer.app.signals.emit("startupCompleted()")

from PySide6 import QtCore, QtTest, QtWidgets  # noqa: E402
from RefSAM3DSlicer import session  # noqa: E402

HARNESS = str(slicer_app.HERE)


def useFakeEngine(**variables):
    """The next engine process is the fake one."""
    session.stop()
    session.workerArguments[:] = ["--engine", "fake_engine:create"]
    session.workerEnvironment.clear()
    session.workerEnvironment.update({"PYTHONPATH": os.pathsep.join([session.root(), HARNESS]), "OMP_NUM_THREADS": "1", **variables})


def spin(until=lambda: False, timeout=120.0, fail=True):
    """Let the event loop run until something is true."""
    end = time.monotonic() + timeout
    while not until() and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.003)
    if fail:
        assert until(), "it did not happen in time"


def settle(seconds=0.1):
    """A few turns of the event loop."""
    spin(timeout=seconds, fail=False)


def press(widget, key):
    """A key press with everything that a real keyboard causes (shortcut override first)."""
    QtTest.QTest.keyClick(widget, key)
    settle(0.05)


def enter(widget, text):
    """Type text and let the completer react."""
    widget.setFocus()
    QtTest.QTest.keyClicks(widget, text)
    settle(0.05)


def click(widget):
    """Left click in the middle."""
    QtTest.QTest.mouseClick(widget, QtCore.Qt.LeftButton)
    settle(0.05)


def popups():
    """Top-level dialogs that are open: there should be none."""
    return [w for w in QtWidgets.QApplication.topLevelWidgets() if isinstance(w, QtWidgets.QDialog) and w.isVisible()]


def grab(widget, path):
    """A screenshot."""
    settle(0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert widget.grab().save(str(path))


@contextmanager
def shownPanel(width, height, prepare=lambda panel: None):
    """The module's panel with the fake engine, as large as asked for; afterwards no dialog may be open and the scene is empty again."""
    useFakeEngine()
    widget = slicer_app.open_widget(module)
    widget.parent.resize(width, height)
    widget.parent.show()
    prepare(widget.panel)
    settle()
    yield widget.panel
    assert popups() == []
    widget.cleanup()
    widget.parent.hide()
    slicer.mrmlScene.Clear(0)
