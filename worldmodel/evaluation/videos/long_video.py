"""Surprise over time on a video of any length, by overlapping windows of the clips' length.

A model is used as it was trained: it never sees more frames at once than its clips had. Window k
starts at frame k x hop, a multiple of the slowest level's span and at most half a window, and
counts the steps that no window before it contains. So every step is scored once, all but those of
the first window with at least half a window of past, and by a window that its own place in the
video determines: neither what comes later nor the length of the video changes its score.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.network import (
    CHUNK,
    LevelShape,
    Network,
    Place,
    chunked,
    levels_of,
    run_chunk,
)
from worldmodel.evaluation.scores import token_distances


@dataclass(frozen=True)
class SurpriseCurve:
    """Surprise at one place over a video, one entry for each predicted step in order of time.

    Attributes:
        frames: int64 `(S,)`, last frame of the step, counted from the video's first.
        values: float64 `(S,)`, distance of predicted tokens from what came, mean over tokens.
        maps: float64 `(S, rows, columns)`, the distance of each token.
        copied: float64 `(S,)`, as `values` for the copy predictor, which says that the step will be
            as the one `horizon` steps before it.
    """

    frames: np.ndarray
    values: np.ndarray
    maps: np.ndarray
    copied: np.ndarray


@dataclass(frozen=True)
class WindowPlan:
    """How a model's windows lie over a video.

    Attributes:
        window: frames per window, a multiple of the slowest level's span.
        hop: frames from one window's start to the next one's, a multiple of it too.
        places: levels and horizons that have a prediction for every step of a long video.
    """

    window: int
    hop: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class StateWindows:
    """How windows lie over a video for context states.

    Attributes:
        window: frames the model sees at once, its clips' length in whole steps of every level.
        hop: frames from one window's start to the next one's.
    """

    window: int
    hop: int

    @classmethod
    def of(cls, levels: Sequence[LevelShape], num_frames: int) -> "StateWindows":
        """Windows that overlap by half, or by more where half is no whole step of every level.

        Args:
            levels: of the model.
            num_frames: of its clips.
        """
        slowest = max(level.span for level in levels)
        window = max(slowest, num_frames - num_frames % slowest)
        return cls(window, max(slowest, window // 2 // slowest * slowest))

    def starts(self, num_frames: int) -> range:
        """First frames of the windows of a video; each holds a frame that none before it does."""
        return range(0, max(1, num_frames - (self.window - self.hop)), self.hop)

    def past_frames(self, num_frames: int, span: int) -> np.ndarray:
        """How many frames the state of each step of a level has seen, `(num_frames // span,)`."""
        ends = (np.arange(num_frames // span) + 1) * span
        # The first window that holds a step: the one in whose last hop it lies, or window 0.
        number = np.maximum(0, -(-(ends - self.window) // self.hop))
        return ends - number * self.hop


@dataclass(frozen=True)
class _Window:
    """The frames of one window, `(n, C, H, W)`, fewer than a whole one at the video's end."""

    start: int
    frames: Tensor


