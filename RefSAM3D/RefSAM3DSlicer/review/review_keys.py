"""Keys of the Review section: letters inside it, combinations from any module."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from ..pythonqt import connect

#: Not Ctrl+Shift with an arrow: those turn the sequence in Slicer's toolbar, and of two equal shortcuts neither works.
NEXT, PREVIOUS = "Ctrl+Shift+PgDown", "Ctrl+Shift+PgUp"


def addShortcuts(container: Any, section: Any) -> list[Any]:
    """Of an open review: N and P walk, C and W jump; NEXT and PREVIOUS walk while another module is shown. Text lines keep their letters."""
    inside = {
        "N": lambda: section.step(1),
        "P": lambda: section.step(-1),
        "C": lambda: section.jump("centre_ras"),
        "W": lambda: section.jump("worst_ras"),
    }
    anywhere = {NEXT: inside["N"], PREVIOUS: inside["P"]}
    made, window = [], slicer.util.mainWindow()
    for parent, keys in ((container, inside), (window, anywhere)):
        for key, slot in keys.items() if parent is not None else ():
            shortcut = qt.QShortcut(qt.QKeySequence(key), parent)
            if parent is container:
                shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
            connect(shortcut, "activated()", lambda slot=slot: section.attempt(slot))
            made.append(shortcut)
    return made


def removeShortcuts(shortcuts: list[Any]) -> None:
    """The keys are Slicer's and other modules' again."""
    for shortcut in shortcuts:
        shortcut.setEnabled(False)
        shortcut.deleteLater()
    shortcuts.clear()
