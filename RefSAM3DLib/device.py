"""Choose a device, and check that it computes what a CPU computes before it is trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import DeviceError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
#: Relative error of the self-check that is still rounding (fp32 and TF32 convolutions differ by up to 1e-3).
TOLERANCE = 5e-3


@dataclass(frozen=True)
class SelfCheck:
    """Outcome of :func:`self_check`."""

    device: str
    passed: bool
    error: float
    message: str


def available_devices() -> list[str]:
    """Devices that torch offers here, best first."""
    import torch

    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def self_check(device: str) -> SelfCheck:
    """Run the operations that this network stands on and compare with the CPU.

    3D convolutions, transposed ones and attention were silently wrong on some releases (torch 2.9, Apple GPUs), some only for certain memory
    layouts and numbers of channels: those of the network are tried.
    """
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, w, up, depthwise = draw(2, 8, 12, 12, 12), draw(16, 8, 3, 3, 3), draw(16, 8, 2, 2, 2), draw(8, 1, 3, 3, 3)
    q, bias = draw(2, 4, 64, 16), draw(2, 4, 64, 64)
    wide, square, half = draw(2, 128, 6, 6, 6), draw(128, 128, 3, 3, 3), draw(128, 32, 2, 2, 2)

    def outputs(where: str) -> list[torch.Tensor]:
        a, b, c, d, e, f, g, h, i = (t.to(where) for t in (x, w, up, depthwise, q, bias, wide, square, half))
        y = F.instance_norm(F.conv3d(a, b, stride=2, padding=1))
        found = [y, F.conv_transpose3d(y, c, stride=2), F.scaled_dot_product_attention(e, e, e, attn_mask=f)]
        found.append(F.interpolate(e, size=(48, 20), mode="bilinear", align_corners=False))
        for layout in (torch.contiguous_format, torch.channels_last_3d):  # tokens become volumes as transposed views
            few, many = a.to(memory_format=layout), g.to(memory_format=layout)
            found += [F.conv3d(few, d, padding=1, groups=8), F.conv3d(few, b, padding=1), F.conv3d(many, h, padding=1), F.conv_transpose3d(many, i, stride=2)]
        return found

    try:
        expected = outputs("cpu")
        found = [t.cpu() for t in outputs(device)]
    except (RuntimeError, NotImplementedError) as error:
        return SelfCheck(device, False, float("inf"), f"{device} failed: {str(error).splitlines()[0]}")
    errors = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True)]
    worst = max(errors) if all(map(math.isfinite, errors)) else float("inf")  # max() passes over a NaN that does not come first
    passed = worst < TOLERANCE
    return SelfCheck(device, passed, worst, f"{device}: largest relative difference to the CPU {worst:.1e} ({'passed' if passed else 'FAILED'})")


def choose_device(request: str = "auto") -> tuple[torch.device, list[str]]:
    """Device and warnings.

    "auto" takes the best device that passes its self-check and says why a better one was left.

    Raises:
        DeviceError: an explicitly requested device is unknown, missing or fails the check.
    """
    import torch

    kind, _, index = request.partition(":")
    if kind not in DEVICES or (":" in request and not index.isdigit()):
        raise DeviceError(f"The device '{request}' is unknown; use one of {', '.join(DEVICES)}.")
    offered = available_devices()
    if kind == "auto":
        warnings: list[str] = []
        for device in offered:
            if device == "cpu":
                break
            check = self_check(device)
            if check.passed:
                return torch.device(device), warnings
            warnings.append(f"{check.message}: not used.")
        return torch.device("cpu"), warnings
    if kind not in offered:
        raise DeviceError(f"The device '{request}' is not there; this computer has {', '.join(offered)}. Use --device auto.")
    if kind != "cpu":
        check = self_check(request)
        if not check.passed:
            raise DeviceError(f"The device '{request}' did not pass its check ({check.message}); close other programs that use it, or use --device cpu.")
    return torch.device(request), []


def has_bf16(device: str) -> bool:
    """Whether bf16 makes a device faster: a CUDA card that computes in it (Turing and older cards only emulate it), or a CPU with its instructions."""
    import torch

    where = torch.device(device)
    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    if where.type != "cpu" or not torch.backends.mkldnn.is_available():  # torch for Apple's processors comes without oneDNN and its questions
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def device_title(device: torch.device) -> str:
    """Name for people: "cuda (NVIDIA ...)", "cpu"."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
