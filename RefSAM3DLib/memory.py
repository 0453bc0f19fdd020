"""How much memory this process has needed, without a package for it."""

from __future__ import annotations

import sys
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
#: Names of a control group's limit and use, and of the share of the use that is cached files, which the kernel gives up first.
_GROUP_FILES = {2: ("memory.max", "memory.current", "inactive_file"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}


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
    """RAM that a new task can use now, in MB (2^20 bytes), of the machine and of the container; None where the system does not say."""
    if sys.platform == "win32":
        return _windows_available_mb()
    try:
        status = (_PROC / "meminfo").read_text(encoding="utf-8")
        machine = int(status.partition("MemAvailable:")[2].split()[0]) / (1 << 10)
        return min([machine, *_left_in_groups_mb()])
    except (OSError, ValueError, IndexError):
        pass
    import os

    try:  # macOS tells only what is installed; half of it is what other programs usually leave
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 20) / 2
    except (OSError, ValueError):
        return None


def _left_in_groups_mb() -> list[float]:
    """What the control groups of this process (Docker, Kubernetes, Slurm, systemd) leave it: its own and those around it, where they have a limit."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            version, root = 2, _CGROUPS
        elif "memory" in controllers.split(","):
            version, root = 1, _CGROUPS / "memory"
        else:
            continue
        # In a container the name may be the host's, which does not exist here; the limit is then at the root.
        parts = [part for part in name.split("/") if part not in ("", "..")]
        groups = [root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
        found += [left for left in (_left_in_group_mb(group, version) for group in groups) if left is not None]
    return found


def _left_in_group_mb(group: Path, version: int) -> float | None:
    """None where the group has no limit ("max") or is not there."""
    limit, used, cached = _GROUP_FILES[version]
    try:
        left = int((group / limit).read_text(encoding="utf-8")) - int((group / used).read_text(encoding="utf-8"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        return max(left + int(statistics.get(cached, 0)), 0) / (1 << 20)
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
