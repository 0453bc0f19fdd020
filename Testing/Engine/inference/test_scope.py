"""Is this an image of the kind that the model was trained on?"""

from __future__ import annotations

import dataclasses

from RefSAM3DLib.config import GridConfig, ModelConfig
from RefSAM3DLib.inference.scope import best_grid, extent_warning, modality_warning
from RefSAM3DLib.types import Modality

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
