"""A report card: what infants come to know, in the order of their ages, and whether the model does.

Of each concept (`concepts.py`) the score is the report's own, beside chance and beside the
strongest rule that knows nothing, and one fixed rule turns these numbers into a word. A mark says
nothing about how an infant does it (docs/report-card.md).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.evaluation.concepts import CONCEPTS, Concept, Measure
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
