"""Images and prompts that cannot be answered, and memory that does not suffice."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
import torch
from tiny_engine import blocks, encoded, make_engine

from RefSAM3DLib import worker_protocol as protocol
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.errors import DeviceError, InputError, MemoryRefusalError, PromptError
from RefSAM3DLib.inference.checks import is_shortage
from RefSAM3DLib.inference.embed import GridEmbedding
from RefSAM3DLib.inference.plan import USABLE, held_bytes, planned_bytes
from RefSAM3DLib.inference.session import PromptSession
from RefSAM3DLib.types import PromptResult
from RefSAM3DLib.worker import Worker


@pytest.mark.parametrize("shape", [(1, 24, 28), (200, 6, 6)])
def test_thin_and_long_volumes_are_answered(engine: RefSAM3DEngine, shape: tuple[int, int, int]) -> None:
    found = engine.segment(blocks(shape, (10.0, 10.0, 5.0)), ["brainstem"])[0]
    assert found.mask.shape == shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a[0], r"shape \(24, 28\), its geometry says \(20, 24, 28\)"),
        (lambda a: a[:-1], "load the volume again"),
        (lambda a: a.astype(complex), "of type complex128"),
        (lambda a: np.where(a > 0, np.nan, a.astype(np.float32)), r"has \d+ voxels that are NaN or infinite"),
        (lambda a: np.where(a > 0, a, -np.finfo(np.float64).max), r"has \d+ voxels beyond 1e\+38 \(-1\.79769e\+308\).*replace them by the background"),
        (lambda a: np.where(a > 0, a, np.finfo(np.float32).max).astype(np.float32), r"beyond 1e\+38 \(3\.40282e\+38\)"),
        (lambda a: np.full(a.shape, 3, np.int16), "same value 3"),
    ],
)
def test_voxels_that_nothing_can_be_read_from_are_refused(engine: RefSAM3DEngine, change, words: str) -> None:
    volume = blocks()
    with pytest.raises(InputError, match=words):
        engine.segment(dataclasses.replace(volume, array=change(volume.array)), ["brainstem"])


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 10_000, "brain\x00stem"])
def test_prompt_that_no_one_can_mean_is_refused_before_anything_is_computed(engine: RefSAM3DEngine, prompt: str) -> None:
    with pytest.raises(PromptError):
        engine.segment(blocks(), ["brainstem", prompt])
    assert engine.cached_bytes == 0


def test_no_prompt_no_result(engine: RefSAM3DEngine) -> None:
    assert engine.segment(blocks(), []) == []


def test_out_of_memory_is_met_with_smaller_tiles_first(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = blocks()
    smaller = make_engine(grid={"tile_dhw": (16, 16, 16), "coarse_tile_dhw": (16, 16, 16)}).segment(volume, ["brainstem"], probability=True)[0]
    whole = engine.segment(volume, ["brainstem"])[0]
    engine.release()
    encode, limit = type(engine.model).encode_image, engine.checkpoint.config.grids[0].tile_dhw
    seen = []

    def small(model, batch: torch.Tensor, domain: torch.Tensor):
        seen.append(tuple(batch.shape[2:]))
        if batch[0, 0].numel() >= np.prod(limit):
            raise torch.OutOfMemoryError("out of memory")
        return encode(model, batch, domain)

    monkeypatch.setattr(type(engine.model), "encode_image", small)
    held = engine._embedding(volume)
    found = engine.segment(held, ["brainstem"], probability=True)[0]
    assert held.small_tiles
    assert any("read in smaller tiles" in w for w in engine.warnings)
    assert {np.prod(shape) < np.prod(limit) for shape in seen} == {False, True}
    assert np.array_equal(found.mask, smaller.mask), "as a network answers whose grid has those tiles"
    assert np.array_equal(found.probability, smaller.probability)
    assert not np.array_equal(found.mask, whole.mask)
    assert np.array_equal(engine.segment(held, ["brainstem"])[0].mask, found.mask)


def test_reading_an_image_alone_meets_a_shortage_in_the_same_way(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line, batch and worker embed first."""
    encode, failed = GridEmbedding._encode_batch, []

    def once(grid: GridEmbedding, *arguments: object) -> object:
        if not failed:
            failed.append(1)
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9")
        return encode(grid, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GridEmbedding, "_encode_batch", once)
    held = engine.embed(blocks())
    assert held.small_tiles
    assert any("read in smaller tiles" in w for w in engine.warnings)
    assert encoded(held) > 0


