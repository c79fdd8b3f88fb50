"""What each level can predict, how far, and where: a model beside an untrained network.

Everything is measured on test clips; trivial predictors and probes are fitted on training clips,
and probes' strengths chosen on validation clips, as in the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.ablation.spectrum import TokenMoments
from worldmodel.evaluation.collapse import ROUNDING_SHARE
from worldmodel.evaluation.footage import Footage, find_samples, mirrored_too, read_footage
from worldmodel.evaluation.measure import Effort, choose_training, evenly
from worldmodel.evaluation.network import (
    CHUNK,
    LevelShape,
    Network,
    Place,
    levels_of,
    one_thread,
    pad_chunk,
    run_chunk,
)
from worldmodel.evaluation.nulls import DriftInputs
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.prediction import NULLS, PredictionErrors, ratio
from worldmodel.evaluation.probes.linear import LinearProbe, fit_ridge
from worldmodel.evaluation.probes.objects import Track, things_in_view, track_of
from worldmodel.evaluation.probes.observe import MODEL, UNTRAINED, Observation, Outputs
from worldmodel.evaluation.probes.rollout import (
    AheadAnswers,
    RolloutAnswers,
    ahead_section,
    answer_ahead,
    answer_rollouts,
    rollout_section,
)
from worldmodel.evaluation.probes.states import asked_steps, flat_states
from worldmodel.evaluation.probes.whereabouts import MIN_ROWS
from worldmodel.evaluation.scores import bootstrap_groups
from worldmodel.models.checkpoint import LoadedModel

CONTENTS = (
    "nothing\nstays",
    "thing\nstays",
    "thing\nleaves",
    "thing\narrives",
    "screen\nstays",
    "screen\ncomes or goes",
)
"""What a token shows now and at the predicted moment."""
MIN_SHARE = 0.1
"""Of a token's pixels that must show a thing or a screen for the token to count as showing it."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many clips are looked at; the defaults take two cores a minute."""

    event_clips: int = 240
    """Training clips that follow an object, for probes and trivial predictors."""
    free_clips: int = 60
    """Other training clips."""
    val_clips: int = 100
    """Validation clips, which choose the strengths of probes."""
    test_clips: int = 200
    """Test clips, which all figures are about."""


@dataclass(frozen=True)
class NetworkScales:
    """What is measured of one network.

    Attributes:
        errors: per level and horizon the mean squared error of `model` and of each rule without
            one, over the variance of the level's tokens around their clips' means. A level in
            `still` has none: every rule is right, and there is no variance to divide by.
        still: numbers of the levels whose tokens never change, but for rounding.
        still_states: the same of context states.
        section: the same as in a report: ratios by `level{l}` and `h{h}`.
        tokens: per level, `TokenMoments.section`.
        states: the same of context states.
        by_token: per level `(S, N, 1 + 1 + len(NULLS))` at its longest horizon, S steps of all
            clips one after another: how much the token has just changed (squared), then the squared
            error of the model and of each of `NULLS`, all over the variance as in `errors`.
        contents: int64 `(S, N_0)`, of the rows of `by_token[0]`: which of `CONTENTS`.
        ahead: `position_ahead` of a report.
        rollout: `rollout` of a report, each error with its 95 % interval (`…_ci95`).
        strip: `(T_0 - h, N)` per name of `by_token` but the first, of the clip that is shown, at
            level 0 and the horizon of `Scales.strip_horizon`.
    """

    errors: dict[Place, dict[str, float]]
    still: frozenset[int]
    still_states: frozenset[int]
    section: dict[str, dict[str, dict[str, float]]]
    tokens: list[dict[str, Any]]
    states: list[dict[str, Any]]
    by_token: list[np.ndarray]
    contents: np.ndarray
    ahead: dict[str, dict[str, Any]]
    rollout: dict[str, dict[str, Any]]
    strip: dict[str, np.ndarray]


