import math

import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.losses.objective import LossWeights, level_losses, total_loss
from worldmodel.losses.regularizers import (
    SCOPES,
    NoRegularizer,
    SIGReg,
    VICReg,
    covariance_loss,
    global_covariance,
    variance_loss,
    whole_batch,
    within_clip,
)


@pytest.fixture
def normal() -> torch.Tensor:
    return torch.randn(20000, 8, generator=torch.Generator().manual_seed(0))


def test_sigreg__zero_for_standard_normal_and_large_for_what_is_not(normal):
    sigreg = SIGReg()
    assert sigreg(normal, seed=1) < 1e-3
    for other in (torch.zeros_like(normal), 3 * normal, normal + 1, normal[:, :1].expand(-1, 8)):
        assert sigreg(other, seed=1) > 0.05


def test_sigreg__is_the_epps_pulley_integral(normal):
    # One dimension has two unit directions, +1 and -1: the statistic is the same for both.
    rows = normal[:500, :1] * 1.5 + 0.3
    loss = 0.0
    for t in torch.linspace(0.2, 3.0, 8).tolist():
        angle = (rows[:, 0] * t).double()
        weight = math.exp(-(t**2) / 2)
        real, imaginary = angle.cos().mean() - weight, angle.sin().mean()
        loss += weight * float(real**2 + imaginary**2)
    assert float(SIGReg(covariance=0.0)(rows, seed=3)) == pytest.approx(loss, rel=1e-4)


def test_sigreg__does_not_depend_on_the_number_of_rows(normal):
    sigreg = SIGReg()
    twice = torch.cat([2 * normal, 2 * normal])
    assert float(sigreg(twice, seed=1)) == pytest.approx(
        float(sigreg(2 * normal, seed=1)), rel=1e-4
    )


def test_sigreg__same_seed_same_directions(normal):
    sigreg, rows = SIGReg(num_directions=4), 2 * normal[:, :8]
    assert sigreg(rows, seed=5) == sigreg(rows, seed=5)
    assert sigreg(rows, seed=5) != sigreg(rows, seed=6)


def test_sigreg__gradient_descent_makes_rows_normal():
    rows = (
        0.1 * torch.randn(512, 4, generator=torch.Generator().manual_seed(0)) + 2
    ).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.1)
    for step in range(150):
        optimizer.zero_grad()
        SIGReg()(rows, seed=step).backward()
        optimizer.step()
    assert rows.mean(0).abs().max() < 0.2
    torch.testing.assert_close(torch.cov(rows.detach().T), torch.eye(4), rtol=0, atol=0.3)


def test_sigreg__sees_variance_that_few_directions_carry():
    # Half of all variance in 4 of 128 dimensions: slices average it away, the covariance does not.
    generator = torch.Generator().manual_seed(0)
    variance = torch.full((128,), 0.5)
    variance[:4] = 16.5
    variance *= 128 / variance.sum()
    isotropic = torch.randn(20000, 128, generator=generator)
    skewed = isotropic * variance.sqrt()
    slices = SIGReg(covariance=0.0)
    assert slices(skewed, seed=1) < 0.03
    covariance = torch.cov(skewed.T, correction=0)
    expected = 0.05 * float((covariance - torch.eye(128)).square().sum()) / 128
    both = SIGReg(covariance=0.05)
    assert float(both(skewed, seed=1) - slices(skewed, seed=1)) == pytest.approx(expected, rel=1e-3)
    assert both(skewed, seed=1) > 10 * both(isotropic, seed=1)


def test_sigreg__refuses_what_makes_no_sense():
    with pytest.raises(InputError, match="covariance weight"):
        SIGReg(covariance=-1.0)
    with pytest.raises(InputError, match="at least one direction"):
        SIGReg(num_directions=0)


def test_vicreg__closed_forms(normal):
    covariance = torch.cov(normal.T, correction=0)
    torch.testing.assert_close(global_covariance(normal), covariance, rtol=1e-4, atol=1e-5)
    assert float(variance_loss(torch.diag(torch.tensor([0.25, 4.0])), std=1.0)) == pytest.approx(
        (1 - math.sqrt(0.2501)) / 2
    )
    matrix = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert float(covariance_loss(matrix)) == pytest.approx(2 * 0.25 / 2)


def test_vicreg__collapse_costs_and_spread_does_not(normal):
    vicreg = VICReg()
    assert vicreg(1.1 * normal, seed=0) < 1e-2
    assert vicreg(torch.zeros_like(normal), seed=0) == pytest.approx(1 - 1e-2)


def test_scopes__within_clip_does_not_see_what_never_changes():
    tokens = torch.randn(3, 5, 2, 4)
    constant = torch.randn(3, 1, 2, 4)
    torch.testing.assert_close(within_clip(tokens + constant), within_clip(tokens))
    assert not torch.allclose(whole_batch(tokens + constant), whole_batch(tokens))
    assert within_clip(constant.expand(3, 5, 2, 4)).abs().max() < 1e-6
    assert all(scope(tokens).shape == (30, 4) for scope in SCOPES.values())


def test_level_losses__names_are_those_of_the_weights():
    tokens = torch.randn(2, 6, 3, 4)
    weights = LossWeights(prediction=1.0, batch=2.0, within_clip=0.0)
    losses = level_losses(tokens, {1: tokens}, tokens, SIGReg(), weights, seed=0)
    assert set(losses) == {"prediction", "batch"}
    torch.testing.assert_close(
        total_loss(losses, weights), losses["prediction"] + 2 * losses["batch"]
    )
    with pytest.raises(ValueError, match="do not match the weights"):
        total_loss({"prediction": losses["prediction"]}, weights)


def test_loss_weights__refuses_negative_ones():
    with pytest.raises(InputError, match="within_clip"):
        LossWeights(within_clip=-1.0)


def test_no_regularizer__costs_nothing(normal):
    assert NoRegularizer()(normal, seed=0) == 0
