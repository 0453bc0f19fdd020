"""Half precision, where it makes a device faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from RefSAM3DLib.device import has_bf16


def half_precision(wanted: bool, device: str = "cpu") -> AbstractContextManager:
    """bf16 autocast where it is wanted and the device has it, else nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if wanted and has_bf16(device) else nullcontext()
