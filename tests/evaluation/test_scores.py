import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from worldmodel.evaluation.scores import token_distances, wilson


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