@dataclass(frozen=True)
class Scales:
    """A model's time-scales, and an untrained network's.

    Attributes:
        networks: by `MODEL` and `UNTRAINED`.
        levels: grid, span and horizons of each level.
        fps: frames per second of the clips.
        num_clips: test clips.
        shown: frames uint8 `(T, 3, H, W)` of the test clip whose pixels change most.
        shown_key: its name.
        strip_horizon: frames, how far ahead its strip is predicted.
    """

    networks: dict[str, NetworkScales]
    levels: Sequence[LevelShape]
    fps: float
    num_clips: int
    shown: Tensor
    shown_key: str
    strip_horizon: int

    def seconds(self, place: Place) -> float:
        """How far a place predicts."""
        level, horizon = place
        return horizon * self.levels[level].span / self.fps


@dataclass
class _Learned:
    """What some training or validation clips teach, of one network."""

    errors: PredictionErrors
    features: dict[int, list[Tensor]] = field(default_factory=dict)
    places: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def merge(self, later: "_Learned") -> None:
        self.errors.merge(later.errors)
        for level, parts in later.features.items():
            # Copied: a tensor from another process holds an open file while it lives.
            self.features.setdefault(level, []).extend(part.clone() for part in parts)
            self.places.setdefault(level, []).extend(later.places[level])


@dataclass(frozen=True)
class _Teach:
    """Makes of clips what trivial predictors and probes learn from; runs in any process."""

    networks: Mapping[str, Network]
    errors: Mapping[str, PredictionErrors]
    is_training: bool

    @torch.no_grad()
    def __call__(self, clips: list[Footage]) -> dict[str, _Learned]:
        plain = len(clips)
        if self.is_training:
            clips = clips + _mirrors(clips)
        tracks = [track_of(clip.truth) for clip in clips]
        found = {}
        for name, network in self.networks.items():
            tokens = _encode(network, [clip.frames for clip in clips])
            learned = _Learned(self.errors[name].blank())
            if self.is_training:
                learned.errors.fit([level[:plain] for level in tokens])
            for number, level in enumerate(levels_of(network)):
                rows, places = _visible_rows(tokens[number], tracks, level)
                learned.features[number], learned.places[number] = [rows], [places]
            found[name] = learned
        return found


def _mirrors(clips: Sequence[Footage]) -> list[Footage]:
    """Mirror images of the clips that have one."""
    names = {clip.key for clip in clips}
    return [each for each in mirrored_too(clips) if each.key not in names]


def _encode(network: Network, clips: Sequence[Tensor]) -> list[Tensor]:
    parts = [
        network.encode(pad_chunk(list(clips[start : start + CHUNK]), CHUNK))
        for start in range(0, len(clips), CHUNK)
    ]
    return [torch.cat(level)[: len(clips)] for level in zip(*parts, strict=True)]


def _visible_rows(
    tokens: Tensor, tracks: Sequence[Track], level: LevelShape
) -> tuple[Tensor, np.ndarray]:
    """Whole steps `(n, F)` whose last frame shows all of the tracked object, and its place."""
    num_frames = len(tracks[0].visible)
    steps = asked_steps(num_frames, level.span)
    ends = (steps + 1) * level.span - 1
    mask = np.stack([track.visible for track in tracks])[:, ends]
    position = np.stack([track.position for track in tracks])[:, ends]
    return flat_states(tokens, level.grid, steps)[torch.from_numpy(mask)], position[mask]


@dataclass
class _Seen:
    """What some test clips say of one network."""

    errors: PredictionErrors
    tokens: list[TokenMoments]
    states: list[TokenMoments]
    by_token: list[list[np.ndarray]]
    contents: list[np.ndarray]
    ahead: AheadAnswers
    rollouts: RolloutAnswers

    def merge(self, later: "_Seen") -> None:
        self.errors.merge(later.errors)
        for mine, theirs in ((self.tokens, later.tokens), (self.states, later.states)):
            for one, other in zip(mine, theirs, strict=True):
                one.merge(other)
        for own, new in zip(self.by_token, later.by_token, strict=True):
            own.extend(new)
        self.contents += later.contents
        self.ahead.merge(later.ahead)
        self.rollouts.merge(later.rollouts)


