"""Stop as with Ctrl-C when the program that started this one closes our standard input.

Signals do not do it: they reach the launcher that Slicer's Python is started by and not the Python behind it, and on Windows there are none.
Nobody is stopped unasked: only where an environment variable says so, never because somebody's shell gives no input.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

#: Set it to 1, and give standard input a pipe of your own: closing that, or ending, stops the command.
VARIABLE = "REFSAM3D_STOP_WITH_STDIN"
#: One that was told to stop finishes its files; one that does not end by then ends without.
GRACE_S = 20.0


@contextlib.contextmanager
def stopped_with_stdin(exit_code: int) -> Iterator[None]:
    """KeyboardInterrupt in the main thread once standard input ends, if :data:`VARIABLE` asks for it.

    ``exit_code``: of a process that had to be ended without finishing its files.
    """
    wanted = os.environ.pop(VARIABLE, "") == "1"  # not for the processes that this one starts
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    from ..worker_streams import reader_of

    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # a shell's background job ignores Ctrl-C, and so does all that Slicer starts from there
        signal.signal(signal.SIGINT, signal.default_int_handler)
    over = threading.Event()
    threading.Thread(target=_watch, args=(reader_of(_taken_input()), over, exit_code), daemon=True, name="end-with-input").start()
    try:
        yield
    finally:
        over.set()
        if not callable(before):
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _taken_input() -> int:
    """Descriptor of what was standard input; libraries and other processes find an empty one from now on."""
    descriptor, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return descriptor


def _watch(read: Callable[[], bytes], over: threading.Event, exit_code: int) -> None:
    with contextlib.suppress(OSError):
        while read():
            pass  # what is typed there means nothing
    if over.is_set():
        return
    _interrupt_main_thread()
    if not over.wait(GRACE_S):
        os._exit(exit_code)


def _interrupt_main_thread() -> None:
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:  # a real signal wakes a thread that waits in the system, too
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
