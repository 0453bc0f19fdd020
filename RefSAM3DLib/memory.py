"""How much memory this process has needed, without a package for it."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory_mb() -> float | None:
    """Most memory this process ever held in RAM, in MB (2^20 bytes); None where the system does not say."""
    if sys.platform == "win32":
        return _windows_peak_mb()
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return round(int(status.partition("VmHWM:")[2].split()[0]) / (1 << 10), 1)
    except (OSError, ValueError, IndexError):
        pass
    import resource

    # On Linux this would also count the program that started this one, up to its exec; elsewhere it is all there is.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)  # macOS counts bytes, Linux kB


def available_memory_mb() -> float | None:
    """RAM that a new task can use now, in MB (2^20 bytes); None where the system does not say."""
    if sys.platform == "win32":
        return _windows_available_mb()
    try:
        status = Path("/proc/meminfo").read_text(encoding="utf-8")
        return int(status.partition("MemAvailable:")[2].split()[0]) / (1 << 10)
    except (OSError, ValueError, IndexError):
        pass
    import os

    try:  # macOS tells only what is installed; half of it is what other programs usually leave
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 20) / 2
    except (OSError, ValueError):
        return None


def _windows_available_mb() -> float | None:
    """``ullAvailPhys`` of ``GlobalMemoryStatusEx``."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "available", "page_total", "page_free", "virtual_total", "virtual_free", "extended")),
        )

    try:
        status = Status(length=ctypes.sizeof(Status))
        if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined,unused-ignore]
            return None
        return float(status.available / (1 << 20))
    except (AttributeError, OSError):
        return None


def _windows_peak_mb() -> float | None:
    """``PeakWorkingSetSize`` of ``GetProcessMemoryInfo``."""
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            ("peak_working_set", ctypes.c_size_t),
            ("working_set", ctypes.c_size_t),
            ("quotas_and_page_files", ctypes.c_size_t * 6),
        )

    try:
        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        ask = kernel.K32GetProcessMemoryInfo
        ask.argtypes = (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD)
        counters = Counters(cb=ctypes.sizeof(Counters))
        if not ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
            return None
        return round(int(counters.peak_working_set) / (1 << 20), 1)
    except (AttributeError, OSError):
        return None
