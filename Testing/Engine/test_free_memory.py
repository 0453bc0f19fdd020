"""What is said to be free is what this process may take: a container's limit counts, not the machine it runs on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from RefSAM3DLib import memory

MB = 1 << 20
V2, V1 = ("memory.max", "memory.current", "inactive_file"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="control groups are Linux's")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8000 MB free and no limit."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: {16000 << 10} kB\nMemAvailable:   {8000 << 10} kB\nBuffers: 1 kB\n")
    return tmp_path


def join(system: Path, *lines: str) -> None:
    (system / "proc" / "self" / "cgroup").write_text("\n".join(lines) + "\n")


def limit(folder: Path, limit_mb: int | str, used_mb: int, cached_mb: int = 0, names: tuple[str, str, str] = V2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit_mb * MB if isinstance(limit_mb, int) else limit_mb}\n")
    (folder / names[1]).write_text(f"{used_mb * MB}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cached_mb * MB}\nslab 5\n")


def test_without_a_group_the_machine_decides(system: Path) -> None:
    assert memory.available_memory_mb() == 8000
    join(system, "0::/user.slice/session")
    assert memory.available_memory_mb() == 8000
    limit(system / "cgroup" / "user.slice", "max", 100)
    assert memory.available_memory_mb() == 8000


def test_a_containers_limit_counts_and_its_cached_files_are_free(system: Path) -> None:
    join(system, "0::/")
    limit(system / "cgroup", 2000, 1500, 300)
    assert memory.available_memory_mb() == 800
    limit(system / "cgroup", 64000, 1500)
    assert memory.available_memory_mb() == 8000, "a limit beyond the machine's memory"
    limit(system / "cgroup", 2000, 2100)
    assert memory.available_memory_mb() == 0


def test_the_tightest_of_the_groups_around_decides(system: Path) -> None:
    join(system, "0::/pods/one/main")
    limit(system / "cgroup" / "pods" / "one" / "main", "max", 10)
    limit(system / "cgroup" / "pods" / "one", 700, 200)
    limit(system / "cgroup" / "pods", 3000, 200)
    assert memory.available_memory_mb() == 500
    limit(system / "cgroup" / "pods" / "one" / "main", 300, 10)
    assert memory.available_memory_mb() == 290
    limit(system / "cgroup" / "pods", 3000, 2900)
    assert memory.available_memory_mb() == 100


def test_the_first_version_of_groups_is_read_by_its_own_names(system: Path) -> None:
    join(system, "12:cpu,cpuacct:/docker/abc", "7:memory:/docker/abc", "0::/docker/abc")
    limit(system / "cgroup" / "memory", 900, 400, 50, V1)  # a container sees its own group as the root, under the host's name
    assert memory.available_memory_mb() == 550
    limit(system / "cgroup" / "memory" / "docker" / "abc", 500, 400, 0, V1)
    assert memory.available_memory_mb() == 100
    limit(system / "cgroup" / "memory", 9223372036854771712 // MB, 400, 0, V1)
    limit(system / "cgroup" / "memory" / "docker" / "abc", 9223372036854771712 // MB, 400, 0, V1)
    assert memory.available_memory_mb() == 8000


@pytest.mark.parametrize("text", ["", "rubbish", "0::/../../elsewhere", "::::"])
def test_groups_that_make_no_sense_change_nothing(system: Path, text: str) -> None:
    join(system, text)
    limit(system / "elsewhere", 100, 0)
    limit(system / "cgroup", "what", 0)
    assert memory.available_memory_mb() == 8000
