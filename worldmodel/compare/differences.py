"""What lies between two configurations on each number, and whether it is more than chance.

Three things make a measured number differ from what it would be on average: the choice of clips or
blocks, the choice of the seed, and which runs happen to be compared. A difference says `better`
only where its 95 % interval for the first two leaves out 0.

- Clips. Surprise is compared block by block where both reports list what came of each block:
  blocks are resampled, within kinds, and the same ones count for both sides (paired bootstrap).
  Everything else has one interval in each report; that of the difference follows from the two as
  from independent samples (MOVER, Zou and Donner 2008, Statistics in Medicine 27:1693):
  low = d - hypot(b - b_low, a_high - a). Both were measured on the same clips, which are easy or
  hard for both, so that the true interval is rather narrower.
- Seeds. The deviation between runs of the same configuration, pooled over all configurations with
  several seeds, times Student's t; added in squares. Without several seeds nothing is known of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import erfc, gcd, hypot, lcm, sqrt

import numpy as np
from scipy.special import stdtr, stdtrit

from worldmodel.compare.reports import Group, RunReport
from worldmodel.evaluation.readings import (
    Measure,
    Reading,
    read_group,
    report_measures,
    section_at,
    seed_half_width,
)
from worldmodel.evaluation.scores import NORMAL
from worldmodel.evaluation.surprise import OPEN_KINDS, bootstrap_interval, kind_mean
from worldmodel.evaluation.surprise.measures import holm, sign_flip_test

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
NO_INTERVAL, NO_DIRECTION, NOT_JUDGED = "no interval", "", "not judged"
ALPHA = 0.05
SURPRISES = ("surprise", "surprise_ood")


@dataclass(frozen=True)
class Difference:
    """What a configuration has more than the one it is compared with.

    Attributes:
        value: of means over seeds, other - base, in the number's own unit.
        low, high: 95 % interval; None where nothing is known of it.
        p: two-sided chance of so large a difference where there is none; None without interval.
        p_holm: corrected for all numbers of the comparison (Holm 1979).
        paired: read block by block.
        word: `better`, `worse`, `undecided`, `no interval`, `not judged`; empty where neither
            direction is better.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    paired: bool = False
    word: str = NO_INTERVAL

    @property
    def holds(self) -> bool:
        """Better or worse with the number of comparisons accounted for."""
        return self.word in (BETTER, WORSE) and self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class Score:
    """A configuration's number.

    Attributes:
        reading: mean over its seeds, with an interval for clips, and for seeds where they are
            known.
        values: of each seed that has it.
    """

    reading: Reading
    values: tuple[float, ...]

    @property
    def deviation(self) -> float | None:
        """Standard deviation between seeds; None for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """One number of all configurations.

    Attributes:
        area: what it is about.
        measure: which one.
        scores: per configuration, None where it was not measured.
        differences: of each further configuration from the first, None where one of the two lacks
            the number.
    """

    area: str
    measure: Measure
    scores: tuple[Score | None, ...]
    differences: tuple[Difference | None, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything that is said of some runs.

    Attributes:
        groups: configurations, each with its seeds; the first is what others are compared with.
        rows: numbers that at least one of them has.
        seeds_known: whether any configuration has several seeds.
        notes: what stands in the way of comparing, in words.
    """

    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    seeds_known: bool
    notes: tuple[str, ...] = field(default=())


def compare_groups(
    groups: Sequence[Group], unlike: Mapping[int, str], notes: Sequence[str] = ()
) -> Comparison:
    """Compare all configurations with the first.

    Args:
        groups: at least one.
        unlike: numbers of groups that were measured otherwise than the first: their differences
            are shown and not judged.
        notes: to keep with the result.
    """
    reports = [report for group in groups for report in group.reports]
    rows = []
    for area, measures in report_measures(reports).items():
        for measure in measures:
            half = seed_half_width(measure, [group.reports for group in groups])
            freedom = sum(max(_count(measure, group) - 1, 0) for group in groups)
            scores = tuple(read_score(measure, group, half) for group in groups)
            if not any(scores):
                continue
            differences = [
                None
                if None in (scores[0], scores[number])
                else difference_between(
                    measure, (groups[0], groups[number]), (half, freedom), number in unlike
                )
                for number in range(1, len(groups))
            ]
            judged = [
                _judge(measure, each, (groups[0], groups[number]), number in unlike)
                for number, each in enumerate(differences, 1)
            ]
            rows.append(Row(area, measure, scores, tuple(judged)))
    several = any(len(group.runs) > 1 for group in groups)
    return Comparison(tuple(groups), _corrected(rows, len(groups) - 1), several, tuple(notes))


