"""Messages between an application and the engine's worker process: length-prefixed JSON over a pipe, arrays beside it.

A frame is a 4-byte little-endian length and that many bytes of UTF-8 JSON with the key ``kind``. There is no pickle and no port:
a frame can only become one of the message classes below, with the declared fields and types. Arrays travel as names of
:class:`~RefSAM3DLib.shared_buffer.SharedBuffer`.

The application sends ``Load``, ``Segment``, ``Cancel``, ``Status``, ``Release``, ``Diagnose``, ``Fetch``; the worker answers with ``Hello`` once,
then ``Loaded``, ``Progress``, ``Found`` (one result each), and exactly one of ``Done``, ``Failed``, ``Stopped`` or ``Report`` a request.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_type_hints

#: Raised with every change of a message that an older side would misread.
PROTOCOL = 4
#: A frame holds texts and numbers only; the largest real one (a model card with its vocabulary) has some 100 kB.
MAX_FRAME_BYTES = 16 * 2**20
_LENGTH = struct.Struct("<I")


class ProtocolError(Exception):
    """The other side sent bytes that are no message of this version."""


@dataclass(frozen=True)
class Load:
    """Make this engine ready. Empty ``model`` means the weights that come with the extension, empty ``adapter`` none."""

    id: int
    model: str = ""
    adapter: str = ""
    device: str = "auto"


@dataclass(frozen=True)
class Segment:
    """Find ``prompts`` in a volume. ``buffer`` is empty when the worker already holds the image of ``key``.

    ``roi`` is a native half-open box (k0, k1, j0, j1, i0, i1) or empty; ``ijk_to_ras`` has 16 numbers, row by row. ``modality`` is "ct", "mr", "pet"
    or "" for what the voxels say; ``stated`` is what the image says of itself, in DICOM's letters ("US"), or empty.
    """

    id: int
    key: str
    shape: list
    dtype: str
    ijk_to_ras: list
    prompts: list
    buffer: dict = field(default_factory=dict)
    modality: str = ""
    stated: str = ""
    source: str = ""
    probability: bool = False
    allow_unknown: bool = False
    roi: list = field(default_factory=list)


@dataclass(frozen=True)
class Cancel:
    """Stop the request ``id`` at the next tile."""

    id: int


@dataclass(frozen=True)
class Status:
    """Ask for memory in use and the images held."""

    id: int


@dataclass(frozen=True)
class Release:
    """Forget every encoded image; the model stays."""

    id: int


@dataclass(frozen=True)
class Diagnose:
    """Ask for versions, devices and a smoke test."""

    id: int


@dataclass(frozen=True)
class Fetch:
    """Download a model of the registry; answered with ``Progress`` and a ``Report`` with its path."""

    id: int
    name: str


@dataclass(frozen=True)
class Hello:
    """The worker runs. ``pid`` is the process that computes: behind a launcher it differs from the process that was started."""

    protocol: int
    version: str
    pid: int


@dataclass(frozen=True)
class Loaded:
    """The engine is ready. ``vocabulary`` is the checkpoint's own, as :meth:`Vocabulary.from_json` reads it."""

    id: int
    model_name: str
    model_sha256: str
    adapter_sha256: str
    device: str
    card: dict
    vocabulary: dict
    warnings: list
    elapsed_s: float


@dataclass(frozen=True)
class Progress:
    """``fraction`` of the request in [0, 1] and the stage's name."""

    id: int
    fraction: float
    stage: str


@dataclass(frozen=True)
class Found:
    """Result ``index`` of ``count``. ``mask`` names a buffer with uint8 voxels of ``box`` alone; empty without voxels.

    ``probability`` names a float16 buffer of the whole grid, if asked for. Numbers that do not exist are None.
    """

    id: int
    index: int
    count: int
    prompt: str
    resolved: str
    verdict: str
    presence: float | None
    confidence: float | None
    volume_ml: float
    elapsed_s: float
    box: list = field(default_factory=list)
    mask: dict = field(default_factory=dict)
    probability: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)
    suggestions: list = field(default_factory=list)
    colour: list = field(default_factory=list)
    details: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The request is finished. ``warnings``: of this request. ``keys``: images that the worker holds now. ``device``: it ended on this one."""

    id: int
    elapsed_s: float
    warnings: list
    cached_bytes: int
    keys: list
    device: str


@dataclass(frozen=True)
class Failed:
    """The request could not be done. ``category``: input, prompt, checkpoint, device, memory, packages or internal."""

    id: int
    category: str
    message: str
    details: str = ""


@dataclass(frozen=True)
class Stopped:
    """The request was cancelled as asked."""

    id: int


@dataclass(frozen=True)
class Report:
    """Answer to ``Status``, ``Release`` and ``Diagnose``."""

    id: int
    data: dict


Message = Load | Segment | Cancel | Status | Release | Diagnose | Fetch | Hello | Loaded | Progress | Found | Done | Failed | Stopped | Report
_KINDS: dict[str, Any] = {
    cls.__name__: cls for cls in (Load, Segment, Cancel, Status, Release, Diagnose, Fetch, Hello, Loaded, Progress, Found, Done, Failed, Stopped, Report)
}
_HINTS: dict[str, dict[str, Any]] = {name: get_type_hints(cls) for name, cls in _KINDS.items()}


def file_stamp(path: str) -> str:
    """Changes when a file is written again, so that a model trained anew under the same name is read anew; "" for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_mtime_ns}-{status.st_size}"


def finite(value: float | None) -> float | None:
    """JSON has no NaN: a number that does not exist is None."""
    return float(value) if value is not None and math.isfinite(value) else None


def encode(message: Message) -> bytes:
    """One frame."""
    body = json.dumps({"kind": type(message).__name__, **asdict(message)}, ensure_ascii=False, allow_nan=False).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"A message of {len(body)} bytes exceeds {MAX_FRAME_BYTES}.")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """A message from the body of a frame; anything else than exactly the declared fields and types is refused."""
    try:
        data = json.loads(body)
        kind = data.pop("kind")
        cls, hints = _KINDS[kind], _HINTS[kind]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ProtocolError(f"Not a message: {body[:80]!r}") from error
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        raise ProtocolError(f"{kind} has no field {sorted(unknown)}.")
    for name, value in data.items():
        if not _fits(value, hints[name]):
            raise ProtocolError(f"{kind}.{name} cannot be {value!r}."[:200])
    try:
        return cls(**data)
    except TypeError as error:
        raise ProtocolError(str(error)) from error


def _fits(value: Any, hint: Any) -> bool:
    if hint == (float | None):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


class FrameReader:
    """Cut a stream of bytes, in pieces of any size, into messages."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Messages that ``data`` completes.

        Raises:
            ProtocolError: the stream is no stream of frames; it cannot be used any more.
        """
        self._pending += data
        messages = []
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"A frame of {length} bytes exceeds {MAX_FRAME_BYTES}: the stream is no message stream.")
            if len(self._pending) < _LENGTH.size + length:
                break
            body = bytes(self._pending[_LENGTH.size : _LENGTH.size + length])
            del self._pending[: _LENGTH.size + length]
            messages.append(decode(body))
        return messages
