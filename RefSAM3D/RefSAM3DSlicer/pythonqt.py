"""The few habits that PythonQt needs: connections that fail loudly, slots that never swallow an error, timers that stay alive."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import qt

log = logging.getLogger("refsam3d.panel")

#: Where an error inside a slot is shown; the panel sets it. PythonQt itself only prints it.
errorDisplay: list[Callable[[str], None]] = []


def connect(sender: Any, signal: str, slot: Callable[..., Any]) -> Callable[..., Any]:
    """Connect a string signal; a signal that does not exist raises instead of printing. Returns what to disconnect."""
    guarded = guard(slot)
    if not sender.connect(signal, guarded):
        raise RuntimeError(f"{sender} has no signal {signal}")
    return guarded


def guard(slot: Callable[..., Any]) -> Callable[..., Any]:
    """``slot`` whose exceptions are logged and shown."""

    def guarded(*arguments: Any) -> None:
        try:
            slot(*arguments)
        except Exception as error:
            log.error("%s", traceback.format_exc())
            if errorDisplay:
                errorDisplay[-1](str(error) or type(error).__name__)

    return guarded


class TickTimer:
    """A repeating timer of the main thread."""

    def __init__(self, callback: Callable[[], None], intervalMs: int = 20) -> None:
        self._timer = qt.QTimer()
        self._timer.setInterval(intervalMs)
        self._callback = guard(callback)
        connect(self._timer, "timeout()", lambda: self._callback())

    def start(self) -> None:
        if not self._timer.active:
            self._timer.start()

    def stop(self) -> None:
        self._timer.stop()
