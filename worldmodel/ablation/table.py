"""A study's results as tables: one for each question, and a summary of all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.ablation.study import Question, Study, Variant
from worldmodel.evaluation.readings import (
    MISSING,
    AnyMeasure,
    Result,
    all_measures,
    best_of,
    key_measures,
    num_levels,
    read_group,
    reading_text,
    seed_half_width,
)
from worldmodel.evaluation.section_tables import table

PAGE = "ablation.md"
# The question whose variants' spectra are drawn.
SPECTRUM_QUESTION = "scope"
EXPLANATION = """\
Every variant was trained for the steps its table names, measured on clips and blocks of a
development set that neither training nor probes have seen. A cell is the score, its 95 % interval
in brackets, and after the slash its null: the score of an untrained network of the same shape, or
for ratios of errors 1, that of the trivial predictor. Bold is better than every other variant of
the table, with an interval that overlaps none of theirs. A dash is what was not measured."""
SEEDS_KNOWN = """\
Intervals cover the choice of clips and, pooled over the variants with several seeds, the choice of
the seed."""
SEEDS_UNKNOWN = """\
Intervals cover the choice of clips alone, and ratios of errors have none: no variant has several
seeds. Runs of another seed may differ by more."""


@dataclass(frozen=True)
class Findings:
    """What is there of a study.

    Attributes:
        study: the study.
        results: per question and variant, those of its seeds that are there.
        failures: per question and variant, what went wrong.
    """

    study: Study
    results: dict[tuple[str, str], list[dict[str, Any]]]
    failures: dict[tuple[str, str], list[str]]

    def of(self, variant: Variant) -> list[dict[str, Any]]:
        """A variant's results."""
        return self.results[variant.question, variant.name]

    @property
    def levels(self) -> int:
        """Of the model with most levels."""
        return num_levels([result for group in self.results.values() for result in group])

    def groups(self) -> list[list[dict[str, Any]]]:
        """The results of each configuration once."""
        once = {each.digest: self.of(each) for each in self.study.variants() if self.of(each)}
        return list(once.values())

    def seed_halves(self, measures: Sequence[AnyMeasure]) -> dict[str, float | None]:
        """How far seeds differ, by the name of each measure: see `seed_half_width`."""
        return {measure.name: seed_half_width(measure, self.groups()) for measure in measures}


def read_findings(
    study: Study, out: Path, measured_on: Mapping[str, Any] | None = None
) -> Findings:
    """The results and failures that lie in a study's folder.

    Results of other configurations than the study's now are left out, and those that were measured
    on other sets or by another protocol: one table has numbers of one kind.

    Args:
        study: the study.
        out: its folder.
        measured_on: of `run.describe_sets`; None asks not.
    """
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    failures: dict[tuple[str, str], list[str]] = {}
    for variant in study.variants():
        name = (variant.question, variant.name)
        results[name], failures[name] = [], []
        for seed in variant.seeds:
            found = _read(out / f"{variant.label(seed)}.json")
            alike = measured_on is None or found.get("measured_on") == measured_on
            if found.get("digest") == variant.digest and alike:
                results[name].append(found)
            failed = _read(out / f"{variant.label(seed)}.failed.json")
            if failed.get("digest") == variant.digest:
                failures[name].append(f"seed {seed} failed in {failed['stage']}: {failed['error']}")
    return Findings(study, results, failures)


def _read(path: Path) -> dict[str, Any]:
    """A file's content; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_tables(study: Study, out: Path, measured_on: Mapping[str, Any] | None = None) -> Path:
    """Write `ablation.md` from the results that are there; arguments as of `read_findings`."""
    page = out / PAGE
    out.mkdir(parents=True, exist_ok=True)
    page.write_text(ablation_page(read_findings(study, out, measured_on)), encoding="utf-8")
    return page


def ablation_page(findings: Findings) -> str:
    """The whole page in markdown."""
    several = any(len(group) > 1 for group in findings.groups())
    parts = [
        "# What each choice is worth",
        EXPLANATION,
        SEEDS_KNOWN if several else SEEDS_UNKNOWN,
        "![key numbers of every variant](ablation.png)",
        "## Summary",
        summary_table(findings),
    ]
    for question in findings.study.questions:
        parts += [
            f"## {question.asks}",
            f"Question `{question.name}`.",
            *_answers(findings, question),
        ]
        if question.name == SPECTRUM_QUESTION:
            parts.append("![how long tokens remember](spectrum.png)")
    return "\n\n".join(parts) + "\n"


def _answers(findings: Findings, question: Question) -> list[str]:
    """A question's table and what failed of it."""
    parts = [question_table(findings, question)]
    lines = [
        f"- {variant.name}: {line}"
        for variant in question.variants
        for line in findings.failures[variant.question, variant.name]
    ]
    return parts + (["\n".join(lines)] if lines else [])


def question_table(findings: Findings, question: Question) -> str:
    """A row for each number, a column for each variant."""
    measures = all_measures(findings.levels)
    halves = findings.seed_halves(measures)
    groups = [findings.of(variant) for variant in question.variants]
    rows = [[measure.name, *cells(measure, groups, halves[measure.name])] for measure in measures]
    rows += [
        ["steps", *(_plain(group, "steps") for group in groups)],
        ["seeds", *(_seeds(group) for group in groups)],
        ["frames/s per core", *(_plain(group, "frames_per_second_per_core") for group in groups)],
        ["training, s", *(_plain(group, "seconds") for group in groups)],
    ]
    return table(["", *(variant.name for variant in question.variants)], rows)


def summary_table(findings: Findings) -> str:
    """A row for each variant of every question, a column for each of the key numbers."""
    measures = key_measures(findings.levels)
    halves = findings.seed_halves(measures)
    rows = []
    for question in findings.study.questions:
        groups = [findings.of(variant) for variant in question.variants]
        columns = [cells(measure, groups, halves[measure.name]) for measure in measures]
        for number, variant in enumerate(question.variants):
            speed = _plain(groups[number], "frames_per_second_per_core")
            scores = [column[number] for column in columns]
            rows.append([question.name, variant.name, *scores, speed])
    head = ["question", "variant", *(measure.name for measure in measures), "frames/s per core"]
    return table(head, rows)


def cells(
    measure: AnyMeasure, groups: Sequence[Sequence[Result]], seed_half: float | None
) -> list[str]:
    """A number of several variants, as text; the best is bold where it is so beyond chance."""
    readings = [read_group(measure, group, seed_half) for group in groups]
    best = best_of(measure, readings)
    return [
        reading_text(each, measure.digits, bold=number == best)
        for number, each in enumerate(readings)
    ]


def _plain(group: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean over seeds of what is no score."""
    values = [result[name] for result in group if result.get(name) is not None]
    return f"{sum(values) / len(values):.0f}" if values else MISSING


def _seeds(group: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(str(result["seed"]) for result in group) or MISSING