def read_score(measure: Measure, group: Group, seed_half: float | None) -> Score | None:
    """A configuration's number; None where no run of it has it."""
    found = [each for each in map(measure.read, group.reports) if each is not None]
    reading = read_group(measure, group.reports, seed_half)
    if reading is None:
        return None
    return Score(reading, tuple(each.value for each in found))


def difference_between(
    measure: Measure,
    sides: tuple[Group, Group],
    seeds: tuple[float | None, int],
    unlike: bool,
) -> Difference:
    """What lies between two configurations that both have the number, not yet judged.

    Args:
        measure: which number.
        sides: the one that is compared with, and the other.
        seeds: half an interval for the choice of one seed, and the degrees of freedom it rests on.
        unlike: they were measured otherwise, so that blocks of one name may be different ones.
    """
    seed_half, freedom = seeds
    base, other = sides
    paired = None if unlike else paired_difference(measure, base, other)
    of_clips = paired or _unpaired(measure, base, other)
    if seed_half is None:
        return of_clips
    of_seeds = seed_half * sqrt(sum(1 / _count(measure, group) for group in sides))
    value = of_clips.value
    below, above = 0.0, 0.0
    if of_clips.low is not None and of_clips.high is not None:
        below, above = value - of_clips.low, of_clips.high - value
    low, high = value - hypot(below, of_seeds), value + hypot(above, of_seeds)
    # The exact test over blocks knows nothing of seeds; the larger p counts.
    both = (p_of(value, low, high, freedom), of_clips.p)
    known = [each for each in both if each is not None]
    p = max(known, default=None)
    return replace(of_clips, low=low, high=high, p=p)


def _count(measure: Measure, group: Group) -> int:
    """Runs of a configuration that have a number."""
    return sum(measure.read(report) is not None for report in group.reports)


def _unpaired(measure: Measure, base: Group, other: Group) -> Difference:
    """From the two intervals, as of independent clips."""
    one, two = (_of_clips(measure, group) for group in (base, other))
    value = two.value - one.value
    if None in (one.low, one.high, two.low, two.high):
        return Difference(value)
    low, high = mover(one, two)
    return Difference(value, low, high, p_of(value, low, high))


def mover(one: Reading, two: Reading) -> tuple[float, float]:
    """95 % interval of two - one from the intervals of both, taken for independent.

    The method of variance estimates recovery (Zou and Donner 2008); for proportions with Wilson's
    intervals it is Newcombe's (1998).
    """
    assert one.low is not None and one.high is not None
    assert two.low is not None and two.high is not None
    value = two.value - one.value
    return (
        value - hypot(two.value - two.low, one.high - one.value),
        value + hypot(two.high - two.value, one.value - one.low),
    )


def _of_clips(measure: Measure, group: Group) -> Reading:
    """Mean over seeds, with the interval of its clips alone."""
    reading = read_group(measure, group.reports, None)
    assert reading is not None
    return reading


def p_of(
    value: float, low: float | None, high: float | None, freedom: int | None = None
) -> float | None:
    """Two-sided p of a difference, in agreement with its 95 % interval.

    Args:
        value: the difference.
        low: lower end of its interval.
        high: its upper end.
        freedom: degrees of it of Student's distribution, whose tails are longer than those of the
            normal one; None for that.

    Returns:
        None where the interval is unknown or has no width.
    """
    if low is None or high is None:
        return None
    if value == 0:
        return 1.0
    half = value - low if value > 0 else high - value
    if half <= 0:
        return None
    if freedom is not None:
        return float(2 * stdtr(freedom, -abs(value) / half * stdtrit(freedom, 0.975)))
    return erfc(abs(value) / (half / NORMAL) / sqrt(2))