@dataclass(frozen=True)
class _Examine:
    """Asks everything that was fitted about test clips; runs in any process."""

    networks: Mapping[str, Network]
    errors: Mapping[str, PredictionErrors]
    heads: Mapping[str, Mapping[int, LinearProbe]]

    def __call__(self, clips: list[Footage]) -> tuple[list[float], dict[str, _Seen]]:
        """How much the pixels of each clip change, and what each network makes of all."""
        changes = [float(clip.frames.float().std(0).mean()) for clip in clips]
        return changes, {
            name: self._of(name, network, clips) for name, network in self.networks.items()
        }

    def _of(self, name: str, network: Network, clips: list[Footage]) -> _Seen:
        levels, errors = levels_of(network), self.errors[name].blank()
        outputs = run_chunk(network, [clip.frames for clip in clips], torch.device("cpu"))
        tokens, context, predicted = outputs
        errors.add(tokens, predicted)
        moments: tuple[list[TokenMoments], list[TokenMoments]] = ([], [])
        for kept, values in zip(moments, (tokens, context), strict=True):
            for each in values:
                kept.append(TokenMoments.of(each.shape[2], each.shape[3]))
                kept[-1].add(each)
        by_token = [
            [
                token_errors(errors, level, max(shape.horizons), tokens[level], predicted[level])
                .flatten(0, 1)
                .numpy()
            ]
            for level, shape in enumerate(levels)
        ]
        seen = _observed(clips, outputs)
        heads = self.heads[name]
        return _Seen(
            errors,
            *moments,
            by_token,
            [
                token_contents(clip.truth.ids, levels[0].grid, max(levels[0].horizons))
                for clip in clips
            ],
            answer_ahead(levels, heads, seen),
            answer_rollouts(network, heads, seen),
        )


def _observed(clips: Sequence[Footage], outputs: Outputs) -> Observation:
    """Clips as the questions about predicted places see them: outputs and tracks, and no more."""
    nothing = np.zeros(0, dtype=np.int64)
    return Observation(
        tracks=[track_of(clip.truth) for clip in clips],
        behind=[],
        present=[],
        mirrored=[],
        states={},
        things=things_in_view([clip.truth for clip in clips], nothing),
        placed={},
        patches=torch.zeros(0, 0),
        camera=np.zeros((len(clips), 0, 6)),
        outputs={MODEL: outputs},
    )


def token_errors(
    errors: PredictionErrors,
    level: int,
    horizon: int,
    tokens: Tensor,
    predicted: Mapping[int, Tensor],
) -> Tensor:
    """How much each token has just changed, and how wrong each predictor is about its future.

    Args:
        errors: with fitted trivial predictors.
        level: whose tokens.
        horizon: in its steps.
        tokens: `(B, T, N, D)`.
        predicted: per horizon, entry τ for step τ + h.

    Returns:
        float32 `(B, T - 1 - h, N, 2 + len(NULLS))`, from step τ = 1 on: the mean over dimensions of
        the squared change since τ - 1, of the model's squared error, and of each of `NULLS`.
    """
    known = DriftInputs.of(tokens.double())
    target = known.tokens[:, 1 + horizon :]
    guesses = {
        "copy": known.tokens[:, 1:-horizon],
        "running_mean": known.mean[:, :-horizon],
        "ar1": errors.fits[level, horizon].predict(known)[:, :-horizon],
    }
    columns = [
        known.change[:, :-horizon],
        predicted[horizon][:, 1:-horizon].double() - target,
        *(guesses[name] - target for name in NULLS),
    ]
    return torch.stack([column.square().mean(-1) for column in columns], dim=-1).float()


