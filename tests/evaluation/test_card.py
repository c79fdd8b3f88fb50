"""The report card: the word follows from the numbers, and the numbers are those of the report."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure

from worldmodel.evaluation.card import (
    KNOWS,
    NO_INTERVAL,
    NOT_MEASURED,
    NOT_YET,
    SOME,
    VERDICTS,
    WORSE,
    age_text,
    card_table,
    report_card,
    verdict,
)
from worldmodel.evaluation.card_figure import LOOKS, card_figure
from worldmodel.evaluation.concepts import CONCEPTS

UNTRAINED = {"mean": 0.52, "std": 0.1, "low": 0.4, "high": 0.6, "num_networks": 10, "biased": False}
HIDDEN_AND_OPEN = (
    *("reveal", "permanence", "constancy", "continuity", "solidity", "support"),
    *("gravity", "inertia", "collision"),
)


def kind(score: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    nulls = {"untrained": dict(UNTRAINED), "copy": 0.5, "pixels_short": 0.5, "pixels_long": 0.55}
    return {
        "relative_accuracy": score,
        "ci95": [low, high],
        "num_blocks": 20,
        "null": nulls | more.pop("null", {}),
        **more,
    }


def auroc(score: float) -> dict[str, Any]:
    null = {"untrained": {"auroc": 0.55}, "pixels": {"auroc": 0.6}}
    return {"auroc": score, "ci95_auroc": [score - 0.05, score + 0.05], "null": null}


def r2(score: float, **nulls: float) -> dict[str, Any]:
    null = {name: {"r2": value} for name, value in nulls.items()}
    return {"r2": score, "ci95_r2": [score - 0.05, score + 0.05], "null": null}


def whole_report() -> dict[str, Any]:
    """Every section the card reads, each with a score that says which it is."""
    return {
        "depth": {
            "rmse_m": 0.30,
            "ci95_rmse_m": [0.28, 0.32],
            "objects": {"rmse_m": 0.61},
            "null": {
                "untrained": {"rmse_m": 0.45, "objects": {"rmse_m": 0.81}},
                "pixels": {"rmse_m": 0.40, "objects": {"rmse_m": 0.71}},
                "mean": {"rmse_m": 0.50, "objects": {"rmse_m": 1.00}},
            },
        },
        "position": {
            "visible": r2(0.70, untrained=0.5, copy_last_seen=0.91, constant_velocity=0.95),
            "partly": r2(0.65, untrained=0.4, copy_last_seen=0.8, constant_velocity=0.85),
            "hidden": r2(0.40, untrained=0.2, copy_last_seen=0.5, constant_velocity=-3.0),
        },
        "velocity": r2(0.33, untrained=0.2),
        "camera_motion": r2(0.44, untrained=0.1),
        "category": {
            "balanced_accuracy": 0.47,
            "ci95_balanced_accuracy": [0.42, 0.52],
            "chance": 0.2,
            "null": {
                "untrained": {"balanced_accuracy": 0.3},
                "pixels": {"balanced_accuracy": 0.35},
            },
        },
        "animacy": auroc(0.81),
        "support": auroc(0.82),
        "contact": auroc(0.83),
        "permanence": {
            "accuracy": 0.66,
            "ci95_accuracy": [0.6, 0.72],
            "null": {"untrained": {"accuracy": 0.55}},
        },
        "surprise": {
            name: kind(0.80 + 0.01 * place, 0.70, 0.95)
            for place, name in enumerate(HIDDEN_AND_OPEN)
        },
    }


def row(card: dict[str, Any], concept: str) -> dict[str, Any]:
    return next(each for each in card["concepts"] if each["concept"] == concept)


def first(card: dict[str, Any], concept: str) -> dict[str, Any]:
    return row(card, concept)["measures"][0]


@pytest.mark.parametrize(
    ("low", "high", "null", "p_chance", "p_null", "word"),
    [
        (0.7, 0.9, 0.6, None, None, KNOWS),
        (0.7, 0.9, 0.6, 0.01, 0.01, KNOWS),
        # an interval that touches a null is not above it
        (0.6, 0.9, 0.6, None, None, SOME),
        (0.6, 0.9, 0.8, None, None, SOME),
        (0.9, 1.0, 1.0, None, None, SOME),
        # nothing was there to beat but chance
        (0.9, 1.0, None, None, None, SOME),
        (0.7, 0.9, 0.6, 0.01, 0.2, SOME),
        # an interval that touches chance contains it
        (0.5, 0.9, 0.4, None, None, NOT_YET),
        (0.4, 0.6, 0.3, None, None, NOT_YET),
        (0.3, 0.5, 0.3, None, None, NOT_YET),
        (0.5, 0.5, 0.5, None, None, NOT_YET),
        # five blocks of five: the interval has no width, the test is not fooled
        (1.0, 1.0, 0.6, 0.19, None, NOT_YET),
        (1.0, 1.0, 0.6, 0.05, None, NOT_YET),
        (0.4, 0.6, 0.3, 0.001, None, NOT_YET),
        (0.2, 0.4, 0.1, None, None, WORSE),
        (0.2, 0.4, 0.1, 0.001, 0.001, WORSE),
    ],
)
def test_the_word_follows_from_interval_chance_null_and_p(
    low: float,
    high: float,
    null: float | None,
    p_chance: float | None,
    p_null: float | None,
    word: str,
) -> None:
    assert verdict(low, high, 0.5, null, p_chance, p_null) == word


def test_concepts_stand_in_the_order_of_their_ages() -> None:
    ages = [concept.age_months for concept in CONCEPTS]
    assert all(start <= end for start, end in ages)
    assert ages == sorted(ages)
    assert len({concept.name for concept in CONCEPTS}) == len(CONCEPTS)
    assert all(concept.sources and concept.note for concept in CONCEPTS)


def test_ages_read_as_about() -> None:
    assert age_text((0.0, 0.0)) == "birth"
    assert age_text((7.0, 7.0)) == "about 7"
    assert age_text([2.5, 4.0]) == "about 2.5 to 4"


def test_every_number_is_that_of_the_report() -> None:
    report = whole_report()
    card = report_card(report)
    seen = 0
    for concept in card["concepts"]:
        for measure in concept["measures"]:
            section = report
            for name in measure["section"].split("."):
                section = section[name]
            score = section
            for name in measure["metric"].split("."):
                score = score[name]
            assert measure["score"] == score
            intervals = {"relative_accuracy": "ci95", "objects.rmse_m": "none here"}
            key = intervals.get(measure["metric"], f"ci95_{measure['metric']}")
            assert measure["interval"] == section.get(key)
            seen += 1
    assert seen == sum(len(concept.measures) for concept in CONCEPTS) == 21
    assert first(card, "categories")["chance"] == 0.2
    assert first(card, "depth")["chance"] == 0.5
    assert first(card, "solidity")["counts"] == {"num_blocks": 20}


def test_every_section_named_in_the_design_is_on_the_card() -> None:
    places = {measure.section for concept in CONCEPTS for measure in concept.measures}
    plain = {"depth", "velocity", "category", "animacy", "support", "contact", "camera_motion"}
    position = {f"position.{part}" for part in ("visible", "partly", "hidden")}
    surprise = {f"surprise.{name}" for name in HIDDEN_AND_OPEN}
    assert places == plain | position | surprise | {"permanence"}


def test_the_strongest_null_is_the_highest_end_of_all_ranges() -> None:
    report = whole_report()
    card = report_card(report)
    # the untrained networks' range reaches 0.6, above pixels_long at 0.55
    assert first(card, "solidity")["strongest_null"] == {"name": "untrained", "score": 0.6}
    assert first(card, "solidity")["verdict"] == KNOWS
    report["surprise"]["solidity"]["null"]["pixels_long"] = 0.9
    card = report_card(report)
    assert first(card, "solidity")["strongest_null"] == {"name": "pixels_long", "score": 0.9}
    assert first(card, "solidity")["verdict"] == SOME


def test_untrained_networks_without_a_range_get_that_of_a_normal_distribution() -> None:
    report = whole_report()
    report["surprise"]["gravity"]["null"]["untrained"] = {"mean": 0.6, "std": 0.05}
    report["surprise"]["inertia"]["null"]["untrained"] = {"mean": 0.9, "std": 0.2}
    card = report_card(report)
    assert first(card, "gravity")["untrained"]["range"] == pytest.approx([0.502, 0.698])
    # no accuracy is above 1
    assert first(card, "inertia")["untrained"]["range"] == pytest.approx([0.508, 1.0])


def test_the_range_of_a_null_is_used_where_the_report_gives_one() -> None:
    report = whole_report()
    report["velocity"]["null"]["untrained"] = {"r2": 0.2, "ci95_r2": [0.1, 0.3]}
    card = report_card(report)
    assert first(card, "motion")["strongest_null"] == {"name": "untrained", "score": 0.3}
    assert first(card, "motion")["verdict"] == SOME


def test_lower_is_better_for_errors() -> None:
    report = whole_report()
    card = report_card(report)
    depth = first(card, "depth")
    assert depth["strongest_null"] == {"name": "pixels", "score": 0.4}
    assert depth["verdict"] == KNOWS
    # hand computed: (0.3 - 0.5) / (0 - 0.5), and the interval turned round
    assert depth["scaled"]["score"] == pytest.approx(0.4)
    assert depth["scaled"]["interval"] == pytest.approx([0.36, 0.44])
    assert depth["scaled"]["strongest_null"] == pytest.approx(0.2)
    assert depth["scaled"]["untrained"] == pytest.approx(0.1)
    report["depth"]["ci95_rmse_m"] = [0.55, 0.65]
    assert first(report_card(report), "depth")["verdict"] == WORSE
    report["depth"]["ci95_rmse_m"] = [0.38, 0.45]
    assert first(report_card(report), "depth")["verdict"] == SOME


def test_the_null_that_is_chance_is_not_counted_twice() -> None:
    depth = row(report_card(whole_report()), "depth")["measures"]
    assert set(depth[0]["nulls"]) == {"untrained", "pixels"}
    assert set(depth[1]["nulls"]) == {"untrained", "pixels"}
    assert depth[1]["chance"] == 1.0


def test_the_common_axis_runs_from_chance_to_perfect() -> None:
    scaled = first(report_card(whole_report()), "categories")["scaled"]
    # chance 0.2: (0.47 - 0.2) / 0.8
    assert scaled["score"] == pytest.approx(0.3375)
    assert scaled["interval"] == pytest.approx([0.275, 0.4])
    assert scaled["strongest_null"] == pytest.approx(0.1875)


def test_a_perfect_null_leaves_the_axis_finite() -> None:
    report = whole_report()
    report["surprise"]["collision"] = kind(1.0, 1.0, 1.0, null={"copy": 1.0})
    collision = first(report_card(report), "collision")
    assert collision["scaled"]["score"] == collision["scaled"]["strongest_null"] == 1.0
    assert collision["verdict"] == SOME


def test_trackers_decide_only_behind_a_screen() -> None:
    card = report_card(whole_report())
    seen, hidden = first(card, "following a thing"), first(card, "hidden place")
    assert seen["told"] == {"copy_last_seen": [0.91, 0.91], "constant_velocity": [0.95, 0.95]}
    assert seen["strongest_null"]["name"] == "untrained"
    assert seen["verdict"] == KNOWS
    assert hidden["told"] == {}
    assert hidden["strongest_null"] == {"name": "copy_last_seen", "score": 0.5}
    assert hidden["verdict"] == SOME


def test_a_score_without_nulls_is_never_known() -> None:
    report = whole_report()
    del report["velocity"]["null"]
    motion = first(report_card(report), "motion")
    assert motion["strongest_null"] is None
    assert motion["verdict"] == SOME


@pytest.mark.parametrize(
    ("p", "word"),
    [
        (0.01, KNOWS),
        (0.3, NOT_YET),
        ({"chance": 0.01, "untrained": 0.02}, KNOWS),
        ({"chance": 0.01, "untrained": 0.3}, SOME),
        ({"chance": 0.3, "untrained": 0.01}, NOT_YET),
        (None, KNOWS),
        (float("nan"), KNOWS),
    ],
)
def test_corrected_p_counts_in_either_form(p: Any, word: str) -> None:
    report = whole_report()
    report["surprise"]["solidity"]["p_holm"] = p
    assert row(report_card(report), "solidity")["verdict"] == word


def test_the_first_measure_that_was_measured_decides() -> None:
    report = whole_report()
    report["surprise"]["reveal"] = kind(0.2, 0.1, 0.3)
    card = report_card(report)
    assert row(card, "object permanence")["verdict"] == WORSE
    assert row(card, "object permanence")["decided_by"] == "surprise, reveal"
    report["surprise"]["reveal"] = {"absent": "no such blocks"}
    card = report_card(report)
    assert row(card, "object permanence")["verdict"] == KNOWS
    assert row(card, "object permanence")["decided_by"] == "surprise, permanence"
    assert first(card, "object permanence")["absent"] == "no such blocks"


def test_a_measure_without_an_interval_leaves_the_word_to_the_next() -> None:
    report = whole_report()
    report["surprise"]["reveal"]["ci95"] = None
    concept = row(report_card(report), "object permanence")
    assert concept["measures"][0]["verdict"] == NO_INTERVAL
    assert (concept["verdict"], concept["decided_by"]) == (KNOWS, "surprise, permanence")


def test_an_empty_report_gives_a_card_on_which_nothing_was_measured() -> None:
    card = report_card({})
    assert card["counts"] == dict.fromkeys(VERDICTS, 0) | {NOT_MEASURED: len(CONCEPTS)}
    assert first(card, "gravity")["absent"] == "no section surprise.gravity in the report"
    assert "not measured: no section velocity in the report" in card_table(card)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"absent": "too few frames"}, "too few frames"),
        (None, "no section velocity in the report"),
        ({"null": {}}, "no r2 in the section velocity"),
        ({"r2": float("nan")}, "no r2 in the section velocity"),
        ({"r2": True}, "no r2 in the section velocity"),
    ],
)
def test_a_section_without_a_score_says_why_and_the_rest_stays(broken: Any, reason: str) -> None:
    report = whole_report()
    report["velocity"] = broken
    card = report_card(report)
    assert row(card, "motion")["verdict"] == NOT_MEASURED
    assert row(card, "motion")["decided_by"] is None
    assert first(card, "motion")["absent"] == reason
    assert card["counts"][NOT_MEASURED] == 1
    assert f"not measured: {reason}" in card_table(card)


def test_the_picture_gives_the_reason_and_cuts_a_long_one_short() -> None:
    report = whole_report()
    report["velocity"] = {"absent": "too few frames"}
    report["contact"] = {"absent": "far too few " + "and fewer " * 20}
    shown = texts(card_figure(report_card(report)))
    assert "not measured: too few frames" in shown
    (long,) = [text for text in shown if text.startswith("not measured: far too few")]
    assert long.endswith(" ...") and len(long) < 90


def test_a_reason_given_for_a_whole_group_holds_for_each_of_its_parts() -> None:
    report = whole_report()
    report["surprise"] = {"absent": "this network predicts nothing"}
    card = report_card(report)
    assert first(card, "inertia")["absent"] == "this network predicts nothing"


def test_errors_without_the_score_of_a_guess_are_not_judged() -> None:
    report = whole_report()
    del report["depth"]["null"]["mean"]
    assert (
        "no null.mean.rmse_m in the section depth" in first(report_card(report), "depth")["absent"]
    )


@pytest.mark.parametrize("interval", [None, [0.4], [0.4, float("inf")], "0.4 to 0.5"])
def test_a_score_without_an_interval_is_shown_and_not_judged(interval: Any) -> None:
    report = whole_report()
    report["animacy"]["ci95_auroc"] = interval
    card = report_card(report)
    assert row(card, "animacy")["verdict"] == NO_INTERVAL
    assert first(card, "animacy")["score"] == 0.81


def test_a_card_survives_json_and_looks_the_same_after_it() -> None:
    card = report_card(whole_report())
    back = json.loads(json.dumps(card, allow_nan=False))
    assert back == card
    assert card_table(back) == card_table(card)


def test_the_table_has_a_line_per_measure_with_raw_numbers() -> None:
    report = whole_report()
    report["surprise"]["gravity"]["null"]["untrained"]["biased"] = True
    report["surprise"]["inertia"]["left_out"] = True
    report["surprise"]["inertia"]["p_holm"] = {"chance": 0.0125, "untrained": 0.001}
    text = card_table(report_card(report))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 21
    assert len({len(line) for line in lines}) == 1
    solidity = next(line for line in lines if "solidity" in line)
    cells = [cell.strip() for cell in solidity.strip("|").split("|")]
    assert cells == [
        "about 2.5 to 4",
        "solidity",
        "surprise, solidity, relative accuracy",
        "0.84",
        "0.70 to 0.95",
        "0.50",
        "0.60 untrained",
        "-",
        "knows",
    ]
    assert "surprise, gravity, relative accuracy (biased)" in text
    assert "surprise, inertia, relative accuracy (left out)" in text
    assert "| 0.013" in text or "| 0.012" in text
    assert "Baillargeon 1987" in text
    assert "worse than chance: the interval lies wholly below chance" in text


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in [*figure.axes[0].texts, *figure.texts]]


def plotted(figure: Figure, who: str, marker: str) -> list[float]:
    """Places on the common axis, in order, of the markers of a shape: `model` or `untrained`."""
    lines = [each for each in figure.axes[0].lines if each.get_gid() == who]
    return sorted(float(x.get_xdata()[0]) for x in lines if x.get_marker() == marker)


def test_the_picture_has_a_row_per_measure_and_a_marker_per_score() -> None:
    report = whole_report()
    report["surprise"]["gravity"] = kind(0.5, 0.3, 0.7)
    report["surprise"]["inertia"] = kind(0.3, 0.2, 0.4)
    del report["camera_motion"]
    card = report_card(report)
    figure = card_figure(card)
    measures = [each for concept in card["concepts"] for each in concept["measures"]]
    measured = [each for each in measures if "absent" not in each]
    assert len(measures) - len(measured) == 1
    assert len(plotted(figure, "untrained", "o")) == len(measured) == 20
    for word, (marker, _) in LOOKS.items():
        expected = sorted(each["scaled"]["score"] for each in measured if each["verdict"] == word)
        assert plotted(figure, "model", marker) == pytest.approx(expected)
    assert plotted(figure, "model", "D") == pytest.approx([0.0])
    assert plotted(figure, "model", "v") == pytest.approx([-0.4])


def test_the_picture_says_age_concept_word_and_raw_score() -> None:
    figure = card_figure(report_card(whole_report()))
    shown = texts(figure)
    assert "2.5 to 4.5" in shown and "birth" in shown
    assert "relative accuracy 0.84 (0.70 to 0.95)\nchance 0.50, untrained 0.60" in shown
    assert "rmse m 0.30 (0.28 to 0.32)\nchance 0.50, pixels 0.40" in shown
    assert shown.count("knows") + shown.count("some") + shown.count("no interval") == 21
    axes = figure.axes[0]
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=False)
    labels = {float(place): label.get_text() for place, label in ticks}
    assert labels == {0.0: "0\nchance", 0.5: "0.5", 1.0: "1\nperfect"}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {entry.split(":")[0] for entry in legend} >= set(LOOKS)


def test_concepts_go_from_the_youngest_at_the_top() -> None:
    axes = card_figure(report_card(whole_report())).axes[0]
    names = {concept.name for concept in CONCEPTS}
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    order = sorted((name for name in names), key=lambda name: heights[name])
    assert order == [concept.name for concept in CONCEPTS]
    bottom, top = axes.get_ylim()
    assert bottom > top


def test_a_score_far_below_the_axis_is_drawn_at_its_edge() -> None:
    report = whole_report()
    report["velocity"] = r2(-7.0, untrained=-9.0)
    figure = card_figure(report_card(report))
    left = figure.axes[0].get_xlim()[0]
    for who in ("model", "untrained"):
        (edge,) = plotted(figure, who, "<")
        assert left < edge < -0.9
    assert "r2 -7.00 (-7.05 to -6.95)\nchance 0.00, untrained -9.00" in texts(figure)


def test_all_words_look_different_without_colour() -> None:
    markers = [marker for marker, _ in LOOKS.values()]
    assert len(set(markers)) == len(LOOKS) == len(VERDICTS) - 1
    assert "<" not in markers


@pytest.mark.parametrize("report", [{}, whole_report()])
def test_text_stays_on_the_sheet_and_words_clear_of_numbers(report: dict[str, Any]) -> None:
    figure = card_figure(report_card(report))
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    boxes = {}
    for text in [*figure.axes[0].texts, *figure.texts]:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
        boxes.setdefault(text.get_text(), box)
    numbers = [box.x0 for text, box in boxes.items() if "chance 0" in text]
    words = [box.x1 for text, box in boxes.items() if text in VERDICTS]
    if report:
        assert max(words) < min(numbers)


def test_nothing_global_is_left_behind() -> None:
    card_figure(report_card(whole_report()))
    assert not _pylab_helpers.Gcf.figs


def test_the_guide_has_every_concept_with_its_age_and_sources() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "report-card.md").read_text(encoding="utf-8")
    lines = [line for line in guide.splitlines() if line.startswith("| ")]
    listed = guide.split("## Sources")[1].replace(",", "").splitlines()
    for concept in CONCEPTS:
        age = age_text(concept.age_months).removeprefix("about ")
        (line,) = [each for each in lines if each.startswith(f"| {concept.name} | {age} |")]
        for source in concept.sources:
            assert source.split(":")[0] in line
        # in a source's own line or a note: "Kim and Spelke 1999" as "Kim Spelke 1999."
        found = re.findall(
            r"((?:von )?[A-Z][\w-]+(?:(?:, | and | et al\.)(?:(?:von )?[A-Z][\w-]+)?)*) (\d{4})",
            " ".join([*concept.sources, concept.note]),
        )
        assert found
        for names, year in found:
            entry = f"- {names.replace(',', '').replace(' and ', ' ')} {year}."
            assert any(each.startswith(entry) for each in listed), entry
