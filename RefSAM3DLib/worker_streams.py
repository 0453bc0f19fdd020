"""The worker's ends of the two pipes: frames out under a lock, requests in through a thread of their own."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

from . import worker_protocol as protocol

log = logging.getLogger("refsam3d.worker")
#: Windows: time between two looks at the pipe. A cancellation waits this much longer at most.
LOOK_INTERVAL_S = 0.02


def reader_of(descriptor: int) -> Callable[[], bytes]:
    """Reads what has arrived, waits while there is nothing, gives b"" at the end of the stream.

    On Windows it never leaves a read pending: the system serialises operations on a pipe, and the libraries that NumPy and torch load look at
    standard input while they start. Behind a pending read they would wait for the application, which waits for them.
    """
    if sys.platform == "win32":
        return patient_reader(descriptor, bytes_waiting(descriptor))
    return lambda: os.read(descriptor, 65536)


def patient_reader(descriptor: int, waiting: Callable[[], int]) -> Callable[[], bytes]:
    """A reader that asks ``waiting`` for the number of bytes in the pipe and reads only what is there; BrokenPipeError from it is the end."""

    def read() -> bytes:
        try:
            while not (count := waiting()):
                time.sleep(LOOK_INTERVAL_S)
        except BrokenPipeError:
            return b""
        return os.read(descriptor, min(count, 65536))

    return read


def bytes_waiting(descriptor: int) -> Callable[[], int]:
    """How many bytes a Windows pipe holds."""
    import _winapi
    import msvcrt

    handle = msvcrt.get_osfhandle(descriptor)  # type: ignore[attr-defined]
    return lambda: int(_winapi.PeekNamedPipe(handle, 0)[0])  # type: ignore[attr-defined]


def take_over() -> tuple[int, int]:
    """Descriptors of the request and the reply stream; what libraries read or print goes elsewhere from now on."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(0, os.O_BINARY)
        msvcrt.setmode(1, os.O_BINARY)
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


class Outbox:
    """Frames to the application. One lock: the reader thread answers too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, message: protocol.Message) -> None:
        """Write one frame; a vanished reader ends the process, for nobody is left to work for."""
        data = memoryview(protocol.encode(message))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                os._exit(0)


class Inbox(threading.Thread):
    """Read stdin for ever: requests go to a queue, a cancellation takes effect at once, the end of the stream ends the process."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True, name="inbox")
        self._read = reader_of(descriptor)
        self.requests: queue.Queue[protocol.Message] = queue.Queue()
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Runs until the stream ends."""
        reader = protocol.FrameReader()
        while True:
            try:
                data = self._read()
                messages = reader.feed(data) if data else None
            except (OSError, protocol.ProtocolError):
                log.exception("the request stream broke")
                messages = None
            if messages is None:
                os._exit(0)
            for message in messages:
                if isinstance(message, protocol.Cancel):
                    self._cancelled.add(message.id)
                else:
                    self.requests.put(message)

    def is_cancelled(self, request: int) -> bool:
        """True once ``Cancel(request)`` was read."""
        return request in self._cancelled
