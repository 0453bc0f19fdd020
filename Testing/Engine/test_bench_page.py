"""The benchmark's page says what its JSON says: targets met and missed, extrapolations and failures by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "Testing" / "Performance"
STRUCTURES = ("larynx", "mandible", "brainstem")


@pytest.fixture(autouse=True)
def _bench_on_path() -> Iterator[None]:
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


def round_of(first: float, following: float, above: float = 400.0, **facts: Any) -> dict[str, Any]:
    """What a child of ours prints."""
    times = {"first": first, "eight_cached": 8 * following, "eight_missing": 2 * first, "absent": first / 3, "absent_elsewhere": first / 4}
    times |= {f"next_{tiles}:{s}": following * (1 if tiles == "cached" else 20) for tiles in ("missing", "cached") for s in STRUCTURES}
    new = {("missing", "larynx"): 4, ("missing", "mandible"): 4}
    rows = [{"structure": s, "tiles": tiles, "new_tiles": new.get((tiles, s), 0)} for tiles in ("missing", "cached") for s in STRUCTURES]
    return {
        "times": {label: {"wall_s": value, "cpu_s": 2 * value} for label, value in times.items()},
        "facts": {"import_s": 0.001, "ready_s": 2.0, "cancel_gap_s": 0.4, "cache_mb": 100.0, "first_tiles": 10, "next": rows,
                  "memory": {"peak_mb": 1000.0, "above_mb": above},
                  "absent": {"structure": "esophagus", "verdict": "absent", "fine_tiles": 0},
                  "absent_elsewhere": {"structure": "sarcoma", "verdict": "absent", "fine_tiles": 0}, **facts},
        "calibration_gflops": [100.0, 120.0], "load": [0.5, 0.5, 0.5],
    }  # fmt: skip


def peer_round(seconds: float, tile: float) -> dict[str, Any]:
    return {"times": {"first": {"wall_s": seconds, "cpu_s": seconds}}, "facts": {"tiles": 1, "tile_s": tile, "memory": {"peak_mb": 9000.0, "above_mb": 8000.0}},
            "calibration_gflops": [100.0, 100.0], "load": [0.1, 0, 0]}  # fmt: skip


@pytest.fixture
def values() -> dict[str, Any]:
    from run import summary

    sizes = {"128": (128, 128, 128), "256": (256, 256, 256), "512": (300, 512, 512)}
    spacings = {"128": (1.5,) * 3, "256": (1.5,) * 3, "512": (0.8, 0.8, 1.5)}
    firsts = {"128": 2.0, "256": 4.0, "512": 6.0}
    cells = [{"contestant": "own", "volume": v, **summary([round_of(firsts[v] + n, 0.1) for n in (-0.5, 0.0, 0.5)])} for v in sizes]
    cells.append({"contestant": "voxtell", "volume": "128", **summary([peer_round(62.0, 60.0)])})
    cells.append({"contestant": "nnunet", "volume": "128", **summary([{"error": "killed"}])})
    return {
        "mode": "quick", "left_out": 3, "date": "2026-01-01", "revision": "r",
        "machine": {"cpu": "a CPU", "card": "", "cores": 2, "threads": 2, "torch": "2", "python": "3", "bf16": False, "device": "cpu"},
        "volumes": {v: {"title": f"volume {v}", "shape": sizes[v], "spacing": spacings[v]} for v in sizes},
        "contestants": {n: {"title": f"title of {n}", "concessions": ["A gift."] if n == "voxtell" else []} for n in ("own", "voxtell", "nnunet")},
        "cells": cells,
        "studies": {
            "optimisations": {"rows": [{"name": "Folded", "slow_s": 1.0, "fast_s": 0.1, "gain": 10.0, "guard": "difference", "value": 1e-6, "limit": 1e-4,
                                        "least": False, "met": True}]},
            "stages": {"volumes": {"512": {"first prompt": {"resampling": 1.0, "close look": 9.0}, "next prompt": {"close look": 0.0002}}}},
            "guards": {"coarse_recall": {"recall": 0.5, "structures": 2, "phantoms": 1, "per_structure": {"larynx": {"recall": 0.5, "voxels_inside": 0.9}}},
                       "bf16": {"dice": None, "reason": "no bf16 here"}},
        },
    }  # fmt: skip


def met(values: dict[str, Any]) -> dict[str, bool | None]:
    from metrics import table

    return {f"{m.key} {m.name}" if m.key in ("G", "T5", "T6") else m.key: m.met for m in table(values)}


def test_targets_follow_from_the_numbers(values: dict[str, Any]) -> None:
    found = met(values)
    assert [found[k] for k in ("T1", "T2", "T3", "T4", "T7", "T8", "T9", "T10", "T11", "T12")] == [True] * 10
    assert found["T5 first prompt, reference volume, default checkpoint"] is True
    assert [v for k, v in found.items() if k.startswith("T6 ")] == [True, True]
    assert found["T5 first prompt, reference volume, ViT-B size"] is None
    assert found["G Folded: difference"] is True
    assert found["G coarse look holds the whole structure (phantoms, >= 10 mm)"] is False
    assert found["G masks in bf16 against fp32, least Dice"] is None


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("T2", lambda c: [c["times"][f"next_cached:{s}"].update(wall_median_s=0.4) for s in STRUCTURES]),
        ("T3", lambda c: c["times"]["next_cached:larynx"].update(wall_median_s=0.6)),
        ("T6 absent structure that is missing where its place is in view", lambda c: c["facts"]["absent"].update(fine_tiles=2)),
        ("T6 absent structure of another part of the body", lambda c: c["facts"]["absent_elsewhere"].update(verdict="present")),
        ("T7", lambda c: c["facts"].update(cache_mb=300.0)),
        ("T8", lambda c: c["times"]["eight_cached"].update(wall_median_s=3.0)),
        ("T9", lambda c: c["facts"]["memory"].update(above_mb=40000.0)),
        ("T12", lambda c: c["facts"].update(cancel_gap_s=1.5)),
    ],
)
def test_each_target_can_be_missed(values: dict[str, Any], key: str, change) -> None:
    change(next(c for c in values["cells"] if c["volume"] == "512"))
    assert met(values)[key] is False


def test_page_names_extrapolations_failures_and_gifts(values: dict[str, Any], tmp_path: Path) -> None:
    from page import page
    from plots import draw

    text = page(values, None, [])
    assert "| title of voxtell | volume 512 | ~ | ~ 4,500 s |" in text  # 5 x 5 x 3 tiles of 60 s
    assert "(3 of its rounds are still to be measured)" in text
    assert "VoxTell extrapolated from its tiles" in text
    assert "| nnunet | 128 | failed: killed |" in text
    assert "- title of voxtell: A gift." in text
    assert "title of own | volume 128 | 3 | 2.0 s (1.5) | 4.0 s | 0.10 s | 2.0 s | 400 MB" in text
    made = draw(values, tmp_path)
    assert sorted(path.name for path in made.values()) == [f"performance_{n}.png" for n in ("latency", "memory", "prompts", "voxels")]
    assert all(path.stat().st_size > 5000 for path in made.values())


def test_a_place_reached_without_new_tiles_is_no_missing_one(values: dict[str, Any]) -> None:
    from metrics import next_seconds

    assert sorted(next_seconds(values["cells"][0], "missing")) == ["larynx", "mandible"]
    assert len(next_seconds(values["cells"][0], "cached")) == 3


def test_a_stopped_run_goes_on_and_failures_are_tried_again(tmp_path: Path) -> None:
    from run import Journal

    def child(program: str) -> list[str]:
        return [sys.executable, "-c", program]

    path = tmp_path / "journal.jsonl"
    first = Journal(path)
    assert first.get(("r", "cpu", "own", "128", 0), child("print('noise'); print('{\"times\": {}}')"))["times"] == {}
    assert first.get(("r", "cpu", "own", "128", 1), child("raise SystemExit('no memory')"))["error"] == "no memory"
    with open(path, "a", encoding="utf-8") as handle:
        handle.write('{"key": ["r", "cpu", "own", "128", 2], "resu')  # cut off while it was written
    again = Journal(path)
    assert again.get(("r", "cpu", "own", "128", 0), child("raise SystemExit('run twice')"))["times"] == {}
    assert "error" not in again.get(("r", "cpu", "own", "128", 1), child("print('{}')"))
    assert again.get(("r", "cpu", "own", "128", 2), child("print('{\"x\": 1}')"))["x"] == 1
    assert again.get(("other", "cpu", "own", "128", 0), child("print('{\"x\": 2}')"))["x"] == 2
    assert set(Journal(path).done) >= {("r", "cpu", "own", "128", 1), ("other", "cpu", "own", "128", 0)}


def test_a_pinned_process_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The contestants inherit the one core that an OpenMP library binds the benchmark to."""
    import run

    monkeypatch.setenv("OMP_PROC_BIND", "true")
    monkeypatch.setattr(sys, "argv", ["run.py", "quick"])
    monkeypatch.setattr(run, "run", lambda *_arguments: pytest.fail("measured all the same"))
    with pytest.raises(SystemExit):
        run.main()
    assert "OMP_PROC_BIND=true" in capsys.readouterr().err


