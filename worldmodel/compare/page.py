"""A comparison as markdown and as JSON."""

from collections.abc import Sequence
from typing import Any

from worldmodel.compare.differences import (
    BETTER,
    NO_INTERVAL,
    NOT_JUDGED,
    UNDECIDED,
    WORSE,
    Comparison,
    Difference,
    Row,
    Score,
)
from worldmodel.compare.likeness import HASH_LETTERS
from worldmodel.compare.reports import Group, setting_differences
from worldmodel.evaluation.readings import MISSING, reading_text
from worldmodel.evaluation.section_tables import chance_text, interval, table

# Settings that differ are listed up to this many; more say that the recipes have little in common.
MAX_SETTINGS = 30
HOW_CELLS = """\
A cell is the score with its 95 % interval in round brackets, after the slash its null (that of an
untrained network; of ratios of errors 1; of places read ahead that of copied tokens), and of
several seeds their range in square brackets."""
SEEDS_KNOWN = """\
Intervals cover the choice of clips or blocks and, pooled over the configurations with several
seeds, the choice of the seed: they are about configurations."""
SEEDS_UNKNOWN = """\
No configuration has several seeds. Intervals cover the choice of clips or blocks alone: they are
about these runs, and another seed of the same configuration may differ by as much or more. Name
runs of other seeds too to say that one configuration is better than another."""
METHOD = """\
Differences are other - base, with 95 % intervals. `better` and `worse` stand only where the
interval leaves out 0; `holds` where p is also below 0.05 when corrected for all numbers of the
table (Holm 1979), for of twenty equal ones about one looks different. Surprises marked `by block`
are compared block by block (paired bootstrap within kinds, and an exact sign-flip test must agree).
All other intervals follow from the two reports' own as from independent samples (Zou and Donner
2008); both were measured on the same clips, so they are rather too wide. The spread of
seeds is pooled, times Student's t, and added in squares. Ratios of errors have no interval of
clips: without seeds they are not judged. They are measured in each model's own tokens, which differ
between models."""


def comparison_page(comparison: Comparison) -> str:
    """The whole page in markdown."""
    groups = comparison.groups
    parts = ["# Runs side by side", runs_table(groups)]
    if comparison.notes:
        parts += ["## Before comparing", "\n".join(f"- {note}" for note in comparison.notes)]
    for number, group in enumerate(groups[1:]):
        parts += [
            f"## {group.name} against {groups[0].name}",
            verdict_text(comparison, number),
            settings_text(groups[0], group),
            differences_table(comparison, number),
        ]
    parts += ["## Scores", HOW_CELLS, scores_table(comparison)]
    if len(groups) == 1:
        parts.append("All runs are seeds of one configuration: there is nothing to compare.")
    parts += [
        "![scores and differences](compare.png)",
        "## How it is compared",
        SEEDS_KNOWN if comparison.seeds_known else SEEDS_UNKNOWN,
        METHOD,
    ]
    return "\n\n".join(parts) + "\n"


def runs_table(groups: Sequence[Group]) -> str:
    """A row for each run: what it is and on what it was measured."""
    rows = []
    for group in groups:
        for run in group.runs:
            data = run.meta["data"]
            rows.append(
                [
                    run.name,
                    group.name if len(group.runs) > 1 else MISSING,
                    MISSING if run.seed is None else str(run.seed),
                    str(run.meta.get("global_step", MISSING)),
                    str(run.meta.get("checkpoint_sha256"))[:HASH_LETTERS],
                    f"{str(data.get('index_sha256'))[:HASH_LETTERS]}, {data.get('split')}",
                    f"{data.get('num_clips')}, {data.get('num_blocks')}",
                ]
            )
    head = ["run", "seeds of", "seed", "step", "weights", "set, split", "clips, blocks"]
    return table(head, rows)


def verdict_text(comparison: Comparison, number: int) -> str:
    """One comparison in two sentences."""
    found = [row.differences[number] for row in comparison.rows]
    words = [each.word for each in found if each is not None]
    count = {word: words.count(word) for word in (BETTER, WORSE, UNDECIDED, NO_INTERVAL)}
    judged = count[BETTER] + count[WORSE] + count[UNDECIDED]
    name = comparison.groups[number + 1].name
    if not judged:
        return (
            f"Of no number can be said whether {name} is better or worse: "
            f"{words.count(NOT_JUDGED)} are not judged, {count[NO_INTERVAL]} have no interval."
        )
    holding = [
        row.measure.name
        for row, each in zip(comparison.rows, found, strict=True)
        if each is not None and each.holds
    ]
    text = (
        f"Of {judged} numbers that can be judged {name} is better on {count[BETTER]}, worse on "
        f"{count[WORSE]}; {count[UNDECIDED]} are undecided."
    )
    if count[BETTER] + count[WORSE]:
        text += (
            f" Corrected for their number there hold: {'; '.join(holding)}."
            if holding
            else " None of these holds when corrected for their number."
        )
    return text


