"""How far a volume lies outside what is usual for its structure."""

from __future__ import annotations

import pytest

from RefSAM3DLib.batch import outliers
from RefSAM3DLib.batch.outliers import add_scores, known_ranges, range_score
from RefSAM3DLib.text.vocabulary import Vocabulary


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "known_ranges", lambda: {"liver": (100.0, 400.0)})


@pytest.mark.parametrize(
    ("volume_ml", "score"),
    [(100.0, 0.0), (250.0, 0.0), (400.0, 0.0), (800.0, 1.0), (1600.0, 2.0), (50.0, 1.0), (25.0, 2.0), (0.0, None), (None, None)],
)
def test_each_doubling_beyond_the_range_counts_one(ranges: None, volume_ml: float | None, score: float | None) -> None:
    assert range_score("liver", volume_ml) == score


def test_a_structure_of_no_known_range_has_no_score(ranges: None) -> None:
    assert range_score("spleen", 100.0) is None


def test_a_drawn_volume_outside_its_range_needs_eyes(ranges: None) -> None:
    row = {"structure": "liver", "verdict": "present", "voxels": 9}
    usual, large, undrawn = add_scores([{**row, "volume_ml": 250.0}, {**row, "volume_ml": 800.0}, {**row, "volume_ml": 0.0, "voxels": 0}])
    assert (usual["outlier_range"], usual["reasons"]) == (0.0, [])
    assert (large["outlier_range"], large["reasons"]) == (1.0, ["volume outside the known range"])
    assert large["attention"] > usual["attention"]
    assert undrawn["outlier_range"] is None


def test_the_ranges_that_ship_are_of_known_structures_and_the_right_way_round() -> None:
    assert known_ranges()
    assert set(known_ranges()) <= set(Vocabulary.default().names)
    assert all(0 < low < high for low, high in known_ranges().values())
