"""The headline is chosen on validation blocks of hidden kinds, by a rule without luck in it."""

from dataclasses import replace

import numpy as np
import pytest

from worldmodel.evaluation.surprise import (
    COMBINED,
    OPEN_KINDS,
    BlockScores,
    Candidate,
    choose,
)
from worldmodel.evaluation.surprise.choice import (
    candidates_of,
    clip_scores,
    combined_scores,
    copy_scores,
    spreads_of,
)
from worldmodel.world import open_blocks

SPANS = [1, 2]


def made_up(curves: dict[tuple[int, ...], float], count: int = 10) -> BlockScores:
    """Scores of which a given share of blocks is right; possible clips are all alike."""
    made = {}
    for key, share in curves.items():
        right = np.arange(count) < share * count
        scores = np.ones((count, 4, 2))
        scores[:, 2:] += np.where(right, 1, -0.5)[:, None, None]
        made[key] = scores
    return BlockScores([str(n) for n in range(count)], np.array(["reveal"] * count), made)


def test_headline_is_the_best_place_and_of_equals_the_farthest_then_the_lowest() -> None:
    assert choose(made_up({(0, 1): 0.6, (1, 1): 0.9}), SPANS).place == (1, 1)
    equal = made_up({(0, 1): 0.9, (0, 2): 0.9, (1, 1): 0.9})
    assert choose(equal, SPANS).place == (0, 2)
    assert choose(equal, SPANS).candidate == Candidate(0, 2)


def test_of_equals_the_whole_past_comes_first_and_the_combination_last() -> None:
    scores = made_up({(0, 2, 4): 0.5, (0, 2, 8): 0.5, (0, 1): 0.5, (0, 2): 0.5, (1, 1): 0.5})
    assert candidates_of(scores, SPANS) == [
        Candidate(0, 2),
        Candidate(0, 2, 8),
        Candidate(0, 2, 4),
        Candidate(1, 1),
        Candidate(0, 1),
        COMBINED,
    ]


def test_a_window_of_the_past_may_win_and_peaks_are_read_with_the_whole_past() -> None:
    choice = choose(made_up({(0, 1): 0.6, (1, 1): 0.7, (0, 1, 8): 0.9}), SPANS)
    assert choice.candidate == Candidate(0, 1, 8)
    assert choice.place == (1, 1)
    assert choice.num_candidates == 4


def test_the_combination_wins_where_it_is_better_or_no_worse() -> None:
    """Each place knows half of the blocks; together they know all."""
    scores = made_up({(0, 1): 1.0, (1, 1): 1.0})
    noise = np.tile([0.9, 1.1], 5)[:, None, None]
    for place, known in (((0, 1), slice(0, 5)), ((1, 1), slice(5, 10))):
        scores.curves[place] = np.ones((10, 4, 2)) * noise
        scores.curves[place][:, 2:] -= 0.01
        scores.curves[place][known, 2:] += 0.5
    choice = choose(scores, SPANS)
    assert choice.candidate == COMBINED
    assert choice.place == (1, 1)
    alike = made_up({(0, 1): 0.9, (1, 1): 0.9})
    for curve in alike.curves.values():
        curve *= noise
    assert choose(alike, SPANS).candidate == COMBINED


@pytest.mark.parametrize(("ahead", "chosen"), [(3, COMBINED), (5, Candidate(0, 1))])
def test_a_single_place_must_beat_the_combination_by_two_standard_errors(ahead, chosen) -> None:
    """It alone is right about some of ten blocks; two standard errors are .31 of 3 and .33 of 5."""
    scores = made_up({(0, 1): 1.0, (1, 1): 1.0})
    scores.curves[0, 1] *= np.linspace(1, 1.01, 10)[:, None, None]
    scores.curves[1, 1] *= np.linspace(1, 1.01, 10)[:, None, None]
    scores.curves[1, 1][:ahead, 2:] -= 10
    choice = choose(scores, SPANS)
    assert choice.candidate == chosen
    assert choice.place == (0, 1)


def test_a_single_block_of_each_kind_does_not_overrule_the_combination() -> None:
    """One block says nothing about how blocks differ, so that no lead is beyond chance."""
    scores = made_up({(0, 1): 1.0, (1, 1): 1.0}, count=2)
    for curve in scores.curves.values():
        curve *= np.array([1, 1.01])[:, None, None]
    scores.curves[1, 1][:, 2:] -= 10
    scores = replace(scores, kinds=np.array(["reveal", "permanence"]))
    assert choose(scores, SPANS).candidate == COMBINED