def settings_text(base: Group, other: Group) -> str:
    """What the two were trained with otherwise."""
    found = setting_differences(base, other)
    if found is None:
        return "What their configurations differ in is not known."
    if not found:
        return "Their configurations are the same."
    shown = [
        f"- `{name}`: {_setting(mine)} → {_setting(theirs)}"
        for name, (mine, theirs) in list(found.items())[:MAX_SETTINGS]
    ]
    more = len(found) - len(shown)
    return "\n".join(
        ["Their configurations differ in:", ""] + shown + [f"- and {more} more"] * bool(more)
    )


def _setting(value: Any) -> str:
    return "not set" if value is None else str(value)


def differences_table(comparison: Comparison, number: int) -> str:
    """A row for each number that both have."""
    rows = []
    area = ""
    for row in comparison.rows:
        found = row.differences[number]
        if found is None:
            continue
        first, area = row.area != area, row.area
        digits = row.measure.digits
        ends = None if found.low is None or found.high is None else (found.low, found.high)
        rows.append(
            [
                row.area if first else "",
                row.measure.name,
                _direction(row),
                f"{round(found.value, digits) + 0:+.{digits}f}",  # no -0.00
                interval(ends, digits) + (", by block" if found.paired else ""),
                chance_text(found.p),
                found.word + (", holds" if found.holds else ""),
            ]
        )
    return table(["", "number", "should be", "difference", "95 %", "p", "word"], rows)


def _direction(row: Row) -> str:
    better = row.measure.higher_is_better
    return MISSING if better is None else ("higher" if better else "lower")


def scores_table(comparison: Comparison) -> str:
    """A row for each number, a column for each configuration."""
    rows = [
        [row.measure.name, *(_score(each, row.measure.digits) for each in row.scores)]
        for row in comparison.rows
    ]
    return table(["", *(group.name for group in comparison.groups)], rows)


def _score(score: Score | None, digits: int) -> str:
    if score is None:
        return MISSING
    text = reading_text(score.reading, digits)
    if len(score.values) > 1:
        text += f" [{interval((min(score.values), max(score.values)), digits)}]"
    return text


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The content of `compare.json`."""
    names = [group.name for group in comparison.groups]
    return {
        "base": names[0],
        "groups": [
            {
                "name": group.name,
                "settings_known": group.runs[0].settings is not None,
                "runs": [
                    {
                        "name": run.name,
                        "seed": run.seed,
                        "global_step": run.meta.get("global_step"),
                        "checkpoint_sha256": run.meta.get("checkpoint_sha256"),
                        "index_sha256": run.meta["data"].get("index_sha256"),
                        "split": run.meta["data"].get("split"),
                        "git_commit": run.meta.get("git_commit"),
                        "protocol_sha256": run.meta.get("protocol_sha256"),
                        "collapsed": run.collapsed,
                    }
                    for run in group.runs
                ],
                "settings_changed": _settings_json(comparison.groups[0], group),
            }
            for group in comparison.groups
        ],
        "seeds_known": comparison.seeds_known,
        "notes": list(comparison.notes),
        "numbers": [
            {
                "area": row.area,
                "name": row.measure.name,
                "section": list(row.measure.section),
                "higher_is_better": row.measure.higher_is_better,
                "scores": {
                    name: _score_json(each)
                    for name, each in zip(names, row.scores, strict=True)
                    if each is not None
                },
                "differences": {
                    name: _difference_json(each)
                    for name, each in zip(names[1:], row.differences, strict=True)
                    if each is not None
                },
            }
            for row in comparison.rows
        ],
    }


def _settings_json(base: Group, other: Group) -> dict[str, Any] | None:
    found = setting_differences(base, other)
    return None if found is None else {name: list(pair) for name, pair in found.items()}


def _score_json(score: Score) -> dict[str, Any]:
    reading = score.reading
    return {
        "mean": reading.value,
        "ci95": None if reading.low is None else [reading.low, reading.high],
        "null": reading.null,
        "seeds": list(score.values),
        "deviation": score.deviation,
    }


def _difference_json(found: Difference) -> dict[str, Any]:
    return {
        "value": found.value,
        "ci95": None if found.low is None else [found.low, found.high],
        "p": found.p,
        "p_holm": found.p_holm,
        "paired": found.paired,
        "word": found.word,
        "holds": found.holds,
    }
