"""Heads find depth that was planted for them, and say so where there is nothing to find."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.network import one_thread
from worldmodel.evaluation.probes import depth_heads
from worldmodel.evaluation.probes.depth_heads import (
    CAP_M,
    MAX_CONV_DIM,
    NEAREST_M,
    DepthProbe,
    Examples,
    fit_conv,
    fit_linear,
)

GRID = (3, 3)
OFFSETS = np.linspace(3, 6, 18).reshape(9, 2)


def examples(
    number: int, seed: int, change: Callable[[Tensor], Tensor], width: int = 4
) -> Examples:
    """Frames whose depth is an offset for each cell plus `change` of `(n, N, F)` features."""
    features = torch.randn(number, 9, width, generator=torch.Generator().manual_seed(seed))
    metres = OFFSETS + change(features).double().numpy()
    return Examples(features, metres, np.ones(metres.shape, bool))


def rmse(probe: DepthProbe, test: Examples) -> float:
    return float(np.sqrt(np.mean((probe(test.features) - test.metres) ** 2)))


def fitted(
    change: Callable[[Tensor], Tensor], width: int = 4
) -> tuple[DepthProbe, DepthProbe, Examples]:
    train, val, test = (
        examples(number, seed, change, width) for seed, number in enumerate((300, 60, 60))
    )
    linear = fit_linear(lambda: [train], lambda: [val])
    return linear, fit_conv(linear, lambda: [train], lambda: [val], GRID), test


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not matter how well a convolution has learned."""
    monkeypatch.setattr(depth_heads, "NUM_STEPS", 16)


def test_the_linear_head_is_ridge_regression_on_standardised_features() -> None:
    train = examples(40, 0, lambda x: torch.stack([x[..., 0] * x[..., 1], x[..., 2]], -1) * 0.3)
    scales = torch.tensor([1.0, 0.1, 10.0, 3.0])
    train = Examples(train.features * scales, train.metres, train.hit)
    probe = fit_linear(lambda: [train], lambda: [train], strengths=(0.5,))
    x = (train.features - train.features.mean(0)).double().flatten(0, 1).numpy()
    y = (train.metres - train.metres.mean(0)).reshape(-1, 2)
    reference = Ridge(alpha=0.5 * len(x)).fit(x / x.std(0), y)
    found = probe.head(torch.from_numpy(x)[None])[0]
    assert np.allclose(found, reference.predict(x / x.std(0)), atol=1e-10)
    assert np.allclose(probe.mean, train.metres.mean(0))


def test_parts_change_only_rounding() -> None:
    whole = examples(40, 0, lambda x: x[..., :2] * 0.3)
    halves = [
        Examples(whole.features[part], whole.metres[part], whole.hit[part])
        for part in (slice(0, 13), slice(13, 40))
    ]
    one = fit_linear(lambda: [whole], lambda: [whole])
    two = fit_linear(lambda: halves, lambda: halves)
    assert np.allclose(one(whole.features), two(whole.features), atol=1e-12)


def test_cells_without_a_surface_teach_and_choose_nothing() -> None:
    clean, val = (examples(200, seed, lambda x: x[..., :2] * 0.3) for seed in (0, 1))
    hit = np.random.default_rng(0).random(clean.metres.shape) < 0.97
    spoiled = Examples(clean.features, np.where(hit, clean.metres, 0.0), hit)
    assert np.allclose(
        fit_linear(lambda: [spoiled], lambda: [val]).mean,
        np.ma.masked_array(clean.metres, ~hit).mean(0).filled(np.nan),
    )
    # Targets of empty cells are the mean, which shrinks weights by the share of such cells.
    assert rmse(fit_linear(lambda: [spoiled], lambda: [val]), clean) < 0.05
    chosen = fit_linear(lambda: [clean], lambda: [clean])
    weird = Examples(val.features, np.where(val.metres > 4, val.metres, 99.0), val.metres > 4)
    assert rmse(chosen, val) == pytest.approx(
        rmse(fit_linear(lambda: [clean], lambda: [weird]), val), abs=1e-4
    )


def test_both_heads_read_a_linear_code() -> None:
    linear, conv, test = fitted(lambda x: x[..., :2] * 0.3)
    assert rmse(linear, test) < 1e-3
    assert rmse(conv, test) < 5e-3


def test_the_convolution_reads_a_code_that_is_not_linear() -> None:
    linear, conv, test = fitted(lambda x: x[..., :2].abs())
    assert rmse(linear, test) == pytest.approx((1 - 2 / np.pi) ** 0.5, rel=0.1)
    assert rmse(conv, test) < 0.5 * rmse(linear, test)


def test_the_convolution_reads_what_a_neighbour_tells() -> None:
    def from_the_left(x: Tensor) -> Tensor:
        return x.unflatten(1, GRID).roll(1, 2).flatten(1, 2)[..., :2] * 0.5

    linear, conv, test = fitted(from_the_left)
    assert rmse(linear, test) == pytest.approx(0.5, rel=0.1)
    # The first column's own neighbour is out of reach: a third of the cells stay unknown.
    middle = np.s_[:, [1, 2, 4, 5, 7, 8]]
    error = (conv(test.features) - test.metres)[middle]
    assert float(np.sqrt(np.mean(error**2))) < 0.15


def test_with_nothing_to_find_the_convolution_stays_at_the_linear_probe() -> None:
    noise = torch.Generator().manual_seed(5)
    linear, conv, test = fitted(lambda x: 0.5 * torch.randn(*x.shape[:2], 2, generator=noise))
    assert rmse(conv, test) <= rmse(linear, test) * 1.02


@pytest.mark.usefixtures("few_steps")
def test_wide_tokens_are_narrowed_first() -> None:
    linear, conv, test = fitted(lambda x: x[..., :2] * 0.3, MAX_CONV_DIM + 1)
    assert rmse(conv, test) <= rmse(linear, test) * 1.02
    assert [layer.weight.shape[2] for layer in conv.head.layers if hasattr(layer, "weight")] == [
        1,
        3,
        1,
    ]


@pytest.mark.usefixtures("few_steps")
def test_the_same_seed_gives_the_same_bits_and_leaves_other_random_numbers_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (fitted(lambda x: x[..., :2].abs())[1:] for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first[0](first[1].features), second[0](second[1].features))


@pytest.mark.usefixtures("few_steps")
def test_depth_stays_between_its_ends() -> None:
    linear, conv, test = fitted(lambda x: x[..., :2] * 0.3)
    for probe in (linear, conv):
        far = probe(test.features * 1000)
        assert far.min() == NEAREST_M
        assert far.max() == CAP_M


@pytest.mark.usefixtures("few_steps")
def test_features_that_never_vary_give_the_mean() -> None:
    still = Examples(torch.ones(5, 9, 3), np.tile(OFFSETS, (5, 1, 1)), np.ones((5, 9, 2), bool))
    linear = fit_linear(lambda: [still], lambda: [still])
    conv = fit_conv(linear, lambda: [still], lambda: [still], GRID)
    for probe in (linear, conv):
        assert np.allclose(probe(still.features), OFFSETS)


def test_no_examples_are_refused() -> None:
    some = examples(3, 0, lambda x: x[..., :2])
    with pytest.raises(InputError, match="no training frames; give at least one training clip"):
        fit_linear(lambda: [], lambda: [some])
    unseen = Examples(some.features, some.metres, np.zeros(some.hit.shape, bool))
    with pytest.raises(InputError, match="no validation frames that show a surface"):
        fit_linear(lambda: [some], lambda: [unseen])


def test_one_thread_is_given_back_after_an_error() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