def token_contents(ids: np.ndarray, grid: tuple[int, int], horizon: int) -> np.ndarray:
    """What each token of level 0 shows when its future is predicted, and what then.

    Args:
        ids: uint8 `(T, H, W)`: 0 background, 1 to 99 things, from 100 screens and other slabs.
        grid: rows and columns of tokens.
        horizon: frames ahead.

    Returns:
        int64 `(T - 1 - horizon, N)`, from frame 1 on: which of `CONTENTS`. A token that shows a
        thing now or then counts as such, whatever screens it shows.
    """
    height, width = ids.shape[1] // grid[0], ids.shape[2] // grid[1]
    cells = ids[:, : height * grid[0], : width * grid[1]]
    cells = cells.reshape(len(ids), grid[0], height, grid[1], width)
    thing = ((cells > 0) & (cells < 100)).mean((2, 4)).reshape(len(ids), -1) >= MIN_SHARE
    screen = (cells >= 100).mean((2, 4)).reshape(len(ids), -1) >= MIN_SHARE
    now, then = slice(1, len(ids) - horizon), slice(1 + horizon, None)
    return np.select(
        [
            thing[now] & thing[then],
            thing[now],
            thing[then],
            screen[now] & screen[then],
            screen[now] | screen[then],
        ],
        [1, 2, 3, 4, 5],
        default=0,
    )


@one_thread()
def measure_scales(
    model: LoadedModel,
    root: Path,
    sizes: Sizes | None = None,
    seed: int = 0,
    pace: Pace | None = None,
) -> Scales:
    """Measure a model and an untrained network of the same architecture, on the CPU.

    Args:
        model: a hierarchy.
        root: folder of a set of the physics world.
        sizes: how many clips.
        seed: of the untrained network.
        pace: how; changes no number.

    Raises:
        InputError: clips of a split are missing.
    """
    sizes, pace = sizes or Sizes(), pace or Pace(quiet=True)
    networks = {MODEL: model.network, UNTRAINED: model.untrained(seed)}
    levels, clip = levels_of(model.network), model.clip
    effort = Effort(event_clips=sizes.event_clips, free_clips=sizes.free_clips)
    refs = {
        "train": choose_training(find_samples(root, "train", "clips"), effort),
        "val": evenly(find_samples(root, "val", "clips"), sizes.val_clips),
        "test": evenly(find_samples(root, "test", "clips"), sizes.test_clips),
    }
    read, device = partial(read_footage, clip=clip), torch.device("cpu")

    def blank() -> PredictionErrors:
        horizons = [level.horizons for level in levels]
        return PredictionErrors(
            [level.dim for level in levels], horizons, [level.span for level in levels]
        )

    taught = {split: {name: _Learned(blank()) for name in networks} for split in ("train", "val")}
    for split, learned in taught.items():
        work = _Teach(networks, {name: blank() for name in networks}, split == "train")
        for some in run_pass(refs[split], read, work, CHUNK, device, pace, f"{split} clips"):
            for name in networks:
                learned[name].merge(some[name])
    errors = {name: taught["train"][name].errors for name in networks}
    for each in errors.values():
        each.solve()
    heads = {name: _fit_heads(*(taught[split][name] for split in taught)) for name in networks}

    examine = _Examine(networks, errors, heads)
    changes: list[float] = []
    whole: dict[str, _Seen] = {}
    for more, seen in run_pass(refs["test"], read, examine, CHUNK, device, pace, "test clips"):
        changes += more
        for name in networks:
            if name in whole:
                whole[name].merge(seen[name])
            else:
                whole[name] = seen[name]
    shown = read(refs["test"][int(np.argmax(changes))])
    strip_horizon = _middle(levels[0].horizons)
    return Scales(
        networks={
            name: _conclude(
                networks[name], whole[name], errors[name], shown.frames, strip_horizon, clip.fps
            )
            for name in networks
        },
        levels=levels,
        fps=clip.fps,
        num_clips=len(changes),
        shown=shown.frames,
        shown_key=shown.key,
        strip_horizon=strip_horizon,
    )


