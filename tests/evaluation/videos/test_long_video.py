"""Every step of a long video is scored once, by its own window, and by nothing that comes later."""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.network import CHUNK
from worldmodel.evaluation.videos.long_video import (
    SurpriseCurve,
    join_curves,
    plan_windows,
    stream_surprise,
    surprise_over_video,
)
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig, LevelPrediction

CPU = torch.device("cpu")
WINDOW = 16


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    """Three levels of spans 1, 2 and 4 that predict something."""
    torch.manual_seed(0)
    narrow = {"dim": 8, "width": 8, "depth": 1, "num_heads": 2}
    levels = [
        LevelConfig(horizons=(1, 4), stride=1, **narrow),
        LevelConfig(horizons=(1, 2), stride=2, **narrow),
        LevelConfig(horizons=(1,), stride=2, **narrow),
    ]
    model = Hierarchy(EncoderConfig(size=16, stem_channels=(8,), depth=1, num_heads=2), levels)
    model.reset_heads()
    return model.eval().requires_grad_(False)


def noise(num_frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 3, 16, 16), generator=generator, dtype=torch.uint8)


class Corners:
    """Its tokens are the brightness of the frame's four quarters, averaged over a step.

    Args:
        spans: frames per step of each level.
        horizons: of each level.
        counts: predict how many steps have been seen instead of the tokens at τ.
    """

    steps_are_local = True

    def __init__(
        self, spans: Sequence[int], horizons: Sequence[Sequence[int]], counts: bool = False
    ) -> None:
        self.counts = counts
        self.levels = [
            SimpleNamespace(span=span, grid=(2, 2), num_tokens=4, horizons=own, dim=1, width=1)
            for span, own in zip(spans, horizons, strict=True)
        ]

    def encode(self, frames: Tensor) -> list[Tensor]:
        bright = frames[:, :, 0, ::8, ::8].float().flatten(2) / 255
        return [
            bright[:, : bright.shape[1] // level.span * level.span]
            .unflatten(1, (-1, level.span))
            .mean(2)[..., None]
            for level in self.levels
        ]

    def predict(self, tokens: Sequence[Tensor]) -> list[LevelPrediction]:
        predictions = []
        for level, own in zip(self.levels, tokens, strict=True):
            seen = torch.arange(1, own.shape[1] + 1).view(1, -1, 1, 1).expand_as(own).float()
            guess = seen if self.counts else own
            predictions.append(LevelPrediction(own, dict.fromkeys(level.horizons, guess)))
        return predictions


def same(one: SurpriseCurve, other: SurpriseCurve, steps: int) -> bool:
    """Whether the first steps of both are equal to the bit."""
    return all(
        np.array_equal(getattr(one, name)[:steps], getattr(other, name)[:steps])
        for name in ("frames", "values", "maps", "copied")
    )


def test_a_video_of_one_window_is_scored_as_a_clip(hierarchy: Hierarchy) -> None:
    frames = noise(WINDOW)
    curves = surprise_over_video(hierarchy, frames, WINDOW, CPU)
    tokens = hierarchy.encode(frames[None])
    assert list(curves) == [(0, 1), (0, 4), (1, 1), (1, 2), (2, 1)]
    for level, prediction in enumerate(hierarchy.predict(tokens)):
        for horizon, guess in prediction.predicted.items():
            curve = curves[level, horizon]
            own, guessed = tokens[level][0].double(), guess[0].double()
            for found, expected in ((curve.values, guessed), (curve.copied, own)):
                wanted = [
                    float((expected[step - horizon] - own[step]).square().mean(1).sqrt().mean())
                    for step in range(horizon, len(own))
                ]
                np.testing.assert_allclose(found, wanted, rtol=1e-5)
            span = hierarchy.levels[level].span
            assert curve.frames.tolist() == list(range((horizon + 1) * span - 1, WINDOW, span))


@pytest.mark.parametrize("num_frames", [5, 15, 16, 17, 24, 25, 31, 83, 16 + 8 * CHUNK])
def test_every_step_is_scored_once(hierarchy: Hierarchy, num_frames: int) -> None:
    curves = surprise_over_video(hierarchy, noise(num_frames), WINDOW, CPU)
    for number, level in enumerate(hierarchy.levels):
        for horizon in level.horizons:
            first = (horizon + 1) * level.span - 1
            wanted = list(range(first, num_frames, level.span))
            found = curves[number, horizon].frames.tolist() if (number, horizon) in curves else []
            assert found == wanted


def test_a_score_depends_on_no_later_frame_nor_on_the_length(hierarchy: Hierarchy) -> None:
    frames = noise(WINDOW + 8 * (CHUNK + 2))
    whole = surprise_over_video(hierarchy, frames, WINDOW, CPU)
    for num_frames in (13, 30, 70):
        part = surprise_over_video(hierarchy, frames[:num_frames], WINDOW, CPU)
        other = torch.cat([frames[:num_frames], noise(50, seed=1)])
        changed = surprise_over_video(hierarchy, other, WINDOW, CPU)
        for place, curve in part.items():
            steps = len(curve.frames)
            assert steps and same(curve, whole[place], steps)
            assert same(curve, changed[place], steps)


def test_a_later_window_is_scored_as_if_it_were_alone(hierarchy: Hierarchy) -> None:
    frames = noise(WINDOW + 8 * (CHUNK + 1))
    curves = surprise_over_video(hierarchy, frames, WINDOW, CPU)
    for start in (8, 8 * (CHUNK + 1)):
        alone = surprise_over_video(hierarchy, frames[start : start + WINDOW], WINDOW, CPU)
        for place, curve in alone.items():
            new = curve.frames >= WINDOW // 2
            here = np.isin(curves[place].frames, curve.frames[new] + start)
            assert np.array_equal(curves[place].frames[here], curve.frames[new] + start)
            np.testing.assert_allclose(curves[place].values[here], curve.values[new], rtol=1e-5)
            np.testing.assert_allclose(curves[place].copied[here], curve.copied[new], rtol=1e-5)


def test_steps_of_later_windows_have_half_a_window_of_past() -> None:
    model = Corners((1, 2), ((1, 3), (1,)), counts=True)
    black = torch.zeros(57, 3, 16, 16, dtype=torch.uint8)
    for (level, horizon), curve in surprise_over_video(model, black, WINDOW, CPU).items():
        span = model.levels[level].span
        # What is predicted is the number of steps up to τ, and the truth is 0.
        past = (curve.values.round().astype(int) + horizon - 1) * span
        first = curve.frames < WINDOW
        assert np.array_equal(past[first], curve.frames[first] - span + 1)
        assert past[~first].min() == WINDOW // 2
        assert past.max() == WINDOW - span


def test_the_map_shows_where_the_surprise_is() -> None:
    frames = torch.zeros(40, 3, 16, 16, dtype=torch.uint8)
    frames[29:, :, 8:, :8] = 255
    curves = surprise_over_video(Corners((1, 2), ((1, 2), (1,))), frames, WINDOW, CPU)
    for horizon in (1, 2):
        curve = curves[0, horizon]
        hit = np.isin(curve.frames, range(29, 29 + horizon))
        assert np.array_equal(curve.maps[hit], [[[0, 0], [1, 0]]] * horizon)
        assert not curve.maps[~hit].any()
        assert curve.values.tolist() == (hit / 4).tolist()
    # The step of frames 28 and 29 is half bright.
    slow = curves[1, 1]
    assert slow.values[np.isin(slow.frames, [29, 31])].tolist() == [1 / 8, 1 / 8]
    assert slow.values.sum() == 1 / 4


def test_a_model_that_copies_is_as_surprised_as_the_copy_predictor(hierarchy: Hierarchy) -> None:
    for curve in surprise_over_video(Corners((1,), ((1, 5),)), noise(40), WINDOW, CPU).values():
        assert curve.values.any()
        assert np.array_equal(curve.values, curve.copied)
    for curve in surprise_over_video(hierarchy, noise(40), WINDOW, CPU).values():
        assert not np.allclose(curve.values, curve.copied)


def test_values_are_the_mean_of_their_maps(hierarchy: Hierarchy) -> None:
    for (level, _), curve in surprise_over_video(hierarchy, noise(50), WINDOW, CPU).items():
        assert curve.maps.shape == (len(curve.frames), *hierarchy.levels[level].grid)
        assert curve.values.dtype == curve.maps.dtype == curve.copied.dtype == np.float64
        np.testing.assert_allclose(curve.maps.mean((1, 2)), curve.values, rtol=1e-12)


def test_a_stream_needs_no_more_frames_than_a_chunk_of_windows(hierarchy: Hierarchy) -> None:
    taken = []

    def endless() -> Iterator[Tensor]:
        for frame in chain(noise(30), repeat(noise(1)[0])):
            taken.append(frame.shape)
            yield frame

    stream = stream_surprise(hierarchy, endless(), WINDOW, CPU)
    for number in range(1, 4):
        next(stream)
        assert len(taken) == WINDOW + 8 * (CHUNK * number - 1)


def test_a_stream_gives_the_same_as_the_whole_video(hierarchy: Hierarchy) -> None:
    frames = noise(WINDOW + 8 * CHUNK + 3)
    pieces = list(stream_surprise(hierarchy, iter(frames), WINDOW, CPU))
    assert len(pieces) == 2
    joined, whole = join_curves(pieces), surprise_over_video(hierarchy, frames, WINDOW, CPU)
    for place, curve in whole.items():
        assert same(curve, joined[place], len(curve.frames))
        assert len(curve.frames) == len(joined[place].frames)


def test_a_horizon_beyond_half_a_window_brings_the_windows_closer() -> None:
    model = Corners((1, 4), ((1, 11), (1,)))
    plan = plan_windows(model.levels, WINDOW)
    assert (plan.window, plan.hop) == (WINDOW, 4)
    curves = surprise_over_video(model, noise(61), WINDOW, CPU)
    assert curves[0, 11].frames.tolist() == list(range(11, 61))
    assert curves[0, 1].frames.tolist() == list(range(1, 61))
    assert curves[1, 1].frames.tolist() == list(range(7, 61, 4))


def test_a_place_that_windows_cannot_score_throughout_is_left_out() -> None:
    plan = plan_windows(Corners((1, 4), ((1, 13, 16), (1,))).levels, WINDOW)
    assert plan.places == ((0, 1), (1, 1))


def test_windows_are_whole_steps_of_the_slowest_level() -> None:
    model = Corners((1, 4), ((1,), (1,)))
    plan = plan_windows(model.levels, 19)
    assert (plan.window, plan.hop) == (16, 8)
    curves = surprise_over_video(model, noise(45), 19, CPU)
    assert curves[0, 1].frames.tolist() == list(range(1, 45))
    assert curves[1, 1].frames.tolist() == list(range(7, 45, 4))


def test_what_cannot_be_scored_is_refused_in_words(hierarchy: Hierarchy) -> None:
    with pytest.raises(InputError, match=r"has 1 frames .* needs 2; give a longer video"):
        surprise_over_video(hierarchy, noise(1), WINDOW, CPU)
    with pytest.raises(InputError, match="has 0 frames"):
        list(stream_surprise(hierarchy, iter(()), WINDOW, CPU))
    with pytest.raises(InputError, match=r"windows of 3 frames are too short"):
        surprise_over_video(hierarchy, noise(20), 3, CPU)
    with pytest.raises(InputError, match="predicts nothing"):
        surprise_over_video(Corners((1,), ((),)), noise(20), WINDOW, CPU)
    with pytest.raises(InputError, match="frames of 16 x 16"):
        frames = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
        surprise_over_video(hierarchy, frames, WINDOW, CPU)
