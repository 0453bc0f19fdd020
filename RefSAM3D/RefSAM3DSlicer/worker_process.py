"""The engine's process as seen from the application: start it, exchange messages without ever waiting, end it for certain."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from RefSAM3DLib.shared_buffer import remove_leftovers
from RefSAM3DLib.worker_protocol import FrameReader, Hello, Message, ProtocolError, encode

#: Bytes taken from the pipe in one poll: more would make a tick long, and messages are small.
READ_LIMIT = 1 << 20
#: Waiting for a killed process to vanish; it holds no lock of ours, so this is only about not leaving a zombie.
REAP_TIMEOUT_S = 2.0

log = logging.getLogger("refsam3d.runner")


class _NonBlockingReader:
    """Read what is there. Linux, macOS, and Windows from Python 3.12."""

    def __init__(self, pipe) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe

    def read(self) -> bytes | None:
        """Bytes, b"" if none are there now, None at the end of the stream."""
        try:
            return os.read(self._pipe.fileno(), READ_LIMIT) or None
        except BlockingIOError:
            return b""
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()


class _ThreadReader:
    """For Windows before Python 3.12. The thread moves whenever the application's Python runs, at each timer tick at the latest."""

    def __init__(self, pipe) -> None:
        self._pipe = pipe
        self._data: queue.Queue[bytes | None] = queue.Queue()
        self._ended = False
        threading.Thread(target=self._run, daemon=True, name="RefSAM3D reader").start()

    def _run(self) -> None:
        while True:
            try:
                data = os.read(self._pipe.fileno(), 65536)
            except (OSError, ValueError):
                data = b""
            self._data.put(data or None)
            if not data:
                return

    def read(self) -> bytes | None:
        parts: list[bytes] = []
        while not self._ended:
            try:
                data = self._data.get_nowait()
            except queue.Empty:
                return b"".join(parts)
            if data is None:
                self._ended = True
            else:
                parts.append(data)
        return b"".join(parts) or None

    def close(self) -> None:
        """The thread owns the pipe until the process is dead; then its read returns."""


def makeReader(pipe):
    """The best reader that this system has."""
    try:
        return _NonBlockingReader(pipe)
    except (AttributeError, OSError):
        return _ThreadReader(pipe)


class WorkerProcess:
    """One running worker."""

    def __init__(self, command: list[str], environment: dict[str, str], logPath: Path | str, owner: str, readerFactory=makeReader) -> None:
        """Start it; returns after a few milliseconds, the worker says ``Hello`` later.

        Raises:
            OSError: the program or the log file cannot be used.
        """
        self.owner = owner
        self.logPath = Path(logPath)
        self.pid = 0  # of the process that computes; behind a launcher it is not the one we started
        self._frames = FrameReader()
        with open(self.logPath, "wb") as logFile:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=logFile,  # a pipe that nobody reads would block the worker for ever
                env=environment,
                bufsize=0,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        self._reader = readerFactory(self._process.stdout)
        self.ended = False
        self.brokenBy = ""

    def messages(self) -> list[Message]:
        """What has arrived. After the last message ``ended`` is True."""
        if self.ended:
            return []
        data = self._reader.read()
        if data is None:
            self.ended = True
            return []
        if not data:
            return []
        try:
            messages = self._frames.feed(data)
        except ProtocolError as error:
            self.brokenBy = str(error)
            self.kill()
            return []
        for message in messages:
            if isinstance(message, Hello):
                self.pid = message.pid
        return messages

    def hasExited(self) -> bool:
        """True once the process is over, or killed; what it sent before may still be unread."""
        return self.ended or self._process.poll() is not None

    def send(self, message: Message) -> bool:
        """False if the worker is gone. Requests are a few kB and the worker reads them in a thread of its own: this never waits."""
        try:
            self._process.stdin.write(encode(message))
        except (OSError, ValueError):
            return False
        return True

    def kill(self) -> None:
        """End it now, whatever it is doing: close its stdin (a launcher's child sees that too), then kill both processes."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._process.kill()
            if self.pid not in (0, self._process.pid):
                with contextlib.suppress(OSError):
                    os.kill(self.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        self.ended = True

    def reap(self, timeout: float = 0.0) -> bool:
        """True once the process is gone and everything of it is cleaned up."""
        try:
            self._process.wait(timeout) if timeout else self._process.poll()
        except subprocess.TimeoutExpired:
            return False
        if self._process.returncode is None:
            return False
        self._reader.close()
        remove_leftovers(self.owner)
        return True

    def stop(self) -> None:
        """Kill and wait (some milliseconds, ``REAP_TIMEOUT_S`` at most): for the application's end."""
        self.kill()
        if not self.reap(REAP_TIMEOUT_S):
            log.warning("the engine's process %s does not end", self._process.pid)

    def causeOfDeath(self) -> str:
        """One sentence on how the process ended, for a user."""
        if self.brokenBy:
            return f"It sent something that is no message ({self.brokenBy})."
        deadline = time.monotonic() + 0.2  # the pipe closes a moment before the exit code is there
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if code is None:
            return "It closed its connection."
        if code == -9:
            return "The system killed it, most likely because the computer ran out of memory."
        if code in (-11, -6, -7, -4, 0xC0000005, 0xC0000409):
            return f"It crashed inside a native library (code {code})."
        if code == 0:
            return "It ended by itself."
        if code == 1 and self.pid not in (0, self._process.pid) and "Traceback" not in self.logTail(2000):
            # Slicer's launcher turns every crash of its child into this code, and Python itself would have written why.
            return "It was killed or crashed, most likely because the computer ran out of memory."
        return f"It ended with code {code}."

    def logTail(self, characters: int = 4000) -> str:
        """The end of what the worker wrote to its log."""
        try:
            with open(self.logPath, "rb") as handle:
                handle.seek(0, os.SEEK_END)
                handle.seek(max(handle.tell() - characters, 0))
                return handle.read().decode("utf-8", "replace")
        except OSError:
            return ""
