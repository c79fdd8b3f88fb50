import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.preprocessing import StandardScaler

from worldmodel.errors import InputError
from worldmodel.losses.baselines import InfoNCE, PixelPrediction
from worldmodel.losses.prediction import (
    BarlowTwins,
    CombinedPrediction,
    PredictionLoss,
    SquaredError,
    VICRegL,
    matched_energy,
    moving_weights,
    prediction_energy,
)

LOSSES = [
    SquaredError(),
    SquaredError(moving=3.0),
    BarlowTwins(),
    VICRegL(),
    CombinedPrediction([VICRegL(), BarlowTwins()], [0.5, 2.0]),
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


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
    loss = SquaredError()({1: target, 3: target}, target)
    assert float(loss) == pytest.approx((1 + 9) / 2)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_every_loss__is_the_mean_over_horizons(loss):
    target, near, far = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1), normal(3, 6, 4, 5, seed=2)
    both = loss({1: near, 4: far}, target)
    apart = [float(loss({h: p}, target)) for h, p in ((1, near), (4, far))]
    assert both.shape == ()
    assert float(both) == pytest.approx(sum(apart) / 2, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_every_loss__looks_only_at_steps_that_came(loss):
    target, predicted = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1)
    beyond = predicted.clone()
    beyond[:, 4:] = 100.0  # predictions for steps 6 and 7, which the clip does not have
    assert loss({2: beyond}, target) == loss({2: predicted}, target)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_every_loss__gradient_is_that_of_finite_differences(loss):
    target = normal(2, 4, 3, 2).requires_grad_(not isinstance(loss, SquaredError))
    predicted = normal(2, 4, 3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: loss({2: p}, t), (predicted, target))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_every_loss__clip_too_short(loss):
    with pytest.raises(InputError, match="a horizon of 4 steps needs clips of more steps, got 4"):
        loss({4: torch.zeros(1, 4, 1, 1)}, torch.zeros(1, 4, 1, 1))


def test_base_class__says_what_a_loss_must_have(hierarchy):
    base = PredictionLoss()
    assert base.attach(hierarchy) is None
    with pytest.raises(NotImplementedError, match="predicted, target, level, frames, seed"):
        base({1: torch.zeros(1, 3, 1, 1)}, torch.zeros(1, 3, 1, 1))


def test_moving__weighs_tokens_by_how_much_they_change():
    target, predicted = normal(2, 5, 3, 4).numpy(), normal(2, 5, 3, 4, seed=1).numpy()
    horizon, moving = 2, 3.0
    changes, errors = [], []
    for clip in range(2):
        for step in range(5 - horizon):
            for place in range(3):
                came, present = target[clip, step + horizon, place], target[clip, step, place]
                changes.append(float(np.mean((came - present) ** 2)))
                errors.append(float(np.mean((predicted[clip, step, place] - came) ** 2)))
    weights = 1 + moving * np.array(changes) / np.mean(changes)
    expected = np.average(errors, weights=weights)
    found = SquaredError(moving=moving)(
        {horizon: torch.from_numpy(predicted)}, torch.from_numpy(target)
    )
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_moving__weights_have_mean_one_and_no_gradient():
    target = normal(2, 6, 3, 4).requires_grad_()
    weights = moving_weights(target, horizon=2, moving=5.0)
    assert float(weights.mean()) == pytest.approx(1, rel=1e-12)
    assert not weights.requires_grad
    # A prediction that is right costs nothing whatever changes: no gradient through the weights.
    predicted = torch.roll(target.detach(), -2, dims=1)
    SquaredError(moving=5.0)({2: predicted}, target).backward()
    assert target.grad.abs().max() == 0


def test_moving__a_world_that_stands_still_is_weighed_evenly():
    target = normal(2, 1, 3, 4).expand(2, 6, 3, 4)
    predicted = normal(2, 6, 3, 4, seed=1)
    still = SquaredError(moving=5.0)({1: predicted}, target)
    assert float(still) == pytest.approx(float(SquaredError()({1: predicted}, target)), rel=1e-12)


def test_moving__changes_what_is_learned():
    # One place of 16 moves. A prediction that is wrong there alone costs more than one that is as
    # wrong at a place where nothing happens.
    target = torch.zeros(1, 8, 16, 1)
    target[:, :, 3, 0] = torch.arange(8.0)
    right = torch.roll(target, -1, dims=1)
    wrong_there, wrong_elsewhere = right.clone(), right.clone()
    wrong_there[:, :, 3] += 1
    wrong_elsewhere[:, :, 5] += 1
    loss = SquaredError(moving=1.0)
    # The place that moves has 16 times the mean change: weights (1 + 16) / 2 and 1 / 2.
    assert float(loss({1: wrong_there}, target)) == pytest.approx(17 / 2 / 16)
    assert float(loss({1: wrong_elsewhere}, target)) == pytest.approx(1 / 2 / 16)


def test_squared_error__refuses_what_makes_no_sense():
    for moving in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="moving must be 0 or more and finite, got"):
            SquaredError(moving=moving)


def test_barlow_twins__is_the_papers_formula_on_scikit_learns_standardised_rows():
    target, predicted = normal(4, 6, 3, 5).numpy(), normal(4, 6, 3, 5, seed=1).numpy()
    predicted = predicted + 0.7 * target @ normal(5, 5, seed=2).numpy()
    horizon = 2
    first = predicted[:, :-horizon].reshape(-1, 5)
    second = target[:, horizon:].reshape(-1, 5)
    correlation = StandardScaler().fit_transform(first).T @ StandardScaler().fit_transform(second)
    correlation /= len(first)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            entry = correlation[i, j]
            expected += (1 - entry) ** 2 if i == j else 0.02 * entry**2
    found = BarlowTwins(off_diagonal=0.02)(
        {horizon: torch.from_numpy(predicted)}, torch.from_numpy(target)
    )
    # Variances are about 1 here; the floor of 1e-5 is all that differs.
    assert float(found) == pytest.approx(expected / 5, rel=1e-4)