def test_a_run_of_some_minutes_begins_nothing_later_but_the_smallest_volumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    import run
    import volumes

    clock = [0.0]
    asked: list[tuple[Any, ...]] = []

    class Journal:
        """A child takes two minutes."""

        done: ClassVar[dict[tuple[Any, ...], Any]] = {}

        def get(self, key: tuple[Any, ...], work: list[str]) -> dict[str, Any]:
            if key not in self.done:
                asked.append(key[3:])
                clock[0] += 120
                self.done[key] = round_of(1.0, 0.1)
            return self.done[key]

    monkeypatch.setattr(run, "MODES", {"full": [("own", "128", 2), ("own", "512", 2), ("voxtell", "128", 1), ("voxtell", "512", 1)]})
    monkeypatch.setattr(run, "STUDIES", {})
    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(run, "python_of", lambda environment: "python")
    monkeypatch.setattr(run, "revision", lambda contestant="own": "r")
    monkeypatch.setattr(volumes, "ensure", lambda name: None)
    monkeypatch.setattr(volumes, "load", lambda name: volumes.Stored(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), [], (1.0, 1.0, 1.0), []))
    names = (["128", "512"], ["own", "voxtell"])
    values = run.run("full", "cpu", Journal(), *names, minutes=3)
    assert asked == [("own", "128", 0), ("own", "512", 0), ("voxtell", "128", 0)]
    assert {(c["contestant"], c["volume"]) for c in values["cells"]} == {("own", "128"), ("own", "512"), ("voxtell", "128")}
    assert "3 rounds were left out after 3 minutes" in capsys.readouterr().err
    values = run.run("full", "cpu", Journal(), *names)
    assert len(asked) == len(set(asked)) == 6
    assert {c["rounds"] for c in values["cells"] if c["contestant"] == "own"} == {2}