def test_a_refusal_for_the_computers_memory_blames_no_graphics_card(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.inference.plan.available_memory_mb", lambda: 1.0)
    engine.device = torch.device("cuda")  # pretended
    for work in (lambda: engine.embed(blocks()), lambda: engine.segment(blocks(), ["brainstem"])):
        with pytest.raises(DeviceError, match="GB are free; close other programs"):
            work()
    assert engine.device.type == "cuda"
    assert engine.warnings == []


def test_out_of_memory_on_a_gpu_falls_back_to_the_cpu_and_says_so(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.engine.device_title", lambda device: f"{device.type} (pretended)")
    volume = blocks()
    held = engine.embed(volume)
    engine.device = torch.device("cuda")  # pretended: what was encoded before belongs to it
    for grid in held.grids.values():
        grid.device = engine.device
    real, failed = PromptSession.run, []

    def once(session: PromptSession, *args: object) -> list[PromptResult]:
        assert not held.ahead, "voxels that an attempt with other tiles had read"
        if len(failed) < 2:  # with smaller tiles, too
            failed.append(1)
            held.ahead["head_neck", True] = torch.zeros(1, 1, 1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(session, *args)

    monkeypatch.setattr(PromptSession, "run", once)
    found = engine.segment(held, ["brainstem"])[0]
    assert found.mask.any()
    assert engine.device.type == "cpu"
    assert any("ran out of memory; from here on the CPU is used, until the images are released" in w for w in engine.warnings)
    assert all(grid.device.type == "cpu" for grid in held.grids.values())
    assert np.array_equal(engine.segment(held, ["brainstem"])[0].mask, found.mask)


def test_released_images_give_the_chosen_device_back(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One large case must not leave the rest of a night's batch on the CPU; a card that is still full must."""
    moves: list[str] = []

    def move(branch: object, device: torch.device) -> None:
        moves.append(device.type)
        if device.type == "cuda" and len(moves) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("RefSAM3DLib.branch.Branch.move_to", move)
    engine._chosen = torch.device("cuda")  # pretended: it fell back before
    engine.release()
    assert engine.device.type == "cpu"
    engine.release()
    assert (engine.device.type, moves) == ("cuda", ["cuda", "cpu", "cuda"])
    engine.device = engine._chosen = torch.device("cpu")


def test_other_images_go_before_this_one_is_read_worse(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    other, volume = blocks(), blocks()
    other.array = other.array + other.array.dtype.type(1)
    kept = engine.embed(other)
    real, failed = PromptSession.run, []

    def once(session: PromptSession, *args: object) -> list[PromptResult]:
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("out of memory")
        return real(session, *args)

    monkeypatch.setattr(PromptSession, "run", once)
    held = engine._embedding(volume)
    assert engine.segment(held, ["brainstem"])[0].mask.any()
    assert failed
    assert not held.small_tiles
    assert engine.warnings == []
    assert kept not in engine._embeddings.values()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out"),
        MemoryError("out"),
        MemoryError(),  # as Python itself raises it, without a word
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"),
    ],
)
def test_out_of_memory_on_the_cpu_is_one_sentence(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(GridEmbedding, "_encode_batch", fail)
    with pytest.raises(DeviceError, match=r"Out of memory .*close other programs") as caught:
        engine.segment(blocks(), ["brainstem"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated: 5.83 GB, other allocations: 3.1 GB, max allowed: 9.07 GB). Tried to allocate 256 MB on private pool.",
        "Invalid buffer size: 20.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    ],
)
def test_a_shortage_is_recognised_by_the_words_of_every_allocator(words: str) -> None:
    assert is_shortage(RuntimeError(words))
    assert not is_shortage(RuntimeError("CUDA error: device-side assert triggered"))


def test_the_next_attempt_begins_when_the_failed_one_holds_nothing_any_more(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, activations = GridEmbedding._encode_batch, []

    def inner() -> None:
        held = torch.zeros(9)
        activations.append(weakref.ref(held))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def once(grid: GridEmbedding, *arguments: object) -> object:
        if not activations:
            try:
                inner()
            except torch.OutOfMemoryError as error:
                raise RuntimeError("CUDA error: out of memory") from error
        assert activations[0]() is None
        return encode(grid, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GridEmbedding, "_encode_batch", once)
    assert engine.embed(blocks()).small_tiles


def test_other_errors_keep_their_name(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(GridEmbedding, "_encode_batch", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        engine.segment(blocks(), ["brainstem"])


def test_run_that_cannot_fit_is_refused_before_it_starts(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.inference.plan.available_memory_mb", lambda: 1.0)
    volume = blocks()
    with pytest.raises(DeviceError, match="GB are free; close other programs, or crop the volume first") as caught:
        engine.segment(volume, ["brainstem"])
    assert str(caught.value).count("close other programs") == 1
    assert encoded(engine._embedding(volume)) == 0


def simulate_memory(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch, total_bytes: float) -> None:
    """A machine on which nothing but this engine takes memory."""
    monkeypatch.setattr("RefSAM3DLib.inference.plan.available_memory_mb", lambda: (total_bytes - engine.cached_bytes) / 2**20)


def enough_for(engine: RefSAM3DEngine, structures: int) -> float:
    """Memory that a run on an image of :func:`blocks` may just plan for."""
    return planned_bytes(engine.checkpoint.config, blocks().geometry, [("head_neck", structures)]) / USABLE * 1.001


def test_another_prompt_is_not_refused_for_what_the_image_itself_holds(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = blocks()
    simulate_memory(engine, monkeypatch, enough_for(engine, 1))
    engine.embed(volume)
    for prompt in ("brainstem", "mandible", "larynx"):
        assert engine.segment(volume, [prompt])
    assert engine.cached_bytes > 0.01 * enough_for(engine, 1), "else nothing is shown"


def test_the_next_image_is_not_refused_for_what_the_one_before_holds(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (dataclasses.replace(blocks(), array=blocks().array + n) for n in range(3))
    simulate_memory(engine, monkeypatch, enough_for(engine, 1))
    engine.segment(first, ["brainstem"])
    engine.embed(second)
    assert list(engine._embeddings) == [engine._embedding(second).key]
    assert engine.segment(third, ["brainstem"])


def test_other_images_are_kept_where_memory_suffices_for_all(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_memory(engine, monkeypatch, 3 * enough_for(engine, 1))
    for n in range(2):
        engine.segment(dataclasses.replace(blocks(), array=blocks().array + n), ["brainstem"])
    assert len(engine._embeddings) == 2


def test_what_an_image_keeps_for_other_prompts_is_given_up_before_one_is_refused(engine: RefSAM3DEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RefSAM3DLib.inference.plan.FINE_TILES", 2)
    total = enough_for(engine, 1)
    embedding = engine.embed(blocks())
    grid = embedding.grid(engine.checkpoint.config.grids[0], coarse=False)
    grid.encode(range(4))
    embedding.grids["another", True, False, 0] = other = embedding.grid(engine.checkpoint.config.grids[0], coarse=True, mirrored=True).mirror()
    other.encode([0])
    simulate_memory(engine, monkeypatch, 3 * total)
    engine._check_memory(embedding, [("head_neck", 1)])
    assert (len(grid.tiles), ("another", True, False, 0) in embedding.grids) == (4, True), "there is room"
    simulate_memory(engine, monkeypatch, total)
    engine._check_memory(embedding, [("head_neck", 1)])
    assert (len(grid.tiles), ("another", True, False, 0) in embedding.grids) == (0, False)
    assert engine.segment(embedding, ["larynx"])
    simulate_memory(engine, monkeypatch, 0.5 * total)
    engine._embeddings.clear()
    with pytest.raises(MemoryRefusalError, match="close other programs"):
        engine.embed(blocks())


def test_encodings_of_other_grids_excuse_nothing(engine: RefSAM3DEngine) -> None:
    embedding = engine.embed(blocks())
    assert held_bytes(embedding, [("head_neck", 1)]) > 0 == held_bytes(embedding, [("another", 1)])


def test_a_worker_that_ran_out_of_memory_gives_up_the_encodings(engine: RefSAM3DEngine) -> None:
    sent: list[object] = []
    worker = Worker(type("Box", (), {"send": staticmethod(sent.append)}), None, None)  # type: ignore[arg-type]
    worker._engine = engine
    engine.embed(blocks())

    def fail(_: object) -> None:
        raise MemoryRefusalError("This volume needs about 9 GB of memory.")

    worker._segment = fail  # type: ignore[method-assign]
    assert engine.cached_bytes > 0
    worker.handle(protocol.Segment(1, "a", [], "int16", [], ["brainstem"]))
    assert (type(sent[0]), sent[0].category) == (protocol.Failed, "memory")  # type: ignore[attr-defined]
    assert engine.cached_bytes == 0
