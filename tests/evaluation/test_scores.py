import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from worldmodel.evaluation.scores import (
    bootstrap_groups,
    percentile_interval,
    token_distances,
    wilson,
)


def test_token_distances__are_euclidean_in_units_of_one_dimension() -> None:
    generator = torch.Generator().manual_seed(0)
    guess, true = torch.randn(2, 3, 5, 16, generator=generator)
    found = token_distances(guess, true)
    pairs = zip(guess.double().numpy(), true.double().numpy(), strict=True)
    expected = [np.diag(cdist(one, other)) / 4 for one, other in pairs]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_token_distances__leave_what_they_are_given_as_it_is() -> None:
    guess, true = torch.ones(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    assert token_distances(guess, true).tolist() == [1, 1]
    assert float(guess.min()) == 1
    assert float(true.max()) == 0


@pytest.mark.parametrize(("right", "count"), [(0, 7), (5, 12), (40, 40), (1, 1)])
def test_intervals_are_scipys_wilson_intervals(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx([expected.low, expected.high], abs=1e-9)


def test_intervals_of_few_groups_hold_the_truth_as_often_as_those_of_many() -> None:
    """Means of five normal values, 600 times: plain percentiles hold 0 in 85 % of them."""
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(600, 5))
    rows = generator.integers(0, 5, size=(600, 500, 5))
    means = samples[np.arange(600)[:, None, None], rows].mean(2)
    plain = np.percentile(means, [2.5, 97.5], axis=1).T
    wider = np.array([percentile_interval(each, 5) for each in means])
    held = [np.mean((ends[:, 0] < 0) & (ends[:, 1] > 0)) for ends in (plain, wider)]
    assert held[0] < 0.86
    assert held[1] > 0.89


def test_intervals_of_many_groups_are_percentiles() -> None:
    values = np.random.default_rng(1).normal(size=20000)
    found = percentile_interval(values, 1000)
    assert found == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.02)


@pytest.mark.parametrize("shown", [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
def test_one_group_has_no_interval(shown: list[float]) -> None:
    """Nor has one of which alone something counts."""
    groups = np.arange(3) if shown[1] == 0 else np.zeros(3, dtype=int)
    assert bootstrap_groups(np.ones(3), np.array(shown), groups, lambda a, b: a / b) is None
