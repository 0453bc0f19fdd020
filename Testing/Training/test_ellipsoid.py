"""The baseline that looks at nothing: an ellipsoid in the middle of the image."""

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from refsam3d_training.evaluation.ellipsoid import SHARES, ellipsoid, ellipsoid_baseline

SHAPE = (30, 40, 50)


@pytest.mark.parametrize("share", [0.4, 0.75, 1.0])
def test_an_ellipsoid_has_the_volume_and_the_extent_of_its_semi_axes(share):
    found = ellipsoid(SHAPE, share)
    assert found.mean() == pytest.approx(np.pi / 6 * share**3, rel=0.03)
    for axis in range(3):
        assert np.array_equal(found, np.flip(found, axis)), "in the middle"
        across = found.any(axis=tuple(a for a in range(3) if a != axis)).sum()
        assert across == pytest.approx(share * SHAPE[axis], abs=2)


def labelled(path, modality, share):
    """A case whose structure is an ellipsoid; value 9 in a corner has no name."""
    labels = ellipsoid(SHAPE, share).astype(np.uint8) * 3
    labels[:3, :3, :3] = 9
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
    return SimpleNamespace(modality=modality, label=path, known={3: "tumour"}, name=path.name, patient="")


def test_the_size_is_fitted_on_the_training_cases_of_the_same_modality(tmp_path):
    fitted, smaller = float(SHARES[20]), float(SHARES[16])
    manifest = SimpleNamespace(
        cases={
            "training": [labelled(tmp_path / f"{n}.nii.gz", m, s) for n, (m, s) in enumerate([("ct", fitted), ("ct", fitted), ("mr", smaller)])],
            "test": [labelled(tmp_path / f"t{n}.nii.gz", m, s) for n, (m, s) in enumerate([("ct", fitted), ("ct", smaller), ("mr", smaller)])],
        }
    )
    found = ellipsoid_baseline(manifest, "test")
    assert {m: (row["share_of_half_view"], row["trained_on"], row["dice"]["n"]) for m, row in found.items()} == {
        "ct": (round(fitted, 3), 2, 2),
        "mr": (round(smaller, 3), 1, 1),
    }
    assert found["mr"]["dice"]["mean"] == pytest.approx(1.0)
    small, large = (smaller / fitted) ** 3, 1.0  # one lies inside the other
    assert found["ct"]["dice"]["mean"] == pytest.approx((1.0 + 2 * small / (small + large)) / 2, abs=0.01)
