import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.losses.prediction import prediction_energy, prediction_loss


def test_energy__compares_step_with_the_step_horizon_later():
    target = torch.arange(6.0).view(1, 6, 1, 1)
    energy = prediction_energy(target, target, horizon=2)
    assert energy.shape == (1, 4, 1)
    assert torch.equal(energy, torch.full((1, 4, 1), 4.0))


def test_energy__a_prediction_that_comes_true_costs_nothing():
    target = torch.randn(2, 7, 3, 4)
    predicted = torch.roll(target, -3, dims=1)
    assert prediction_energy(predicted, target, horizon=3).abs().max() == 0


def test_loss__every_horizon_counts_the_same():
    target = torch.arange(8.0).view(1, 8, 1, 1)
    loss = prediction_loss({1: target, 3: target}, target)
    assert float(loss) == pytest.approx((1 + 9) / 2)


def test_energy__clip_too_short():
    with pytest.raises(InputError, match="a horizon of 4 steps needs clips of more steps, got 4"):
        prediction_energy(torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1), horizon=4)
