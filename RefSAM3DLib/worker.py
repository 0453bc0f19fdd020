"""The engine in a process of its own: ``python -m RefSAM3DLib.worker`` speaks :mod:`~RefSAM3DLib.worker_protocol` on stdin and stdout.

Why a process: the application's Python holds one lock for everything, a native crash or a lack of memory here must not take the user's
work with it, and a run that does not answer can be killed. The worker ends by itself when stdin closes, also in the middle of a run,
so it never outlives the application, however that ended.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from . import __version__, errors
from . import worker_protocol as protocol
from .shared_buffer import BufferName, SharedBuffer
from .types import Modality, Progress, PromptResult, Volume
from .worker_streams import Inbox, Outbox, take_over

log = logging.getLogger("refsam3d.worker")
#: Images kept encoded: the current one and the one before, so that going back and forth is free.
MAX_IMAGES = 2
#: More progress than this per second only costs the user interface time.
PROGRESS_INTERVAL_S = 0.05

EngineFactory = Callable[[str, str, str], Any]


def default_engine(model: str, adapter: str, device: str) -> Any:
    """The engine for a weights file ("" is the one that comes with the extension) and an optional adapter."""
    from .engine import RefSAM3DEngine

    if model:
        return RefSAM3DEngine.from_checkpoint(model, device=device, adapter=adapter or None)
    if adapter:
        return RefSAM3DEngine.from_default(device=device, adapter=adapter)
    return RefSAM3DEngine.from_default(device=device)


class Worker:
    """Answer requests one after the other."""

    def __init__(self, outbox: Outbox, inbox: Inbox, factory: EngineFactory, owner: str = "") -> None:
        self._send, self._inbox, self._factory, self._owner = outbox.send, inbox, factory, owner
        self._engine: Any = None
        self._loaded: tuple[str, ...] | None = None
        self._images: OrderedDict[str, Any] = OrderedDict()
        self._results: list[SharedBuffer] = []

    def serve(self) -> None:
        """Until stdin closes (the inbox then ends the process)."""
        self._send(protocol.Hello(protocol.PROTOCOL, __version__, os.getpid()))
        while True:
            self.handle(self._inbox.requests.get())

    def handle(self, request: protocol.Message) -> None:
        """One request and its answer; every error becomes a message, the process goes on."""
        try:
            if isinstance(request, protocol.Load):
                self._forget_results()
                self._load(request)
            elif isinstance(request, protocol.Segment):
                self._forget_results()
                self._segment(request)
            elif isinstance(request, protocol.Release):
                self._images.clear()
                if self._engine is not None:
                    self._engine.release()
                self._send(protocol.Report(request.id, self._memory()))
            elif isinstance(request, protocol.Status):
                self._send(protocol.Report(request.id, self._memory()))
            elif isinstance(request, protocol.Fetch):
                self._fetch(request)
            elif isinstance(request, protocol.Diagnose):
                from .worker_report import report

                self._send(protocol.Report(request.id, report(self._engine)))
            else:
                raise protocol.ProtocolError(f"{type(request).__name__} is no request.")
        except errors.Cancelled:
            self._send(protocol.Stopped(request.id))  # type: ignore[union-attr]
        except Exception as error:
            log.exception("request failed")
            self._send(failure(getattr(request, "id", 0), error))
            if isinstance(error, MemoryError) or failure(0, error).category == "memory":
                self._images.clear()
                if self._engine is not None:
                    self._engine.release()  # its encodings keep their voxels, too: the next attempt must find that memory free

    def _forget_results(self) -> None:
        """The application has read the last run's results before it sends the next; a question may come while it still reads them."""
        for buffer in self._results:
            buffer.close()
        self._results.clear()

    def _load(self, request: protocol.Load) -> None:
        choice = (request.model, request.adapter, request.device)
        wanted = (*choice, protocol.file_stamp(request.model), protocol.file_stamp(request.adapter))
        started = time.monotonic()
        if self._loaded != wanted:
            self._images.clear()
            if self._engine is not None:  # its encodings know it and it knows them: they would stay on the card beside the next model's
                self._engine.release()
            self._engine, self._loaded = None, None
            self._engine = self._factory(*choice)
            self._loaded = wanted
        if self._inbox.is_cancelled(request.id):
            raise errors.Cancelled
        engine = self._engine
        self._send(
            protocol.Loaded(
                request.id,
                str(engine.model_name),
                str(engine.model_sha256),
                str(getattr(engine, "adapter_sha256", "")),
                str(engine.device_name),
                _plain(dict(engine.model_card)),
                engine.vocabulary.to_dict(),
                [str(w) for w in engine.warnings],
                time.monotonic() - started,
            )
        )

    def _segment(self, request: protocol.Segment) -> None:
        if self._engine is None:
            raise RuntimeError("Segment before Load")
        started, known = time.monotonic(), len(self._engine.warnings)
        image = self._image(request)
        self._send(protocol.Progress(request.id, 0.0, "reading the image"))
        results = self._engine.segment(
            image,
            [str(p) for p in request.prompts],
            progress=self._progress(request.id),
            cancel=lambda: self._inbox.is_cancelled(request.id),
            probability=request.probability,
            allow_unknown=request.allow_unknown,
            roi=tuple(request.roi) or None,
        )
        if self._inbox.is_cancelled(request.id):
            raise errors.Cancelled
        for index, result in enumerate(results):
            self._send(self._found(request.id, index, len(results), result))
        self._send(
            protocol.Done(
                request.id,
                time.monotonic() - started,
                [str(w) for w in self._engine.warnings[known:]],
                int(self._engine.cached_bytes),
                list(self._images),
                str(self._engine.device_name),
            )
        )

    def _progress(self, request: int) -> Progress:
        """Progress as messages, not more often than a person can see."""
        last = [0.0]

        def progress(fraction: float, stage: str) -> None:
            now = time.monotonic()
            if now - last[0] >= PROGRESS_INTERVAL_S:
                last[0] = now
                self._send(protocol.Progress(request, min(max(float(fraction), 0.0), 1.0), str(stage)))

        return progress

    def _fetch(self, request: protocol.Fetch) -> None:
        from .model_download import download
        from .models_registry import read_registry

        entry = next((e for e in read_registry() if e.name == request.name), None)
        if entry is None or not entry.url:
            raise errors.CheckpointError(f"There is no model '{request.name}' to download; choose another one.")
        download(entry.url, entry.path, entry.size_bytes, entry.sha256, self._progress(request.id), lambda: self._inbox.is_cancelled(request.id))
        self._send(protocol.Report(request.id, {"path": str(entry.path)}))

    def _image(self, request: protocol.Segment) -> Volume:
        """The volume of ``key``: mapped from the request's buffer, or the one that is held since an earlier request.

        The engine finds its own encoding of an image by the image's content, so only the voxels have to be kept here.
        """
        if request.key in self._images:
            self._images.move_to_end(request.key)
            return self._images[request.key]
        if not request.buffer:
            raise RuntimeError(f"image {request.key} is not held any more")
        from .geometry import Geometry

        buffer = SharedBuffer.open(BufferName.from_dict(request.buffer))
        shape = tuple(int(n) for n in request.shape)
        array = buffer.array(shape, request.dtype)
        matrix = [request.ijk_to_ras[4 * row : 4 * row + 4] for row in range(4)]
        volume = Volume(
            array=array,
            geometry=Geometry(shape, matrix),  # type: ignore[arg-type]
            modality=Modality(request.modality) if request.modality else None,
            modality_source="dicom" if request.modality else "",
            source=request.source,
            metadata={"modality": request.stated} if request.stated else {},
        )
        if volume.modality is None:  # decided once: the engine's cache knows an image by its voxels, grid and modality
            from .volume_io import decide_modality

            volume.modality, volume.modality_source = decide_modality(volume)
        self._images[request.key] = volume
        while len(self._images) > MAX_IMAGES:
            self._images.popitem(last=False)
        return volume

    def _found(self, request: int, index: int, count: int, result: PromptResult) -> protocol.Found:
        box = result.box
        cut = result.mask_in_box()
        return protocol.Found(
            id=request,
            index=index,
            count=count,
            prompt=result.prompt,
            resolved=result.resolved,
            verdict=result.verdict.value,
            presence=protocol.finite(result.presence),
            confidence=protocol.finite(result.confidence),
            volume_ml=float(result.volume_ml),
            elapsed_s=float(result.elapsed_s),
            box=[int(n) for n in box] if box is not None else [],
            mask={} if cut is None else self._share(cut, "uint8"),
            probability={} if result.probability is None else self._share(result.probability, "float16"),
            warnings=[str(w) for w in result.warnings],
            suggestions=[str(s) for s in result.suggestions],
            colour=[int(c) for c in result.colour],
            details=_plain(dict(result.details)),
        )

    def _share(self, array: Any, dtype: str) -> dict[str, Any]:
        buffer = SharedBuffer.create(array.size * (1 if dtype == "uint8" else 2), self._owner)
        buffer.array(array.shape, dtype)[...] = array
        self._results.append(buffer)
        return buffer.name.as_dict()

    def _memory(self) -> dict[str, Any]:
        from .worker_report import resident_bytes

        return {
            "resident_bytes": resident_bytes(),
            "cached_bytes": int(self._engine.cached_bytes) if self._engine is not None else 0,
            "device": str(self._engine.device_name) if self._engine is not None else "",
            "keys": list(self._images),
        }


