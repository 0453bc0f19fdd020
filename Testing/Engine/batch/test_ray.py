"""A batch on a local Ray cluster, with a worker killed in the middle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_volumes import write_volume

ray = pytest.importorskip("ray", reason="needs the optional package ray")

from RefSAM3DLib.batch import BatchOptions, run_batch  # noqa: E402
from RefSAM3DLib.batch.folder_state import FolderState  # noqa: E402
from RefSAM3DLib.errors import DeviceError  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DISABLE_METRICS_COLLECTION": "1",
    }.items():
        monkeypatch.setenv(name, value)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


def options(diary: Path, **arguments: str) -> BatchOptions:
    arguments = {"diary": str(diary), **arguments}
    return BatchOptions(prompts=("brainstem",), engine="batch_fake_engine:make", engine_arguments=arguments, ray_address="auto", workers=2)


def test_killed_worker_loses_no_case_and_repeats_only_its_own(tmp_path: Path, cluster: None) -> None:
    (tmp_path / "in").mkdir()
    for n in range(8):
        write_volume(tmp_path / "in" / f"case_{n}.nii.gz", seed=n)
    diary = tmp_path / "diary"
    outcome = run_batch(tmp_path / "in", tmp_path / "out", options(diary, die_once="case_3"))
    assert outcome.counts == {"done": 8}
    begun = Counter(line.split()[0] for line in diary.read_text().splitlines())
    assert begun.pop("case_3.nii.gz") == 2
    assert set(begun.values()) == {1}
    recorded = Counter(e["case"] for e in FolderState.read(tmp_path / "out").log.entries if e.get("event") == "done")
    assert set(recorded.values()) == {1}
    assert len({line.split()[1] for line in diary.read_text().splitlines()}) == 3  # two actors, one replaced: the model stays loaded
    outcome = run_batch(tmp_path / "in", tmp_path / "out", options(diary))
    assert outcome.counts == {"unchanged": 8}


def test_engine_that_cannot_start_in_the_cluster_is_one_sentence(tmp_path: Path, cluster: None) -> None:
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(DeviceError, match="could not start"):
        run_batch(tmp_path / "in", tmp_path / "out", options(tmp_path / "diary", fail_start="no such device"))
    assert not (tmp_path / "out" / "batch.lock").exists()
