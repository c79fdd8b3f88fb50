"""How far ahead can the object's place be read from what a level predicts?

Linear probes that were fitted on real tokens read the tracked object's place from predicted ones:
at every horizon of every level, and after predictors have run on their own predictions. A slow
level takes one large step where level 0 takes many small ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.evaluation.network import LevelShape, Network, levels_of, predict_level
from worldmodel.evaluation.probes.linear import LinearProbe
from worldmodel.evaluation.probes.objects import Track
from worldmodel.evaluation.probes.observe import MODEL, TOKENS, Observation, device_of
from worldmodel.evaluation.probes.samples import extend
from worldmodel.evaluation.probes.states import asked_steps, flat_states
from worldmodel.evaluation.probes.whereabouts import MIN_ROWS, Whereabouts
from worldmodel.evaluation.scores import (
    bootstrap_groups,
    mean_absolute_error,
    r2_interval,
    r2_score,
)

GAPS = (4, 8, 16, 32)
"""Frames ahead at which routes are compared, as far as a clip reaches."""
HEAD = "visible"


def token_heads(found: Whereabouts) -> dict[int, LinearProbe]:
    """Per level the probe that reads the place of a visible object from a step's real tokens."""
    return {
        level: probe
        for (name, source, level), probe in found.probes.items()
        if name == HEAD and source == TOKENS
    }


# --- Every horizon of every level ----------------------------------------------------------------


@dataclass
class AheadAnswers:
    """Places read from predicted tokens, from the last real ones, and from those that came true.

    Attributes:
        rows: per level and horizon `(n, 8)`: x and y, px, in truth, prediction, copy and real.
        clips: whose rows they are.
    """

    rows: dict[tuple[int, int], list[np.ndarray]] = field(default_factory=dict)
    clips: dict[tuple[int, int], list[np.ndarray]] = field(default_factory=dict)
    num_clips: int = 0

    def merge(self, later: "AheadAnswers") -> None:
        """Take in the answers about the clips that follow."""
        extend(self.rows, later.rows)
        for place, parts in later.clips.items():
            self.clips.setdefault(place, []).extend(part + self.num_clips for part in parts)
        self.num_clips += later.num_clips


