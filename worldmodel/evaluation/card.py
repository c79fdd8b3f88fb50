"""A report card: what infants come to know, in the order of their ages, and whether the model does.

A concept stands at the age at which an experiment first found it, with the experiment's name. Its
score is the report's own, beside chance and beside the strongest rule that knows nothing, and one
fixed rule turns these numbers into a word. Ages are about, from looking times mostly, and argued
over; a mark says nothing about how an infant does it (docs/report-card.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worldmodel.evaluation.section_tables import chance_text, number, table
from worldmodel.evaluation.section_tables import interval as interval_text

KNOWS, SOME, NOT_YET, WORSE = "knows", "some", "not yet", "worse than chance"
NO_INTERVAL, NOT_MEASURED = "no interval", "not measured"
VERDICTS = (KNOWS, SOME, NOT_YET, WORSE, NO_INTERVAL, NOT_MEASURED)
# Above chance means a corrected p below this, where the report gives one.
ALPHA = 0.05
RULE = f"""\
- {KNOWS}: the 95 % interval lies wholly above chance and above the range of every null, and p,
  where the report gives one (Holm, over the kinds tested together), is below {ALPHA}.
- {SOME}: wholly above chance, with p below {ALPHA} where there is one, but not above every null:
  something simpler does as well.
- {NOT_YET}: the interval contains chance, or p is too large.
- {WORSE}: the interval lies wholly below chance.
- {NO_INTERVAL}: a score whose interval the report does not give; {NOT_MEASURED}: no score.
A concept's word is that of its first measure that has one; its other measures stand below it.
Scale: 0 is chance and 1 is perfect, so that scores of any kind share one axis."""


@dataclass(frozen=True)
class Measure:
    """Where the report holds a score that bears on a concept.

    Attributes:
        name: what is asked, for people.
        section: path of the section in the report, with dots.
        metric: path of the score in it, and in each of its nulls.
        interval: path of the score's 95 % interval.
        chance: the score of a guess; a text is the path of it within the section.
        told: nulls that decide nothing here, for they are told the true place a step before.
        better: `higher`, with 1 perfect, or `lower`, with 0 perfect.
    """

    name: str
    section: str
    metric: str
    interval: str
    chance: float | str
    told: tuple[str, ...] = ()
    better: str = "higher"


@dataclass(frozen=True)
class Concept:
    """Something infants come to know.

    Attributes:
        name: in two or three words.
        question: what is asked of the model.
        age_months: about when: the youngest and the oldest age at which it was first found.
        sources: authors, year, and what they found.
        note: where the literature, or the comparison with it, is in doubt.
        measures: of the report; the first one that was measured decides.
    """

    name: str
    question: str
    age_months: tuple[float, float]
    sources: tuple[str, ...]
    note: str
    measures: tuple[Measure, ...]


def _surprise(kind: str, name: str) -> Measure:
    return Measure(name, f"surprise.{kind}", "relative_accuracy", "ci95", 0.5)


def _yes_no(section: str, name: str) -> Measure:
    return Measure(name, section, "auroc", "ci95_auroc", 0.5)


def _explained(section: str, name: str, told: tuple[str, ...] = ()) -> Measure:
    # An r2 of 0 is that of the mean.
    return Measure(name, section, "r2", "ci95_r2", 0.0, told)


# In open view these have the true place of a step before: trackers, not rules that know nothing.
# Behind a screen they have only the place where the object was last seen, and count.
TOLD_PLACE = ("copy_last_seen", "constant_velocity")

CONCEPTS = (
    Concept(
        "own motion",
        "how the camera moves",
        (0.0, 0.0),
        (
            "Barbu-Roth et al. 2009: three-day-olds step more over a floor pattern that flows as "
            "in walking forward than over one that turns or stands",
        ),
        "A reflex that flow sets off shows that it is perceived, not that anything is known.",
        (_explained("camera_motion", "camera motion"),),
    ),
    Concept(
        "motion",
        "how fast and which way a thing moves",
        (1.5, 3.0),
        (
            "Wattam-Bell 1991: responses of the cortex to a change of direction appear in the "
            "first three months",
            "Banton and Bertenthal 1996: eyes follow uniform motion at 6 weeks",
        ),
        "Eyes may follow a whole moving field before single things are told apart by their motion.",
        (_explained("velocity", "velocity"),),
    ),
    Concept(
        "partly hidden things",
        "where a thing is that shows only in part",
        (2.0, 4.0),
        (
            "Kellman and Spelke 1983: four-month-olds see a rod that moves behind a block as one",
            "Johnson and Aslin 1995: two-month-olds too, if more of the rod shows",
            "Slater et al. 1990: newborns do not",
        ),
        "The experiments ask whether the parts are one thing, the probe where that thing is.",
        (_explained("position.partly", "place, partly hidden", TOLD_PLACE),),
    ),
    Concept(
        "following a thing",
        "where a thing is that is in view",
        (2.0, 5.0),
        (
            "von Hofsten and Rosander 1997: eyes pursue a moving thing from 2 to 5 months, at last "
            "ahead of it",
        ),
        "Jumps of the eye towards things come earlier; smooth pursuit needs their motion.",
        (_explained("position.visible", "place, in view", TOLD_PLACE),),
    ),
    Concept(
        "continuity",
        "from screen to screen it crosses the gap",
        (2.5, 4.0),
        (
            "Aguiar and Baillargeon 1999: at 2.5 months, between two separate screens",
            "Spelke, Kestenbaum, Simons and Wein 1995: four-month-olds take one that skips the gap "
            "for two things",
        ),
        "At 2.5 months it fails if the screens are joined above (Aguiar and Baillargeon 1999).",
        (_surprise("continuity", "surprise, continuity"),),
    ),
    Concept(
        "solidity",
        "nothing passes through a wall",
        (2.5, 4.0),
        (
            "Spelke, Breinlinger, Macomber and Jacobson 1992: a hidden thing stops at a barrier, "
            "at 2.5 and 4 months",
            "Baillargeon 1987: at 4.5 months, and at 3.5 in infants who habituate fast",
        ),
        "2.5, 3.5 or 4.5 months by laboratory and task; searching by hand, two-year-olds fail "
        "(Hood, Carey and Prasada 2000).",
        (_surprise("solidity", "surprise, solidity"),),
    ),
    Concept(
        "object permanence",
        "what went behind the screen is there",
        (2.5, 4.5),
        (
            "Baillargeon 1987: at 4.5 months, and at 3.5 in infants who habituate fast",
            "Aguiar and Baillargeon 1999: first expectations at 2.5 months",
        ),
        "Searching for what is hidden comes at about 9 months (Piaget 1954); Bogartz, Shinskey and "
        "Speaker 1997 and Haith 1998 hold that novelty and perception explain the looking.",
        (
            _surprise("reveal", "surprise, reveal"),
            _surprise("permanence", "surprise, permanence"),
            Measure(
                "is it behind the screen?", "permanence", "accuracy", "ci95_accuracy", chance=0.5
            ),
        ),
    ),
    Concept(
        "categories",
        "which kind of shape it is",
        (3.0, 4.0),
        (
            "Quinn, Eimas and Rosenkrantz 1993: three- and four-month-olds tell cats from dogs, on "
            "photographs",
            "Bomba and Siqueland 1983: form categories of dot patterns at 3 to 4 months",
        ),
        "A category held for minutes in one sitting; the probe is given the names of all shapes.",
        (
            Measure(
                "category",
                "category",
                "balanced_accuracy",
                "ci95_balanced_accuracy",
                chance="chance",
            ),
        ),
    ),
    Concept(
        "support",
        "what is held up stays up, the rest falls",
        (3.0, 6.5),
        (
            "Needham and Baillargeon 1993: at 4.5 months a box left in mid-air should fall",
            "Baillargeon, Needham and DeVos 1992: from any contact at 3 months to how much of it "
            "at 6.5",
        ),
        "Our block asks the early form (a platform or none), out of sight; searching by hand, "
        "two-year-olds fail (Hood, Carey and Prasada 2000).",
        (_surprise("support", "surprise, support"), _yes_no("support", "is it held up?")),
    ),
    Concept(
        "hidden place",
        "where the hidden thing is now",
        (4.0, 6.0),
        (
            "von Hofsten, Kochukhova and Rosander 2007: at 16 to 20 weeks gaze crosses the screen "
            "in time with the thing, in half of the passages",
            "Johnson, Amso and Slemmer 2003: six-month-olds anticipate; four-month-olds after "
            "practice",
            "Gredebäck and von Hofsten 2004: from 6 months on, on a circle",
        ),
        "To be at the right edge in time takes less than to know the place at each moment.",
        (_explained("position.hidden", "place, hidden"),),
    ),
    Concept(
        "constant features",
        "what comes out looks like what went in",
        (4.5, 11.5),
        (
            "Wilcox 1999: shape and size at 4.5 months, pattern at 7.5, colour at 11.5",
            "Xu, Carey and Quint 2004: in another task, not size or colour at 12 months",
        ),
        "Task by task the age differs by half a year; our blocks mix shape, size and colour.",
        (_surprise("constancy", "surprise, constancy"),),
    ),
    Concept(
        "depth",
        "how far things are, from one still picture",
        (5.0, 7.0),
        (
            "Yonas, Cleaves and Pettersen 1978: pictures give depth from 22 to 26 weeks on",
            "Yonas, Granrud, Arterberry and Hanson 1986: perspective and texture, at 7 months and "
            "not clearly at 5",
        ),
        "Depth from motion and from two eyes comes earlier; our probe reads one frame of one "
        "camera, so the age of pictures stands here.",
        (
            Measure(
                "depth",
                "depth",
                "rmse_m",
                "ci95_rmse_m",
                chance="null.mean.rmse_m",
                better="lower",
            ),
            Measure(
                "depth of objects",
                "depth",
                "objects.rmse_m",
                "objects.ci95_rmse_m",
                chance="null.mean.objects.rmse_m",
                better="lower",
            ),
        ),
    ),
    Concept(
        "animacy",
        "whether it moves by itself",
        (5.0, 7.0),
        (
            "Luo and Baillargeon 2005: five-month-olds give a box that moves by itself a goal",
            "Woodward 1998: a reaching hand has a goal at 5 to 6 months",
            "Mahajan and Woodward 2009: at 7 months they copy goals of what is animate only",
        ),
        "Newborns already prefer biological motion (Simion, Regolin and Bulf 2008); a goal is more "
        "than the probe asks, and things alive have eyes here.",
        (_yes_no("animacy", "is it alive?"),),
    ),
    Concept(
        "collision",
        "what is struck moves",
        (6.0, 10.0),
        (
            "Leslie and Keeble 1987: a launch is more than its parts at 27 weeks",
            "Oakes and Cohen 1990: with other things at 10 months, not at 6",
        ),
        "That what is hit is displaced, Baillargeon 1995 puts at 2.5 months already.",
        (_surprise("collision", "surprise, collision"), _yes_no("contact", "do they touch?")),
    ),
    Concept(
        "gravity",
        "what rises slows down and falls",
        (7.0, 7.0),
        (
            "Kim and Spelke 1992: seven-month-olds, not five-month-olds, expect speed to grow "
            "downhill",
        ),
        "For a ball that rolls off an edge, looking shows it only after three years (Kim and "
        "Spelke 1999).",
        (_surprise("gravity", "surprise, gravity"),),
    ),
    Concept(
        "inertia",
        "what rolls goes on, what lies stays",
        (7.0, 24.0),
        (
            "Kim and Spelke 1999: in looking, between 7 months and 2 years",
            "Spelke, Breinlinger, Macomber and Jacobson 1992: not yet in young infants",
        ),
        "When children must predict where a ball lands, it comes at 5 to 6 years (Kim and Spelke "
        "1999).",
        (_surprise("inertia", "surprise, inertia"),),
    ),
)


def report_card(report: Mapping[str, Any]) -> dict[str, Any]:
    """The section `card` of a report: every concept with its age, its numbers and its word.

    Args:
        report: the content of `report.json`; any section may be missing or say why it is `absent`.

    Returns:
        `rule`, `counts` (concepts per word) and `concepts`, youngest first; numbers of the report
        are those of the report to the bit.
    """
    concepts = [_concept_card(concept, report) for concept in CONCEPTS]
    words = [concept["verdict"] for concept in concepts]
    return {
        "rule": RULE,
        "counts": {word: words.count(word) for word in VERDICTS},
        "concepts": concepts,
    }


def verdict(
    low: float,
    high: float,
    chance: float,
    strongest_null: float | None,
    p_chance: float | None = None,
    p_null: float | None = None,
) -> str:
    """The word for a score, from its interval; higher is better.

    Args:
        low: lower end of the score's 95 % interval.
        high: its upper end.
        chance: the score of a guess.
        strongest_null: upper end of the range of the best rule that knows nothing; None where
            nothing but chance was measured, and then no score is better than `some`.
        p_chance: corrected p of the test against chance.
        p_null: corrected p of the test against a null.
    """
    if high < chance:
        return WORSE
    if low <= chance or (p_chance is not None and p_chance >= ALPHA):
        return NOT_YET
    beaten = strongest_null is not None and low > strongest_null
    return KNOWS if beaten and (p_null is None or p_null < ALPHA) else SOME


def age_text(months: Sequence[float]) -> str:
    """An age range for people, in months: `birth`, `about 7`, `about 2.5 to 4`."""
    first, last = months
    if last == 0:
        return "birth"
    return f"about {first:g}" if first == last else f"about {first:g} to {last:g}"


def _concept_card(concept: Concept, report: Mapping[str, Any]) -> dict[str, Any]:
    measures = [_measured(measure, report) for measure in concept.measures]
    found = [each for each in measures if "absent" not in each]
    judged = [each for each in found if each["verdict"] != NO_INTERVAL]
    decides = next(iter(judged or found), None)
    return {
        "concept": concept.name,
        "question": concept.question,
        "age_months": list(concept.age_months),
        "age": age_text(concept.age_months),
        "sources": list(concept.sources),
        "note": concept.note,
        "verdict": decides["verdict"] if decides else NOT_MEASURED,
        "decided_by": decides["name"] if decides else None,
        "measures": measures,
    }


def _measured(measure: Measure, report: Mapping[str, Any]) -> dict[str, Any]:
    """A measure with the report's numbers, or with the reason why there are none."""
    entry: dict[str, Any] = {
        "name": measure.name,
        "section": measure.section,
        "metric": measure.metric,
    }
    section = _look(report, measure.section)
    reason = _why_absent(report, measure.section)
    if reason is None:
        score = _number(_look(section, measure.metric))
        chance = _chance(measure, section)
        if score is None:
            reason = f"no {measure.metric} in the section {measure.section}"
        elif chance is None:
            reason = f"no {measure.chance} in the section {measure.section} to compare with"
    if reason is not None:
        return entry | {"absent": reason}
    nulls = _nulls(measure, report)
    entry |= {
        "better": measure.better,
        "score": score,
        "interval": _pair(_look(section, measure.interval)),
        "chance": chance,
        "perfect": 1.0 if measure.better == "higher" else 0.0,
        "nulls": {name: span for name, span in nulls.items() if name not in measure.told},
        "told": {name: span for name, span in nulls.items() if name in measure.told},
        "untrained": _untrained(measure, report),
        "untrained_biased": _look(section, "null.untrained.biased") is True,
        "left_out": section.get("left_out") is True,
        "p_holm": _p_values(section.get("p_holm")),
        "counts": {
            name: section[name]
            for name in ("num_blocks", "num_clips", "num_frames", "num_things", "num_steps")
            if isinstance(section.get(name), int)
        },
    }
    return entry | _judge(entry)


