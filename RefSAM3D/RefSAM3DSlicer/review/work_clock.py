"""Seconds that a reviewer really spent: a pause counts only up to the idle time."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Default of the idle time.
IDLE_S = 60.0


class WorkClock:
    """``touch()`` at each sign of life. After ``idleS`` without one the clock stands still until the next.

    Attributes:
        idleS: seconds; 0 means that every pause counts. now: a monotonic clock in seconds.
    """

    def __init__(self, idleS: float = IDLE_S, now: Callable[[], float] = time.monotonic) -> None:
        self.idleS, self.now = idleS, now
        self._worked = self._last = 0.0
        self.start()

    def start(self, before: float = 0.0) -> None:
        """Begin anew; ``before`` seconds were spent earlier."""
        self._worked, self._last = before, self.now()

    def touch(self) -> None:
        """The reviewer is there."""
        self._worked, self._last = self.seconds, self.now()

    @property
    def seconds(self) -> float:
        """Worked so far."""
        since = self.now() - self._last
        return self._worked + (min(since, self.idleS) if self.idleS else since)