def answer_ahead(
    levels: Sequence[LevelShape], heads: Mapping[int, LinearProbe], seen: Observation
) -> AheadAnswers:
    """Read places from what the model predicted of some test clips.

    Asked where the object has been seen by step τ and is in full view at step τ + h.
    """
    answers = AheadAnswers(num_clips=len(seen))
    tokens, _, predicted = seen.outputs[MODEL]
    num_frames = len(seen.tracks[0].visible)
    visible = np.stack([track.visible for track in seen.tracks])
    been_seen = np.logical_or.accumulate(visible, axis=1)
    position = np.stack([track.position for track in seen.tracks])
    for level, shape in enumerate(levels):
        if level not in heads:
            continue
        head, span = heads[level], shape.span
        real = flat_states(tokens[level], shape.grid, np.arange(num_frames // span))
        for horizon in shape.horizons:
            steps = asked_steps(num_frames, span)
            steps = steps[steps + horizon < num_frames // span]
            if not len(steps):
                continue
            now, then = (steps + 1) * span - 1, (steps + horizon + 1) * span - 1
            mask = been_seen[:, now] & visible[:, then]
            clip, column = np.nonzero(mask)
            guessed = flat_states(predicted[level][horizon], shape.grid, steps)
            parts = [
                position[clip, then[column]],
                head(guessed[torch.from_numpy(mask)]),
                head(real[:, torch.from_numpy(steps)][torch.from_numpy(mask)]),
                head(real[:, torch.from_numpy(steps + horizon)][torch.from_numpy(mask)]),
            ]
            answers.rows[level, horizon] = [np.concatenate(parts, axis=1)]
            answers.clips[level, horizon] = [clip]
    return answers


def ahead_section(answers: AheadAnswers, levels: Sequence[LevelShape]) -> dict[str, dict]:
    """`position_ahead.level{l}.h{h}`: the object's place read from predicted tokens."""
    section: dict[str, dict] = {}
    for (level, horizon), parts in answers.rows.items():
        rows = np.concatenate(parts)
        if len(rows) < MIN_ROWS:
            continue
        true, guess, copied, real = np.split(rows, 4, axis=1)
        clips = np.concatenate(answers.clips[level, horizon])
        section.setdefault(f"level{level}", {})[f"h{horizon}"] = {
            "r2": r2_score(guess, true),
            "ci95_r2": r2_interval(guess, true, clips),
            "mae_px": mean_absolute_error(guess, true),
            "horizon_frames": horizon * levels[level].span,
            "num_frames": len(rows),
            "num_clips": len(np.unique(clips)),
            "real_tokens": {"r2": r2_score(real, true), "mae_px": mean_absolute_error(real, true)},
            "null": {
                "copy": {"r2": r2_score(copied, true), "mae_px": mean_absolute_error(copied, true)}
            },
        }
    return section


# --- One coarse step against many fine ones ------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """A way to reach a moment: a level, and how many of its steps each run of the predictor takes.

    Attributes:
        level: of the hierarchy.
        horizon: steps taken at once.
        runs: of the predictor.
    """

    level: int
    horizon: int
    runs: int


def routes_to(levels: Sequence[LevelShape], gap: int) -> dict[str, Route]:
    """How the levels can look `gap` frames ahead.

    Returns:
        `fine_rollout`: level 0 one step at a time; `fine_direct`: level 0 in its largest steps
        that fit; `coarse_direct`: the same for the slowest level that fits, and
        `level{l}_direct` for those between. Empty where there is no slow level to compare with.
    """
    if 1 not in levels[0].horizons:
        return {}
    direct = {}
    for level, shape in enumerate(levels):
        fitting = [h for h in shape.horizons if gap % (h * shape.span) == 0]
        if fitting:
            direct[level] = Route(level, max(fitting), gap // (max(fitting) * shape.span))
    coarsest = max(direct, default=0)
    if coarsest == 0:
        return {}
    names = {0: "fine_direct", coarsest: "coarse_direct"}
    return {"fine_rollout": Route(0, 1, gap // levels[0].span)} | {
        names.get(level, f"level{level}_direct"): route for level, route in direct.items()
    }


def start_frame(num_frames: int, span: int, gaps: Sequence[int]) -> tuple[int, list[int]]:
    """From where to look ahead, and the gaps that are reached from there.

    Half of a clip, rounded to a step of the slowest level, is there to be looked at first.

    Args:
        num_frames: of the clip.
        span: of the slowest level.
        gaps: frames ahead that are wanted.
    """
    start = max(span, num_frames // 2 // span * span) - 1
    return start, [gap for gap in gaps if start + gap < num_frames]


@torch.no_grad()
def roll_out(network: Network, tokens: Sequence[Tensor], route: Route, start: int) -> Tensor:
    """A level's tokens after step `start`, its predictor run on its own predictions.

    Each run gives the next `route.horizon` steps: step start + j by the prediction made h steps
    before it, for the smallest horizon h of at least j, so that nothing after `start` is used.

    Args:
        network: its steps are local.
        tokens: per level `(B, T_l, N, D)`.
        route: which level, and how many steps at once.
        start: last real step of that level.

    Returns:
        `(B, route.runs * route.horizon, N, D)`.
    """
    horizons = levels_of(network)[route.level].horizons
    known = fresh = tokens[route.level][:, : start + 1]
    predict_on = getattr(network, "predict_on", None)
    if predict_on is not None and network.reads_above(route.level):  # type: ignore[attr-defined]
        predict_on = None
    memory: list[Any] = []
    predicted: dict[int, Tensor] = {}
    for _ in range(route.runs):
        if predict_on is not None:
            new = predict_on(fresh, route.level, memory).predicted
            predicted = {
                h: torch.cat([predicted[h], v], 1) if predicted else v for h, v in new.items()
            }
        else:
            given = [known if n == route.level else each for n, each in enumerate(tokens)]
            predicted = predict_level(network, given, route.level).predicted
        last, following = known.shape[1] - 1, []
        for ahead in range(1, route.horizon + 1):
            horizon = min(h for h in horizons if h >= ahead)
            following.append(predicted[horizon][:, max(last + ahead - horizon, 0)])
        fresh = torch.stack(following, dim=1)
        known = torch.cat([known, fresh], dim=1)
    return known[:, start + 1 :]


@dataclass
class RolloutAnswers:
    """Places, px, read after each route to each gap.

    Attributes:
        guesses: per gap and route, or `copy`, `(n, 2)`; `true` the places themselves.
        clips: whose they are.
    """

    guesses: dict[tuple[int, str], list[np.ndarray]] = field(default_factory=dict)
    true: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def merge(self, later: "RolloutAnswers") -> None:
        """Take in the answers about the clips that follow."""
        extend(self.guesses, later.guesses)
        extend(self.true, later.true)


def answer_rollouts(
    network: Network, heads: Mapping[int, LinearProbe], seen: Observation
) -> RolloutAnswers:
    """Follow every route in the clips whose object was seen before, and is in full view at the end.

    Between the two it may be hidden: to look that far ahead is what slow levels are for.
    """
    answers = RolloutAnswers()
    levels = levels_of(network)
    if not network.steps_are_local or len(levels) < 2:
        return answers
    tracks = seen.tracks
    start, gaps = start_frame(len(tracks[0].visible), levels[-1].span, GAPS)
    routes = {gap: found for gap in gaps if (found := routes_to(levels, gap))}
    used = [n for n, track in enumerate(tracks) if _reaches(track, start, routes)]
    if not used or not routes:
        return answers
    device = device_of(network)
    tokens = [values[used].to(device) for values in seen.outputs[MODEL][0]]
    farthest: dict[tuple[int, int], Route] = {}
    for found in routes.values():
        for route in found.values():
            key = route.level, route.horizon
            if key not in farthest or farthest[key].runs < route.runs:
                farthest[key] = route
    rolled = {
        key: roll_out(network, tokens, route, (start + 1) // levels[route.level].span - 1).cpu()
        for key, route in farthest.items()
        if route.level in heads
    }
    for gap, found in routes.items():
        rows = [n for n, clip in enumerate(used) if tracks[clip].visible[start + gap]]
        if not rows or 0 not in heads:
            continue
        answers.true[gap] = [np.stack([tracks[used[n]].position[start + gap] for n in rows])]
        last = tokens[0][rows, start : start + 1].cpu()
        answers.guesses[gap, "copy"] = [_decode(heads[0], levels[0], last)]
        for name, route in found.items():
            if route.level in heads:
                steps = rolled[route.level, route.horizon][rows]
                at = gap // levels[route.level].span - 1
                answers.guesses[gap, name] = [
                    _decode(heads[route.level], levels[route.level], steps[:, at : at + 1])
                ]
    return answers


def _reaches(track: Track, start: int, gaps: Sequence[int] | Mapping[int, object]) -> bool:
    been_seen = track.visible[: start + 1].any()
    return bool(been_seen) and any(track.visible[start + gap] for gap in gaps)


def _decode(head: LinearProbe, level: LevelShape, step: Tensor) -> np.ndarray:
    return head(flat_states(step, level.grid, np.arange(1)).flatten(0, 1))


def rollout_section(
    network: Network, answers: RolloutAnswers, num_frames: int
) -> dict[str, dict[str, Any]]:
    """`rollout.gap{frames}`: mean error of the place in px by each route, and what it costs.

    `gain` is the share of the step-by-step error that a route in large steps saves, with its
    interval over clips: both errors are of the same clips.

    Args:
        network: the model.
        answers: about all test clips.
        num_frames: of a clip.
    """
    section: dict[str, dict[str, Any]] = {}
    levels = levels_of(network)
    start, _ = start_frame(num_frames, levels[-1].span, GAPS)
    for gap, places in answers.true.items():
        true = np.concatenate(places)
        if len(true) < MIN_ROWS:
            continue
        routes = routes_to(levels, gap)
        guesses = {
            name: np.concatenate(answers.guesses[gap, name])
            for name in (*routes, "copy")
            if (gap, name) in answers.guesses
        }
        entry: dict[str, Any] = {
            name: mean_absolute_error(guess, true) for name, guess in guesses.items()
        }
        for name, route in routes.items():
            if name in entry:
                entry[f"{name}_mflops"] = mflops(network, route, start)
                entry[f"{name}_runs"] = route.runs
        for name in guesses.keys() - {"fine_rollout", "copy"}:
            if "fine_rollout" in guesses:
                gain, interval = _gain(guesses["fine_rollout"], guesses[name], true)
                entry |= {f"{name}_gain": gain, f"{name}_ci95_gain": interval}
        coarse = routes["coarse_direct"]
        entry |= {"num_frames": len(true), "level": coarse.level, "horizon": coarse.horizon}
        section[f"gap{gap}"] = entry
    return section


def _gain(
    stepwise: np.ndarray, direct: np.ndarray, true: np.ndarray
) -> tuple[float, list[float] | None]:
    """Share of the step-by-step error that is saved, and its interval; a row is a clip."""
    slow, fast = (np.abs(guess - true).mean(1) for guess in (stepwise, direct))
    interval = bootstrap_groups(
        fast, slow, np.arange(len(true)), lambda top, bottom: 1 - top / bottom
    )
    return float(1 - fast.sum() / slow.sum()), interval


def mflops(network: Network, route: Route, start: int) -> float:
    """Million floating-point operations of the predictor along a route, for one clip.

    The encoder's are left out: every route needs the same real steps.
    """
    device = device_of(network)
    tokens = [
        torch.zeros(1, (start + 1) // level.span, level.num_tokens, level.dim, device=device)
        for level in levels_of(network)
    ]
    step = (start + 1) // levels_of(network)[route.level].span - 1
    counter = FlopCounterMode(display=False)
    with counter:
        roll_out(network, tokens, route, step)
    return counter.get_total_flops() / 1e6
