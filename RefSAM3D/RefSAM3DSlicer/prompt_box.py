"""The line that one types into, its completion, and the list of what will be searched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.text.vocabulary import Vocabulary

from .prompt_status import completions, readPrompt
from .pythonqt import connect

RECENT_KEY = "RefSAM3D/RecentPrompts"
MAX_RECENT = 12
ROW_HEIGHT = 30
#: Rows that are seen without scrolling; pixels of the list's frame.
VISIBLE_ROWS, FRAME_PX = 5, 6


def makeCompleter(lineEdit: Any, vocabulary: Vocabulary) -> Any:
    """Completion anywhere in a wording, case ignored."""
    completer = qt.QCompleter(completions(vocabulary), lineEdit)
    completer.setCaseSensitivity(qt.Qt.CaseInsensitive)
    completer.setFilterMode(qt.Qt.MatchContains)
    lineEdit.setCompleter(completer)
    return completer


def recentPrompts() -> list[str]:
    """What was searched before, last first. A list of one text comes back from some settings files as that text."""
    value = slicer.app.userSettings().value(RECENT_KEY, ())
    return [value] if isinstance(value, str) and value else [str(v) for v in value or ()]


def rememberPrompts(texts: list[str]) -> None:
    """Put ``texts`` on top; settings that cannot be written are no reason to stop."""
    recent = list(dict.fromkeys([*reversed(texts), *recentPrompts()]))[:MAX_RECENT]
    slicer.app.userSettings().setValue(RECENT_KEY, recent)


class PromptBox:
    """Keeps a list of texts in step with its widgets; ``onChanged(texts)`` after each change by the user."""

    def __init__(self, lineEdit: Any, addButton: Any, recentButton: Any, listWidget: Any, onChanged: Callable[[list[str]], None]) -> None:
        self._edit, self._list, self._onChanged = lineEdit, listWidget, onChanged
        self.texts: list[str] = []
        self.onEnterWithNothingTyped: Callable[[], None] = lambda: None
        self.onTyping: Callable[[], None] = lambda: None
        self._completer: Any = None
        self.vocabulary = Vocabulary.default()
        self.setVocabulary(self.vocabulary)
        self._recentMenu = qt.QMenu(recentButton)
        recentButton.setMenu(self._recentMenu)
        connect(self._recentMenu, "aboutToShow()", self.fillRecent)
        connect(lineEdit, "returnPressed()", self._onReturn)
        connect(lineEdit, "textChanged(QString)", lambda text: self.onTyping())
        connect(addButton, "clicked()", self.acceptTyped)

    @property
    def typed(self) -> str:
        """What stands in the line."""
        return self._edit.text.strip()

    def setVocabulary(self, vocabulary: Vocabulary) -> None:
        """Another model may know other words."""
        self.vocabulary = vocabulary
        self._completer = makeCompleter(self._edit, vocabulary)
        connect(self._completer, "activated(QString)", self.add)
        self._fill()

    def setTexts(self, texts: list[str]) -> None:
        """From the parameter node."""
        if list(texts) != self.texts:
            self.texts = list(texts)
            self._fill()

    def add(self, text: str) -> None:
        """Put a text on the list and clear the line. Choosing a completion with Enter arrives here twice; the second changes nothing."""
        text = text.strip()
        if text and text not in self.texts:
            self._change([*self.texts, text])
        qt.QTimer.singleShot(0, lambda: self._edit.clear())  # after the completer has put its text into the line

    def acceptTyped(self) -> None:
        """What is typed but not on the list yet."""
        if self.typed:
            self.add(self.typed)
            self._edit.clear()

    def remove(self, text: str) -> None:
        """Take a text off the list."""
        self._change([t for t in self.texts if t != text])

    def replace(self, text: str, by: str) -> None:
        """Accept a suggestion."""
        self._change(list(dict.fromkeys(by if t == text else t for t in self.texts)))

    def fillRecent(self) -> None:
        """When the menu opens."""
        self._recentMenu.clear()
        for text in recentPrompts():
            action = qt.QAction(text, self._recentMenu)
            self._recentMenu.addAction(action)
            connect(action, "triggered()", lambda text=text: self.add(text))
        if not recentPrompts():
            self._recentMenu.addAction(_("(nothing yet)")).setEnabled(False)

    def _onReturn(self) -> None:
        if self.typed:
            self.acceptTyped()
        else:
            self.onEnterWithNothingTyped()

    def _change(self, texts: list[str]) -> None:
        self.texts = texts
        qt.QTimer.singleShot(0, self._fill)  # the row whose button was clicked must outlive its own click
        self._onChanged(list(texts))

    def _fill(self) -> None:
        self._list.clear()
        for text in self.texts:
            row = qt.QWidget()
            layout = qt.QHBoxLayout(row)
            layout.setContentsMargins(6, 1, 2, 1)
            name = qt.QLabel(text)
            name.setTextFormat(qt.Qt.PlainText)
            name.setToolTip(text)
            reading = readPrompt(text, self.vocabulary)
            status = qt.QLabel(reading.asHtml())
            status.setToolTip(reading.note)
            status.setTextFormat(qt.Qt.RichText)
            connect(status, "linkActivated(QString)", lambda suggestion, text=text: self.replace(text, suggestion))
            button = qt.QToolButton()
            button.setText("✕")
            button.setAutoRaise(True)
            button.setToolTip(_("Remove"))
            connect(button, "clicked()", lambda text=text: self.remove(text))
            layout.addWidget(name)
            layout.addWidget(status, 1)
            layout.addWidget(button)
            item = qt.QListWidgetItem()
            item.setSizeHint(qt.QSize(10, ROW_HEIGHT))
            self._list.addItem(item)
            self._list.setItemWidget(item, row)
        self._list.setMinimumHeight(FRAME_PX + ROW_HEIGHT * min(max(len(self.texts), 2), VISIBLE_ROWS))
