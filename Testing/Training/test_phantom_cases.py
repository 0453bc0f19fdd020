"""Generated training cases: which structures each lacks, that this is known, and that they are made once."""

import numpy as np
import pytest
from refsam3d_training.cases import phantom_cases

from RefSAM3DLib import phantoms
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.resources import named_config
from RefSAM3DLib.types import Modality, Volume

MODEL = named_config("test_tiny")
NAMES = MODEL.grids[0].structures


@pytest.fixture
def made(monkeypatch):
    """Seeds that were painted; a plate per structure stands for the anatomy."""
    seeds = []

    def plates(seed, structures):
        seeds.append(seed)
        shape = (16, 16, 4 * len(NAMES))
        array, truth = np.full(shape, 20, np.int16), {}
        for name in structures:
            at = 4 * NAMES.index(name)
            truth[name] = np.zeros(shape, bool)
            truth[name][4:12, 4:12, at : at + 3] = True
            array[truth[name]] = 100
        return Volume(array, Geometry(shape, np.diag([6.0, 6.0, 6.0, 1.0])), Modality.CT, "file", "plates"), truth

    monkeypatch.setattr(phantoms, "head_and_neck_ct", plates)
    return seeds


def lacking(case):
    """Structures that are known and have no voxel."""
    assert tuple(case.known.values()) == NAMES, "what is lacking is known to be absent"
    return [name for value, name in case.known.items() if not (case.fine.labels == value).any()]


def test_every_third_of_the_first_twelve_lacks_one_structure_and_each_further_one_some(made, tmp_path):
    cases = phantom_cases(20, MODEL, "head_neck", tmp_path)
    assert [case.name for case in cases] == [f"phantom/{n}" for n in range(1000, 1020)]
    counts = [len(lacking(case)) for case in cases]
    assert [counts[n : n + 3].count(1) for n in range(0, 12, 3)] == [1, 1, 1, 1]
    assert sum(counts[:12]) == 4
    assert set(counts[12:]) <= {1, 2, 3}
    assert len(set(counts[12:])) > 1
    assert len({tuple(lacking(case)) for case in cases}) > 6, "not always the same one"


def test_cases_are_read_from_the_cache_and_more_of_them_change_none(made, tmp_path):
    first = phantom_cases(2, MODEL, "head_neck", tmp_path)
    again = phantom_cases(3, MODEL, "head_neck", tmp_path)
    assert made == [1000, 1001, 1002]
    for a, b in zip(first, again, strict=False):
        assert (a.name, a.known, a.windows, a.extent_mm) == (b.name, b.known, b.windows, b.extent_mm)
        assert (a.fine.values == b.fine.values).all()
        assert (a.coarse.labels == b.coarse.labels).all()
