"""Probes of whole steps find what is planted, count the right frames, and stand beside nulls."""

import numpy as np
import pytest
import torch
from planted_states import SPANS, is_blind, knows, observation, samples
from square_world import FPS, FRAMES, footage

from worldmodel.evaluation.probes.observe import CONTEXT, TOKENS
from worldmodel.evaluation.probes.samples import Samples
from worldmodel.evaluation.probes.whereabouts import (
    Answers,
    Whereabouts,
    answer,
    by_frames_hidden,
    camera_section,
    fit_whereabouts,
    position_section,
    velocity_section,
)

Fitted = tuple[Whereabouts, Answers, Samples]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    train, val, test = samples(30, 0, knows), samples(12, 100, knows), samples(15, 200, knows)
    found = fit_whereabouts(train, val, seed=0)
    return found, answer(found, test), test


@pytest.mark.parametrize("part", ["visible", "hidden"])
def test_a_planted_position_is_decoded_and_nothing_from_noise(part: str, fitted: Fitted) -> None:
    found, answers, test = fitted
    section = position_section(found, answers, part)
    assert section["r2"] > 0.999
    assert section["mae_px"] < 0.1
    assert section["null"]["untrained"]["r2"] < 0.3
    assert section["ci95_r2"][0] <= section["r2"] <= section["ci95_r2"][1]
    level = section["level"]
    assert section["by_level"]["context"][f"level{level}"]["r2"] == section["r2"]
    # A single step of something else says nothing about what is hidden, and is not asked.
    tokens = section["by_level"].get("tokens")
    assert tokens is None if part == "hidden" else tokens["level0"]["r2"] < 0.3
    assert section["num_frames"] == test.mask(part, level).sum()
    # 10 of 15 test clips have a square; hidden for 6 frames each, of which every second is asked.
    if part == "hidden":
        assert (section["num_frames"], section["num_clips"]) == (30, 10)


def test_nulls_know_the_past_places_and_no_more(fitted: Fitted) -> None:
    hidden = position_section(*fitted[:2], "hidden")["null"]
    assert hidden["constant_velocity"]["r2"] == pytest.approx(1, abs=1e-6)
    assert hidden["copy_last_seen"]["mae_px"] > 0.5
    assert hidden["copy_last_seen"]["r2"] < 1


def test_all_labels_are_the_headline_and_few_are_not_better(fitted: Fitted) -> None:
    section = position_section(*fitted[:2], "visible")
    curve = section["data_efficiency"]
    assert curve["percent100"]["r2"] == section["r2"]
    assert curve["percent100"]["untrained_r2"] == section["null"]["untrained"]["r2"]
    assert curve["percent10"]["r2"] <= curve["percent100"]["r2"] + 1e-3
    # One clip of twenty stands for a hundredth of them, as near as it gets.
    assert set(curve) == {"percent1", "percent10", "percent100"}


def test_velocity_is_in_pixels_per_second(fitted: Fitted) -> None:
    found, answers, test = fitted
    speed = test.velocities(0)[test.mask("visible", 0)][:, 0]
    assert speed.min() >= 0.6 * 8 and speed.max() <= 0.9 * 8 + 1e-3
    section = velocity_section(found, answers)
    assert section["r2"] > 0.99
    assert section["null"]["untrained"]["r2"] < 0.3
    assert section["mae_px_per_second"] < 0.2
    # It moves on behind the screen as before, and the planted state knows it.
    assert section["hidden"]["r2"] > 0.99
    assert section["hidden"]["num_clips"] == 10
    assert "absent" in section["partly"]


def test_a_camera_that_stands_still_is_no_question(fitted: Fitted) -> None:
    section = camera_section(*fitted[:2])
    assert section["r2"] == 0
    assert section["null"]["untrained"]["r2"] == 0


