"""Differences of made-up reports whose truth is known."""

import math
from pathlib import Path

import numpy as np
import pytest
from made_up_reports import kind, report
from scipy import stats

from worldmodel.compare.differences import (
    BETTER,
    NO_INTERVAL,
    NOT_JUDGED,
    UNDECIDED,
    WORSE,
    Comparison,
    Difference,
    compare_groups,
    difference_between,
    mover,
    p_of,
)
from worldmodel.compare.likeness import find_unlike
from worldmodel.compare.reports import Group, RunReport
from worldmodel.evaluation.readings import VISIBLE, Reading, seed_half_width
from worldmodel.evaluation.scores import wilson
from worldmodel.evaluation.surprise import accuracy_interval


def group(name: str, *reports: dict) -> Group:
    runs = [RunReport(f"{name}{n}", Path(), each, {}, n) for n, each in enumerate(reports)]
    return Group(name, tuple(runs))


def found(comparison: Comparison, name: str, number: int = 0) -> Difference:
    (row,) = [row for row in comparison.rows if row.measure.name.startswith(name)]
    difference = row.differences[number]
    assert difference is not None
    return difference


def test_the_interval_of_a_difference_is_that_of_newcombe_for_proportions() -> None:
    # Newcombe 1998, table II, method 10, row (a): 56/70 - 48/80 is 0.2, interval 0.0524 to 0.3339.
    one, two = (Reading(k / n, *wilson(k / n, n)) for k, n in ((48, 80), (56, 70)))
    assert mover(one, two) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_of_equal_halves_the_interval_is_the_root_of_two_wider() -> None:
    comparison = compare_groups(
        [group("a", report(visible=0.5)), group("b", report(visible=0.6))], {}
    )
    visible = found(comparison, "position, visible")
    half = 0.05 * math.sqrt(2)
    expected = (0.1, 0.1 - half, 0.1 + half)
    assert (visible.value, visible.low, visible.high) == pytest.approx(expected)
    assert visible.word == BETTER
    deviation = half / stats.norm.ppf(0.975)
    assert visible.p == pytest.approx(2 * stats.norm.sf(0.1 / deviation))


def test_a_difference_whose_interval_holds_zero_is_never_better_or_worse() -> None:
    for gap in np.linspace(-0.1, 0.1, 9).tolist():
        pair = [group("a", report()), group("b", report(visible=0.5 + gap, depth=0.45 + gap))]
        for row in compare_groups(pair, {}).rows:
            (each,) = row.differences
            assert each is not None
            if each.word in (BETTER, WORSE):
                assert each.low is not None and each.high is not None
                assert each.low > 0 or each.high < 0
            elif each.low is not None and each.word == UNDECIDED:
                assert each.low <= 0 <= each.high


def test_less_error_is_better_and_more_r2_is_better() -> None:
    comparison = compare_groups(
        [group("a", report()), group("b", report(visible=0.3, depth=0.3))], {}
    )
    assert found(comparison, "position, visible").word == WORSE
    assert found(comparison, "depth, rmse").word == BETTER
    assert found(comparison, "effective rank ÷ width, level 0").word == ""


def test_depth_at_other_places_is_shown_and_not_judged() -> None:
    """A model of 8 x 8 tokens is asked at four times as many places as one of 4 x 4."""
    coarse, fine = report(), report(visible=0.3, depth=0.3)
    coarse["depth"]["cells_per_frame"], fine["depth"]["cells_per_frame"] = 256, 1024
    pair = [group("a", coarse), group("b", fine)]
    unlike, notes = find_unlike(pair)
    comparison = compare_groups(pair, unlike)
    assert found(comparison, "depth, rmse").word == NOT_JUDGED
    assert found(comparison, "position, visible").word == WORSE
    assert any("Depth was asked at 256 and 1024 places" in note for note in notes)


