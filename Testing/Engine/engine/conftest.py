"""The tiny network with one thread, and an engine that has answered once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_checkpoint import tiny_checkpoint
from tiny_engine import BOTH, blocks

from RefSAM3DLib.checkpoint import Checkpoint
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.types import PromptResult, Volume


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And a machine whose free memory does not decide a test."""
    monkeypatch.setattr("RefSAM3DLib.inference.plan.available_memory_mb", lambda: 64_000.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture
def engine(checkpoint: Checkpoint) -> RefSAM3DEngine:
    return RefSAM3DEngine(checkpoint, "cpu")


@pytest.fixture(scope="module")
def shared(checkpoint: Checkpoint) -> tuple[RefSAM3DEngine, Volume, list[PromptResult]]:
    """An engine that has answered once."""
    torch.set_num_threads(1)
    made, volume = RefSAM3DEngine(checkpoint, "cpu"), blocks()
    return made, volume, made.segment(volume, ["brainstem", BOTH], probability=True)
