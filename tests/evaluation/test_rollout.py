"""A rollout runs on its own predictions, and slow levels take the same gap at once."""

import numpy as np
import pytest
import torch
from square_world import FRAMES, footage

from worldmodel.evaluation.objects import ObjectSamples
from worldmodel.evaluation.rollout import direct_routes, roll_out, rollout_section, start_frames
from worldmodel.models.hierarchy import Hierarchy, LevelPrediction


class Mover(Hierarchy):
    """Tokens are positions in two dimensions; the predictor adds a fixed step per frame."""

    def __init__(self, step: float, coarse_step: float) -> None:
        from types import SimpleNamespace

        torch.nn.Module.__init__(self)
        shared = {"width": 1, "dim": 2, "num_tokens": 1, "grid": (1, 1)}
        self.levels = [
            SimpleNamespace(span=1, horizons=(1,), **shared),
            SimpleNamespace(span=2, horizons=(1, 2), **shared),
        ]
        self.steps = (torch.tensor([step, 0.0]), torch.tensor([coarse_step, 0.0]))

    def predict(self, tokens: list[torch.Tensor]) -> list[LevelPrediction]:
        return [
            LevelPrediction(
                values,
                {h: values + h * level.span * step for h in level.horizons},
            )
            for level, values, step in zip(self.levels, tokens, self.steps, strict=True)
        ]


def samples(count: int, first: int) -> ObjectSamples:
    found = ObjectSamples([1, 2], 8.0)
    for n in range(count):
        clip = footage(first + n)
        places = found.add_truth([clip])
        position = torch.from_numpy(found.tracks[-1].position).float()
        tokens = [position[None, :, None], position[None, 1::2, None]]
        found.add_context("tokens", tokens, places)
    return found


def test_slowest_level_is_taken_for_each_gap() -> None:
    routes = direct_routes([1, 2, 4], [(1, 2, 4, 8), (1, 2, 4), (1, 2)])
    assert routes == {4: (2, 1), 8: (2, 2)}
    assert direct_routes([1], [(1, 8)]) == {}


def test_starts_end_a_step_and_leave_room() -> None:
    assert start_frames(32, 4, 8) == [19, 23]
    assert start_frames(8, 4, 8) == []


def test_rollout_adds_up_its_own_predictions_and_ignores_the_future() -> None:
    tokens = torch.randn(2, 10, 1, 2, generator=torch.Generator().manual_seed(0))
    spoiled = tokens.clone()
    spoiled[:, 4:] = 1e6
    model = Mover(0.5, 0.5)
    rolled = roll_out(model, [spoiled, tokens[:, 1::2]], start=3, gap=4)
    expected = tokens[:, 3:4] + 0.5 * torch.arange(1, 5)[:, None, None] * torch.tensor([1.0, 0])
    assert torch.allclose(rolled, expected)


def test_errors_are_those_of_each_route_in_pixels() -> None:
    """The squares move 0.6 to 0.9 px a frame: who predicts no motion is off by 4 frames of it."""
    splits = samples(12, 0), samples(8, 100), samples(10, 200)
    right = rollout_section(Mover(0.75, 0.0), splits, torch.device("cpu"))["gap4"]
    assert (right["level"], right["horizon"]) == (1, 2)
    tracks = splits[2].tracks
    speeds = [np.diff(track.position[:, 0])[0] for track in tracks]
    used = [
        speed
        for speed, track in zip(speeds, tracks, strict=True)
        for start in start_frames(FRAMES, 2, 4)
        if track.visible[start] & track.visible[start + 4]
    ]
    assert right["num_frames"] == len(used)
    assert right["copy"] == pytest.approx(np.mean(np.abs(used)) * 4 / 2, rel=0.02)
    assert right["coarse_direct"] == pytest.approx(right["copy"], rel=0.01)
    off = np.abs(np.array(used) - 0.75).mean() * 4 / 2
    assert right["fine_rollout"] == pytest.approx(off, rel=0.1)


def test_nothing_is_reported_without_a_slow_level_or_an_object() -> None:
    splits = tuple(ObjectSamples([1, 2], 8.0) for _ in range(3))
    assert rollout_section(Mover(1.0, 1.0), splits, torch.device("cpu")) == {}