def _judge(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Strongest null, word and place on the common axis."""
    sign = 1.0 if entry["better"] == "higher" else -1.0
    reach = {name: max(sign * end for end in span) for name, span in entry["nulls"].items()}
    name = max(reach, key=lambda each: reach[each]) if reach else None
    strongest = {"name": name, "score": sign * reach[name]} if name else None
    word = NO_INTERVAL
    if entry["interval"] is not None:
        low, high = sorted(sign * end for end in entry["interval"])
        p = entry["p_holm"]
        against = [value for test, value in p.items() if test != "chance"]
        word = verdict(
            low,
            high,
            sign * entry["chance"],
            reach[name] if name else None,
            p.get("chance"),
            max(against, default=None),
        )
    return {"strongest_null": strongest, "verdict": word, "scaled": _scaled(entry, strongest)}


def _scaled(entry: Mapping[str, Any], strongest: Mapping[str, Any] | None) -> dict[str, Any]:
    """Scores on the axis where 0 is chance and 1 is perfect; below 0 has no bound."""
    chance, span = entry["chance"], entry["perfect"] - entry["chance"]

    def scale(value: float) -> float:
        # Where a guess is perfect already there is nothing to measure.
        return (value - chance) / span if span else 0.0

    def ends(values: Sequence[float] | None) -> list[float] | None:
        return None if values is None else sorted(map(scale, values))

    untrained = entry["untrained"]
    return {
        "score": scale(entry["score"]),
        "interval": ends(entry["interval"]),
        "strongest_null": scale(strongest["score"]) if strongest else None,
        "untrained": scale(untrained["score"]) if untrained else None,
        "untrained_range": ends(untrained["range"]) if untrained else None,
    }


def _look(tree: Any, path: str) -> Any:
    """What lies at a path with dots; None where it leads nowhere."""
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _why_absent(report: Mapping[str, Any], path: str) -> str | None:
    """The reason the report gives at a path or above it; None where a section lies there."""
    names = path.split(".")
    for depth in range(1, len(names) + 1):
        here = _look(report, ".".join(names[:depth]))
        if isinstance(here, Mapping) and "absent" in here:
            return str(here["absent"])
    if isinstance(_look(report, path), Mapping):
        return None
    return f"no section {path} in the report"


def _number(value: Any) -> float | None:
    """A finite number as float; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _pair(value: Any) -> list[float] | None:
    """An interval of two finite numbers, lower end first; None for everything else."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    ends = [end for end in map(_number, value) if end is not None]
    return sorted(ends) if len(ends) == 2 else None


def _p_values(value: Any) -> dict[str, float]:
    """Corrected p by what was tested against; one number alone is the test against chance."""
    tests = value if isinstance(value, Mapping) else {"chance": value}
    numbers = {str(test): _number(p) for test, p in tests.items()}
    return {test: p for test, p in numbers.items() if p is not None}


def _chance(measure: Measure, section: Mapping[str, Any]) -> float | None:
    if isinstance(measure.chance, float):
        return measure.chance
    return _number(_look(section, measure.chance))


def _nulls(measure: Measure, report: Mapping[str, Any]) -> dict[str, list[float]]:
    """Range of every null of a measure; the one that is chance is not named twice."""
    found = _look(report, f"{measure.section}.null")
    if not isinstance(found, Mapping):
        return {}
    ranges = {str(name): _range(null, measure) for name, null in found.items()}
    at_chance = {name for name in ranges if str(measure.chance).startswith(f"null.{name}.")}
    return {
        name: span for name, span in ranges.items() if span is not None and name not in at_chance
    }


def _range(null: Any, measure: Measure) -> list[float] | None:
    """Lower and upper end of a null's score; a single score is both."""
    if not isinstance(null, Mapping):
        score = _number(null)
        return None if score is None else [score, score]
    given = _pair([null.get("low"), null.get("high")]) or _pair(_look(null, measure.interval))
    mean, deviation = _number(null.get("mean")), _number(null.get("std"))
    if given is None and mean is not None and deviation is not None:
        # Older reports give no range of the untrained networks: 95 % of a normal distribution.
        given = [mean - 1.96 * deviation, min(mean + 1.96 * deviation, 1.0)]
    score = _null_score(null, measure)
    return given if given is not None or score is None else [score, score]


def _null_score(null: Any, measure: Measure) -> float | None:
    if not isinstance(null, Mapping):
        return _number(null)
    score = _number(_look(null, measure.metric))
    return _number(null.get("mean")) if score is None else score


def _untrained(measure: Measure, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Score of the untrained network, the mean of several where there are, and their range."""
    null = _look(report, f"{measure.section}.null.untrained")
    score = _null_score(null, measure)
    return None if score is None else {"score": score, "range": _range(null, measure)}


def card_table(card: Mapping[str, Any]) -> str:
    """The card as markdown: a line per measure, the rule, then ages, sources and doubts.

    Args:
        card: what `report_card` returned.
    """
    rows = []
    for concept in card["concepts"]:
        for place, measure in enumerate(concept["measures"]):
            first = place == 0
            rows.append(
                [
                    concept["age"] if first else "",
                    concept["concept"] if first else "",
                    *_measure_cells(measure),
                ]
            )
    head = ["months", "concept", "measure", "score", "95 %", "chance", "best null", "p", "word"]
    counted = [f"{word}: {count}" for word, count in card["counts"].items() if count]
    sources = [
        f"- {concept['concept']} ({_months(concept['age'])}): {'; '.join(concept['sources'])}. "
        f"{concept['note']}"
        for concept in card["concepts"]
    ]
    told = (
        "(biased): untrained networks are off chance on this kind by themselves. "
        "(left out): events of this kind were kept out of training."
    )
    parts = [table(head, rows), f"Concepts: {', '.join(counted)}.", card["rule"], told]
    return "\n\n".join([*parts, "\n".join(sources)])


def _months(age: str) -> str:
    return age if age == "birth" else f"{age} months"


def _measure_cells(measure: Mapping[str, Any]) -> list[str]:
    name = measure["name"]
    if "absent" in measure:
        return [name, "-", "-", "-", "-", "-", f"{NOT_MEASURED}: {measure['absent']}"]
    strongest = measure["strongest_null"]
    marks = "".join(
        f" ({mark})"
        for mark, holds in (
            ("biased", measure["untrained_biased"]),
            ("left out", measure["left_out"]),
        )
        if holds
    )
    return [
        f"{name}, {unit(measure['metric'])}{marks}",
        number(measure["score"]),
        interval_text(measure["interval"]),
        number(measure["chance"]),
        f"{number(strongest['score'])} {strongest['name']}" if strongest else "-",
        chance_text(measure["p_holm"].get("chance")),
        measure["verdict"],
    ]


def unit(metric: str) -> str:
    """What a score is, for people: `rmse m` for `rmse_m`."""
    return "AUROC" if metric == "auroc" else metric.split(".")[-1].replace("_", " ")
