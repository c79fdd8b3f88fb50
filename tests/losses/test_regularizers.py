import math

import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance

from worldmodel.errors import InputError
from worldmodel.losses.regularizers import (
    CharacteristicDistance,
    Combined,
    Gram,
    NoRegularizer,
    SIGReg,
    VICReg,
    covariance_loss,
    global_covariance,
    identity_distance,
    variance_loss,
)


@pytest.fixture
def normal() -> torch.Tensor:
    return torch.randn(1, 20000, 8, generator=torch.Generator().manual_seed(0))


def test_sigreg__zero_for_standard_normal_and_large_for_what_is_not(normal):
    sigreg = SIGReg()
    assert sigreg(normal, seed=1) < 1e-3
    for other in (
        torch.zeros_like(normal),
        3 * normal,
        normal + 1,
        normal[..., :1].expand(-1, -1, 8),
    ):
        assert sigreg(other, seed=1) > 0.05


def test_sigreg__is_the_epps_pulley_integral(normal):
    # One dimension has two unit directions, +1 and -1: the statistic is the same for both.
    rows = normal[:, :500, :1] * 1.5 + 0.3
    loss = 0.0
    for t in torch.linspace(0.2, 3.0, 8).tolist():
        angle = (rows[0, :, 0] * t).double()
        weight = math.exp(-(t**2) / 2)
        real, imaginary = angle.cos().mean() - weight, angle.sin().mean()
        loss += weight * float(real**2 + imaginary**2)
    assert float(SIGReg(covariance=0.0)(rows, seed=3)) == pytest.approx(loss, rel=1e-4)


def test_sigreg__does_not_depend_on_the_number_of_rows(normal):
    sigreg = SIGReg()
    twice = torch.cat([2 * normal, 2 * normal], dim=1)
    assert float(sigreg(twice, seed=1)) == pytest.approx(
        float(sigreg(2 * normal, seed=1)), rel=1e-4
    )


def test_sigreg__same_seed_same_directions(normal):
    sigreg, rows = SIGReg(num_directions=4), 2 * normal
    assert sigreg(rows, seed=5) == sigreg(rows, seed=5)
    assert sigreg(rows, seed=5) != sigreg(rows, seed=6)


def test_sigreg__gradient_descent_makes_rows_normal():
    rows = (
        0.1 * torch.randn(1, 512, 4, generator=torch.Generator().manual_seed(0)) + 2
    ).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.1)
    for step in range(150):
        optimizer.zero_grad()
        SIGReg()(rows, seed=step).backward()
        optimizer.step()
    assert rows[0].mean(0).abs().max() < 0.2
    torch.testing.assert_close(torch.cov(rows[0].detach().T), torch.eye(4), rtol=0, atol=0.3)


def test_sigreg__sees_variance_that_few_directions_carry():
    # Half of all variance in 4 of 128 dimensions: slices average it away, the covariance does not.
    generator = torch.Generator().manual_seed(0)
    variance = torch.full((128,), 0.5)
    variance[:4] = 16.5
    variance *= 128 / variance.sum()
    isotropic = torch.randn(1, 20000, 128, generator=generator)
    skewed = isotropic * variance.sqrt()
    slices = SIGReg(covariance=0.0)
    assert slices(skewed, seed=1) < 0.03
    covariance = torch.cov(skewed[0].T, correction=0)
    expected = 0.05 * float((covariance - torch.eye(128)).square().sum()) / 128
    both = SIGReg(covariance=0.05)
    assert float(both(skewed, seed=1) - slices(skewed, seed=1)) == pytest.approx(expected, rel=1e-3)
    assert both(skewed, seed=1) > 10 * both(isotropic, seed=1)


def test_sigreg__refuses_what_makes_no_sense():
    with pytest.raises(InputError, match="covariance weight"):
        SIGReg(covariance=-1.0)
    with pytest.raises(InputError, match="at least one direction"):
        SIGReg(num_directions=0)


def test_sigreg__gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    for points in ([0.2, 0.6, 1.0, 1.4], [0.7]):
        assert torch.autograd.gradcheck(
            lambda rows, points=points: CharacteristicDistance.apply(rows, points), (projected,)
        )
    rows = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: SIGReg(num_directions=3)(r, 5), (rows,))