def _plain(value: Any) -> Any:
    """JSON values only; what is none becomes its text, a number that does not exist becomes None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return protocol.finite(value)
    return protocol.finite(value.item()) if hasattr(value, "item") and getattr(value, "size", 0) == 1 else str(value)


def failure(request: int, error: BaseException) -> protocol.Failed:
    """What a user is told about an error, and what a developer needs of it."""
    categories = (
        (errors.MemoryRefusalError, "memory"),
        (errors.InputError, "input"),
        (errors.PromptError, "prompt"),
        (errors.CheckpointError, "checkpoint"),
        (errors.DeviceError, "device"),
        (errors.OutputError, "memory"),
        (MemoryError, "memory"),
        (ImportError, "packages"),
    )
    category = next((name for kind, name in categories if isinstance(error, kind)), "internal")
    if type(error).__name__ in ("OutOfMemoryError", "OutOfMemory"):  # torch's, without importing torch
        category = "memory"
    details = "".join(traceback.format_exception(error))
    return protocol.Failed(request, category, str(error) or type(error).__name__, details)


def _factory(spec: str) -> EngineFactory:
    if not spec:
        return default_engine
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


def main(argv: list[str] | None = None) -> None:
    """Take over stdin and stdout for messages; everything printed goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m RefSAM3DLib.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--owner", default="", help="goes into the names of shared buffers, so that the application finds leftovers")
    parser.add_argument("--engine", default="", help=argparse.SUPPRESS)  # module:factory, for tests of the application's side
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    requests, replies = take_over()
    if hasattr(os, "nice"):
        os.nice(5)  # the user interface goes first on a machine with few cores
    inbox = Inbox(requests)
    inbox.start()
    Worker(Outbox(replies), inbox, _factory(arguments.engine), arguments.owner).serve()


if __name__ == "__main__":
    main()