def test_ratios_of_errors_are_judged_by_seeds_alone() -> None:
    one = group("a", report(skill=0.9))
    alone = found(
        compare_groups([one, group("b", report(skill=0.5))], {}), "error ÷ best trivial, level 0"
    )
    assert (alone.word, alone.low, alone.value) == (NO_INTERVAL, None, pytest.approx(-0.4))
    seeds = group("b", report(skill=0.60), report(skill=0.61), report(skill=0.62))
    several = found(compare_groups([one, seeds], {}), "error ÷ best trivial, level 0")
    half = stats.t.ppf(0.975, 2) * 0.01 * math.sqrt(1 + 1 / 3)
    assert several.value == pytest.approx(-0.29)
    assert several.high == pytest.approx(-0.29 + half) and several.word == BETTER
    # The tails are those of Student's distribution: three seeds do not give p of 1e-90.
    t = 0.29 / (0.01 * math.sqrt(1 + 1 / 3))
    assert several.p == pytest.approx(2 * stats.t.sf(t, 2))


def test_the_spread_of_seeds_can_undo_what_clips_would_call_better() -> None:
    one, two = group("a", report(visible=0.5, half=0.02)), report(visible=0.6, half=0.02)
    assert found(compare_groups([one, group("b", two)], {}), "position").word == BETTER
    seeds = group("b", *(report(visible=each, half=0.02) for each in (0.5, 0.6, 0.7)))
    several = compare_groups([one, seeds], {})
    assert found(several, "position").word == UNDECIDED and several.seeds_known
    (row,) = [row for row in several.rows if row.measure.name.startswith("position, visible")]
    score = row.scores[1]
    assert score is not None and score.values == (0.5, 0.6, 0.7)
    assert (score.reading.value, score.deviation) == pytest.approx((0.6, 0.1))
    # And of any configuration it counts for all.
    third = group("c", report(visible=0.61, half=0.02))
    assert found(compare_groups([one, seeds, third], {}), "position", 1).word == UNDECIDED


def test_blocks_are_compared_one_by_one_where_reports_list_them() -> None:
    # 12 of 20 and 18 of 20: apart by chance unless one looks at who lost where.
    base = [1.0] * 12 + [0.0] * 8
    more = [1.0] * 18 + [0.0] * 2
    entries = [kind(wins, half=0.22) for wins in (base, more)]
    pair = [group(name, report(reveal=each)) for name, each in zip("ab", entries, strict=True)]
    reveal = found(compare_groups(pair, {}), "surprise, reveal")
    assert reveal.paired and reveal.value == pytest.approx(0.3)
    assert reveal.low is not None and reveal.low > 0 and reveal.word == BETTER
    # Six changed sides and all to the same one: two-sided 2 / 2^6.
    assert reveal.p is not None and reveal.p >= 2 / 2**6
    for entry in entries:
        del entry["wins"]
    older = found(compare_groups(pair, {}), "surprise, reveal")
    assert not older.paired and older.word == UNDECIDED


def test_few_blocks_that_changed_sides_are_chance_though_the_bootstrap_says_otherwise() -> None:
    base, more = [0.0] * 5 + [1.0] * 15, [1.0] * 20
    pair = [group(name, report(reveal=kind(wins))) for name, wins in (("a", base), ("b", more))]
    reveal = found(compare_groups(pair, {}), "surprise, reveal")
    assert reveal.low is not None and reveal.low > 0
    assert reveal.p == pytest.approx(2 / 2**5) and reveal.word == UNDECIDED


def test_a_tier_is_resampled_within_its_kinds() -> None:
    def whole(first: float, second: float) -> dict:
        content = report(reveal=kind([first] * 20), overall=kind(None, (first + second) / 2))
        content["surprise"]["support"] = kind([second] * 20)
        content["surprise"]["gravity"] = kind([0.0] * 20)  # of the other tier
        return content

    pair = [group("a", whole(0.0, 1.0)), group("b", whole(1.0, 1.0))]
    overall = found(compare_groups(pair, {}), "surprise, overall, relative")
    # Resampled over all forty the share of the kind that won would vary; within kinds it cannot.
    assert (overall.value, overall.low, overall.high) == (0.5, 0.5, 0.5) and overall.paired
    assert overall.word == BETTER


def test_blocks_of_other_sets_are_not_paired_though_they_have_the_same_names() -> None:
    pair = [
        group("a", report(reveal=kind([0.0] * 20))),
        group("b", report(reveal=kind([1.0] * 20))),
    ]
    unlike = found(compare_groups(pair, {1: "another set"}), "surprise, reveal")
    assert not unlike.paired and unlike.word == NOT_JUDGED and unlike.p is None


