"""The numbers that models are compared by: each with its interval and its null.

A run's own interval is that of its report, from resampled clips or blocks. Runs of the same
configuration differ by chance as well: where some configurations have several seeds, the variance
between seeds is pooled over them and counts for every one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from worldmodel.evaluation.surprise.choice import OPEN_KINDS

Result = Mapping[str, Any]
"""A report, or the result of a study's run, which has a report's sections below `sections`."""

MISSING = "-"


@dataclass(frozen=True)
class Reading:
    """One number.

    Attributes:
        value: mean over seeds.
        low, high: 95 % interval; None where nothing is known of it.
        null: what it is to be compared with; None where there is no such thing.
    """

    value: float
    low: float | None = None
    high: float | None = None
    null: float | None = None

    def overlaps(self, other: "Reading") -> bool:
        """Whether the intervals have a value in common; so says whoever has no interval."""
        if None in (self.low, self.high, other.low, other.high):
            return True
        return bool(self.low <= other.high and other.low <= self.high)  # type: ignore[operator]


@dataclass(frozen=True)
class Measure:
    """Where a number is found in a result.

    Attributes:
        name: in tables.
        section: names of nested sections.
        score: key of the number there; `interval` that of its interval.
        null: keys from the section to the number's null, or the null itself.
        higher_is_better: or lower, or None where it is neither.
        digits: after the point, in tables.
    """

    name: str
    section: tuple[str, ...]
    score: str
    interval: str | None = None
    null: tuple[str, ...] | float | None = None
    higher_is_better: bool | None = True
    digits: int = 2

    def read(self, result: Result) -> Reading | None:
        """The number in one result; None where it was not measured."""
        section = section_at(sections_of(result), self.section)
        value = _number(section, (self.score,))
        if value is None:
            return None
        low, high = None, None
        ends: Any = None if self.interval is None else section.get(self.interval)
        if ends is not None:
            low, high = float(ends[0]), float(ends[1])
        null = _number(section, self.null) if isinstance(self.null, tuple) else self.null
        return Reading(value, low, high, null)


@dataclass(frozen=True)
class LevelMean:
    """The mean of a measure over levels.

    Attributes:
        name: in tables.
        parts: of each level; those that a model lacks are left out.
        higher_is_better: as of the parts.
        digits: as of the parts.
    """

    name: str
    parts: tuple[Measure, ...]
    higher_is_better: bool | None = False
    digits: int = 2

    def read(self, result: Result) -> Reading | None:
        """The number in one result; None where no level has it."""
        found = [each for each in (part.read(result) for part in self.parts) if each is not None]
        if not found:
            return None
        nulls = [each.null for each in found if each.null is not None]
        null = float(np.mean(nulls)) if nulls else None
        return Reading(float(np.mean([each.value for each in found])), null=null)


AnyMeasure = Measure | LevelMean


def sections_of(result: Result) -> Any:
    """A report's sections by their names."""
    return result.get("sections", result)


