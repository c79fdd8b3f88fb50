"""Each trivial predictor is exactly right where its rule holds."""

import numpy as np
import pytest
import torch

from worldmodel.evaluation.nulls import (
    DriftFit,
    DriftInputs,
    clock_features,
    pixel_surprise,
    running_mean,
    sightings,
)


def learn(fit: DriftFit, tokens: torch.Tensor) -> None:
    inputs = DriftInputs.of(tokens)
    fit.add(inputs, inputs.products())


def test_a_clip_too_short_for_the_horizon_teaches_nothing() -> None:
    fit = DriftFit(1, 20)
    learn(fit, torch.ones(1, 6, 1, 1).double())
    assert not fit.gram.any()


def test_running_mean_counts_the_present_step() -> None:
    tokens = torch.tensor([1.0, 3.0, 8.0]).view(1, 3, 1, 1).double()
    assert running_mean(tokens).flatten().tolist() == [1, 2, 4]


@pytest.mark.parametrize("horizon", [1, 3])
def test_drift_continues_constant_velocity_exactly(horizon: int) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 1, 2, 3, generator=generator, dtype=torch.float64)
    slope = torch.randn(5, 1, 2, 3, generator=generator, dtype=torch.float64)
    tokens = start + slope * torch.arange(12).view(1, 12, 1, 1)
    fit = DriftFit(3, horizon)
    learn(fit, tokens)
    fit.solve()
    predicted = fit.predict(DriftInputs.of(tokens))[:, :-horizon]
    assert torch.allclose(predicted, tokens[:, 1 + horizon :], atol=1e-6)


def test_drift_equals_least_squares() -> None:
    tokens = torch.randn(6, 9, 2, 1, generator=torch.Generator().manual_seed(2)).double().cumsum(1)
    fit = DriftFit(1, 2)
    learn(fit, tokens[:2])
    learn(fit, tokens[2:])
    fit.solve()
    mean = running_mean(tokens)
    inputs = torch.stack([tokens - mean, tokens - tokens.roll(1, 1)], -1)[:, 1:-2].reshape(-1, 2)
    wanted = (tokens[:, 3:] - mean[:, 1:-2]).reshape(-1, 1)
    expected = torch.linalg.lstsq(inputs, wanted).solution.flatten()
    assert torch.allclose(fit.coefficients[0], expected, rtol=1e-6)


def test_drift_learns_that_noise_returns_to_its_mean() -> None:
    tokens = torch.randn(200, 16, 1, 1, generator=torch.Generator().manual_seed(1)).double()
    fit = DriftFit(1, 1)
    learn(fit, tokens)
    fit.solve()
    assert fit.coefficients.abs().max() < 0.1


def test_drift_of_tokens_that_never_change_is_finite() -> None:
    tokens = torch.full((3, 6, 2, 2), 4.0, dtype=torch.float64)
    fit = DriftFit(2, 1)
    learn(fit, tokens)
    fit.solve()
    assert torch.equal(fit.predict(DriftInputs.of(tokens)), tokens[:, 1:])


def test_last_seen_while_hidden_is_the_frame_before_and_moves_on_at_its_velocity() -> None:
    position = np.stack([np.arange(8) * 3.0, np.full(8, 5.0)], axis=1)
    visible = np.array([1, 1, 1, 0, 0, 0, 1, 1], dtype=bool)
    known = sightings(position, visible, span=1)
    assert known.seen.tolist() == [False] + [True] * 7
    assert known.last[3:6, 0].tolist() == [6, 6, 6]
    assert np.allclose(known.extrapolated[2:], position[2:])
    # Where it is visible only earlier frames count.
    assert known.last[2].tolist() == [3, 5]
    assert known.last[6].tolist() == [6, 5]


def test_last_seen_where_visible_is_before_the_step() -> None:
    position = np.stack([np.arange(8.0), np.zeros(8)], axis=1)
    known = sightings(position, np.ones(8, dtype=bool), span=4)
    assert known.last[7, 0] == 3
    assert not known.seen[3]


def test_clock_sees_time_and_screens_and_makes_room_for_absent_ones() -> None:
    screens = np.zeros((4, 1, 4))
    screens[:, 0] = [-3, 0.1, 0.4, 9]
    features = clock_features(4, screens, max_screens=2)
    assert features[:, 0].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert features[0, 1:6].tolist() == [-0.5, 0.1, 0.4, 1.5, 1]
    assert features.shape == clock_features(4, np.zeros((4, 0, 4)), max_screens=2).shape
    assert not clock_features(4, np.zeros((4, 0, 4)), max_screens=2)[:, 1:11].any()


def test_pixel_surprise_short_looks_one_frame_back_and_long_at_all() -> None:
    frames = np.array([0.0, 0, 2, 2]).reshape(4, 1)
    assert pixel_surprise(frames, long=False) == pytest.approx(np.log1p([0, 4, 0]))
    assert pixel_surprise(frames, long=True) == pytest.approx(np.log1p([0, 4, (4 / 3) ** 2]))
