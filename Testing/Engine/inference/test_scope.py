"""Is this an image of the kind that the model was trained on?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.inference.scope import best_grid, extent_warning, modality_warning, stated_warning, units_warning
from RefSAM3DLib.types import Modality, Volume
from RefSAM3DLib.volume_io import decide_modality

HEAD = GridConfig("head", 3.0, (16, 16, 16), 6.0, (16, 16, 16), ("ct",), ("brainstem",), ((200, 200, 200), (300, 250, 260)), True)
CROP = GridConfig("crop", 1.0, (16, 16, 16), 2.0, (16, 16, 16), ("mr",), ("hippocampus",), ((30, 40, 30), (50, 60, 50)))
LIMB = dataclasses.replace(CROP, name="limb", modalities=("ct", "mr", "pet"), structures=("sarcoma",), extent_mm=((100, 200, 200), (400, 500, 500)))


def test_modality_that_was_never_seen_is_named() -> None:
    assert modality_warning(HEAD, Modality.CT) is None
    text = modality_warning(HEAD, Modality.MR)
    assert text is not None
    assert "This image is MR, but brainstem were learnt from CT alone" in text


def test_field_of_view_far_beyond_training_is_named_with_both_sizes() -> None:
    assert extent_warning(HEAD, (300 * 1.29, 250, 260)) is None
    assert extent_warning(HEAD, (10, 10, 10)) is None
    for axis in range(3):
        extent = [200.0, 200.0, 200.0]
        extent[axis] = 900.0
        text = extent_warning(HEAD, (extent[0], extent[1], extent[2]))
        assert text is not None
        assert "900" in text
        assert "300 x 250 x 260" in text


def test_grid_is_chosen_by_modality_then_by_field_of_view() -> None:
    config = ModelConfig("m", grids=(HEAD, CROP, LIMB))
    small, large = (40.0, 50.0, 40.0), (350.0, 450.0, 450.0)

    def chosen(modality: Modality, extent: tuple[float, float, float]) -> str:
        return best_grid(config, modality, dict.fromkeys(("head", "crop", "limb"), extent)).name

    assert chosen(Modality.MR, small) == "crop"
    assert chosen(Modality.MR, large) == "limb"
    assert chosen(Modality.PET, small) == "limb"
    assert chosen(Modality.CT, (250.0, 220.0, 220.0)) == "head"


def body(fat: bool = True) -> np.ndarray:
    """A CT in HU: noisy air around soft tissue with bone, and with fat."""
    rng = np.random.default_rng(0)
    array = rng.normal(-1000, 12, (24, 32, 32))
    array[:, 6:26, 6:26] = rng.normal(40, 15, (24, 20, 20))
    array[:, 10:13, 10:13] = rng.normal(1000, 300, (24, 3, 3))
    if fat:
        array[:, 6:8, 6:26] = rng.normal(-100, 15, (24, 2, 20))
    return array


def padded(array: np.ndarray, value: float) -> np.ndarray:
    """Outside the circle of the scanner."""
    j, i = np.mgrid[:32, :32] - 15.5
    return np.where(np.hypot(j, i) > 16, value, array)


@pytest.mark.parametrize("value", [0, -1024, -2000, -3024, -32768])
def test_a_ct_without_its_intercept_is_known_whatever_it_is_padded_with(value: float) -> None:
    shifted = np.clip(body() + 1024, 0, None)
    text = units_warning(padded(shifted, value).astype(np.int16))
    assert text is not None
    assert "do not look like Hounsfield units" in text
    # Padding at -1024 to -3024 is a CT scanner's: without a header it says that the image is a CT, of which the units are then doubted.
    volume = Volume(padded(shifted, -2000).astype(np.int16), Geometry((24, 32, 32), np.eye(4)))
    assert decide_modality(volume) == (Modality.CT, "inspection")


@pytest.mark.parametrize("fat", [True, False], ids=["with fat", "without"])
@pytest.mark.parametrize("value", [-1000, -1024, -2000, -3024, -32768])
def test_a_ct_in_hounsfield_units_is_not_doubted_whatever_it_is_padded_with(value: float, fat: bool) -> None:
    array = body(fat)
    assert units_warning(padded(array, value).astype(np.int16)) is None
    assert units_warning(np.clip(padded(array, value), -1024, 3071).astype(np.int16)) is None
    masked = np.where(array > -300, array, value)  # nothing of the air is left
    assert units_warning(masked.astype(np.int16)) is None
    brain = np.where((array > 0) & (array < 80), array, value)  # a skull-stripped head
    assert units_warning(brain.astype(np.int16)) is None


def test_padding_alone_is_not_doubted() -> None:
    assert units_warning(np.full((4, 4, 4), -2000, np.int16)) is None


@pytest.mark.parametrize(("stated", "words"), [("NM", "says NM (nuclear medicine)"), ("us", "says US"), ("MET_MOD_US", "says US"), ("XA", "says XA")])
def test_a_stated_modality_that_no_model_reads_is_named(stated: str, words: str) -> None:
    volume = Volume(np.arange(512).reshape(8, 8, 8), Geometry((8, 8, 8), np.eye(4)), metadata={"modality": stated})
    volume.modality, volume.modality_source = decide_modality(volume)
    text = stated_warning(volume)
    assert text is not None
    assert words in text
    assert "read as MR" in text
    volume.modality, volume.modality_source = Modality.PET, "user"
    assert stated_warning(volume) is None, "the user knows better"


@pytest.mark.parametrize("stated", ["", "CT", "MR", "PT", "OT", "unknown"])
def test_a_modality_that_is_read_or_says_nothing_is_not_named(stated: str) -> None:
    volume = Volume(np.arange(512).reshape(8, 8, 8), Geometry((8, 8, 8), np.eye(4)), metadata={"modality": stated})
    volume.modality, volume.modality_source = decide_modality(volume)
    assert stated_warning(volume) is None
