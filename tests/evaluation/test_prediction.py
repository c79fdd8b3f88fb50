"""Ratios of prediction errors, on sequences where it is known who is right."""

import pytest
import torch

from worldmodel.evaluation.prediction import PredictionErrors


def errors_of(tokens: torch.Tensor, predicted: torch.Tensor, horizon: int = 2) -> dict:
    errors = PredictionErrors([tokens.shape[-1]], [(horizon,)], [4])
    errors.fit([tokens])
    errors.solve()
    errors.add([tokens], [{horizon: predicted}])
    return errors.report()["level0"][f"h{horizon}"]


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_predicting_the_future_itself_has_no_error() -> None:
    tokens = noise(0, 3, 10, 2, 4)
    report = errors_of(tokens, torch.roll(tokens, -2, dims=1))
    assert report["error"] == 0
    assert report["skill_ratio"] == pytest.approx(0, abs=1e-9)
    assert report["horizon_frames"] == 8
    assert report["num_clips"] == 3


def test_copying_has_a_copy_ratio_of_one_and_no_skill() -> None:
    tokens = noise(1, 3, 10, 2, 4)
    report = errors_of(tokens, tokens)
    assert report["copy_ratio"] == 1
    assert report["skill_ratio"] >= 1


def test_skill_is_measured_against_the_best_null() -> None:
    """Noise around a clip's own level: the mean so far beats copying, and is hard to beat."""
    tokens = noise(2, 40, 20, 2, 3) + 5 * noise(3, 40, 1, 2, 3)
    report = errors_of(tokens, tokens)
    ratios = [report[f"{name}_ratio"] for name in ("copy", "running_mean", "ar1")]
    assert report["skill_ratio"] == pytest.approx(max(ratios))
    assert report["running_mean_ratio"] > 1.5


def test_a_collapsed_model_has_no_skill() -> None:
    tokens = torch.ones(2, 10, 2, 4)
    report = errors_of(tokens, tokens)
    assert report["skill_ratio"] == report["copy_ratio"] == 1


def test_all_predictors_are_scored_on_the_same_steps() -> None:
    """A step before the first change, or without a target in the clip, changes nothing."""
    tokens = noise(4, 2, 9, 1, 3)
    predicted = noise(5, 2, 9, 1, 3)
    spoiled = predicted.clone()
    spoiled[:, 0] = 1e6
    spoiled[:, -2:] = 1e6
    assert errors_of(tokens, predicted) == errors_of(tokens, spoiled)


def test_a_horizon_longer_than_the_clip_is_left_out() -> None:
    errors = PredictionErrors([3], [(1, 8)], [1])
    tokens = noise(6, 2, 6, 1, 3)
    errors.fit([tokens])
    errors.solve()
    errors.add([tokens], [{1: tokens, 8: tokens}])
    assert list(errors.report()["level0"]) == ["h1"]


def test_clips_taken_in_by_parts_give_the_same() -> None:
    tokens, predicted = noise(7, 6, 10, 2, 3), noise(8, 6, 10, 2, 3)
    whole = errors_of(tokens, predicted)
    errors = PredictionErrors([3], [(2,)], [4])
    parts = [slice(0, 2), slice(2, 6)]
    for part in parts:
        learned = errors.blank()
        learned.fit([tokens[part]])
        errors.merge(learned)
    errors.solve()
    for part in parts:
        scored = errors.blank()
        scored.add([tokens[part]], [{2: predicted[part]}])
        errors.merge(scored)
    report = errors.report()["level0"]["h2"]
    assert report == pytest.approx(whole)
    assert report["num_clips"] == 6