def paired_difference(measure: Measure, base: Group, other: Group) -> Difference | None:
    """A difference of relative accuracies block by block; None where blocks are not known.

    Blocks are resampled within kinds as for a report's own intervals, and an exact sign-flip test
    over blocks must agree: of three blocks of twenty that changed sides a percentile interval says
    too much.
    """
    if not measure.section or measure.section[0] not in SURPRISES:
        return None
    one, two = (_mean_wins(measure, group) for group in (base, other))
    if one is None or two is None or one.keys() != two.keys():
        return None
    keys = sorted(one)
    kinds = np.array([kind for kind, _ in keys])
    first, second = (np.array([wins[key] for key in keys]) for wins in (one, two))
    differences = second - first
    value = kind_mean(differences, kinds)
    low, high = bootstrap_interval(differences, kinds)
    # In whole numbers: halves, shared out over the seeds of either side.
    shares = lcm(*(2 * len(group.runs) for group in (base, other)))
    whole = np.rint(differences * shares).astype(np.int64)
    whole //= gcd(*whole.tolist()) or 1
    p = min(1.0, 2 * min(sign_flip_test(whole), sign_flip_test(-whole)))
    return Difference(value, low, high, max(p, p_of(value, low, high) or 0.0), paired=True)


def _mean_wins(measure: Measure, group: Group) -> dict[tuple[str, str], float] | None:
    """Of each kind and block the mean over seeds; None where a run does not say."""
    found = [_wins(run, measure.section[0], measure.section[1]) for run in group.runs]
    if not found or any(not each or each.keys() != found[0].keys() for each in found):
        return None
    return {key: float(np.mean([each[key] for each in found])) for key in found[0]}


def _wins(run: RunReport, section: str, kind: str) -> dict[tuple[str, str], float]:
    """What came of each block of a kind, or of all kinds of a tier."""
    kinds = section_at(run.content, (section,))
    tiers = {"overall": False, "open_view": True}
    if kind in tiers:
        wanted = [
            name for name in kinds if name not in tiers and (name in OPEN_KINDS) is tiers[kind]
        ]
    else:
        wanted = [kind]
    found: dict[tuple[str, str], float] = {}
    for name in wanted:
        wins = section_at(kinds, (name, "wins"))
        if not wins:
            return {}
        found |= {(name, key): float(win) for key, win in wins.items()}
    return found


def _judge(
    measure: Measure, found: Difference | None, sides: tuple[Group, Group], unlike: bool
) -> Difference | None:
    """A difference with its word."""
    if found is None:
        return None
    if measure.higher_is_better is None:
        return replace(found, word=NO_DIRECTION, p=None)
    level = measure.section[-1] if measure.section[0] == "prediction" else None
    dead = [name.split()[0] for group in sides for run in group.runs for name in run.collapsed]
    # Depth in finer cells is another question: edges are asked for that coarse cells step over.
    finer = measure.section[0] == "depth" and len(cells_of(sides)) > 1
    if unlike or finer or (level is not None and level in dead):
        return replace(found, word=NOT_JUDGED, p=None)
    if found.low is None or found.high is None:
        return found
    if found.low <= 0 <= found.high or found.p is None or found.p >= ALPHA:
        return replace(found, word=UNDECIDED)
    gains = (found.value > 0) is measure.higher_is_better
    return replace(found, word=BETTER if gains else WORSE)


def cells_of(groups: Sequence[Group]) -> set[int]:
    """At how many places of a frame depth was asked, of all runs that say so."""
    sections = [section_at(report, ("depth",)) for group in groups for report in group.reports]
    return {each["cells_per_frame"] for each in sections if "cells_per_frame" in each}


def _corrected(rows: Sequence[Row], others: int) -> tuple[Row, ...]:
    """The rows with p corrected for their number, in each comparison by itself."""
    columns: list[list[Difference | None]] = []
    for number in range(others):
        column = [row.differences[number] for row in rows]
        known = [each.p for each in column if each is not None and each.p is not None]
        corrected = iter(holm(known))
        columns.append(
            [
                each if each is None or each.p is None else replace(each, p_holm=next(corrected))
                for each in column
            ]
        )
    return tuple(
        replace(row, differences=tuple(column[place] for column in columns))
        for place, row in enumerate(rows)
    )