def test_one_place_alone_needs_no_combination() -> None:
    assert candidates_of(made_up({(0, 1): 0.5}), SPANS) == [Candidate(0, 1)]


def test_each_kind_counts_alike_in_the_choice() -> None:
    scores = made_up({(0, 1): 0.8, (0, 2): 0.3})
    scores.kinds[:] = ["reveal"] * 8 + ["support"] * 2
    # (0, 1): reveal 1, support 0. (0, 2) with both supports right beats it, with 5 of 10 blocks.
    scores.curves[0, 2][8:, 2:] = 3
    assert choose(scores, SPANS).place == (0, 2)


def test_kinds_in_open_view_have_no_say() -> None:
    scores = made_up({(0, 1): 0.9, (0, 2): 0.5})
    scores.kinds = np.array(["reveal"] * 5 + ["gravity"] * 5)
    # Right about all of gravity and about two of five reveals, against one more reveal.
    scores.curves[0, 1][:, 2:] = np.where(np.arange(10) < 2, 3, 0)[:, None, None]
    scores.curves[0, 1][5:, 2:] = 3
    scores.curves[0, 2][:, 2:] = np.where(np.arange(10) < 3, 3, 0)[:, None, None]
    assert choose(scores, SPANS).place == (0, 2)


def test_the_open_tier_is_that_of_the_world() -> None:
    """Evaluation names the kinds itself, so that it need not load the simulator."""
    assert set(OPEN_KINDS) == set(open_blocks.OPEN_KINDS)


def test_a_choice_is_stable_where_one_candidate_is_always_best() -> None:
    sure = made_up({(0, 1): 1.0, (0, 2): 0.0})
    assert choose(sure, SPANS).stability == 1
    # At the margin: about as often the combination, which is right about half of the blocks.
    close = made_up({(0, 1): 0.8, (0, 2): 0.0})
    stability = choose(close, SPANS).stability
    assert 0.5 < stability < 0.75
    assert choose(close, SPANS).stability == stability


def test_combined_scores_are_means_in_units_of_each_spread() -> None:
    generator = np.random.default_rng(0)
    curves = {(0, 1): generator.random((6, 4, 5)), (1, 1): 1000 * generator.random((6, 4, 3))}
    curves["copy0.1"] = 10 * generator.random((6, 4, 5))
    curves["copy1.1"] = generator.random((6, 4, 3))
    spreads = spreads_of(curves)
    expected = np.zeros((6, 4))
    for place in ((0, 1), (1, 1)):
        scored = curves[place].mean(2)
        assert spreads["mean"][place] == pytest.approx(np.std(scored[:, :2]), abs=1e-12)
        expected += scored / np.std(scored[:, :2]) / 2
    assert np.allclose(clip_scores(curves, COMBINED, spreads), expected, rtol=1e-12)
    scaled = curves | {(1, 1): 7 * curves[1, 1]}
    again = clip_scores(scaled, COMBINED, spreads_of(scaled))
    assert np.allclose(again, expected, rtol=1e-12), "units of one place do not matter"
    largest = sum(curves[p].max(2) / np.std(curves[p].max(2)[:, :2]) / 2 for p in ((0, 1), (1, 1)))
    assert np.allclose(clip_scores(curves, COMBINED, spreads, "max"), largest, rtol=1e-12)
    copied = copy_scores(curves, COMBINED, spreads)
    named = combined_scores(curves, ["copy0.1", "copy1.1"], spreads)
    assert np.array_equal(copied, named)
    assert np.allclose(copy_scores(curves, Candidate(0, 1), spreads), curves["copy0.1"].mean(2))


def test_a_place_that_never_varies_says_nothing_in_the_combination() -> None:
    curves = {(0, 1): np.ones((4, 4, 2)), (0, 2): np.ones((4, 4, 2))}
    assert not clip_scores(curves, COMBINED, spreads_of(curves)).any()


def test_a_candidate_says_in_words_where_it_looks() -> None:
    assert Candidate(1, 4).describe([1, 2], 8.0) == "level 1, 4 steps (1.00 s) ahead"
    words = Candidate(0, 1, 8).describe([1, 2], 8.0)
    assert words == "level 0, 1 step (0.12 s) ahead, from the last 8 frames alone"
    assert COMBINED.describe([1], 8.0) == "all levels combined"
