"""What the report says of made-up scores, of planted scorers, and of where surprise peaks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_scorers import CPU, Foreign, Seer, at, small_hierarchy
from sklearn.metrics import roc_auc_score
from square_world import FPS, FRAMES, SIZE, block, square_clip

from worldmodel.evaluation.surprise import (
    COMBINED,
    BlockFacts,
    BlockScores,
    Candidate,
    Choice,
    NetworkScores,
    choose,
    headline_section,
    score_blocks,
    surprise_sections,
)
from worldmodel.evaluation.surprise.choice import spreads_of
from worldmodel.evaluation.surprise.peaks import (
    near_steps,
    peak_places,
    peak_times,
    share_of_peaks,
    tokens_of_object,
)

# Lengths of past that leave room in clips of 16 frames.
SHORT = (4, 8)

FACTS = BlockFacts(8.0, 1.25, 6, "", False)
PLACE = (0, 1)


def scores_of(
    wins: list[float], kinds: list[str], untrained: list[list[float]], **facts: list[object]
) -> BlockScores:
    """Scores whose contrast wins as said, at one place and from a window of 4 frames."""

    def curve(wins: list[float]) -> np.ndarray:
        scores = np.ones((len(wins), 4, 3))
        scores[:, 2:] += (np.array(wins) - 0.5)[:, None, None]
        return scores

    count = len(wins)
    curves = {PLACE: curve(wins), (0, 1, 4): curve([0.5] * count), "copy0.1": curve([0.5] * count)}
    curves |= {"copy0.1.c4": curve([0.5] * count)}
    curves |= {name: curve([0.5] * count) for name in ("pixels_short", "pixels_long")}
    known = [
        replace(FACTS, **{name: values[row] for name, values in facts.items()})
        for row in range(count)
    ]
    others = [NetworkScores({PLACE: curve(own)}) for own in untrained]
    keys = [str(number) for number in range(count)]
    return BlockScores(keys, np.array(kinds), curves, known, {}, others)


def choice_of(scores: BlockScores) -> Choice:
    return Choice(Candidate(*PLACE), PLACE, spreads_of(scores.curves), 0.8, 7)


def test_sections_carry_counts_intervals_and_nulls() -> None:
    wins = [1.0] * 7 + [0.0] * 2 + [0.5]
    test = scores_of(wins, ["reveal"] * 10, [[0.0] * 4 + [1.0] * 6, [0.0] * 6 + [1.0] * 4])
    sections = surprise_sections(test, choice_of(test), [1])
    reveal = sections["surprise"]["reveal"]
    assert (reveal["level"], reveal["horizon"], reveal["context_frames"]) == (0, 1, 0)
    assert reveal["place"] == "level 0, 1 step (0.12 s) ahead"
    assert reveal["num_blocks"] == 10
    assert reveal["wins"] == {str(number): win for number, win in enumerate(wins)}
    assert "wins" not in sections["surprise"]["overall"]
    assert reveal["relative_accuracy"] == pytest.approx(0.75)
    assert reveal["pair_accuracy"] == reveal["relative_accuracy_max"] == pytest.approx(0.75)
    assert reveal["ci95"][0] < 0.75 < reveal["ci95"][1]
    scored = test.curves[PLACE].mean(2).reshape(-1)
    expected = roc_auc_score(np.tile([0, 0, 1, 1], 10), scored)
    assert reveal["auroc"] == reveal["auroc_max"] == pytest.approx(expected, abs=1e-9)
    null = reveal["null"]
    assert (null["copy"], null["pixels_short"], null["pixels_long"]) == (0.5, 0.5, 0.5)
    assert null["untrained"]["mean"] == pytest.approx(0.5)
    assert null["untrained"]["std"] == pytest.approx(0.1)
    assert null["untrained"]["num_networks"] == 2
    assert null["untrained"]["accuracies"] == pytest.approx([0.6, 0.4])
    assert (null["untrained"]["low"], null["untrained"]["high"]) == pytest.approx((0.4, 0.6))
    assert null["untrained"]["biased"] is False
    overall = sections["surprise"]["overall"]
    assert overall["choice_stability"] == 0.8
    assert overall["num_candidates"] == 7
    assert overall["num_blocks"] == 10
    assert sections["surprise_by_level"]["level0"]["h1"]["reveal"]["relative_accuracy"] == 0.75
    context = sections["surprise_by_context"]["level0"]["h1"]["c4"]
    assert context["reveal"]["relative_accuracy"] == 0.5
    combined = sections["surprise_combined"]["overall"]
    assert combined["num_blocks"] == 10
    assert combined["level0"]["relative_accuracy"] == combined["relative_accuracy"]


def test_the_largest_surprise_may_say_something_else_than_the_mean() -> None:
    test = scores_of([1.0] * 6, ["reveal"] * 6, [])
    test.curves[PLACE] += np.random.default_rng(0).uniform(0, 0.1, (6, 4, 3))
    test.curves[PLACE][:, :2, 1] += 1.2  # a moment in the possible clips
    entry = headline_section(test, choice_of(test), [1])["reveal"]
    assert (entry["relative_accuracy"], entry["relative_accuracy_max"]) == (1, 0)
    largest = test.curves[PLACE].max(2).reshape(-1)
    expected = roc_auc_score(np.tile([0, 0, 1, 1], 6), largest)
    assert entry["auroc_max"] == pytest.approx(expected, abs=1e-9)
    assert entry["auroc_max"] < 0.5 < entry["auroc"]


def test_p_values_are_those_of_the_tests_and_corrected_within_their_tier() -> None:
    kinds = ["reveal"] * 6 + ["support"] * 6 + ["gravity"] * 6
    wins = [1.0] * 6 + [1.0] * 5 + [0.0] + [1.0] * 6
    section = headline_section(
        test := scores_of(wins, kinds, [[0.5] * 18] * 3), choice_of(test), [1]
    )
    reveal, support, gravity = (section[name] for name in ("reveal", "support", "gravity"))
    assert reveal["p_value"] == pytest.approx({"chance": 1 / 64, "untrained": 1 / 64})
    assert support["p_value"]["chance"] == pytest.approx(7 / 64)
    assert support["p_value"]["untrained"] == pytest.approx(7 / 64)
    assert reveal["p_holm"] == pytest.approx({"chance": 2 / 64, "untrained": 2 / 64})
    assert support["p_holm"]["chance"] == pytest.approx(7 / 64)
    assert gravity["p_holm"]["chance"] == pytest.approx(1 / 64), "a tier of its own"
    assert section["overall"]["p_value"]["chance"] == pytest.approx(13 / 2**12)
    assert "p_holm" not in section["overall"]


def test_kinds_in_open_view_are_a_tier_of_their_own() -> None:
    kinds = ["reveal"] * 4 + ["support"] * 2 + ["gravity"] * 4
    test = scores_of([1.0] * 4 + [0.0] * 2 + [0.0] * 4, kinds, [])
    section = headline_section(test, choice_of(test), [1])
    assert list(section) == ["reveal", "support", "overall", "gravity", "open_view"]
    assert section["overall"]["relative_accuracy"] == 0.5, "each kind counts alike"
    assert section["open_view"]["relative_accuracy"] == 0
    assert section["open_view"]["num_blocks"] == 4
    assert "untrained" not in section["reveal"]["null"]
    assert "untrained" not in section["reveal"]["p_value"]


def test_networks_that_all_lean_one_way_are_called_biased() -> None:
    kinds = ["inertia"] * 8
    leaning = [[0.0] * 7 + [1.0], [0.0] * 8, [0.0] * 6 + [1.0, 0.5]]
    test = scores_of([0.5] * 8, kinds, leaning)
    null = headline_section(test, choice_of(test), [1])["overall"]["null"]["untrained"]
    assert null["biased"] is True
    assert null["ci95"][1] < 0.5


def test_kinds_that_training_left_out_are_marked() -> None:
    test = scores_of([1.0] * 4, ["reveal", "support"] * 2, [])
    section = surprise_sections(test, choice_of(test), [1], left_out=["support", "solidity"])
    assert section["surprise"]["support"]["left_out"] is True
    assert "left_out" not in section["surprise"]["reveal"]
    assert "solidity" not in section["surprise"]


def test_blocks_are_told_apart_by_hiding_variant_and_camera() -> None:
    test = scores_of(
        [1.0, 1.0, 0.0, 0.5],
        ["constancy"] * 4,
        [[0.0] * 4, [1.0, 0.0, 0.0, 0.0]],
        hiding_seconds=[0.5, 1.0, 1.49, 1.5],
        variant=["colour", "shape", "shape", ""],
        moving_camera=[True, False, None, False],
    )
    entry = headline_section(test, choice_of(test), [1])["constancy"]
    assert entry["by_hiding"] == {
        "short": {"relative_accuracy": 1.0, "num_blocks": 1, "untrained": 0.5},
        "medium": {"relative_accuracy": 0.5, "num_blocks": 2, "untrained": 0.0},
        "long": {"relative_accuracy": 0.5, "num_blocks": 1, "untrained": 0.0},
    }
    assert {name: part["num_blocks"] for name, part in entry["by_variant"].items()} == {
        "colour": 1,
        "shape": 2,
    }
    assert entry["by_variant"]["shape"]["relative_accuracy"] == 0.5
    assert entry["by_camera"]["moving"]["relative_accuracy"] == 1
    assert entry["by_camera"]["standing"]["num_blocks"] == 2


def test_what_is_known_of_a_block() -> None:
    one = replace(block(0), metadata={"variant": "turns", "moving_camera": True})
    assert BlockFacts.of(one) == BlockFacts(FPS, 6 / 8, 11, "turns", True)
    open_view = BlockFacts.of(block(0, windows=((8, 8),)))
    assert (open_view.hiding_seconds, open_view.hiding, open_view.camera) == (None, "", "")


def test_a_model_that_predicts_nothing_gets_sections_that_say_so() -> None:
    scores = score_blocks(Foreign(horizons=()), [block(0)], CPU)
    sections = surprise_sections(scores, choose(scores, [1]), [1])
    assert all("predicts nothing" in section["absent"] for section in sections.values())
    assert "predicts nothing" in headline_section(scores, None, [1])["absent"]


def test_without_windows_the_section_on_context_is_absent_with_a_reason() -> None:
    blocks = [block(seed) for seed in range(3)]
    scores = score_blocks(Foreign(), blocks, CPU)
    sections = surprise_sections(scores, choose(scores, [1]), [1])
    assert "absent" in sections["surprise_by_context"]
    assert sections["surprise"]["overall"]["num_blocks"] == 3


@pytest.mark.parametrize("remembers", [True, False])
def test_who_knows_the_truth_is_always_right_and_who_knows_nothing_never_beyond_chance(
    remembers: bool,
) -> None:
    kinds = ["reveal", "permanence"] * 4
    blocks = [block(seed, kind) for seed, kind in enumerate(kinds)]
    model, nets = Seer(remembers), (Seer(False), Seer(False))
    choice = choose(score_blocks(model, blocks[:4], CPU), [1, 2])
    test = score_blocks(model, blocks[4:], CPU, untrained=nets, choice=choice)
    for name, entry in surprise_sections(test, choice, [1, 2])["surprise"].items():
        expected = 1.0 if remembers else 0.5
        assert entry["relative_accuracy"] == expected, name
        assert entry["pair_accuracy"] == (1.0 if remembers else 0.5), name
        assert entry["null"]["untrained"]["mean"] == entry["null"]["pixels_short"] == 0.5
        assert entry["null"]["copy"] == 0.5
        assert (entry["p_value"]["chance"] == 1) == (not remembers)
        if remembers:
            assert entry["auroc"] > 0.99
            assert entry["peak"]["excess_hit_rate"] > entry["peak"]["chance"]
    if not remembers:
        assert choice.candidate == COMBINED, "no place is better than all together"
        assert choice.place == (1, 2), "of equals the farthest-looking"


def test_the_headline_of_a_combination_and_of_a_window_are_read_as_others() -> None:
    blocks = [block(seed) for seed in range(2)]
    model, nets = small_hierarchy(), (small_hierarchy(seed=1), small_hierarchy(seed=2))
    val = score_blocks(model, blocks, CPU, context_frames=SHORT)
    chosen = choose(val, [1, 2, 4])
    for candidate in (Candidate(-1, -1), Candidate(1, 1, 8)):
        choice = replace(chosen, candidate=candidate, place=(1, 1))
        test = score_blocks(model, blocks, CPU, untrained=nets, choice=choice, context_frames=SHORT)
        few = score_blocks(
            model,
            blocks,
            CPU,
            untrained=nets,
            choice=choice,
            everywhere=False,
            context_frames=SHORT,
        )
        entry = surprise_sections(test, choice, [1, 2, 4])["surprise"]["overall"]
        assert (
            headline_section(few, choice, [1, 2, 4])["reveal"]
            == (headline_section(test, choice, [1, 2, 4])["reveal"])
        ), "what is scored elsewhere changes nothing"
        assert (entry["level"], entry["horizon"]) == (candidate.level, candidate.horizon)
        assert entry["context_frames"] == candidate.context_frames
        assert (entry["peak"]["level"], entry["peak"]["horizon"]) == (1, 1)
        assert entry["null"]["untrained"]["num_networks"] == 2
        assert entry["peak_space"]["null"]["untrained"]["hit_rate"] >= 0


def test_steps_near_a_violation() -> None:
    # Entry τ is step τ + h; frame 13 lies in step 6 of span 2.
    assert list(near_steps(13, (1, 2), 2, 14)) == [3, 4, 5]
    assert list(near_steps(0, (0, 1), 1, 31)) == [0]
    assert list(near_steps(31, (0, 1), 1, 31)) == [29, 30]
    assert list(near_steps(2, (0, 8), 1, 24)) == []
    assert list(near_steps(None, (0, 1), 1, 31)) == []


def test_equal_largest_values_share_the_peak() -> None:
    assert share_of_peaks(np.array([1.0, 3.0, 2.0]), np.array([0, 1, 0], dtype=bool)) == 1
    assert share_of_peaks(np.array([3.0, 3.0, 2.0]), np.array([0, 1, 1], dtype=bool)) == 0.5
    assert share_of_peaks(np.zeros(4), np.array([1, 0, 0, 0], dtype=bool)) == 0.25


def test_surprise_peaks_in_time_where_it_does_and_not_where_it_does_not() -> None:
    curves = np.ones((1, 4, 10))
    curves[0, 2, 5] = 2.0  # AB: at step 6, the violation's
    curves[0, 1, 2], curves[0, 3, 2] = 9.0, 9.0  # BB and BA: at something that is no violation
    curves[0, 3, 6] = 1.5
    found = peak_times(curves, [FACTS], (0, 1), 1)[0]
    assert found[0].tolist() == pytest.approx([1, 1, 0.3])
    assert found[1].tolist() == pytest.approx([0, 1, 0.3]), "the excess finds it, one step late"


def test_a_scorer_that_says_nothing_peaks_as_often_as_chance_has_it() -> None:
    found = peak_times(np.ones((2, 4, 10)), [FACTS, replace(FACTS, violation_frame=0)], (0, 1), 1)
    assert found[0] == pytest.approx(np.full((2, 3), 0.3))
    assert found[1] == pytest.approx(np.full((2, 3), 0.1))


def test_a_violation_that_no_step_is_scored_at_has_no_peak() -> None:
    found = peak_times(np.ones((1, 4, 10)), [replace(FACTS, violation_frame=None)], (0, 1), 1)
    assert np.isnan(found).all()
    unknown = scores_of([1.0], ["reveal"], [], violation_frame=[None])
    entry = headline_section(unknown, choice_of(unknown), [1])["reveal"]
    assert "absent" in entry["peak"]


def test_untrained_networks_stand_beside_the_peaks() -> None:
    """The model peaks at the violation, one network too, another elsewhere: entry 2 is step 3."""
    test = scores_of([0.5] * 2, ["reveal"] * 2, [[0.5] * 2] * 2, violation_frame=[3, 3])
    curves = [test.curves, *(other.curves for other in test.untrained)]
    for network, peak in zip(curves, (2, 2, 0), strict=True):
        network[PLACE] = np.ones((2, 4, 3))
        network[PLACE][:, 2:, peak] = 2.0
    test.space = {PLACE: np.full((2, 2, 2), 0.25)}
    for other, hit in zip(test.untrained, (0.5, 1.0), strict=True):
        other.space = {PLACE: np.full((2, 2, 2), hit)}
    entry = headline_section(test, choice_of(test), [1])["overall"]
    assert entry["peak"]["hit_rate"] == entry["peak"]["excess_hit_rate"] == 1
    assert entry["peak"]["chance"] == pytest.approx(2 / 3)
    assert entry["peak"]["num_clips"] == 4
    null = entry["peak"]["null"]["untrained"]
    assert null == {"hit_rate": 0.5, "excess_hit_rate": 0.5}
    space = entry["peak_space"]
    assert (space["hit_rate"], space["chance"]) == (0.25, 0.25)
    assert space["null"]["untrained"]["hit_rate"] == 0.75


def test_tokens_of_the_object_are_where_it_is_in_the_picture() -> None:
    truth = [square_clip(present, 3)[1] for present in (True, False)]
    x, y = truth[0].state["image_position"][7, 0]
    fine = tokens_of_object(truth, range(7, 8), (2, 2))
    expected = np.zeros((2, 2), dtype=bool)
    expected[int(y // 8), int(x // 8)] = True
    assert np.array_equal(fine, expected)
    wide = tokens_of_object(truth, range(7, 8), (4, 4))
    assert wide[int(y // 4), int(x // 4)]
    assert 4 <= wide.sum() <= 9, "with its neighbours"
    assert tokens_of_object([truth[1]], range(7, 8), (2, 2)) is None, "it is not in world B"
    truth[0].state["image_position"][7, 0] = (SIZE - 1, 1)
    assert tokens_of_object(truth, range(7, 8), (2, 2)).tolist() == [[False, True], [False, False]]
    truth[0].state["image_position"][7, 0] = (SIZE + 1, 3)
    assert tokens_of_object(truth, range(7, 8), (2, 2)) is None, "it is outside the picture"
    truth[0].state["tracked"] = np.array(-1, dtype=np.float32)
    assert tokens_of_object(truth, range(8, 9), (2, 2)) is None, "no single object is tracked"


@pytest.mark.parametrize("right", [True, False])
def test_surprise_peaks_in_space_where_the_object_should_be(right: bool) -> None:
    truth = [square_clip(present, 3)[1] for present in (True, False)]
    x, y = truth[0].state["image_position"][8, 0]
    token = int(y // 8) * 2 + int(x // 8)
    errors = np.ones((4, FRAMES - 1, 4))
    errors[:, 1, :] = 9.0  # long before the violation
    # At the violation, in the possible clips as well.
    errors[:, 7, (token + 1) % 4] = 5.0
    errors[2, 7, token if right else 3 - token] += 1.0
    errors[3, 7, token] += 0.2
    found = peak_places(errors, truth, 8, (0, 1), 1, (2, 2))
    assert found[:, 0].tolist() == [float(right), 1.0]
    assert 0.2 < found[0, 1] < 0.55, "one token of four, at each of three steps"
    flat = peak_places(np.ones((4, FRAMES - 1, 4)), truth, 8, (0, 1), 1, (2, 2))
    assert flat[:, 0].tolist() == flat[:, 1].tolist(), "a scorer that says nothing is at chance"
    assert np.isnan(peak_places(errors, truth, None, (0, 1), 1, (2, 2))).all()


def test_space_is_scored_for_levels_of_several_tokens_alone() -> None:
    scores = score_blocks(small_hierarchy(), [block(0)], CPU, context_frames=())
    assert set(scores.space) == {(0, 1), (0, 2), (1, 1)}
    section = headline_section(
        score_blocks(small_hierarchy(), [block(0)], CPU), chosen_at(scores, (1, 1)), [1, 2, 4]
    )
    assert 0 <= section["reveal"]["peak_space"]["hit_rate"] <= 1
    coarse = headline_section(
        score_blocks(small_hierarchy(), [block(0)], CPU), chosen_at(scores, (2, 1)), [1, 2, 4]
    )
    assert "peak_space" not in coarse["reveal"]


def chosen_at(scores: BlockScores, place: tuple[int, int]) -> Choice:
    return replace(at(place), spreads=spreads_of(scores.curves))


def test_rows_of_no_single_object_have_no_place_to_peak() -> None:
    one = block(0)
    for truth in one.truth:
        truth.state["tracked"] = np.array(-1, dtype=np.float32)
    scores = score_blocks(small_hierarchy(), [one], CPU)
    entry = headline_section(scores, chosen_at(scores, (0, 1)), [1, 2, 4])["reveal"]
    assert "no single object" in entry["peak_space"]["absent"]


def test_a_whole_report_holds_finite_numbers_alone() -> None:
    torch.manual_seed(0)
    blocks = [block(seed, kind) for seed, kind in enumerate(["reveal", "gravity"] * 2)]
    val = score_blocks(small_hierarchy(), blocks, CPU)
    choice = choose(val, [1, 2, 4])
    test = score_blocks(
        small_hierarchy(), blocks, CPU, untrained=(small_hierarchy(seed=1),), choice=choice
    )

    def check(value: object) -> None:
        if isinstance(value, dict):
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert type(value) in (int, float, str, bool), value
            assert not isinstance(value, float) or np.isfinite(value)

    check(surprise_sections(test, choice, [1, 2, 4]))
