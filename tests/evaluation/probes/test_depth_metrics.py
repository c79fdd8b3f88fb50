"""Depth metrics against hand-computed cases, scikit-learn, torchmetrics and numpy."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_percentage_error, root_mean_squared_error
from torchmetrics.functional import mean_squared_log_error

from worldmodel.evaluation.probes.depth_metrics import (
    METRICS,
    DepthSums,
    align,
    depth_scores,
)


def maps(seed: int, shape: tuple[int, ...] = (9, 11)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    true = generator.uniform(0.5, 9.5, shape)
    predicted = true * np.exp(generator.normal(0.1, 0.3, shape))
    return predicted, true, generator.random(shape) < 0.7


def test_metrics_are_the_hand_computed_ones() -> None:
    predicted, true = np.array([2.0, 1.0, 4.0]), np.array([1.0, 1.0, 8.0])
    scores = depth_scores(predicted, true, np.ones(3, bool))
    ln2 = math.log(2)
    assert tuple(scores) == METRICS
    assert scores == pytest.approx(
        {
            "rmse_m": math.sqrt(17 / 3),  # errors 1, 0, -4
            "abs_rel": 1.5 / 3,
            "sq_rel": (1 + 0 + 2) / 3,
            "rmse_log": ln2 * math.sqrt(2 / 3),
            "log10": 2 * math.log10(2) / 3,
            "silog": ln2 * math.sqrt(2 / 3),  # the logarithms' mean is 0
            "delta1": 1 / 3,
            "delta2": 1 / 3,
            "delta3": 1 / 3,
        },
        abs=1e-12,
    )


def test_silog_forgives_half_of_a_common_factor() -> None:
    _, true, valid = maps(1)
    scores = depth_scores(true * 1.5, true, valid)
    assert scores["silog"] == pytest.approx(math.log(1.5) * math.sqrt(0.5), abs=1e-9)
    assert scores["rmse_log"] == pytest.approx(math.log(1.5), abs=1e-9)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.2, (1, 1, 1)), (1.3, (0, 1, 1)), (1 / 1.7, (0, 0, 1)), (2, (0,) * 3)],
)
def test_deltas_look_at_the_ratio_both_ways(factor: float, expected: tuple[int, ...]) -> None:
    _, true, valid = maps(2)
    scores = depth_scores(true * factor, true, valid)
    assert tuple(scores[f"delta{k}"] for k in (1, 2, 3)) == expected


def test_a_ratio_of_exactly_1_25_is_outside() -> None:
    scores = depth_scores(np.array([1.25, 1.0]), np.array([1.0, 1.25]), np.ones(2, bool))
    assert (scores["delta1"], scores["delta2"]) == (0, 1)


def test_metrics_agree_with_scikit_learn_and_torchmetrics() -> None:
    predicted, true, valid = maps(3)
    scores = depth_scores(predicted, true, valid)
    guess, truth = predicted[valid], true[valid]
    assert scores["rmse_m"] == pytest.approx(root_mean_squared_error(truth, guess), abs=1e-6)
    assert scores["abs_rel"] == pytest.approx(
        mean_absolute_percentage_error(truth, guess), abs=1e-6
    )
    # torchmetrics takes the logarithm of 1 + x.
    squares = mean_squared_log_error(torch.from_numpy(guess - 1), torch.from_numpy(truth - 1))
    assert scores["rmse_log"] == pytest.approx(math.sqrt(float(squares)), abs=1e-6)


def test_cells_that_are_not_valid_do_not_count() -> None:
    predicted, true, valid = maps(4)
    expected = depth_scores(predicted[valid], true[valid], np.ones(valid.sum(), bool))
    true[~valid], predicted[~valid] = 0, np.nan
    assert depth_scores(predicted, true, valid) == expected


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_depth_that_has_no_logarithm_is_refused(bad: float) -> None:
    predicted, true, valid = maps(5)
    place = np.flatnonzero(valid)[3]
    for name, array in (("predicted", predicted), ("true", true)):
        broken = array.copy()
        broken.flat[place] = bad
        arguments = {"predicted": predicted, "true": true, "valid": valid, name: broken}
        with pytest.raises(ValueError, match=f"{name} depth must be finite and above 0 m"):
            depth_scores(**arguments)


def test_no_valid_cell_and_other_shapes_are_refused() -> None:
    predicted, true, valid = maps(6)
    with pytest.raises(ValueError, match="at least one valid cell"):
        depth_scores(predicted, true, np.zeros_like(valid))
    with pytest.raises(ValueError, match="one shape"):
        depth_scores(predicted[:3], true, valid)


def test_median_alignment_forgives_a_factor_and_nothing_else() -> None:
    _, true, valid = maps(7)
    assert align(true * 0.1, true, valid, "median") == pytest.approx(true, abs=1e-12)
    moved = align(true + 1, true, valid, "median")
    assert np.abs(moved - true).max() > 0.1


def test_affine_alignment_forgives_scale_and_shift_of_disparity() -> None:
    _, true, valid = maps(8)
    odd = 1 / (3 / true + 0.2)
    aligned = align(odd, true, valid, "affine_disparity")
    assert aligned == pytest.approx(true, abs=1e-9)
    assert np.abs(align(odd, true, valid, "median") - true).max() > 0.1


def test_affine_alignment_is_the_least_squares_line() -> None:
    predicted, true, valid = maps(9)
    slope, shift = np.polyfit(1 / predicted[valid], 1 / true[valid], 1)
    expected = 1 / np.clip(slope / predicted + shift, 1 / 8.0, 1 / 0.7)
    aligned = align(predicted, true, valid, "affine_disparity", nearest_m=0.7, cap_m=8.0)
    assert aligned == pytest.approx(expected, abs=1e-6)


def test_a_disparity_at_or_below_zero_becomes_the_cap() -> None:
    predicted, true = np.array([1.0, 2.0, 100.0]), np.array([1.0, 4.0, 4.0])
    valid = np.array([True, True, False])  # 1 / true = 1.5 / predicted - 0.5: -0.485 at the last
    assert align(predicted, true, valid, "affine_disparity", cap_m=50.0)[2] == 50


@pytest.mark.parametrize("how", ["metric", "median", "affine_disparity"])
def test_alignment_of_a_constant_a_single_cell_and_none_stays_finite(how: str) -> None:
    true = np.array([[2.0, 4.0]])
    constant = np.full((1, 2), 3.0)
    for valid in (np.ones((1, 2), bool), np.array([[True, False]]), np.zeros((1, 2), bool)):
        aligned = align(constant, true, valid, how)
        assert np.isfinite(aligned).all()
        assert aligned[0, 0] == aligned[0, 1]
    assert align(constant, true, np.zeros((1, 2), bool), how) == pytest.approx(3)
    if how == "affine_disparity":
        both = align(constant, true, np.ones((1, 2), bool), how)
        assert both == pytest.approx(1 / 0.375)  # the mean of both disparities


def test_metric_only_clips_to_the_range() -> None:
    predicted = np.array([1e-4, 5.0, 90.0])
    aligned = align(predicted, np.ones(3), np.ones(3, bool), "metric", cap_m=80.0)
    assert aligned.tolist() == [1e-3, 5, 80]


def test_sums_give_both_ways_of_putting_images_together() -> None:
    images = [maps(10, (3, 4)), maps(11, (20, 30)), maps(12, (7, 2))]
    sums = DepthSums()
    for image in images:
        sums.add(*image)
    together = [np.concatenate([image[k].ravel() for image in images]) for k in range(3)]
    assert sums.pooled() == pytest.approx(depth_scores(*together), abs=1e-12)
    singly = [depth_scores(*image) for image in images]
    expected = {name: float(np.mean([scores[name] for scores in singly])) for name in METRICS}
    assert sums.mean_over_images() == pytest.approx(expected, abs=1e-12)
    assert sums.pooled()["rmse_m"] != pytest.approx(sums.mean_over_images()["rmse_m"], abs=1e-3)
    assert (sums.num_images, sums.num_cells) == (3, int(together[2].sum()))


def test_sums_do_not_depend_on_the_order_of_images() -> None:
    images = [maps(seed, (5, 6)) for seed in range(20)]
    forward, backward = DepthSums(), DepthSums()
    for image in images:
        forward.add(*image)
    for image in reversed(images):
        backward.add(*image)
    assert forward.pooled() == backward.pooled()
    assert forward.mean_over_images() == backward.mean_over_images()
    assert forward.intervals() == backward.intervals()


def test_images_without_a_valid_cell_are_counted_apart() -> None:
    sums = DepthSums()
    predicted, true, valid = maps(13)
    sums.add(predicted, true, np.zeros_like(valid))
    for score in (sums.pooled, sums.mean_over_images):
        with pytest.raises(ValueError, match="at least one"):
            score()
    sums.add(predicted, true, valid)
    assert (sums.num_images, sums.num_empty) == (1, 1)
    assert sums.pooled() == depth_scores(predicted, true, valid)


def test_intervals_hold_the_score_and_shrink_with_the_number_of_images() -> None:
    few, many = DepthSums(), DepthSums()
    for seed in range(200):
        if seed < 20:
            few.add(*maps(seed))
        many.add(*maps(seed))
    for way in ("pooled", "mean_over_images"):
        wide, narrow = few.intervals()[way], many.intervals()[way]
        assert narrow[0] < getattr(many, way)()["rmse_m"] < narrow[1]
        assert narrow[1] - narrow[0] < wide[1] - wide[0]