def test_twenty_of_twenty_is_no_certainty() -> None:
    def whole(wins: int) -> dict:
        entry = kind(None, wins / 20)
        entry["ci95"] = accuracy_interval(np.repeat([1.0, 0.0], [wins, 20 - wins]))
        return report(reveal=entry)

    pair = [group("a", whole(17)), group("b", whole(20))]
    reveal = found(compare_groups(pair, {}), "surprise, reveal")
    of_17 = accuracy_interval(np.repeat([1.0, 0.0], [17, 3]))
    assert reveal.low == pytest.approx(0.15 - math.hypot(1 - wilson(1.0, 20)[0], of_17[1] - 0.85))
    assert reveal.word == UNDECIDED


def test_against_itself_there_is_no_difference() -> None:
    content = report(reveal=kind([1.0] * 9 + [0.0] * 11))
    comparison = compare_groups([group("a", content), group("b", content)], {})
    assert comparison.rows
    for row in comparison.rows:
        (each,) = row.differences
        assert each is not None and each.value == 0 and each.word in (UNDECIDED, NO_INTERVAL, "")


def test_of_many_equal_numbers_one_that_looks_different_does_not_hold() -> None:
    rest = {name: kind(None, 0.7) for name in ("support", "solidity", "constancy", "continuity")}
    one, two = report(visible=0.5), report(visible=0.5 + 0.05 * math.sqrt(2) * 1.05)
    for content in (one, two):
        content["surprise"] |= rest
    comparison = compare_groups([group("a", one), group("b", two)], {})
    visible = found(comparison, "position, visible")
    assert visible.word == BETTER and not visible.holds
    assert visible.p_holm is not None and visible.p_holm > 0.05 > visible.p
    far = compare_groups([group("a", one), group("b", report(visible=0.9))], {})
    assert found(far, "position, visible").holds


def test_what_a_collapsed_level_predicts_is_not_judged() -> None:
    seeds = [report(skill=each) for each in (0.90, 0.91)]
    dead = report(skill=0.1, rank=1 / 64)
    comparison = compare_groups([group("a", *seeds), group("b", dead)], {})
    assert found(comparison, "error ÷ best trivial, level 0").word == NOT_JUDGED
    assert found(comparison, "position, visible").word == UNDECIDED


def test_horizons_are_compared_at_the_same_distance() -> None:
    one, two = report(skill=0.9), report(skill=0.8)
    two["prediction"]["level0"]["h9"] = {"skill_ratio": 0.1, "horizon_frames": 32}
    comparison = compare_groups([group("a", one), group("b", two)], {})
    level = found(comparison, "error ÷ best trivial, level 0, 4 frames ahead")
    assert level.value == pytest.approx(-0.1)
    two["prediction"]["level0"] = {"h1": {"skill_ratio": 0.1, "horizon_frames": 32}}
    names = [r.measure.name for r in compare_groups([group("a", one), group("b", two)], {}).rows]
    assert not any("best trivial, level 0" in name for name in names)


def test_an_interval_is_right_as_often_as_it_says() -> None:
    """Of made-up runs whose truth is known 95 % of the intervals hold it, seeds included."""
    generator = np.random.default_rng(0)
    hits, trials = 0, 200
    for _ in range(trials):
        sides = []
        for name, count, truth in (("a", 4, 0.5), ("b", 3, 0.6)):
            of_clips = generator.normal(0, 0.03)  # the same clips for all seeds
            seeds = generator.normal(truth + of_clips, 0.02, count).tolist()
            sides.append(group(name, *(report(visible=each, half=1.96 * 0.03) for each in seeds)))
        half = seed_half_width(VISIBLE, [side.reports for side in sides])
        each = difference_between(VISIBLE, (sides[0], sides[1]), (half, 5), False)
        assert each.low is not None and each.high is not None
        hits += each.low <= 0.1 <= each.high
    # Three standard deviations of 200 trials below 95 %; Student's caution makes it rather more.
    assert hits / trials > 0.904


def test_p_and_interval_agree() -> None:
    for freedom in (None, 2, 7):
        assert p_of(0.3, 0.0, 0.6, freedom) == pytest.approx(0.05)
        assert p_of(-0.3, -0.6, 0.0, freedom) == pytest.approx(0.05)
        assert p_of(0.0, -0.1, 0.1, freedom) == 1.0
    assert p_of(0.3, None, None) is None and p_of(0.3, 0.3, 0.3) is None
