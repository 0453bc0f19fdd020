"""The queue of a review as a table: one line per item, the row is chosen by mouse, arrow keys, or code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..pythonqt import connect
from ..results_table import percent
from .review_widgets import VERDICT_TEXTS

HEADERS = (_("Case"), _("Structure"), _("Verdict"), _("Conf."), _("mL"), _("Status"), _("Why"))
_WORDS = dict(VERDICT_TEXTS)


class QueueTable:
    """``onChosen(item)`` is called when the user goes to another row, or clicks on the one that is chosen already."""

    def __init__(self, table: Any, onChosen: Callable[[Any], None]) -> None:
        self._table, self._onChosen = table, onChosen
        self.items: list[Any] = []
        table.setColumnCount(len(HEADERS))
        table.setHorizontalHeaderLabels(list(HEADERS))
        table.verticalHeader().hide()
        table.setWordWrap(False)
        for column, width in ((0, 62), (1, 98), (2, 100), (3, 46), (4, 44), (5, 58)):
            table.setColumnWidth(column, width)
        table.horizontalHeader().setStretchLastSection(True)
        connect(table, "itemSelectionChanged()", self._onSelection)
        connect(table, "cellClicked(int,int)", lambda row, column: self._onSelection())

    def fill(self, items: list[Any], current: Any = None) -> None:
        """Show ``items``; ``current`` stays chosen if it is among them."""
        blocked = self._table.blockSignals(True)
        self.items = list(items)
        self._table.clearSelection()
        self._table.setRowCount(0)
        self._table.setRowCount(len(items))
        for number, entry in enumerate(items):
            volume = "" if entry.volume_ml is None else f"{entry.volume_ml:.1f}"
            texts = (
                entry.name or entry.case,
                entry.structure or entry.prompt,
                _WORDS.get(entry.verdict, entry.verdict),
                percent(entry.confidence),
                volume,
                entry.status_words,
                "; ".join(entry.reasons),
            )
            tip = "\n".join(text for text in (entry.id, entry.prompt, entry.error, *entry.reasons, *entry.warnings) if text)
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(tip)
                self._table.setItem(number, column, item)
        self._table.blockSignals(blocked)
        self.choose(current)

    def choose(self, entry: Any) -> None:
        """Mark a row without telling anybody; none if the item is not in the table."""
        blocked = self._table.blockSignals(True)
        number = next((n for n, other in enumerate(self.items) if other is entry), -1)
        if number >= 0:
            self._table.selectRow(number)
            self._table.scrollToItem(self._table.item(number, 0))
        else:
            self._table.clearSelection()
        self._table.blockSignals(blocked)

    def _onSelection(self) -> None:
        rows = {index.row() for index in self._table.selectionModel().selectedRows()}
        if len(rows) == 1:
            self._onChosen(self.items[rows.pop()])
