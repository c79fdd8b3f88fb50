"""Accuracies, intervals and chances of error, against hand counts and other people's code."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test
from sklearn.metrics import roc_auc_score

from worldmodel.evaluation.scores import auroc
from worldmodel.evaluation.surprise.measures import (
    accuracy_interval,
    against_networks,
    bootstrap_interval,
    bootstrap_networks,
    contrast_wins,
    holm,
    kind_mean,
    network_range,
    pair_wins,
    sign_flip_test,
    sign_test,
)


def test_a_contrast_within_rounding_is_a_tie() -> None:
    scores = np.array([[1, 1, 1, 1 + 1e-10], [1, 1, 1, 1 + 1e-7], [1, 1, 1, 1 - 1e-7]])
    assert contrast_wins(scores).tolist() == [0.5, 1, 0]


def test_pairs_are_those_that_begin_alike() -> None:
    """AA with AB, BB with BA: a scorer of second halves wins one pair and loses the other."""
    scores = np.array(
        [
            [1.0, 3.0, 3.0, 1.0],  # what is in B's second half surprises: AB > AA, BA < BB
            [1.0, 1.0, 2.0, 2.0],
            [2.0, 2.0, 1.0, 1.0],
            [1.0, 2.0, 1.0, 3.0],  # a tie and a win
            [0.0, 0.0, 0.0, 0.0],
        ]
    )
    assert pair_wins(scores).tolist() == [0.5, 1, 0, 0.75, 0.5]
    assert contrast_wins(scores).tolist() == [0.5, 1, 0, 1, 0.5]


def test_pairs_within_rounding_are_ties() -> None:
    assert pair_wins(np.array([[1, 1, 1 + 1e-12, 1 - 1e-12]])).tolist() == [0.5]


def test_a_constant_scorer_gets_one_half_of_everything() -> None:
    scores = np.full((7, 4), 0.3)
    assert contrast_wins(scores).tolist() == [0.5] * 7
    assert pair_wins(scores).tolist() == [0.5] * 7
    assert auroc(scores.reshape(-1), np.tile([0, 0, 1, 1], 7)) == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_auroc_of_single_clips_is_that_of_scikit_learn(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 6, (9, 4)).astype(float)
    impossible = np.tile([0, 0, 1, 1], 9)
    expected = roc_auc_score(impossible, scores.reshape(-1))
    assert auroc(scores.reshape(-1), impossible) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("won", "lost", "tied"), [(15, 5, 0), (5, 15, 3), (7, 7, 1), (0, 0, 4), (1, 0, 0), (0, 3, 0)]
)
def test_the_sign_test_is_the_binomial_test_without_ties(won: int, lost: int, tied: int) -> None:
    wins = np.array([1.0] * won + [0.0] * lost + [0.5] * tied)
    count = won + lost
    expected = binomtest(won, count, 0.5, "greater").pvalue if count else 1.0
    assert sign_test(wins) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_sign_flips_are_all_counted(seed: int) -> None:
    generator = np.random.default_rng(seed)
    differences = generator.integers(-6, 9, size=9)
    signs = np.array(list(product([-1, 1], repeat=9)))
    expected = float(np.mean(signs @ differences >= differences.sum()))
    assert sign_flip_test(differences) == pytest.approx(expected, abs=1e-12)
    other = permutation_test(
        (differences.astype(float),),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert sign_flip_test(differences) == pytest.approx(other.pvalue, abs=1e-6)


def test_sign_flips_of_nothing_and_of_one_block() -> None:
    assert sign_flip_test(np.zeros(5, dtype=np.int64)) == 1
    assert sign_flip_test(np.array([3])) == 0.5
    assert sign_flip_test(np.array([-3])) == 1
    assert sign_flip_test(np.array([], dtype=np.int64)) == 1


def test_a_common_factor_changes_no_chance() -> None:
    differences = np.array([3, -1, 2, 2, -4, 5])
    assert sign_flip_test(differences) == sign_flip_test(7 * differences)


def test_against_networks_compares_with_their_mean_block_by_block() -> None:
    wins = np.array([1.0, 1.0, 0.5, 0.0, 1.0])
    others = np.array([[0.5, 1.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.5, 0.5], [0.5] * 5])
    differences = wins - others.mean(0)
    signs = np.array(list(product([-1, 1], repeat=5)))
    expected = float(np.mean(signs @ differences >= differences.sum() - 1e-9))
    assert against_networks(wins, others) == pytest.approx(expected, abs=1e-12)
    assert against_networks(np.full(6, 0.5), np.full((3, 6), 0.5)) == 1


def test_a_model_better_than_networks_on_every_block_has_the_least_chance() -> None:
    assert against_networks(np.ones(20), np.full((10, 20), 0.5)) == pytest.approx(2**-20)


def test_correction_for_many_kinds_by_hand() -> None:
    # 0.01 x 4; 0.02 x 3; 0.03 x 2 = 0.06, no less than before; 0.04 x 1, raised to 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6, 0.001]) == pytest.approx([1.0, 1.0, 0.003])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_interval_holds_the_mean_and_is_the_same_every_time() -> None:
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 25)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert [low, high] == bootstrap_interval(values)
    assert bootstrap_interval(np.ones(4)) == [1, 1]
    assert bootstrap_interval(np.array([0.5])) == [0.5, 0.5]


def test_interval_is_about_two_standard_errors_to_both_sides() -> None:
    values = np.tile([0.0, 1.0], 50)
    low, high = bootstrap_interval(values)
    assert (low, high) == (pytest.approx(0.402, abs=0.015), pytest.approx(0.598, abs=0.015))


def test_blocks_are_resampled_within_their_kinds() -> None:
    """Two kinds, one always right and one always wrong: nothing is left to chance."""
    values, kinds = np.array([1.0] * 3 + [0.0] * 9), np.array(["a"] * 3 + ["b"] * 9)
    assert bootstrap_interval(values, kinds) == [0.5, 0.5]
    assert kind_mean(values, kinds) == 0.5
    low, high = bootstrap_interval(values)
    assert low < 0.25 < high


def test_an_accuracy_of_all_blocks_alike_has_wilsons_interval() -> None:
    """What no resample changes is no certainty: twenty of twenty may be .84."""
    low, high = binomtest(20, 20).proportion_ci(method="wilson")
    assert accuracy_interval(np.ones(20)) == pytest.approx([low, high])
    assert accuracy_interval(np.zeros(20)) == pytest.approx([1 - high, 1 - low])
    assert accuracy_interval(np.full(20, 0.5)) == [0.5, 0.5]  # whoever says nothing ties them all


def test_kinds_that_came_out_alike_widen_the_mean_and_no_other_does() -> None:
    values = np.random.default_rng(0).choice([0.0, 1.0], 40)
    kinds = np.repeat(["a", "b"], 20)
    assert accuracy_interval(values, kinds) == bootstrap_interval(values, kinds)
    values[:20] = 1.0
    low, high = bootstrap_interval(values, kinds)
    mean, reach = kind_mean(values, kinds), 1 - binomtest(20, 20).proportion_ci(method="wilson").low
    assert accuracy_interval(values, kinds) == pytest.approx(
        [mean - math.hypot(mean - low, reach / 2), high]
    )


def test_the_interval_over_networks_knows_both_sources_of_chance() -> None:
    kinds = np.array(["a"] * 20)
    alike = np.tile(np.tile([0.0, 1.0], 10), (10, 1))
    unlike = np.repeat(np.tile([[0.0], [1.0]], (5, 1)), 20, axis=1)
    for wins in (alike, unlike):
        low, high = bootstrap_networks(wins, kinds)
        assert low < 0.35
        assert high > 0.65
        assert [low, high] == bootstrap_networks(wins, kinds)
    assert bootstrap_networks(np.full((10, 20), 0.25), kinds) == [0.25, 0.25]


def test_the_range_of_few_networks_is_from_least_to_most() -> None:
    assert network_range([0.4, 0.7, 0.5]) == (0.4, 0.7)
    many = np.linspace(0, 1, 41).tolist()
    assert network_range(many) == pytest.approx((0.025, 0.975))
