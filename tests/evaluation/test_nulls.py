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
from worldmodel.evaluation.probes.linear import fit_ridge


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


def test_the_running_mean_is_right_where_everything_returns_to_it() -> None:
    """Steps 0 and 1 are as they like; from then on each is the mean of all before it."""
    tokens = torch.zeros(1, 8, 1, 1, dtype=torch.float64)
    tokens[0, :2, 0, 0] = torch.tensor([1.0, 5.0])
    for step in range(2, 8):
        tokens[:, step] = tokens[:, :step].mean(1)
    predicted = running_mean(tokens)
    assert torch.allclose(predicted[:, 1:-1], tokens[:, 2:], rtol=0, atol=1e-12)


def test_drift_recovers_the_rule_that_made_a_sequence() -> None:
    """y' = m + 0.6 (y - m) + 0.3 (y - y_before), another rule for each of two dimensions."""
    a, b = torch.tensor([0.6, -0.2]).double(), torch.tensor([0.3, 0.5]).double()
    tokens = torch.randn(4, 12, 3, 2, generator=torch.Generator().manual_seed(3)).double()
    for step in range(2, 12):
        mean = tokens[:, :step].mean(1)
        last, before = tokens[:, step - 1], tokens[:, step - 2]
        tokens[:, step] = mean + a * (last - mean) + b * (last - before)
    fit = DriftFit(2, 1)
    learn(fit, tokens)
    fit.solve()
    assert torch.allclose(fit.coefficients, torch.stack([a, b], dim=1), atol=1e-6)
    predicted = fit.predict(DriftInputs.of(tokens))[:, :-1]
    assert torch.allclose(predicted, tokens[:, 2:], atol=1e-6)


def test_drift_fitted_in_parts_is_the_same() -> None:
    tokens = torch.randn(6, 9, 2, 3, generator=torch.Generator().manual_seed(4)).double()
    whole, first, second = (DriftFit(3, 2) for _ in range(3))
    learn(whole, tokens)
    learn(first, tokens[:2])
    learn(second, tokens[2:])
    first.merge(second)
    for fit in (whole, first):
        fit.solve()
    assert torch.allclose(whole.coefficients, first.coefficients, rtol=1e-9)


def test_the_clock_is_right_where_time_and_screens_decide() -> None:
    """A thing that starts behind the screen's left edge and moves at constant acceleration."""
    generator = np.random.default_rng(0)
    frames, features, places = 20, [], []
    for _ in range(12):
        left = generator.uniform(0.2, 0.6)
        box = np.tile([left, 0.3, left + 0.2, 0.8], (frames, 1, 1))
        features.append(clock_features(frames, box, 2))
        time = np.arange(frames)
        places.append(np.stack([left + 0.01 * time + 0.001 * time**2, 0.5 * left * time], 1))
    rows = torch.from_numpy(np.concatenate(features)), np.concatenate(places)
    probe, error = fit_ridge(rows, rows, strengths=(1e-10,))
    assert error < 1e-12
    assert np.allclose(probe(rows[0]), rows[1], atol=1e-5)


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
