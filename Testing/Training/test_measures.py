"""Scores against answers that are known beforehand."""

import numpy as np
import pytest
from refsam3d_training.evaluation.calibrate import DENY_BELOW, LEAST_PRESENT, fit_absent_below, fit_presence
from refsam3d_training.evaluation.measures import auroc, bootstrap_interval, dice, reliability, surface_dice


def ball(shape, centre, radius):
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2


def test_dice_of_equal_disjoint_and_empty_masks():
    a, b = ball((20, 20, 20), (6, 6, 6), 3), ball((20, 20, 20), (14, 14, 14), 3)
    assert (dice(a, a), dice(a, b), dice(a & b, a & b)) == (1.0, 0.0, 1.0)


def test_dice_is_monais():
    import torch
    from monai.metrics import compute_dice

    rng = np.random.default_rng(1)
    for share in (0.0, 0.1, 0.5):
        a, b = rng.random((9, 11, 13)) < share, rng.random((9, 11, 13)) < 0.2
        theirs = compute_dice(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None], ignore_empty=False)
        assert dice(a, b) == pytest.approx(float(theirs[0, 0]), abs=1e-6)


def test_surface_dice_counts_a_shift_of_one_slice_in_millimetres():
    mask = np.zeros((16, 16, 16), bool)
    mask[4:10, 4:10, 4:10] = True
    moved = np.roll(mask, 1, axis=0)
    assert surface_dice(moved, mask, (3.0, 1.0, 1.0), (2.0, 5.0))[1] == 1.0
    assert surface_dice(moved, mask, (3.0, 1.0, 1.0), (2.0,))[0] < 0.9
    assert surface_dice(np.zeros_like(mask), mask, (1, 1, 1), (2.0, 5.0)) == [0.0, 0.0]


def test_surface_dice_does_not_take_the_border_of_its_box_for_open_space():
    mask = np.ones((6, 6, 6), bool)
    smaller = mask.copy()
    smaller[0] = False
    assert surface_dice(smaller, mask, (10.0, 10.0, 10.0), (1.0,))[0] < 1.0


def test_bootstrap_is_seeded_and_holds_the_mean():
    values = np.random.default_rng(3).normal(0.8, 0.05, 30)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert low < values.mean() < high
    assert bootstrap_interval([0.5, 0.5]) == (0.5, 0.5)


def test_images_of_one_patient_are_drawn_together():
    values = np.random.default_rng(0).normal(0.7, 0.1, 5).repeat(3)  # three images each, which say the same
    patients = [f"p{n // 3}" for n in range(15)]
    (low, high), (narrow_low, narrow_high) = bootstrap_interval(values, patients), bootstrap_interval(values)
    assert high - low > 1.4 * (narrow_high - narrow_low)
    assert (low, high) == pytest.approx(bootstrap_interval(values[::3])), "it is the interval of five patients"
    table = np.array([[1.0, np.nan], [0.0, 0.5], [0.5, np.nan]])
    low, high = bootstrap_interval(table.repeat(4, 0), mean=lambda means: np.nanmean(means, axis=1))
    assert 0 <= low < high <= 1


def test_dice_loss_smooths_by_one_voxel_and_is_taken_per_prompt():
    import torch
    from refsam3d_training.losses import soft_dice_loss

    p, t = torch.rand(3, 4, 5, 6), torch.rand(3, 4, 5, 6) > 0.6
    t[2] = False
    by_hand = [1 - (2 * (p[n] * t[n]).sum() + 1) / (p[n].sum() + t[n].sum() + 1) for n in range(3)]
    assert soft_dice_loss(p, t.float()).tolist() == pytest.approx([float(v) for v in by_hand], abs=1e-6)


def test_auroc_counts_pairs_and_ties_half():
    assert auroc([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert auroc([0.5], [0.5, 0.1]) == 0.75


@pytest.mark.parametrize(
    ("likelihood", "count", "expected"),
    [
        ((0.02, 0.45), LEAST_PRESENT * 2, 0.45),  # a structure at 0.45 is not below 0.45
        ((0.02, 0.38), LEAST_PRESENT * 2, 0.35),
        ((0.02, 0.9), LEAST_PRESENT * 2, 0.5),  # what is likelier there than not is drawn
        ((0.02, 0.1), LEAST_PRESENT * 2, 0.3),  # too many are denied already: no reason to deny more, nor fewer than the default
        ((0.001, 0.1), LEAST_PRESENT * 20, 0.5),  # a share that is small enough
        ((0.02, 0.9), LEAST_PRESENT - 1, 0.3),  # too few to tell
    ],
)
def test_what_is_denied_leaves_nearly_all_present_structures(likelihood, count, expected):
    share, low = likelihood
    probability = np.full(count, 0.99)
    probability[: round(share * count)] = low
    absent = np.full(500, 0.33)
    found = fit_absent_below(np.concatenate([probability, absent]), np.arange(count + 500) < count)
    assert found == expected
    assert found in DENY_BELOW


def test_reliability_of_a_calibrated_and_of_an_overconfident_forecast():
    happened = np.arange(100) < 80
    assert reliability(np.full(100, 0.8), happened)[0] == pytest.approx(0.0, abs=1e-9)
    assert reliability(np.full(100, 0.99), happened)[0] == pytest.approx(0.19)


def test_presence_fit_finds_the_line_that_made_the_data_and_stays_finite_when_separable():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 4000)
    present = rng.random(4000) < 1 / (1 + np.exp(-(0.6 * logits - 0.8)))
    scale, bias = fit_presence(logits, present)
    assert scale == pytest.approx(0.6, abs=0.06)
    assert bias == pytest.approx(-0.8, abs=0.12)
    scale, bias = fit_presence(np.array([-2.0, -1.5, 1.5, 2.0]), np.array([False, False, True, True]))
    assert np.isfinite([scale, bias]).all()
    assert 0.5 < scale < 10


def test_presence_fit_never_turns_the_order_round():
    assert fit_presence(np.array([-2.0, -1.0, 1.0, 2.0] * 5), np.array([True, True, False, False] * 5))[0] > 0