def test_camera_motion_weighs_axes_by_their_spread() -> None:
    """Turning is planted, of a spread a hundredth of that of going, which is noise."""
    generator = np.random.default_rng(0)

    def moved(count: int, first: int) -> Samples:
        clips = [footage(first + n) for n in range(count)]
        seen = observation(clips, is_blind)
        seen.camera[:] = 0
        seen.camera[..., 2] = generator.normal(size=seen.camera.shape[:2])
        seen.camera[..., 4] = 0.01 * generator.normal(size=seen.camera.shape[:2])
        turn = torch.from_numpy(100 * seen.camera[..., 4]).float()
        states = [torch.randn(*each.shape) for each in seen.states[CONTEXT]]
        for span, each in zip(SPANS, states, strict=True):
            frames = np.arange(max(span, 2) - 1, FRAMES, max(span, 2))
            columns = np.flatnonzero((frames + 1) % 4 == 0)
            each[:, columns, 0] = turn
        seen.states[CONTEXT] = states
        return Samples.of(seen, SPANS, FPS, FRAMES)

    found = fit_whereabouts(moved(40, 0), moved(20, 100), seed=0)
    section = camera_section(found, answer(found, moved(20, 200)))
    assert 0.3 < section["r2"] < 0.6
    assert section["null"]["untrained"]["r2"] < 0.1


def test_a_set_without_hidden_frames_says_so_instead_of_failing() -> None:
    def unhidden(count: int, first: int) -> Samples:
        clips = [footage(first + n) for n in range(count)]
        for clip in clips:
            clip.truth.state["visible_fraction"][:] = 1
        return Samples.of(observation(clips, knows), SPANS, FPS, FRAMES)

    found = fit_whereabouts(unhidden(8, 0), unhidden(8, 100), seed=0)
    answers = answer(found, unhidden(8, 200))
    assert "hidden" in position_section(found, answers, "hidden")["absent"]
    assert "r2" in position_section(found, answers, "visible")


def test_clips_that_stream_by_in_parts_give_the_same_answers(fitted: Fitted) -> None:
    found, whole, _ = fitted
    clips = [footage(200 + n, present=n % 3 != 2) for n in range(15)]
    parts = Answers()
    for start in range(0, 15, 4):
        some = observation(clips[start : start + 4], knows)
        parts.merge(answer(found, Samples.of(some, SPANS, FPS, FRAMES)))
    assert parts.num_clips == 15
    for key in whole.clips:
        assert np.array_equal(np.concatenate(whole.clips[key]), np.concatenate(parts.clips[key]))
    one, other = (position_section(found, each, "hidden") for each in (whole, parts))
    assert one["r2"] == pytest.approx(other["r2"], abs=1e-12)
    assert one["num_clips"] == other["num_clips"]


def test_errors_by_frames_hidden_are_those_of_their_rows() -> None:
    lengths = np.repeat([2, 6, 30], 20)
    true = np.zeros((60, 2))
    guess = np.where(lengths[:, None] == 2, 1.0, np.where(lengths[:, None] == 6, 2.0, 5.0)) + true
    table = by_frames_hidden(lengths, guess, {"clock": true}, true)
    assert {name: entry["mae_px"] for name, entry in table.items()} == {
        "frames1to4": 1.0,
        "frames5to8": 2.0,
        "frames9on": 5.0,
    }
    assert table["frames1to4"]["null"] == {"clock": 0.0}
    # Too few rows say nothing.
    assert "frames1to4" not in by_frames_hidden(lengths[15:], guess[15:], {}, true[15:])


def test_tokens_that_know_are_reported_beside_states_that_do_not() -> None:
    blind = [samples(count, first, is_blind, knows) for count, first in ((30, 0), (12, 100))]
    found = fit_whereabouts(*blind, seed=0)
    answers = answer(found, samples(15, 200, is_blind, knows))
    section = position_section(found, answers, "visible")
    assert section["r2"] < 0.3
    assert section["by_level"]["tokens"]["level1"]["r2"] > 0.999
    assert ("visible", TOKENS, 0) in found.probes
