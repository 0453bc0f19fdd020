"""Half precision, where it makes a device faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def has_bf16(device: str) -> bool:
    """Whether half precision makes a device faster: a CUDA GPU that says so, or a CPU with bf16 instructions."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    return kind == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def half_precision(wanted: bool, device: str = "cpu") -> AbstractContextManager:
    """bf16 autocast where it is wanted and the device has it, else nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if wanted and has_bf16(device) else nullcontext()
