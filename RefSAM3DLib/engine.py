"""The public engine: encode a volume once, then ask as many prompts as you like."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from .branch import Branch
from .checkpoint import Checkpoint, apply_adapter, file_sha256, load_checkpoint
from .config import GridConfig
from .device import choose_device, device_title
from .errors import Cancelled, MemoryRefusalError
from .inference.checks import check_volume, checked_roi, content_key, empty_cache, is_shortage
from .inference.embed import GridEmbedding
from .inference.plan import check_memory, drop_unplanned, held_bytes
from .inference.scope import best_grid
from .inference.session import PromptSession
from .inference.volume_embedding import VolumeEmbedding
from .modeling.refsam3d import RefSAM3D
from .resources import resource_path
from .text.prompts import resolve_all
from .text.vocabulary import Vocabulary
from .types import Cancel, Progress, PromptResult, ResolvedPrompt, Volume
from .volume_io import decide_modality

logger = logging.getLogger(__name__)

DEFAULT_MODEL = ("Models", "refsam3d-small.safetensors")
#: Bytes of images, encodings and voxels, that an engine keeps before it forgets the least recently used one.
CACHE_BYTES = 1_000_000_000
#: Images kept, however small: the current one and the one before, as the worker of the Slicer extension keeps their voxels.
MAX_IMAGES = 2


def _preload() -> None:
    """SimpleITK takes 0.07 s and is first needed when a mask is written back: meanwhile the person types, or the image is read."""
    with contextlib.suppress(ImportError):  # where it is missing, its first use says so
        importlib.import_module("SimpleITK")


_Answer = TypeVar("_Answer")


class RefSAM3DEngine:
    """Text-prompted segmentation of volumes with one checkpoint on one device.

    Use :meth:`from_default` or :meth:`from_checkpoint`. One engine may be used from several threads; runs queue.

    Args:
        checkpoint: weights, words and grids. tuned: the same with an adapter, which answers for the adapter's structures alone.
        adapter: path of the adapter's file, and adapter_sha256 its hash, for records.

    Attributes:
        checkpoint: what may be asked for: that of the adapter, which knows the base's structures and its own.
        branches: the base, then the adapter's network where there is one.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "auto", cache_bytes: int = CACHE_BYTES, adapter: str = "", tuned: Checkpoint | None = None,
        adapter_sha256: str = "",
    ) -> None:  # fmt: skip
        self.checkpoint = tuned or checkpoint
        self.device, self.warnings = choose_device(device)
        self._chosen = self.device  # a shortage of its memory may lead to the CPU for a while
        self.adapter, self.adapter_sha256 = adapter, adapter_sha256
        self.branches = [Branch(checkpoint, self.device)]
        if tuned is not None:
            self.branches.append(Branch(tuned, self.device, self.branches[0]))
        self.cache_limit = cache_bytes
        self._embeddings: OrderedDict[str, VolumeEmbedding] = OrderedDict()
        self._lock = threading.RLock()
        threading.Thread(target=_preload, name="preload").start()

    @classmethod
    def from_default(cls, device: str = "auto", adapter: str | Path | None = None) -> RefSAM3DEngine:
        """The model that ships with the program."""
        return cls.from_checkpoint(resource_path(*DEFAULT_MODEL), device, adapter)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto", adapter: str | Path | None = None) -> RefSAM3DEngine:
        """A model file, optionally with an adapter trained on it, which answers for the structures that it was tuned on.

        Raises:
            CheckpointError, DeviceError: with the next step.
        """
        checkpoint = load_checkpoint(path)
        if adapter is None:
            return cls(checkpoint, device)
        tuned = apply_adapter(checkpoint, adapter)
        return cls(checkpoint, device, adapter=str(adapter), tuned=tuned, adapter_sha256=file_sha256(Path(adapter)))

    @property
    def model(self) -> RefSAM3D:
        """Network of the base."""
        return self.branches[0].model

    @property
    def vocabulary(self) -> Vocabulary:
        """What may be asked for."""
        return self.checkpoint.vocabulary

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self.checkpoint.config.name

    @property
    def model_sha256(self) -> str:
        """Hash of the weights file."""
        return self.checkpoint.sha256

    @property
    def model_card(self) -> dict[str, Any]:
        """Data, licences, scores, limits."""
        return self.checkpoint.card

    @property
    def device_name(self) -> str:
        """Device for people."""
        return device_title(self.device)

    @property
    def cached_bytes(self) -> int:
        """Memory of encoded images."""
        return sum(e.bytes for e in self._embeddings.values())

    def release(self) -> None:
        """Forget encoded images, and use the chosen device again if a shortage of its memory has led to the CPU."""
        with self._lock:
            self._embeddings.clear()
            empty_cache(self.device)
            if self.device == self._chosen:
                return
            try:
                self._move_to(self._chosen)
            except RuntimeError as error:
                if not is_shortage(error):
                    raise
                self._move_to(torch.device("cpu"))

    def resolve(self, prompts: Sequence[str] | str) -> list[ResolvedPrompt]:
        """What the prompts mean to this checkpoint; nothing is computed."""
        return resolve_all(prompts, self.vocabulary)

    def branch_of(self, structure: str) -> int:
        """Index of the branch that answers for a structure: the adapter's if it was tuned on it, else the base."""
        return len(self.branches) - 1 if structure in self.branches[-1].checkpoint.answers_for else 0

    def embed(self, volume: Volume, progress: Progress | None = None, cancel: Cancel | None = None) -> VolumeEmbedding:
        """Read a volume and encode the view that decides presence, on the grid that fits it best. Cached by content.

        Raises:
            InputError: nothing to read. Cancelled: asked to stop.
        """
        with self._lock:
            embedding = self._embedding(volume)
            return self._with_what_fits(embedding, lambda: self._look_at(embedding, progress, cancel))

    def _look_at(self, embedding: VolumeEmbedding, progress: Progress | None, cancel: Cancel | None) -> VolumeEmbedding:
        candidates = [g for g in self.checkpoint.config.grids if embedding.modality.value in g.modalities] or list(self.checkpoint.config.grids)
        extents = {g.name: embedding.whole_view(g).extent_mm for g in candidates}
        grid = best_grid_of(candidates, self, embedding, extents)
        self._check_memory(embedding, [(grid.name, 1)])
        views = embedding.views(grid, coarse=not embedding.is_direct(grid))
        self._encode([(view, None) for view in views], progress, cancel, 0.0, 1.0, "reading the image")
        if progress is not None:
            progress(1.0, "reading the image")  # also where nothing was missing
        return embedding

    def segment(
        self,
        volume: Volume | VolumeEmbedding,
        prompts: Sequence[str] | str,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        probability: bool = False,
        allow_unknown: bool = False,
        roi: tuple[int, int, int, int, int, int] | None = None,
    ) -> list[PromptResult]:
        """Answer prompts, one result per resolved prompt, in order.

        Args:
            volume: a volume, or the embedding of one (then nothing of it is computed twice). prompts: several, or one string.
            probability: also return the probability volume. allow_unknown: draw prompts that are not in the vocabulary.
            roi: native half-open (k0, k1, j0, j1, i0, i1); results are cut to it, and fine tiles are computed only there.

        Raises:
            PromptError, InputError, DeviceError, Cancelled.
        """
        resolved = self.resolve(prompts)
        with self._lock:
            if isinstance(volume, VolumeEmbedding) and volume.engine is not self:
                volume = volume.volume  # the tokens of one network mean nothing to another
            embedding = volume if isinstance(volume, VolumeEmbedding) else self._embedding(volume)
            if roi is not None:
                roi = checked_roi(roi, embedding.volume.geometry.shape_dhw)
            session = PromptSession(self, embedding, progress, cancel, probability, roi)
            return self._with_what_fits(embedding, lambda: session.run(resolved, allow_unknown))

    def _check_memory(self, embedding: VolumeEmbedding, readings: list[tuple[str, int]]) -> None:
        """Refuse a run that cannot fit, after what this engine keeps for later runs has been given up for it: other images, then other parts of this one.

        Raises:
            MemoryRefusalError: with what it needs, what is free, and what to do.
        """
        config, geometry = self.checkpoint.config, embedding.volume.geometry
        for give_up in (lambda: self._forget_others(embedding), lambda: drop_unplanned(embedding, readings)):
            try:
                check_memory(config, geometry, readings, held_bytes(embedding, readings))
            except MemoryRefusalError:
                give_up()
                empty_cache(self.device)
            else:
                return
        check_memory(config, geometry, readings, held_bytes(embedding, readings))

    def _with_what_fits(self, embedding: VolumeEmbedding, work: Callable[[], _Answer]) -> _Answer:
        """Do some work on an image; where memory runs out, do it again with smaller tiles, then on the CPU."""
        if any(grid.device != self.device for grid in embedding.grids.values()):
            embedding.grids.clear()  # made before this engine changed its device
        try:
            while True:
                try:
                    return work()
                except (MemoryError, RuntimeError) as error:
                    if not is_shortage(error):
                        raise
                    shortage = (str(error).strip() or type(error).__name__).splitlines()[0]  # the frames of the error hold the tensors that must go
                self._need_less(embedding, shortage)
        finally:
            self._forget_beyond_limit(embedding)

    def _need_less(self, embedding: VolumeEmbedding, shortage: str) -> None:
        """Make the next attempt need less memory, or find more: without the other images, in smaller tiles, then on the CPU.

        Raises:
            DeviceError: nothing smaller is left.
        """
        if self._forget_others(embedding):
            empty_cache(self.device)  # nothing is worse for it: no word
        elif not embedding.small_tiles:
            embedding.use_small_tiles()
            self._note(f"{self.device_name} ran out of memory; this image is read in smaller tiles, which see less around them.")
        elif self.device.type == "cpu":
            raise MemoryRefusalError(f"Out of memory ({shortage}); close other programs, or crop the volume or give a region of interest.")
        else:
            self._note(f"{self.device_name} ran out of memory; from here on the CPU is used, until the images are released.")
            full = self.device
            self._move_to(torch.device("cpu"))
            embedding.use_small_tiles(False)
            self._embeddings[embedding.key] = embedding
            empty_cache(full)  # for other programs

    def _note(self, warning: str) -> None:
        logger.warning(warning)
        self.warnings.append(warning)

    def _move_to(self, device: torch.device) -> None:
        self.device = device
        for branch in self.branches:
            branch.move_to(device)
        self._embeddings.clear()

    def _forget_others(self, embedding: VolumeEmbedding) -> bool:
        """Forget every image but this one; whether there was another."""
        others = [key for key, other in self._embeddings.items() if other is not embedding]
        for key in others:
            del self._embeddings[key]
        return bool(others)

    def _embedding(self, volume: Volume) -> VolumeEmbedding:
        """Embedding of a volume by content; the least recently used ones go when the limit is reached."""
        check_volume(volume)
        if volume.modality is None:  # before the key, which depends on it
            volume.modality, volume.modality_source = decide_modality(volume)
        key = content_key(volume)
        if key in self._embeddings:
            self._embeddings[key].volume = volume  # the earlier one may have been changed in place since, or keep a buffer alive that its owner is done with
        else:
            self._embeddings[key] = VolumeEmbedding(self, volume, key)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]

    def _forget_beyond_limit(self, current: VolumeEmbedding) -> None:
        """Drop the least recently used images once a limit is passed; the current one stays, however large."""
        if current.key in self._embeddings:
            self._embeddings.move_to_end(current.key)
        for key in [k for k, e in self._embeddings.items() if e is not current]:
            held = self.cached_bytes + sum(e.volume.array.nbytes for e in self._embeddings.values())
            if held <= self.cache_limit and len(self._embeddings) <= MAX_IMAGES:
                return
            del self._embeddings[key]

    def _encode(
        self, wanted: list[tuple[GridEmbedding, list[int] | None]], progress: Progress | None, cancel: Cancel | None, low: float, high: float, stage: str
    ) -> None:
        """Encode the missing tiles of several passes, with a true fraction from ``low`` to ``high``."""
        work = [(g, g.missing(indices if indices is not None else range(len(g.layout.starts)))) for g, indices in wanted]
        total, done = sum(len(m) for _, m in work), 0
        if cancel is not None and cancel():
            raise Cancelled

        def step(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(low + (high - low) * done / total, stage)

        for grid, missing in work:
            grid.encode(missing, step, cancel)


def best_grid_of(
    candidates: list[GridConfig], engine: RefSAM3DEngine, embedding: VolumeEmbedding, extents: dict[str, tuple[float, float, float]]
) -> GridConfig:
    """The candidate whose training images resemble the volume most."""
    import dataclasses

    return best_grid(dataclasses.replace(engine.checkpoint.config, grids=tuple(candidates)), embedding.modality, extents)
