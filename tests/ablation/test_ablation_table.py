"""Tables of a study: intervals, bold, and dashes for what is not there."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_up_results import sections, study_in, write_result
from scipy import stats

from worldmodel.ablation.table import ablation_page, read_findings, write_tables
from worldmodel.evaluation.readings import (
    DEPTH,
    OVERALL,
    VISIBLE,
    Reading,
    all_measures,
    best_of,
    key_measures,
    read_group,
    reading_text,
    seed_half_width,
)


def result(**scores: float) -> dict:
    return {"sections": sections(**scores)}


def rows_of(page: str, heading: str) -> dict[str, list[str]]:
    """The table under a heading: per row name its cells."""
    text = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in table if not row[0].startswith("--")}


def test_one_seed_has_the_interval_of_its_clips() -> None:
    reading = read_group(VISIBLE, [result(visible=0.5, half=0.04)], None)
    assert reading is not None
    ends = (reading.value, reading.low, reading.high, reading.null)
    assert ends == pytest.approx((0.5, 0.46, 0.54, 0.2))


def test_what_seeds_differ_by_is_pooled_over_variants_and_counts_for_all() -> None:
    groups = [
        [result(visible=0.50), result(visible=0.60), result(visible=0.70)],
        [result(visible=0.30), result(visible=0.40)],
        [result(visible=0.90)],
    ]
    deviation = math.sqrt((2 * np.var([0.5, 0.6, 0.7], ddof=1) + np.var([0.3, 0.4], ddof=1)) / 3)
    half = seed_half_width(VISIBLE, groups)
    assert half == pytest.approx(stats.t.ppf(0.975, 3) * deviation)
    three = read_group(VISIBLE, groups[0], half)
    one = read_group(VISIBLE, groups[2], half)
    assert three is not None and one is not None and half is not None
    assert (three.value, one.value) == pytest.approx((0.6, 0.9))
    assert three.high - three.value == pytest.approx(math.hypot(0.05, half / math.sqrt(3)))
    assert one.value - one.low == pytest.approx(math.hypot(0.05, half))


def test_ratios_have_an_interval_only_where_seeds_give_one() -> None:
    skill = all_measures(2)[0]
    group = [result(skill=0.8), result(skill=0.9)]
    alone = read_group(skill, group[:1], seed_half_width(skill, [group[:1]]))
    assert alone == Reading(0.8, None, None, 1.0)
    both = read_group(skill, group, seed_half_width(skill, [group]))
    assert both is not None and both.low is not None and both.value == pytest.approx(0.85)


def test_the_longest_horizon_is_read_by_its_number() -> None:
    skill, copy = all_measures(2)[0], all_measures(2)[2]
    assert (skill.name, copy.name) == (
        "error ÷ best trivial predictor's, level 0",
        "error ÷ that of copying, level 0",
    )
    # "h10" is longer than "h2", whatever the alphabet says.
    assert skill.read(result(skill=0.77)) == Reading(0.77, null=1.0)
    assert copy.read(result()) == Reading(0.7, null=1.0)


def test_what_was_not_measured_is_no_number() -> None:
    whole = result()
    del whole["sections"]["position"]["visible"]["r2"]
    whole["sections"]["position"]["visible"]["absent"] = "too few steps"
    del whole["sections"]["depth"]
    for measure in (VISIBLE, DEPTH, *all_measures(3)[2:3]):
        assert measure.read(whole) is None
        assert read_group(measure, [whole], 0.1) is None
    assert all(measure.read({}) is None for measure in all_measures(2))
    assert all(measure.read({}) is None for measure in key_measures(2))
    mean = key_measures(3)[0].read(whole)
    assert mean == Reading(0.9, null=1.0)


def test_bold_is_who_is_better_than_all_others_beyond_the_intervals() -> None:
    low, middle, high = (Reading(v, v - 0.05, v + 0.05) for v in (0.4, 0.55, 0.7))
    assert best_of(OVERALL, [low, high, middle]) == 1
    assert best_of(DEPTH, [low, high, middle]) == 0
    close = Reading(0.66, 0.6, 0.72)
    assert best_of(OVERALL, [low, high, close]) is None
    assert best_of(OVERALL, [low, high, None]) == 1
    assert best_of(OVERALL, [None, high]) is None
    assert best_of(OVERALL, [low, Reading(0.9)]) is None
    rank = all_measures(1)[2]
    assert rank.name.startswith("effective rank") and best_of(rank, [low, high]) is None


def test_cells_show_score_interval_and_null() -> None:
    assert reading_text(None) == "-"
    assert reading_text(Reading(0.0)) == "0.00"
    assert (
        reading_text(Reading(0.456, 0.4, 0.5, 0.2), bold=True) == "**0.46** (0.40 to 0.50) / 0.20"
    )
    assert reading_text(Reading(0.4216, null=1.0), 3) == "0.422 / 1.000"


def test_a_page_has_a_table_for_each_question_and_a_summary(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    out = tmp_path / "out"
    for seed, visible in enumerate((0.50, 0.51, 0.52)):
        for question in ("scope", "regularizer"):
            write_result(out, study, question, "default", seed, visible=visible, half=0.02)
    write_result(out, study, "scope", "batch", 0, visible=0.8, overall=0.61, half=0.02)
    page = write_tables(study, out).read_text()
    scope = rows_of(page, "Which scope?")
    assert scope["position, visible, r2"][0].startswith("0.51 (0.4")
    assert scope["position, visible, r2"][1].startswith("**0.80** (0.7")
    assert scope["surprise, overall, relative accuracy"][1].startswith("0.61 (0.59 to 0.63) / 0.50")
    assert scope["position, partly, r2"] == ["-", "-"]
    assert scope["velocity, r2"] == ["-", "-"]
    assert scope["depth, rmse m"] == ["0.422 (0.410 to 0.430) / 0.440"] * 2
    assert scope["effective rank ÷ width, level 1"] == ["0.60 (0.60 to 0.60)"] * 2
    assert scope["steps"] == ["3", "3"] and scope["seeds"] == ["0 1 2", "0"]
    assert scope["frames/s per core"] == ["568", "568"] and scope["training, s"] == ["12", "12"]
    regularizer = rows_of(page, "Which one?")
    assert regularizer["position, visible, r2"][0] == scope["position, visible, r2"][0]
    assert all(cells[1] == "-" for name, cells in regularizer.items() if name)
    assert "error ÷ that of copying, level 2" not in scope
    summary = page.split("## Summary\n")[1].split("\n## ")[0]
    assert len([line for line in summary.splitlines() if line.startswith("| ")]) == 6
    assert "choice of\nthe seed" in page and "spectrum.png" in page


def test_without_several_seeds_the_page_says_what_intervals_lack(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    write_result(tmp_path, study, "scope", "batch", 0)
    assert "no variant has several\nseeds" in ablation_page(read_findings(study, tmp_path))


def test_a_study_without_results_is_all_dashes(tmp_path: Path) -> None:
    page = write_tables(study_in(tmp_path), tmp_path / "out").read_text()
    cells = [cell for row in rows_of(page, "Which scope?").values() for cell in row]
    assert set(cells) == {"default", "batch", "-"}


def test_results_of_an_older_configuration_are_left_out(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    write_result(tmp_path, study, "scope", "batch", 0)
    path = tmp_path / "scope" / "batch-seed0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "older"}))
    failed = {"digest": "older", "stage": "training", "error": "no luck"}
    (tmp_path / "scope" / "batch-seed0.failed.json").write_text(json.dumps(failed))
    findings = read_findings(study, tmp_path)
    assert not any(findings.results.values()) and not any(findings.failures.values())


def test_results_measured_on_something_else_are_left_out(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    for seed, protocol in ((0, "now"), (1, "older"), (2, "now")):
        write_result(tmp_path, study, "scope", "default", seed)
        path = tmp_path / "scope" / f"default-seed{seed}.json"
        measured = {"measured_on": {"protocol": protocol}}
        path.write_text(json.dumps(json.loads(path.read_text()) | measured))
    findings = read_findings(study, tmp_path, {"protocol": "now"})
    assert [found["seed"] for found in findings.results["scope", "default"]] == [0, 2]
    page = write_tables(study, tmp_path, {"protocol": "now"}).read_text()
    assert rows_of(page, "Which scope?")["seeds"][0] == "0 2"