def _middle(horizons: Sequence[int]) -> int:
    return horizons[len(horizons) // 2]


def _fit_heads(train: _Learned, val: _Learned) -> dict[int, LinearProbe]:
    """Per level the probe that reads a visible object's place from real tokens."""
    heads = {}
    for level in train.features:
        rows = [
            (torch.cat(some.features[level]), np.concatenate(some.places[level]))
            for some in (train, val)
        ]
        if min(len(each) for _, each in rows) >= MIN_ROWS:
            heads[level] = fit_ridge(rows[0], rows[1])[0]
    return heads


@torch.no_grad()
def _conclude(
    network: Network,
    seen: _Seen,
    fitted: PredictionErrors,
    shown: Tensor,
    strip_horizon: int,
    fps: float,
) -> NetworkScales:
    """What all test clips together say of a network."""
    levels = levels_of(network)
    variances = [_variance_within(moments) for moments in seen.tokens]
    still = _still(seen.tokens)
    errors = {
        place: {
            name: ratio(total / seen.errors.counts[place], variances[place[0]])
            for name, total in sums.items()
        }
        for place, sums in seen.errors.sums.items()
        if seen.errors.counts[place] and place[0] not in still
    }
    tokens, _, predicted = run_chunk(network, [shown], torch.device("cpu"))
    strip = token_errors(fitted, 0, strip_horizon, tokens[0], predicted[0])[0].numpy()
    names = ("model", *NULLS)
    rollout: dict[str, dict[str, Any]] = rollout_section(network, seen.rollouts, len(shown))
    for gap, entry in rollout.items():
        entry |= rollout_intervals(seen.rollouts, int(gap.removeprefix("gap")))
    return NetworkScales(
        errors=errors,
        still=still,
        still_states=_still(seen.states),
        section=seen.errors.report(),
        tokens=[m.section(level.span / fps) for m, level in zip(seen.tokens, levels, strict=True)],
        states=[m.section(level.span / fps) for m, level in zip(seen.states, levels, strict=True)],
        by_token=[
            np.concatenate(parts) / max(variance, 1e-12)
            for parts, variance in zip(seen.by_token, variances, strict=True)
        ],
        contents=np.concatenate(seen.contents),
        ahead=ahead_section(seen.ahead, levels),
        rollout=rollout,
        strip={
            name: strip[..., 1 + number] / max(variances[0], 1e-12)
            for number, name in enumerate(names)
        },
    )


def _still(moments: Sequence[TokenMoments]) -> frozenset[int]:
    """Levels whose tokens or states vary within clips by no more than rounding leaves."""
    return frozenset(
        level
        for level, each in enumerate(moments)
        if each.within <= ROUNDING_SHARE * each.means_squared * max(each.num_steps, 1)
    )


def _variance_within(moments: TokenMoments) -> float:
    """Mean over dimensions of the variance of a level's tokens around their clips' means."""
    rows = moments.num_clips * moments.num_steps * len(moments.means)
    return moments.within / max(rows, 1) / moments.means.shape[1]


def rollout_intervals(answers: RolloutAnswers, gap: int) -> dict[str, Any]:
    """95 % intervals of the mean error of the place by each route, px, clips resampled.

    Args:
        answers: about all test clips.
        gap: frames ahead.

    Returns:
        `{route}_ci95`, and `{route}_nearer`, how many px nearer than copying, with its own interval
        `{route}_nearer_ci95`: both routes answer for the same clips.
    """
    true = np.concatenate(answers.true[gap])
    distance = {
        name: np.abs(np.concatenate(parts) - true).mean(1)
        for (at, name), parts in answers.guesses.items()
        if at == gap
    }
    found: dict[str, Any] = {}
    for name, values in distance.items():
        found[f"{name}_ci95"] = _mean_interval(values)
        if name != "copy":
            nearer = distance["copy"] - values
            found[f"{name}_nearer"] = float(nearer.mean())
            found[f"{name}_nearer_ci95"] = _mean_interval(nearer)
    return found


def _mean_interval(values: np.ndarray) -> list[float]:
    """Of a mean over clips; not a number of a single clip, so that nothing is drawn."""
    clips, ones = np.arange(len(values)), np.ones(len(values))
    ends = bootstrap_groups(values, ones, clips, lambda top, count: top / count)
    return ends or [np.nan, np.nan]
