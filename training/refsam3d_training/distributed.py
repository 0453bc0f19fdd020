"""Several processes under ``torchrun``, or one: everything that the loop needs to know about it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from RefSAM3DLib.device import choose_device

logger = logging.getLogger(__name__)


def own_device(request: str) -> str:
    """The device of this process, after its self-check: under ``torchrun`` each process tries its own card alone.

    Raises:
        DeviceError: it is unknown, missing or fails the check.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) < 2
    if not alone and request in ("auto", "cuda") and torch.cuda.is_available():
        request = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    chosen, warnings = choose_device(request)
    for warning in warnings:
        logger.warning(warning)
    return str(chosen)


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the group that ``torchrun`` set up (none: nothing happens); yields the device of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield device
        return
    cuda = torch.device(device).type == "cuda"
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else device
    if cuda:
        torch.cuda.set_device(own)  # NCCL and whatever names no device otherwise meet on the first card
    dist.init_process_group("nccl" if cuda and dist.is_nccl_available() else "gloo")  # Windows has no NCCL
    try:
        yield own
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def wrapped(module: nn.Module) -> nn.Module:
    """The module with averaged gradients. A tile may leave a parameter unused (an empty text, a frozen part)."""
    if not dist.is_initialized():
        return module
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)


def mean(value: Tensor) -> Tensor:
    """Mean over the processes, so that all of them stop at the same step."""
    if not dist.is_initialized():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def agree(value: bool, device: str) -> bool:
    """Whether all processes say the same."""
    if not dist.is_initialized():
        return True
    total = torch.tensor(float(value), device=device)
    dist.all_reduce(total)
    return float(total) in (0.0, float(dist.get_world_size()))
