"""A rollout runs on its own predictions, and slow levels take the same gap in fewer steps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planted_states import is_blind, observation
from square_world import FPS, FRAMES, footage

from worldmodel.evaluation.network import levels_of
from worldmodel.evaluation.probes.observe import MODEL, Observation
from worldmodel.evaluation.probes.rollout import (
    AheadAnswers,
    RolloutAnswers,
    Route,
    ahead_section,
    answer_ahead,
    answer_rollouts,
    mflops,
    roll_out,
    rollout_section,
    routes_to,
    start_frame,
    token_heads,
)
from worldmodel.evaluation.probes.samples import Samples
from worldmodel.evaluation.probes.whereabouts import fit_whereabouts
from worldmodel.models.hierarchy import Hierarchy, LevelPrediction

SPANS = [1, 2]


class Mover:
    """Tokens are positions in two dimensions; the predictor adds a fixed step per frame."""

    steps_are_local = True

    def __init__(self, step: float, coarse_step: float) -> None:
        shared = {"width": 1, "dim": 2, "num_tokens": 1, "grid": (1, 1)}
        self.levels = [
            SimpleNamespace(span=1, horizons=(1, 4), **shared),
            SimpleNamespace(span=2, horizons=(1, 2), **shared),
        ]
        self.steps = (torch.tensor([step, 0.0]), torch.tensor([coarse_step, 0.0]))

    def encode(self, frames: torch.Tensor) -> list[torch.Tensor]:
        raise AssertionError("nothing is encoded here")

    def predict(self, tokens: list[torch.Tensor]) -> list[LevelPrediction]:
        return [
            LevelPrediction(values, {h: values + h * level.span * step for h in level.horizons})
            for level, values, step in zip(self.levels, tokens, self.steps, strict=True)
        ]


def places(clip: object, track: object, frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(track.position[frames]).float()


def seen_by(model: Mover, count: int, first: int) -> Observation:
    """Clips whose tokens are the places, and what the model predicts from them."""
    clips = [footage(first + n) for n in range(count)]
    seen = observation(clips, is_blind, places)
    position = torch.from_numpy(np.stack([track.position for track in seen.tracks])).float()
    tokens = [position[:, :, None], position[:, 1::2, None]]
    predictions = model.predict(tokens)
    seen.outputs[MODEL] = (
        tokens,
        [each.context for each in predictions],
        [each.predicted for each in predictions],
    )
    return seen


@pytest.fixture(scope="module")
def heads() -> dict:
    splits = [
        Samples.of(seen_by(Mover(0.0, 0.0), count, first), SPANS, FPS, FRAMES)
        for count, first in ((12, 0), (8, 100))
    ]
    return token_heads(fit_whereabouts(*splits, seed=0))


def test_the_slowest_level_that_fits_is_taken_in_its_largest_steps() -> None:
    levels = [
        SimpleNamespace(span=span, horizons=horizons, width=1, dim=2, num_tokens=1, grid=(1, 1))
        for span, horizons in ((1, (1, 2, 4, 8)), (2, (1, 2, 4)), (4, (1, 2)))
    ]
    assert routes_to(levels, 8) == {
        "fine_rollout": Route(0, 1, 8),
        "fine_direct": Route(0, 8, 1),
        "level1_direct": Route(1, 4, 1),
        "coarse_direct": Route(2, 2, 1),
    }
    assert routes_to(levels, 16)["coarse_direct"] == Route(2, 2, 2)
    assert routes_to(levels, 2)["coarse_direct"] == Route(1, 1, 1)
    assert routes_to(levels[:1], 8) == {}


def test_half_of_a_clip_is_seen_before_anything_is_asked() -> None:
    assert start_frame(32, 4, (4, 8, 16, 32)) == (15, [4, 8, 16])
    assert start_frame(64, 4, (4, 8, 16, 32)) == (31, [4, 8, 16, 32])
    assert start_frame(6, 4, (4,)) == (3, [])


@pytest.mark.parametrize("horizon", [1, 4])
def test_rollout_adds_up_its_own_predictions_and_ignores_the_future(horizon: int) -> None:
    tokens = torch.randn(2, 16, 1, 2, generator=torch.Generator().manual_seed(0))
    spoiled = tokens.clone()
    spoiled[:, 4:] = 1e6
    model = Mover(0.5, 0.5)
    rolled = roll_out(model, [spoiled, tokens[:, 1::2]], Route(0, horizon, 8 // horizon), start=3)
    assert rolled.shape == (2, 8, 1, 2)
    assert rolled.abs().max() < 1e3
    if horizon == 1:
        expected = tokens[:, 3:4] + 0.5 * torch.arange(1, 9)[:, None, None] * torch.tensor([1, 0])
        assert torch.allclose(rolled, expected)
    else:  # the next step by the horizon of 1, those after it by that of 4 from earlier ones
        assert torch.allclose(rolled[:, 0], tokens[:, 3] + torch.tensor([0.5, 0]))
        assert torch.allclose(rolled[:, 1], tokens[:, 1] + torch.tensor([2.0, 0]))
        assert torch.allclose(rolled[:, 3], tokens[:, 3] + torch.tensor([2.0, 0]))
        assert torch.allclose(rolled[:, 7], tokens[:, 3] + torch.tensor([4.0, 0]))


def test_errors_are_those_of_each_route_in_pixels(heads: dict) -> None:
    """The squares move 0.6 to 0.9 px a frame: who predicts no motion is off by 4 frames of it."""
    model = Mover(0.75, 0.0)
    seen = seen_by(model, 60, 200)
    start, _ = start_frame(FRAMES, 2, (4,))
    for track in seen.tracks:  # in view 4 frames after the start
        track.visible[start + 4] = track.inside[start + 4]
    section = rollout_section(model, answer_rollouts(model, heads, seen), FRAMES)["gap4"]
    assert (section["level"], section["horizon"]) == (1, 2)
    speeds = [np.diff(track.position[:, 0])[0] for track in seen.tracks if track.visible[start + 4]]
    assert section["num_frames"] == len(speeds)
    # Half, since the other axis is right.
    assert section["copy"] == pytest.approx(np.mean(speeds) * 4 / 2, rel=0.02)
    assert section["coarse_direct"] == pytest.approx(section["copy"], rel=0.02)
    off = np.abs(np.array(speeds) - 0.75).mean() * 4 / 2
    assert section["fine_rollout"] == pytest.approx(off, rel=0.1)
    assert section["fine_direct"] == pytest.approx(off, rel=0.1)
    assert (section["fine_rollout_runs"], section["coarse_direct_runs"]) == (4, 1)
    # Level 1 predicts no motion, and is further off than level 0: it saves less than nothing.
    lost = 1 - section["coarse_direct"] / section["fine_rollout"]
    assert section["coarse_direct_gain"] == pytest.approx(lost)
    low, high = section["coarse_direct_ci95_gain"]
    assert low < lost < high < 0
    assert section["fine_direct_gain"] == pytest.approx(0, abs=0.01)


def test_places_are_read_from_predictions_at_every_horizon(heads: dict) -> None:
    model = Mover(0.75, 0.0)
    answers = AheadAnswers()
    for first in (200, 220):
        answers.merge(answer_ahead(model.levels, heads, seen_by(model, 20, first)))
    section = ahead_section(answers, model.levels)
    fine, coarse = section["level0"]["h4"], section["level1"]["h2"]
    assert fine["horizon_frames"] == coarse["horizon_frames"] == 4
    # Who knows the mean speed is nearer than who copies; who predicts no motion is not.
    assert fine["mae_px"] < 0.5 * fine["null"]["copy"]["mae_px"]
    assert coarse["mae_px"] == pytest.approx(coarse["null"]["copy"]["mae_px"], rel=0.02)
    assert fine["real_tokens"]["r2"] > 0.99
    assert fine["num_clips"] == 40
    assert section["level0"]["h1"]["mae_px"] < fine["mae_px"]


def test_the_dearer_route_is_said_to_be_so() -> None:
    torch.manual_seed(0)
    from worldmodel.models.encoder import EncoderConfig
    from worldmodel.models.hierarchy import LevelConfig

    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2}
    model = Hierarchy(
        EncoderConfig(size=16, stem_channels=(8,), depth=1, num_heads=2),
        [
            LevelConfig(horizons=(1, 2), stride=1, **narrow),
            LevelConfig(horizons=(1, 2), stride=2, pool=2, **narrow),
        ],
    )
    routes = routes_to(levels_of(model), 4)
    fine, coarse = (mflops(model, routes[name], 7) for name in ("fine_rollout", "coarse_direct"))
    assert fine > 4 * coarse > 0


def test_nothing_is_reported_without_a_slow_level_or_an_object(heads: dict) -> None:
    model = Mover(1.0, 1.0)
    assert rollout_section(model, RolloutAnswers(), FRAMES) == {}
    assert ahead_section(AheadAnswers(), model.levels) == {}
    gone = seen_by(model, 3, 0)
    for track in gone.tracks:
        track.visible[:] = False
    assert answer_rollouts(model, heads, gone).true == {}
    model.levels = model.levels[:1]
    assert answer_rollouts(model, heads, seen_by(Mover(1.0, 1.0), 3, 0)).true == {}