def section_at(section: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """A nested section of a report; an empty one where there is none.

    Args:
        section: the report, or a section of it.
        names: from the outermost inwards.
    """
    for name in names:
        section = section.get(name) if isinstance(section, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _number(section: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """What is found below a section, if it is a number."""
    found: Any = section_at(section, path[:-1]).get(path[-1])
    return float(found) if isinstance(found, int | float) else None


def num_levels(results: Sequence[Result]) -> int:
    """Levels of the model that has most of them."""
    return max((len(section_at(sections_of(each), ("collapse",))) for each in results), default=0)


class _AtLongestHorizon(Measure):
    """A ratio of a level's errors at its longest horizon."""

    def read(self, result: Result) -> Reading | None:
        """The number in one result; None where the level predicts nothing."""
        horizons = section_at(sections_of(result), self.section)
        if not horizons:
            return None
        longest = max(horizons, key=lambda name: int(name.removeprefix("h")))
        value = _number(section_at(horizons, (longest,)), (self.score,))
        null = self.null if isinstance(self.null, float) else None
        return None if value is None else Reading(value, null=null)


def prediction_measures(levels: int, score: str, name: str) -> list[Measure]:
    """A ratio of errors at the longest horizon of each level."""
    return [
        _AtLongestHorizon(
            f"{name}, level {level}",
            ("prediction", f"level{level}"),
            score,
            null=1.0,
            higher_is_better=False,
        )
        for level in range(levels)
    ]


@dataclass(frozen=True)
class _FramesAhead(Measure):
    """A number of a level at the horizon that reaches so many frames ahead.

    Attributes:
        frames: of the horizon.
    """

    frames: int = 0

    def read(self, result: Result) -> Reading | None:
        """The number in one result; None where the level has no such horizon."""
        for name, values in section_at(sections_of(result), self.section).items():
            if isinstance(values, Mapping) and values.get("horizon_frames") == self.frames:
                return self.within(name).read(result)
        return None

    def within(self, name: str) -> Measure:
        """The number at one of the level's horizons, by its name."""
        section, known = (*self.section, name), (self.higher_is_better, self.digits)
        return Measure(self.name, section, self.score, self.interval, self.null, *known)


def frames_in_common(results: Sequence[Result], section: str, level: int) -> int | None:
    """How far ahead, in frames, all models look that predict at a level; None where none does so.

    Args:
        results: of any number of models; those without the level say nothing.
        section: `prediction` or `position_ahead`.
        level: which one.
    """
    reached = [
        {each["horizon_frames"] for each in horizons.values() if "horizon_frames" in each}
        for horizons in (
            section_at(sections_of(each), (section, f"level{level}")) for each in results
        )
        if horizons
    ]
    return max(set.intersection(*reached), default=None) if reached else None


SKILL = ("skill_ratio", "error ÷ best trivial predictor's")
COPY = ("copy_ratio", "error ÷ that of copying")


def _position(part: str) -> Measure:
    untrained = ("null", "untrained", "r2")
    return Measure(f"position, {part}, r2", ("position", part), "r2", "ci95_r2", untrained)


def _surprise(kind: str) -> Measure:
    return Measure(
        f"surprise, {kind.replace('_', ' ')}, relative accuracy",
        ("surprise", kind),
        "relative_accuracy",
        "ci95",
        ("null", "untrained", "mean"),
    )


VISIBLE, PARTLY, HIDDEN = (_position(part) for part in ("visible", "partly", "hidden"))
VELOCITY = Measure("velocity, r2", ("velocity",), "r2", "ci95_r2", ("null", "untrained", "r2"))
BEHIND = Measure(
    "behind the screen, accuracy",
    ("permanence",),
    "accuracy",
    "ci95_accuracy",
    ("null", "untrained", "accuracy"),
)
KINDS = ("reveal", "permanence", "constancy", "continuity", "solidity", "support")
SURPRISES = tuple(_surprise(kind) for kind in KINDS)
OVERALL = _surprise("overall")
DEPTH = Measure(
    "depth, rmse m",
    ("depth",),
    "rmse_m",
    "ci95_rmse_m",
    ("null", "untrained", "rmse_m"),
    higher_is_better=False,
    digits=3,
)


def rank_measures(levels: int) -> list[Measure]:
    """How many of its directions each level uses; neither many nor few are better."""
    return [
        Measure(
            f"effective rank ÷ width, level {level}",
            ("collapse", f"level{level}"),
            "rank_fraction",
            higher_is_better=None,
        )
        for level in range(levels)
    ]


def all_measures(levels: int) -> list[AnyMeasure]:
    """Every number of the tables, for models of at most so many levels."""
    return [
        *prediction_measures(levels, *SKILL),
        *prediction_measures(levels, *COPY),
        *rank_measures(levels),
        VISIBLE,
        PARTLY,
        HIDDEN,
        VELOCITY,
        BEHIND,
        *SURPRISES,
        OVERALL,
        DEPTH,
    ]


def key_measures(levels: int) -> list[AnyMeasure]:
    """The few numbers of the summary and of the figure."""
    skill = tuple(prediction_measures(levels, *SKILL))
    title = "error ÷ best trivial predictor's, mean over levels"
    return [LevelMean(title, skill), VISIBLE, HIDDEN, OVERALL, DEPTH]


def _probe(name: str, *section: str, score: str = "r2") -> Measure:
    """A probe's score with its interval, beside that of an untrained network."""
    return Measure(name, section, score, f"ci95_{score}", ("null", "untrained", score))


def report_measures(results: Sequence[Result]) -> dict[str, list[Measure]]:
    """Every number by which reports are compared, by what it is about.

    Predictions are read as far ahead as all models look that have the level.
    """
    levels = range(num_levels(results))
    skills, ahead = [], []
    for level in levels:
        place = ("prediction", f"level{level}")
        frames = frames_in_common(results, "prediction", level)
        if frames is not None:
            name = f"error ÷ best trivial, level {level}, {frames} frames ahead"
            values = ("skill_ratio", None, 1.0, False, 3, frames)
            skills.append(_FramesAhead(name, place, *values))
        frames = frames_in_common(results, "position_ahead", level)
        if frames is not None:
            name = f"place, level {level}, {frames} frames ahead, r2"
            null = ("null", "copy", "r2")
            where = ("position_ahead", f"level{level}")
            ahead.append(_FramesAhead(name, where, "r2", "ci95_r2", null, True, 2, frames))
    ranks = rank_measures(len(levels))
    return {
        "prediction": [*skills, *ranks],
        "depth": [
            DEPTH,
            replace(
                DEPTH,
                name="depth, convolution, rmse m",
                section=("depth", "conv"),
                null=("null", "untrained", "rmse_m"),
            ),
            replace(
                DEPTH,
                name="depth of objects, rmse m",
                section=("depth", "objects"),
                null=None,
            ),
        ],
        "places": [
            VISIBLE,
            PARTLY,
            HIDDEN,
            *ahead,
            VELOCITY,
            _probe("velocity, hidden, r2", "velocity", "hidden"),
            _probe("camera motion, r2", "camera_motion"),
        ],
        "things": [
            _probe("category, balanced accuracy", "category", score="balanced_accuracy"),
            *(_probe(f"{n}, AUROC", n, score="auroc") for n in ("animacy", "support", "contact")),
            BEHIND,
        ],
        "expectation": [
            *SURPRISES,
            OVERALL,
            *(_surprise(kind) for kind in (*OPEN_KINDS, "open_view")),
            replace(
                OVERALL, name="surprise, overall, unseen looks", section=("surprise_ood", "overall")
            ),
        ],
    }


def seed_half_width(measure: AnyMeasure, groups: Sequence[Sequence[Result]]) -> float | None:
    """Half a 95 % interval of one run for the choice of its seed alone.

    The standard deviation between runs of the same configuration, pooled over all configurations
    with several seeds, times Student's t for as many degrees of freedom.

    Args:
        measure: of which number.
        groups: results of one configuration each.

    Returns:
        None where no configuration has several seeds.
    """
    squares, freedom = 0.0, 0
    for group in groups:
        values = np.array([each.value for each in map(measure.read, group) if each is not None])
        if len(values) > 1:
            squares += float(((values - values.mean()) ** 2).sum())
            freedom += len(values) - 1
    if not freedom:
        return None
    return float(stdtrit(freedom, 0.975) * np.sqrt(squares / freedom))


def read_group(
    measure: AnyMeasure, group: Sequence[Result], seed_half: float | None
) -> Reading | None:
    """A variant's number: the mean over its seeds, with an interval for clips and seeds together.

    All seeds are measured on the same clips, so that more of them make only their own part of the
    interval narrower: half^2 = half_of_clips^2 + half_of_one_seed^2 / seeds.

    Args:
        measure: which number.
        group: the variant's results.
        seed_half: of `seed_half_width`.
    """
    readings = [each for each in map(measure.read, group) if each is not None]
    if not readings:
        return None
    value = float(np.mean([each.value for each in readings]))
    nulls = [each.null for each in readings if each.null is not None]
    null = float(np.mean(nulls)) if nulls else None
    of_clips = [
        (each.value - each.low, each.high - each.value)
        for each in readings
        if each.low is not None and each.high is not None
    ]
    if not of_clips and seed_half is None:
        return Reading(value, null=null)
    below, above = np.mean(of_clips, axis=0) if of_clips else (0.0, 0.0)
    of_seeds = 0.0 if seed_half is None else seed_half / len(readings) ** 0.5
    low, high = value - np.hypot(below, of_seeds), value + np.hypot(above, of_seeds)
    return Reading(value, float(low), float(high), null)


def best_of(measure: AnyMeasure, readings: Sequence[Reading | None]) -> int | None:
    """Which of several is better than all others, its interval apart from all of theirs."""
    known = [(number, each) for number, each in enumerate(readings) if each is not None]
    if len(known) < 2 or measure.higher_is_better is None:
        return None
    sign = 1 if measure.higher_is_better else -1
    number, best = max(known, key=lambda pair: sign * pair[1].value)
    others = [each for other, each in known if other != number]
    return None if any(best.overlaps(each) for each in others) else number


def reading_text(reading: Reading | None, digits: int = 2, *, bold: bool = False) -> str:
    """One number as text: score, interval, and its null after a slash; a dash where none is."""
    if reading is None:
        return MISSING
    shown = f"{reading.value:.{digits}f}"
    if bold:
        shown = f"**{shown}**"
    if reading.low is not None and reading.high is not None:
        shown += f" ({reading.low:.{digits}f} to {reading.high:.{digits}f})"
    return shown if reading.null is None else f"{shown} / {reading.null:.{digits}f}"