def plan_windows(levels: Sequence[LevelShape], window: int) -> WindowPlan:
    """Windows that overlap by half, or by more where a horizon is longer than half a window.

    Args:
        levels: of the model.
        window: frames that the model was trained on; those that fill no step of the slowest level
            are left out.

    Raises:
        InputError: the window is too short for any prediction, or the model predicts nothing.
    """
    if not any(level.horizons for level in levels):
        raise InputError(
            "this model predicts nothing, so nothing can surprise it; give one with horizons"
        )
    slowest = max(level.span for level in levels)
    whole = window - window % slowest
    reaches = {
        (number, horizon): horizon * level.span
        for number, level in enumerate(levels)
        for horizon in level.horizons
        if (horizon + 1) * level.span <= whole
    }
    if not reaches:
        raise InputError(
            f"windows of {window} frames are too short for any prediction of this model; it needs "
            f"{_least_frames(levels)} frames, and at least {slowest} for its slowest level"
        )
    room = min(whole // 2, whole - max(reaches.values()))
    hop = max(slowest, room - room % slowest)
    # The first step that a later window adds must have a step `horizon` before it in that window.
    places = tuple(place for place, reach in reaches.items() if reach <= whole - hop)
    return WindowPlan(whole, hop, places)


def stream_surprise(
    network: Network, frames: Iterable[Tensor], window: int, device: torch.device
) -> Iterator[dict[Place, SurpriseCurve]]:
    """Surprise over a video that is read once, from its first frame to its last.

    No more than the frames of `CHUNK` windows are held at a time.

    Args:
        network: the model.
        frames: uint8 `(3, size, size)` each, at the rate of the model's clips.
        window: frames of the clips that the model was trained on.
        device: where the model is.

    Yields:
        The next steps of each place that has any; `join_curves` puts them together.

    Raises:
        InputError: the video is too short for any prediction, or `plan_windows` refuses the model.
    """
    levels = levels_of(network)
    plan = plan_windows(levels, window)
    num_frames, any_fits = 0, False
    for chunk in chunked(_windows(frames, plan), CHUNK):
        piece = _score_chunk(network, chunk, plan, device)
        num_frames = chunk[-1].start + len(chunk[-1].frames)
        any_fits |= bool(piece)
        if piece:
            yield piece
    if not any_fits:
        raise InputError(
            f"the video has {num_frames} frames at the model's rate, but its shortest prediction "
            f"needs {_least_frames(levels)}; give a longer video"
        )


def curve_at(
    shape: LevelShape,
    tokens: Tensor,
    guess: Tensor,
    horizon: int,
    steps: np.ndarray,
    start: int = 0,
) -> SurpriseCurve:
    """Surprise at some steps of a clip that the model saw at once.

    Args:
        shape: of the level.
        tokens: `(T_l, N_l, D_l)`.
        guess: of the same shape, entry τ for step τ + `horizon`.
        horizon: steps ahead.
        steps: which, each at least `horizon`.
        start: the clip's first frame in its video.
    """
    own = tokens.double()
    # Of the whole clip, whichever of its steps count, so that sums are always of the same shape.
    end = len(own) - horizon
    surprise = token_distances(guess[:end], own[horizon:])
    copied = token_distances(own[:end], own[horizon:])
    rows = steps - horizon
    return SurpriseCurve(
        frames=start + (steps + 1) * shape.span - 1,
        values=surprise.mean(1)[rows],
        maps=surprise[rows].reshape(len(rows), *shape.grid),
        copied=copied.mean(1)[rows],
    )


def join_curves(pieces: Iterable[dict[Place, SurpriseCurve]]) -> dict[Place, SurpriseCurve]:
    """Pieces of curves in order of time -> whole curves, by level and horizon."""
    parts: dict[Place, list[SurpriseCurve]] = {}
    for piece in pieces:
        for place, curve in piece.items():
            parts.setdefault(place, []).append(curve)
    return {
        place: SurpriseCurve(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts[place]])
                for field in fields(SurpriseCurve)
            }
        )
        for place in sorted(parts)
    }


def surprise_over_video(
    network: Network,
    frames: UInt8[Tensor, "time 3 height width"],
    window: int,
    device: torch.device,
) -> dict[Place, SurpriseCurve]:
    """Surprise at every level and horizon over a video in memory; see `stream_surprise`.

    Where the video is shorter than a window, the places whose horizon fits into it are given. The
    last frames that fill no step of a level are left out for that level alone.

    Args:
        network: the model.
        frames: at the rate and size of the model's clips.
        window: frames of the clips that the model was trained on.
        device: where the model is.

    Raises:
        InputError: the video is too short for any prediction.
    """
    return join_curves(stream_surprise(network, frames, window, device))


def _least_frames(levels: Sequence[LevelShape]) -> int:
    """Frames that the shortest prediction of any level spans."""
    return min((min(level.horizons) + 1) * level.span for level in levels if level.horizons)


def _windows(frames: Iterable[Tensor], plan: WindowPlan) -> Iterator[_Window]:
    """The windows of a video; the last one may have fewer frames, but always a new one."""
    start, held = 0, []
    for frame in frames:
        held.append(frame)
        if len(held) == plan.window:
            yield _Window(start, torch.stack(held))
            held = held[plan.hop :]
            start += plan.hop
    if len(held) > (plan.window - plan.hop if start else 0):
        yield _Window(start, torch.stack(held))


def _whole_window(frames: Tensor, num_frames: int) -> Tensor:
    """Repeat the last frame up to `num_frames`; no step before the repeats depends on them."""
    missing = num_frames - len(frames)
    return torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])


def _score_chunk(
    network: Network, chunk: list[_Window], plan: WindowPlan, device: torch.device
) -> dict[Place, SurpriseCurve]:
    """What at most `CHUNK` windows add to the curves."""
    levels = levels_of(network)
    clips = [_whole_window(each.frames, plan.window) for each in chunk]
    tokens, _, predicted = run_chunk(network, clips, device)
    pieces: list[dict[Place, SurpriseCurve]] = []
    for number, each in enumerate(chunk):
        piece: dict[Place, SurpriseCurve] = {}
        for level, horizon in plan.places:
            shape = levels[level]
            known = (plan.window - plan.hop) // shape.span if each.start else 0
            steps = np.arange(max(horizon, known), len(each.frames) // shape.span)
            if not len(steps):
                continue
            guess = predicted[level][horizon][number]
            own = tokens[level][number]
            piece[level, horizon] = curve_at(shape, own, guess, horizon, steps, each.start)
        pieces.append(piece)
    return join_curves(pieces)
