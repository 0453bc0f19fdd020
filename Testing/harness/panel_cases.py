"""What a test reads from the panel, and how it runs it."""

from __future__ import annotations

import gui_cases as gui
from gui_cases import click, spin


def rows(panel):
    """Texts of each row of the prompt list."""
    found = []
    for number in range(panel.ui.promptList.count):
        row = panel.ui.promptList.itemWidget(panel.ui.promptList.item(number))
        found.append([label.text for label in row.findChildren(gui.qt.QLabel)])
    return found


def table(panel):
    """Texts of the results table."""
    t = panel.ui.resultsTable
    return [[t.item(r, c).text() if t.item(r, c) else "" for c in range(1, 5)] for r in range(t.rowCount)]


def run(panel):
    """Click and wait."""
    click(panel.ui.segmentButton)
    spin(lambda: not panel.isRunning)
