"""Keys while the effect runs: Escape in its options cancels; every other key, and Escape anywhere else, is Slicer's."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
from effect_cases import PAROTID
from gui_cases import click, press, settle, spin
from PySide6 import QtTest
from PySide6.QtCore import Qt


@pytest.fixture
def running(bench):
    """A bench whose effect runs, its window a Slicer with shortcuts, and a view beside the options."""
    b = bench()
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    hits = []
    view = gui.qt.QLineEdit()
    b.window.layout().addWidget(view)
    shortcuts = []
    for key in ("F5", "Ctrl+S"):
        shortcuts.append(gui.qt.QShortcut(gui.qt.QKeySequence(key), b.window))
        shortcuts[-1].connect("activated()", lambda key=key: hits.append(key))
    b.window.activateWindow()
    b.type(PAROTID)
    b.controller.completer.popup().hide()
    press(b.controller.promptEdit, Qt.Key_Return)
    spin(lambda: b.controller.task.fraction > 0.1)
    yield b, view, hits
    b.controller.cancel()
    b.finish()


def keylessOverrides(monkeypatch):
    """PythonQt hands a ShortcutOverride to a filter as a plain event, without its key."""
    from RefSAM3DSlicer.effect import EscapeFilter

    seen, own = [], EscapeFilter.eventFilter

    class Plain:
        def __init__(self, event):
            self._event = event

        def type(self):
            return self._event.type()

        def accept(self):
            self._event.accept()

    def asPythonQtCallsIt(self, watched, event):
        isOverride = event.type() == gui.qt.QEvent.ShortcutOverride
        seen.append(isOverride)
        return own(self, watched, Plain(event) if isOverride else event)

    monkeypatch.setattr(EscapeFilter, "eventFilter", asPythonQtCallsIt)
    return seen


def test_shortcuts_of_the_window_work_while_the_effect_runs(running):
    b, view, hits = running
    for widget in (b.controller.promptEdit, view):
        widget.setFocus()
        press(widget, Qt.Key_F5)
        QtTest.QTest.keyClick(widget, Qt.Key_S, Qt.ControlModifier)
        settle(0.05)
    assert hits == ["F5", "Ctrl+S"] * 2
    assert b.controller.isRunning


def test_shortcuts_work_and_escape_cancels_where_the_filter_learns_no_key(bench, monkeypatch):
    seen = keylessOverrides(monkeypatch)
    b, hits = bench(), []
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    shortcut = gui.qt.QShortcut(gui.qt.QKeySequence("F5"), b.window)
    shortcut.connect("activated()", lambda: hits.append("F5"))
    b.window.activateWindow()
    b.type(PAROTID)
    b.controller.completer.popup().hide()
    press(b.controller.promptEdit, Qt.Key_Return)
    spin(lambda: b.controller.task.fraction > 0.1)
    press(b.controller.promptEdit, Qt.Key_F5)
    assert hits == ["F5"]
    press(b.controller.promptEdit, Qt.Key_Escape)
    spin(lambda: not b.controller.isRunning, timeout=1.0)
    assert any(seen)
    assert b.editor.effect is b.effect, "still active"


def test_escape_on_the_button_cancels_too(running):
    b, _view, _hits = running
    b.controller.applyButton.setFocus()
    press(b.controller.applyButton, Qt.Key_Escape)
    spin(lambda: not b.controller.isRunning, timeout=1.0)
    assert b.editor.effect is b.effect


def test_escape_elsewhere_is_the_editor_s_and_the_run_goes_on(running):
    b, view, _hits = running
    view.setFocus()
    press(view, Qt.Key_Escape)
    assert b.editor.effect is None
    assert b.controller.isRunning


def test_keys_are_slicer_s_again_after_the_run(running):
    b, _view, _hits = running
    click(b.controller.applyButton)
    b.finish()
    b.controller.promptEdit.setFocus()
    press(b.controller.promptEdit, Qt.Key_Escape)
    assert b.editor.effect is None
