"""One message at a time, inside the panel: no pop-ups."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from .pythonqt import connect

#: kind -> (background, text)
_COLOURS = {"error": ("#f8d7da", "#58151c"), "warning": ("#fff3cd", "#4d3800"), "info": ("#d8ecf8", "#0a3c56")}


class MessageStrip:
    """A frame with a text, links that call functions, and a close button."""

    def __init__(self, frame: Any, label: Any, closeButton: Any) -> None:
        self._frame, self._label = frame, label
        self._actions: dict[str, Callable[[], None]] = {}
        self.kind = self.text = ""
        connect(closeButton, "clicked()", self.clear)
        connect(label, "linkActivated(QString)", self._onLink)
        self.clear()

    def show(self, kind: str, text: str, actions: dict[str, Callable[[], None]] | None = None) -> None:
        """``kind``: error, warning or info. ``actions``: link text to function."""
        self.kind, self.text = kind, text
        self._actions = dict(actions or {})
        links = "".join(f' <a href="{html.escape(name, quote=True)}">{html.escape(name)}</a>' for name in self._actions)
        background, colour = _COLOURS[kind]
        self._frame.setStyleSheet(f"QFrame {{ background: {background}; color: {colour}; }}")
        self._label.setText(html.escape(text).replace("\n", "<br>") + links)
        self._frame.setVisible(True)

    def clear(self) -> None:
        """Hide it."""
        self.kind = self.text = ""
        self._actions = {}
        self._frame.setVisible(False)

    def _onLink(self, name: str) -> None:
        action = self._actions.get(name)
        if action is not None:
            action()
