"""Probes find what is there, and scores are what their names say."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score as sklearn_r2
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from worldmodel.evaluation.probes.linear import Moments, fit_ridge, fit_ridges, solve_few
from worldmodel.evaluation.probes.mlp import MlpProbe
from worldmodel.evaluation.scores import auroc, bootstrap_groups, r2_interval, r2_score


def planted(rows: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Targets that are a fixed linear map of the features, plus an offset."""
    features = torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed)) * 3 + 1
    weight = np.random.default_rng(0).normal(size=(12, 2))
    return features, features.double().numpy() @ weight + np.array([5.0, -7.0])


def test_ridge_recovers_a_planted_linear_map() -> None:
    probe, error = fit_ridge(planted(400, 1), planted(100, 2))
    features, true = planted(200, 3)
    assert error < 1e-4
    assert r2_score(probe(features), true) > 0.9999


def test_ridge_equals_the_textbook_solution() -> None:
    features, targets = planted(50, 4)
    features = features.double()
    moments = Moments(12, 2)
    moments.add(features, targets)
    (probe,) = moments.solve([0.5])
    x = features.double().numpy()
    standard = (x - x.mean(0)) / x.std(0)
    gram = standard.T @ standard + 0.5 * len(x) * np.eye(12)
    weight = np.linalg.solve(gram, standard.T @ (targets - targets.mean(0)))
    assert np.allclose(probe(features), standard @ weight + targets.mean(0), atol=1e-9)


def test_ridge_equals_sklearn_with_and_without_weights() -> None:
    features, targets = planted(60, 5)
    features = features.double()
    targets = targets + np.random.default_rng(1).normal(size=targets.shape)
    x = features.double().numpy()
    for weights in (None, np.random.default_rng(2).integers(1, 5, 60).astype(float)):
        moments = Moments(12, 2)
        moments.add(features, targets, weights)
        (probe,) = moments.solve([0.3])
        counts = np.ones(60) if weights is None else weights
        scaler = StandardScaler().fit(x, sample_weight=counts)
        ridge = Ridge(alpha=0.3 * counts.sum()).fit(scaler.transform(x), targets, counts)
        expected = ridge.predict(scaler.transform(x))
        assert np.allclose(probe(features), expected, rtol=0, atol=1e-6)


def test_fewer_rows_than_features_are_solved_in_their_own_space_to_the_same_end() -> None:
    features, targets = planted(40, 10)
    wide = torch.cat([features, features.square(), features.cos(), features.sin()], dim=1)
    wide = torch.cat([wide, torch.ones(40, 1)], dim=1).double()
    moments = Moments(49, 2)
    moments.add(wide, targets)
    strengths = (1e-3, 0.1, 10.0)
    for own, other in zip(
        moments.solve(strengths), solve_few(wide, targets, strengths), strict=True
    ):
        assert np.allclose(own(wide), other(wide), rtol=0, atol=1e-6)
        assert own.strength == other.strength


def test_many_questions_are_answered_as_if_each_were_alone() -> None:
    train, val = planted(60, 8), planted(40, 9)
    noise = np.random.default_rng(3).normal(size=(2, 60, 1))
    weights = np.random.default_rng(4).random(60) + 0.5
    questions = {"place": train[1], "noise": noise[0], "heavy": train[1][:, :1]}
    chosen = {"place": val[1], "noise": noise[1][:40], "heavy": val[1][:, :1]}
    found = fit_ridges((train[0], questions), (val[0], chosen), {"heavy": weights})
    for name in ("place", "noise"):
        alone, error = fit_ridge((train[0], questions[name]), (val[0], chosen[name]))
        assert found[name][0].strength == alone.strength
        assert found[name][1] == pytest.approx(error)
        assert np.allclose(found[name][0](val[0]), alone(val[0]))
    assert found["noise"][0].strength > found["place"][0].strength
    assert found["heavy"][0](val[0]).shape == (40, 1)


def test_moments_do_not_depend_on_grouping() -> None:
    features, targets = planted(90, 5)
    whole, parts = Moments(12, 2), Moments(12, 2)
    whole.add(features, targets)
    for rows in (slice(0, 7), slice(7, 50), slice(50, 90)):
        parts.add(features[rows], targets[rows])
    (one,), (other,) = whole.solve([0.1]), parts.solve([0.1])
    assert np.allclose(one(features), other(features), rtol=0, atol=1e-4)


def test_validation_chooses_a_strong_ridge_when_features_are_noise() -> None:
    generator = torch.Generator().manual_seed(6)
    noise = [torch.randn(60, 40, generator=generator) for _ in range(2)]
    target = np.random.default_rng(7).normal(size=(2, 60, 1))
    probe, _ = fit_ridge((noise[0], target[0]), (noise[1], target[1]))
    assert probe.strength == 10


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    features, targets = planted(100, 8)
    features[:, 0] = 4.0
    probe, _ = fit_ridge((features, targets), (features, targets))
    assert probe.weight[0].abs().max() == 0
    assert np.isfinite(probe(features)).all()


def test_mlp_reads_what_a_linear_probe_cannot() -> None:
    def product(seed: int) -> tuple[torch.Tensor, np.ndarray]:
        x = torch.randn(1500, 2, generator=torch.Generator().manual_seed(seed))
        return x, (x[:, :1] * x[:, 1:]).double().numpy()

    train, val, test = product(1), product(2), product(3)
    linear, _ = fit_ridge(train, val)
    mlp = MlpProbe(train, val, hidden=64, passes=40)
    assert r2_score(linear(test[0]), test[1]) < 0.1
    assert r2_score(mlp(test[0]), test[1]) > 0.8


def test_mlp_is_the_same_to_the_bit_and_leaves_the_global_generator_alone() -> None:
    train, val = planted(100, 1), planted(50, 2)
    before = torch.get_rng_state()
    first, second = (MlpProbe(train, val, passes=2)(val[0]) for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_r2_is_one_for_the_truth_zero_for_its_mean_and_finite_without_spread() -> None:
    true = np.random.default_rng(0).normal(size=(30, 2))
    assert r2_score(true, true) == 1
    assert r2_score(np.broadcast_to(true.mean(0), true.shape), true) == pytest.approx(0)
    assert r2_score(np.zeros((4, 1)), np.ones((4, 1))) == 0


def test_auroc_equals_sklearn_with_ties() -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 6, 80).astype(float)
    positive = generator.random(80) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert auroc(scores, np.zeros(80)) == 0.5


def test_r2_equals_sklearn() -> None:
    generator = np.random.default_rng(3)
    true = generator.normal(size=(50, 2)) * [1, 30]
    guess = true + generator.normal(size=(50, 2))
    expected = sklearn_r2(true, guess, multioutput="variance_weighted")
    assert r2_score(guess, true) == pytest.approx(expected, abs=1e-12)


def test_interval_holds_the_score_and_widens_when_rows_come_in_clips() -> None:
    generator = np.random.default_rng(2)
    true = generator.normal(size=(400, 2))
    clip_error = np.repeat(generator.normal(size=(20, 2)), 20, axis=0)
    predicted = true + clip_error
    by_clip = r2_interval(predicted, true, np.repeat(np.arange(20), 20))
    by_row = r2_interval(predicted, true, np.arange(400))
    assert by_clip[0] < r2_score(predicted, true) < by_clip[1]
    assert by_clip[1] - by_clip[0] > 1.5 * (by_row[1] - by_row[0])


def test_interval_of_a_constant_is_that_constant() -> None:
    ones = np.ones(10)
    assert bootstrap_groups(ones, ones, np.arange(10), lambda a, b: a / b) == [1.0, 1.0]