def test_sigreg__every_group_has_statistics_of_its_own(normal):
    # Two halves that are normal together and not apart.
    order = normal[0, :, 0].argsort()
    halves = torch.stack([normal[0][order[:10000]], normal[0][order[10000:]]])
    assert SIGReg()(normal, seed=1) < 1e-3
    assert SIGReg()(halves, seed=1) > 0.05


def test_vicreg__closed_forms():
    assert float(variance_loss(torch.diag(torch.tensor([0.25, 4.0]))[None], 1.0)) == pytest.approx(
        (1 - math.sqrt(0.2501)) / 2
    )
    matrix = torch.tensor([[[1.0, 0.5], [0.5, 1.0]], [[3.0, 0.0], [0.0, 1.0]]])
    assert float(covariance_loss(matrix)) == pytest.approx((2 * 0.25 / 2 + 0) / 2)
    assert float(identity_distance(matrix)) == pytest.approx((2 * 0.25 / 2 + 4 / 2) / 2)


def test_vicreg__is_the_papers_formula_on_scikit_learns_covariance():
    generator = np.random.default_rng(0)
    groups = generator.normal(size=(3, 40, 5)) @ generator.normal(size=(5, 5)) * 0.4
    total = 0.0
    for rows in groups:
        covariance = empirical_covariance(rows)
        hinge = sum(max(0.0, 1.5 - math.sqrt(covariance[d, d] + 1e-4)) for d in range(5)) / 5
        off = sum(covariance[i, j] ** 2 for i in range(5) for j in range(5) if i != j) / 5
        total += (0.7 * hinge + 0.2 * off) / 3
    found = VICReg(std=1.5, variance=0.7, covariance=0.2)(torch.from_numpy(groups), seed=0)
    assert float(found) == pytest.approx(total, rel=1e-10)


def test_covariance__gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Gram.apply, (rows,))
    assert torch.autograd.gradcheck(global_covariance, (rows,))
    # With a slope that is not symmetric.
    slope = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: (slope * global_covariance(r)).sum(), (rows,))


def test_vicreg__collapse_costs_and_spread_does_not(normal):
    vicreg = VICReg()
    assert vicreg(1.1 * normal, seed=0) < 1e-2
    assert vicreg(torch.zeros_like(normal), seed=0) == pytest.approx(1 - 1e-2)


def test_vicreg__refuses_what_makes_no_sense():
    with pytest.raises(InputError, match="positive std and weights of 0 or more, got std 0"):
        VICReg(std=0.0)
    with pytest.raises(InputError, match="covariance -1"):
        VICReg(covariance=-1.0)
    with pytest.raises(InputError, match="variance nan"):
        VICReg(variance=math.nan)


def test_no_regularizer__costs_nothing(normal):
    assert NoRegularizer()(normal, seed=0) == 0


def test_combined__is_the_weighted_sum(normal):
    rows = 2 * normal
    vicreg, hinge = VICReg(), VICReg(std=3.0, covariance=0.0)
    found = Combined([vicreg, hinge, NoRegularizer()], [2.0, 0.5, 7.0])(rows, seed=4)
    expected = 2 * float(vicreg(rows, seed=0)) + 0.5 * float(hinge(rows, seed=0))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_combined__each_draws_its_own_directions(normal):
    rows = 2 * normal[:, :100]
    sketch = SIGReg(num_directions=2, covariance=0.0)
    both = Combined([sketch, sketch], [1.0, 1.0])
    assert both(rows, seed=3) == both(rows, seed=3)
    found = {float(Combined([sketch, sketch], w)(rows, seed=3)) for w in ([1.0, 0.0], [0.0, 1.0])}
    assert len(found) == 2


def test_combined__refuses_what_does_not_match():
    with pytest.raises(InputError, match="2 regularizers and 1 weights"):
        Combined([SIGReg(), VICReg()], [1.0])
    with pytest.raises(InputError, match="at least one, got 0 regularizers"):
        Combined([], [])
    with pytest.raises(InputError, match=r"weights must be 0 or more, got \[1.0, -1.0\]"):
        Combined([SIGReg(), VICReg()], [1.0, -1.0])