def test_barlow_twins__knows_no_scale_but_collapse_and_repetition():
    target = normal(8, 9, 4, 6)
    right = torch.roll(target, -1, dims=1)
    loss = BarlowTwins(off_diagonal=1.0)
    perfect = float(loss({1: right}, target))
    assert perfect < 0.05
    assert float(loss({1: 3 * right + 1}, 10 * target)) == pytest.approx(perfect, abs=1e-4)
    collapsed = torch.ones_like(target)
    assert float(loss({1: collapsed}, collapsed)) == pytest.approx(1)
    repeated = target[..., :1].expand_as(target)
    # Every dimension repeats the first: all 6 * 5 correlations off the diagonal are 1.
    assert float(loss({1: torch.roll(repeated, -1, dims=1)}, repeated)) == pytest.approx(
        6 * 5 / 6, rel=1e-3
    )
    for away in (float("nan"), -1.0):
        with pytest.raises(InputError, match="off_diagonal must be 0 or more"):
            BarlowTwins(off_diagonal=away)


def test_barlow_twins__collapsed_tokens_have_a_finite_gradient():
    tokens = torch.zeros(2, 4, 3, 5, requires_grad=True)
    BarlowTwins()({1: tokens}, tokens).backward()
    assert tokens.grad.isfinite().all()


def test_vicregl__is_the_sum_over_pairs_found_by_hand():
    target, predicted = normal(2, 5, 6, 3).numpy(), normal(2, 5, 6, 3, seed=1).numpy()
    horizon, keep = 2, 2  # 0.4 of 6 tokens are 2.4
    place, like, overall = [], [], []
    for clip in range(2):
        for step in range(5 - horizon):
            ahead, came = predicted[clip, step], target[clip, step + horizon]
            squared = cdist(ahead, came, "sqeuclidean") / 3
            place += list(squared.diagonal())
            like += sorted(squared.min(axis=1))[:keep]
            overall.append(np.mean((ahead.mean(axis=0) - came.mean(axis=0)) ** 2))
    expected = 0.6 * np.mean(overall) + 0.4 * (np.mean(place) + np.mean(like))
    found = VICRegL(global_share=0.6, matched_share=0.4)(
        {horizon: torch.from_numpy(predicted)}, torch.from_numpy(target)
    )
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_vicregl__likeness_does_not_care_for_places():
    target = normal(2, 5, 6, 3)
    shuffled = torch.roll(target, -1, dims=1)[:, :, torch.randperm(6)]
    assert float(matched_energy(shuffled[:, :-1], target[:, 1:], 6).max()) < 1e-12
    assert float(VICRegL(global_share=1.0)({1: shuffled}, target)) < 1e-12
    assert float(VICRegL(global_share=0.0)({1: shuffled}, target)) > 0.1


def test_vicregl__one_token_per_step_and_ties():
    target = normal(2, 5, 1, 3)
    predicted = normal(2, 5, 1, 3, seed=1)
    squared = SquaredError()({1: predicted}, target)
    # Global, by place and by likeness are the same: a + (1 - a) * 2 times the squared error.
    found = VICRegL(global_share=0.75)({1: predicted}, target)
    assert float(found) == pytest.approx(1.25 * float(squared), rel=1e-12)
    same = torch.ones(2, 5, 4, 3, dtype=torch.float64)
    assert float(VICRegL()({1: same + 1}, same)) == pytest.approx(1.25)


def test_vicregl__refuses_what_makes_no_sense():
    for shares in ({"global_share": 1.5}, {"matched_share": 0.0}, {"global_share": float("nan")}):
        with pytest.raises(InputError, match=r"global_share in \[0, 1\] and a matched_share in"):
            VICRegL(**shares)


def test_combined__is_the_weighted_sum():
    target, predicted = normal(3, 6, 4, 5), {2: normal(3, 6, 4, 5, seed=1)}
    found = CombinedPrediction([SquaredError(), InfoNCE()], [1.0, 0.25])(predicted, target)
    expected = SquaredError()(predicted, target) + InfoNCE()(predicted, target) / 4
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_combined__each_draws_its_own_negatives_and_builds_what_it_learns(hierarchy):
    target, predicted = normal(6, 6, 4, 5), {2: normal(6, 6, 4, 5, seed=1)}
    few = InfoNCE(max_negatives=3)
    found = {
        float(CombinedPrediction([few, few], weights)(predicted, target, seed=3))
        for weights in ([1.0, 0.0], [0.0, 1.0])
    }
    assert len(found) == 2
    both = CombinedPrediction([SquaredError(), PixelPrediction()], [1.0, 1.0])
    both.attach(hierarchy)
    assert list(both.parameters())


def test_combined__refuses_what_does_not_match():
    with pytest.raises(InputError, match="2 losses and 1 weights"):
        CombinedPrediction([SquaredError(), VICRegL()], [1.0])
    with pytest.raises(InputError, match="at least one, got 0 losses"):
        CombinedPrediction([], [])
    with pytest.raises(InputError, match=r"0 or more and finite, got \[1.0, inf\]"):
        CombinedPrediction([SquaredError(), VICRegL()], [1.0, float("inf")])
