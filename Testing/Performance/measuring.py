"""Clocks, memory and the machine. Standard library only at import: the cold start is measured too."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Side of the calibration product.
CALIBRATION = 1024


def calibration_gflops(device: str = "cpu", dtype: str = "float32", repeats: int = 5) -> float:
    """GFLOP/s of a square matrix product, best of a few: what the machine had to give at that moment."""
    import torch

    size = CALIBRATION if device == "cpu" else 8 * CALIBRATION
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    best = float("inf")
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        a @ a
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def synchronise(device: str) -> None:
    """Wait for the device, so that the clock sees its work."""
    if device == "cpu":
        return
    import torch

    (torch.cuda if device.startswith("cuda") else torch.mps).synchronize()


class Meter:
    """Named wall and CPU seconds, and memory above a baseline."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: dict[str, dict[str, float]] = {}
        self._before_mb = 0.0

    def timed(self, label: str, work: Callable[[], T]) -> T:
        """Run ``work`` under the clocks."""
        synchronise(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        synchronise(self.device)
        self.times[label] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        return result

    def start_memory(self) -> None:
        """From here on memory counts: what is held now (interpreter, network, volume) is the baseline."""
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the kernel's high-water mark begins anew
        self._before_mb = _resident_mb()

    def memory(self) -> dict[str, float]:
        """peak_mb of the process, above_mb since :meth:`start_memory`, and the device's own."""
        from RefSAM3DLib.memory import peak_memory_mb

        peak = peak_memory_mb() or 0.0
        out = {"peak_mb": peak, "above_mb": peak - self._before_mb}
        if self.device.startswith("cuda"):
            import torch

            out["device_mb"] = torch.cuda.max_memory_allocated() / (1 << 20)
        return out


def _resident_mb() -> float:
    if sys.platform == "linux":
        return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmRSS:")[2].split()[0]) / (1 << 10)
    import psutil

    return psutil.Process().memory_info().rss / (1 << 20)


def cpu_name() -> str:
    """The processor's own name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, versions, load."""
    import numpy
    import torch

    from RefSAM3DLib.device import has_bf16

    return {
        "cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": device, "system": platform.platform(terse=True),
        "card": torch.cuda.get_device_name() if device.startswith("cuda") else "", "bf16": has_bf16(device), "python": platform.python_version(),
        "torch": torch.__version__, "numpy": numpy.__version__, "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }  # fmt: skip
