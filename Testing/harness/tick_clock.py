"""How long a piece of code holds the event loop, told apart from how long other programs kept it from running."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDSTAT = Path("/proc/thread-self/schedstat")
#: Linux counts how long a thread was ready to run while others had the cores.
CAN_TELL = _SCHEDSTAT.exists()


def _queued():
    return int(_SCHEDSTAT.read_text().split()[1]) / 1e9 if CAN_TELL else 0.0


class TickClock:
    """``with clock:`` around each tick. Seconds per tick: ``wall``; ``computed`` (our processor time); ``held`` (wall less the wait for
    a core: what we computed, slept or waited for)."""

    def __init__(self):
        self.wall, self.computed, self.held = [], [], []

    def __enter__(self):
        self._began = time.perf_counter(), time.thread_time(), _queued()
        return self

    def __exit__(self, *_error):
        wall, computed, queued = (now - then for now, then in zip((time.perf_counter(), time.thread_time(), _queued()), self._began, strict=True))
        self.wall.append(wall)
        self.computed.append(computed)
        self.held.append(wall - queued)

    def around(self, function):
        """``function`` with every call measured."""

        def measured(*arguments, **keywords):
            with self:
                return function(*arguments, **keywords)

        return measured

    def __str__(self):
        if not self.wall:
            return "no tick"
        ordered, milliseconds = sorted(self.wall), 1000.0
        return (
            f"{len(self.wall)} ticks; by the clock median {ordered[len(ordered) // 2] * milliseconds:.1f} ms, 99 % "
            f"{ordered[int(len(ordered) * 0.99)] * milliseconds:.1f} ms, worst {ordered[-1] * milliseconds:.1f} ms; "
            f"without the wait for a core worst {max(self.held) * milliseconds:.1f} ms; computed worst {max(self.computed) * milliseconds:.1f} ms"
        )
