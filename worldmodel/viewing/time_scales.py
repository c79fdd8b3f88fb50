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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from torch import Tensor

from worldmodel.ablation.spectrum import TokenMoments
from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import ROUNDING_SHARE
from worldmodel.evaluation.figures import (
    BLACK,
    BLUE,
    GREEN,
    LEVEL_COLOURS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    as_image,
)
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
from worldmodel.viewing.alike import REMEDY, first_handles, say_in
from worldmodel.viewing.canvas import FONT, canvas, plain

NUM_SHOWN = 8
"""Moments of the clip that is shown as a strip."""
NUM_BINS = 10
"""Tenths of all tokens, by how much they have just changed."""
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
RULES = {"copy": "copy", "running_mean": "mean so far", "ar1": "AR(1) + last change"}
RULE_COLOURS = {"copy": SKY, "running_mean": ORANGE, "ar1": GREEN}
ROUTES = {
    "fine_rollout": "level 0, one step at a time",
    "fine_direct": "level 0, its largest steps",
    "level1_direct": "level 1, its largest steps",
    "coarse_direct": "slowest level, its largest steps",
    "copy": "copy: where it was",
}
STILL = "its tokens never change"
"""Of a level that has collapsed so far that only rounding moves its tokens within a clip."""


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


# --- What is measured ----------------------------------------------------------------------------


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
    ones = np.ones(len(values))
    return bootstrap_groups(values, ones, np.arange(len(values)), lambda top, count: top / count)


# --- What is drawn -------------------------------------------------------------------------------


def _seconds_axis(axes: Axes, seconds: Sequence[float]) -> None:
    """Doubling times at even distances, each one written down."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(seconds))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{value:.3g}" for value in sorted(set(seconds))])


def _title(level: int, shape: LevelShape, fps: float) -> str:
    tokens = f"{shape.num_tokens} token{'s' if shape.num_tokens > 1 else ''}"
    return f"level {level}: {tokens} every {shape.span / fps:g} s"


def horizon_errors(scales: Scales) -> Figure:
    """How wrong predictions are, by level and seconds ahead, beside rules without a model.

    Above the error over the variance of the tokens within clips; below the model's over each
    rule's; the untrained network's, over its best rule's, is written down.
    """
    figure = canvas(11.0, 6.4)
    grid = figure.subplots(2, len(scales.levels), squeeze=False, sharey="row", sharex="col")
    own, null = scales.networks[MODEL], scales.networks[UNTRAINED]
    for level, shape in enumerate(scales.levels):
        places = [place for place in own.errors if place[0] == level]
        seconds = [scales.seconds(place) for place in places]
        above, below = grid[:, level]
        above.set_title(_title(level, shape, scales.fps), fontsize=FONT + 1)
        below.set_xlabel("seconds ahead", fontsize=FONT)
        if not places:
            say_in(above, STILL)
            say_in(below, "and every rule is right")
            continue
        for name, label in RULES.items():
            errors = [own.errors[place][name] for place in places]
            colour = RULE_COLOURS[name]
            above.plot(seconds, errors, "s--", color=colour, markersize=5, label=label)
            ratios = [ratio(own.errors[p]["model"], own.errors[p][name]) for p in places]
            below.plot(seconds, ratios, "s--", color=colour, markersize=5, label=f"model ÷ {label}")
        errors = [own.errors[place]["model"] for place in places]
        above.plot(seconds, errors, "o-", color=BLACK, linewidth=2, label="model")
        # An untrained predictor's head is random: its errors would make all others look alike.
        skill = ", ".join(f"{_skill(null.errors[place]):.3g}" for place in places)
        below.text(
            0.5,
            0.03,
            f"untrained network ÷ its best rule:\n{skill}, off the scale",
            transform=below.transAxes,
            ha="center",
            fontsize=FONT - 1,
            color="0.35",
        )
        for axes in (above, below):
            axes.axhline(1, color="0.3", linewidth=0.9)
            _seconds_axis(axes, seconds)
            plain(axes)
    if not own.errors:
        raise InputError(_no_level("has errors to compare"))
    grid[0, 0].set_ylabel("squared error ÷ variance\nof tokens within a clip", fontsize=FONT)
    grid[1, 0].set_ylabel("squared error ÷\nthat of the rule", fontsize=FONT)
    for row in grid:
        row[0].set_ylim(0, None)
        handles, labels = first_handles(row)
        row[-1].legend(
            handles, labels, fontsize=FONT - 1, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
    return figure


def _no_level(what: str) -> str:
    return f"no level {what}, as {STILL.replace('its', 'their')}: {REMEDY}"


def _skill(errors: Mapping[str, float]) -> float:
    return ratio(errors["model"], min(errors[name] for name in NULLS))


def memory_spectra(scales: Scales) -> Figure:
    """Time constants of tokens and of context states: all directions of each level, slowest first.

    Full lines are the model's, dotted ones the untrained network's; below, where tokens vary.
    """
    figure = canvas(11.0, 5.2)
    left, right, shares = figure.subplots(1, 3, width_ratios=(3, 3, 2.2))
    for axes, kind in ((left, "tokens"), (right, "states")):
        for name, line in ((MODEL, "-"), (UNTRAINED, ":")):
            for level, entry in enumerate(getattr(scales.networks[name], kind)):
                seconds = np.array(entry["time_constants"]) * entry["step_seconds"]
                own = scales.networks[name]
                if level in (own.still if kind == "tokens" else own.still_states):
                    axes.plot([], [], line, label=f"level {level}: never change")
                    continue
                share = (np.arange(len(seconds)) + 0.5) / max(len(seconds), 1)
                # A direction whose neighbours do not agree at all has no time constant: it ends
                # the line.
                known = seconds > 0
                axes.plot(
                    share[known],
                    seconds[known],
                    line,
                    color=LEVEL_COLOURS[level % len(LEVEL_COLOURS)],
                    linewidth=2 if name == MODEL else 1.4,
                    label=f"level {level}" + (", untrained" if name == UNTRAINED else ""),
                )
        axes.set_yscale("log", base=2)
        ticks = [2.0**power for power in range(-5, 4)]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticklabels([f"{tick:.3g}" for tick in ticks])
        axes.set(xlim=(0, 1), ylim=(2**-5, 2**3.4))
        axes.set_xlabel("share of directions, slowest first", fontsize=FONT)
        plain(axes)
    left.set_title("tokens: what is seen", fontsize=FONT + 1)
    right.set_title("context states: what is believed", fontsize=FONT + 1)
    left.set_ylabel("time constant, s", fontsize=FONT)
    left.legend(fontsize=FONT - 2, loc="upper right")
    _draw_shares(shares, scales)
    return figure


def _draw_shares(axes: Axes, scales: Scales) -> None:
    """Where the variance of tokens lies, a bar for each level and network."""
    parts = {
        "within_clips": (GREEN, "within a clip"),
        "between_clips": (ORANGE, "between clips"),
        "between_positions": (SKY, "between places"),
    }
    names, row = [], 0
    for level in range(len(scales.levels)):
        for name in (MODEL, UNTRAINED):
            start = 0.0
            for part, (colour, label) in parts.items():
                share = scales.networks[name].tokens[level]["variance_shares"][part]
                axes.barh(
                    row,
                    share,
                    left=start,
                    color=colour,
                    height=0.75,
                    label=label if row == 0 else None,
                )
                start += share
            if not start:
                axes.text(0.02, row, "all equal", va="center", fontsize=FONT - 1)
            names.append(f"level {level}" if name == MODEL else "untrained")
            row += 1
    axes.set_yticks(range(row), names, fontsize=FONT - 1)
    axes.set(xlim=(0, 1), ylim=(row - 0.4, -0.6))
    axes.set_xlabel("share of the tokens' variance", fontsize=FONT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(fontsize=FONT - 2, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)


def predictability(scales: Scales) -> Figure:
    """Where in the picture, and after how much change, a level's predictions are better than rules.

    Above, per token position, the model's error over copying's, at the longest horizon. Below, the
    errors by how much a token has just changed, in tenths of all tokens: what is known when the
    prediction is made.
    """
    own = scales.networks[MODEL]
    figure = canvas(11.0, 5.8)
    grid = figure.subplots(2, len(scales.levels), squeeze=False, height_ratios=(1, 1.5))
    if len(own.still) == len(scales.levels):
        raise InputError(_no_level("has anything to predict"))
    for level, shape in enumerate(scales.levels):
        values = own.by_token[level]
        total = values.mean(0)
        gain = total[:, 1] / np.maximum(total[:, 2], 1e-12)
        above, below = grid[:, level]
        if level in own.still:
            above.set_title(_title(level, shape, scales.fps), fontsize=FONT + 1)
            say_in(above, STILL)
            below.set_axis_off()
            continue
        shown = above.imshow(gain.reshape(shape.grid), cmap="RdBu_r", vmin=0.25, vmax=1.75)
        for number, value in enumerate(gain):
            row, column = divmod(number, shape.grid[1])
            above.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=FONT)
        above.set(xticks=[], yticks=[])
        seconds = scales.seconds((level, max(shape.horizons)))
        above.set_title(
            f"{_title(level, shape, scales.fps)}\n{seconds:g} s ahead", fontsize=FONT + 1
        )
        change, errors = tenths(values.reshape(-1, values.shape[-1]))
        tenth = np.arange(1, len(change) + 1)
        for number, (name, label) in enumerate(RULES.items(), 2):
            below.plot(
                tenth,
                errors[:, number],
                "s--",
                color=RULE_COLOURS[name],
                markersize=5,
                label=label,
            )
        below.plot(tenth, errors[:, 1], "o-", color=BLACK, linewidth=2, label="model")
        below.set_xticks(tenth)
        below.set_ylim(0, None)
        below.set_xlabel("tenth of tokens by last change, least first", fontsize=FONT)
        plain(below)
    grid[1, 0].set_ylabel("squared error ÷ variance\nof tokens within a clip", fontsize=FONT)
    first = min(set(range(len(scales.levels))) - own.still)
    grid[1, first].legend(fontsize=FONT - 1)
    bar = figure.colorbar(shown, ax=list(grid[0]), shrink=0.9)
    bar.set_label("model's error ÷\ncopying's", fontsize=FONT)
    return figure


def by_contents(scales: Scales) -> Figure:
    """Errors at level 0 by what a token shows now and at the predicted moment.

    Raises:
        InputError: the level's tokens never change.
    """
    own, null = scales.networks[MODEL], scales.networks[UNTRAINED]
    _refuse_still(own)
    figure = canvas(11.0, 4.2)
    axes = figure.subplots()
    kinds = [kind for kind in range(len(CONTENTS)) if (own.contents == kind).any()]
    bars = {"model": (BLACK, "model")} | {
        name: (RULE_COLOURS[name], label) for name, label in RULES.items()
    }
    places, heights = np.arange(len(kinds)), []
    for number, (name, (colour, label)) in enumerate(bars.items()):
        column = 1 + ("model", *NULLS).index(name)
        values = [own.by_token[0][own.contents == kind, column].mean() for kind in kinds]
        axes.bar(places + 0.2 * (number - 1.5), values, 0.2, color=colour, label=label)
        heights.append(values)
    # What changes little in one network's tokens may change much in another's.
    copied = [null.by_token[0][null.contents == kind, 2].mean() for kind in kinds]
    label = "copy, untrained network's tokens"
    axes.hlines(copied, places - 0.4, places + 0.4, color=RED, linewidth=2, label=label)
    for x, (model, *rules) in enumerate(zip(*heights, strict=True)):
        text = f"{model / min(rules):.2f}"
        axes.text(x - 0.21, model + 0.05, text, ha="right", fontsize=FONT - 1)
        share = float((own.contents == kinds[x]).mean())
        axes.text(
            x,
            -0.02,
            f"\n\n\n{share:.0%} of tokens",
            ha="center",
            va="top",
            fontsize=FONT - 1,
            color="0.35",
            transform=axes.get_xaxis_transform(),
        )
    axes.set_xticks(range(len(kinds)), [CONTENTS[kind] for kind in kinds])
    plain(axes)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    axes.set_ylabel("squared error ÷ variance\nof tokens within a clip", fontsize=FONT)
    seconds = scales.seconds((0, max(scales.levels[0].horizons)))
    axes.set_title(f"level 0, {seconds:g} s ahead (numbers: model ÷ best rule)", fontsize=FONT + 1)
    axes.legend(fontsize=FONT - 1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _refuse_still(own: NetworkScales) -> None:
    if 0 in own.still:
        raise InputError(
            f"level 0 has nothing to predict, as {STILL} and every rule is right: {REMEDY}"
        )


def tenths(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over tenths of the rows, sorted by their first column.

    Args:
        rows: `(n, K)`.

    Returns:
        The mean first column `(NUM_BINS,)`, and the mean row `(NUM_BINS, K)`, of each tenth; fewer
        where there are fewer rows.
    """
    order = np.argsort(rows[:, 0], kind="stable")
    parts = [part for part in np.array_split(order, NUM_BINS) if len(part)]
    means = np.stack([rows[part].mean(0) for part in parts])
    return means[:, 0], means


def change_strip(scales: Scales) -> Figure:
    """One clip over time: its frames, what copying misses at level 0, and what the model misses.

    Raises:
        InputError: the level's tokens never change.
    """
    own, horizon = scales.networks[MODEL], scales.strip_horizon
    _refuse_still(own)
    grid_shape = scales.levels[0].grid
    # Entry i is about frame i + 1 + horizon, predicted from the frames up to i + 1.
    entries = len(own.strip["copy"])
    chosen = np.linspace(0, entries - 1, NUM_SHOWN).round().astype(int)
    figure = canvas(11.0, 4.6)
    axes = figure.subplots(3, NUM_SHOWN)
    top = float(np.percentile(own.strip["copy"], 98)) or 1.0
    for column, entry in enumerate(chosen):
        frame = int(entry) + 1 + horizon
        axes[0, column].imshow(as_image(scales.shown[frame]))
        axes[0, column].set_title(f"{frame / scales.fps:.2g} s", fontsize=FONT)
        for row, name in ((1, "copy"), (2, "model")):
            shown = axes[row, column].imshow(
                own.strip[name][entry].reshape(grid_shape), cmap="magma", vmin=0, vmax=top
            )
    rows = ("frame", "copy's\nerror", "model's\nerror")
    for row, label in enumerate(rows):
        axes[row, 0].set_ylabel(label, fontsize=FONT)
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
    bar = figure.colorbar(shown, ax=list(axes[1:].flat), shrink=0.9)
    bar.set_label("÷ variance", fontsize=FONT)
    ahead = horizon * scales.levels[0].span / scales.fps
    figure.suptitle(f"{scales.shown_key}: level 0, {ahead:g} s ahead", fontsize=FONT + 1)
    return figure


def places_ahead(scales: Scales) -> Figure:
    """Where the object will be, read by linear probes from predicted tokens, by seconds ahead."""
    own, null = scales.networks[MODEL].ahead, scales.networks[UNTRAINED].ahead
    figure = canvas(11.0, 4.2)
    grid = figure.subplots(1, len(scales.levels), squeeze=False, sharey=True)[0]
    for level, (axes, shape) in enumerate(zip(grid, scales.levels, strict=True)):
        entries = list(own.get(f"level{level}", {}).values())
        seconds = [entry["horizon_frames"] / scales.fps for entry in entries]
        axes.set_title(_title(level, shape, scales.fps), fontsize=FONT + 1)
        axes.set_xlabel("seconds ahead", fontsize=FONT)
        axes.axhline(0, color="0.3", linewidth=0.9)
        plain(axes)
        still = level in scales.networks[MODEL].still
        if not entries or still:
            say_in(axes, f"{STILL}: nothing is read" if still else "too few clips")
            continue
        ends = np.array([entry["ci95_r2"] for entry in entries])
        axes.fill_between(seconds, *ends.T, color=BLUE, alpha=0.18, linewidth=0)
        # The untrained network's own predictions are random; its tokens are not.
        theirs = [null.get(f"level{level}", {}).get(f"h{h}") for h in shape.horizons]
        for found, colour, whose in ((entries, None, ""), (theirs, "0.5", "untrained: ")):
            known = [(t, e) for t, e in zip(seconds, found, strict=False) if e is not None]
            for style, shade, label, values in (
                ("--", BLACK, "tokens that came", [e["real_tokens"]["r2"] for _, e in known]),
                ("s:", ORANGE, "last tokens (copy)", [e["null"]["copy"]["r2"] for _, e in known]),
            ):
                axes.plot(
                    [t for t, _ in known],
                    values,
                    style,
                    color=colour or shade,
                    markersize=5,
                    label=whose + label,
                )
        r2 = [entry["r2"] for entry in entries]
        axes.plot(seconds, r2, "o-", color=BLUE, linewidth=2, label="predicted tokens")
        _seconds_axis(axes, seconds)
    grid[0].set_ylabel("r2 of the object's place", fontsize=FONT)
    grid[0].set_ylim(None, 1)
    figure.legend(
        *first_handles(grid),
        loc="outside lower center",
        ncols=3,
        fontsize=FONT - 1,
        frameon=False,
    )
    return figure


def fine_against_coarse(scales: Scales) -> Figure:
    """Many small steps or few large ones: error of the object's place, and what a route costs.

    On the left the error; in the middle how much nearer than copying, clip by clip; on the right
    the operations of the predictor.

    Raises:
        InputError: no level could be rolled out.
    """
    own, null = scales.networks[MODEL].rollout, scales.networks[UNTRAINED].rollout
    gaps = list(own)
    if not gaps:
        raise InputError(
            "no level could be rolled out: too few test clips show an object when its place is "
            "asked; take more clips"
        )
    figure = canvas(11.0, 4.4)
    left, middle, right = figure.subplots(1, 3)
    colours = dict(zip(ROUTES, (BLUE, SKY, PURPLE, GREEN, ORANGE), strict=True))
    routes = [route for route in ROUTES if any(route in own[gap] for gap in gaps)]
    for number, route in enumerate(routes):
        known = [n for n, gap in enumerate(gaps) if route in own[gap]]
        x, colour = np.array(known) + 0.13 * (number - 2), colours[route]
        left.plot(
            x,
            [own[gaps[n]][route] for n in known],
            "o",
            color=colour,
            markersize=7,
            label=ROUTES[route],
        )
        if route == "copy":
            continue
        ends = np.array([own[gaps[n]][f"{route}_nearer_ci95"] for n in known])
        nearer = [own[gaps[n]][f"{route}_nearer"] for n in known]
        middle.vlines(x, *ends.reshape(-1, 2).T, color=colour, linewidth=2)
        middle.plot(x, nearer, "o", color=colour, markersize=7)
        cost = [own[gaps[n]][f"{route}_mflops"] for n in known]
        right.plot(known, cost, "o-", color=colour, markersize=7)
    theirs = [(n, null[gap]["copy"]) for n, gap in enumerate(gaps) if gap in null]
    if theirs:
        x, values = np.array(theirs).T
        left.plot(x + 0.39, values, "x", color="0.45", markersize=7, label="copy, untrained tokens")
    frames = [int(gap.removeprefix("gap")) for gap in gaps]
    for axes in (left, middle, right):
        axes.set_xticks(
            range(len(gaps)),
            [
                f"{count} frames\n{count / scales.fps:g} s\n{own[gap]['num_frames']} clips"
                for count, gap in zip(frames, gaps, strict=True)
            ],
        )
        axes.set_xlim(-0.5, len(gaps) - 0.4)
        plain(axes)
    left.set_ylim(0, None)
    left.set_ylabel("mean error of the place, px", fontsize=FONT)
    middle.axhline(0, color="0.3", linewidth=0.9)
    middle.set_ylabel("px nearer than copying (95 % interval)", fontsize=FONT)
    right.set_yscale("log")
    right.set_ylabel("predictor's cost, Mflop", fontsize=FONT)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=FONT - 1,
        frameon=False,
    )
    return figure


def scale_table(scales: Scales) -> str:
    """Errors at each level's longest horizon as a Markdown table, the untrained network beside."""
    own, null = scales.networks[MODEL], scales.networks[UNTRAINED]
    lines = [
        "| level | one step | ahead | error ÷ copy | ÷ mean so far | ÷ AR(1) "
        "| untrained ÷ its best rule |",
        "|---|---|---|---|---|---|---|",
    ]
    for level, shape in enumerate(scales.levels):
        for horizon in shape.horizons:
            place = level, horizon
            if place not in own.errors:
                if level in own.still and horizon == shape.horizons[0]:
                    lines.append(f"| {level} | {shape.span / scales.fps:g} s | {STILL} | | | | |")
                continue
            errors = own.errors[place]
            ratios = " | ".join(f"{ratio(errors['model'], errors[name]):.2f}" for name in NULLS)
            lines.append(
                f"| {level} | {shape.span / scales.fps:g} s | {scales.seconds(place):g} s "
                f"| {ratios} | {_skill(null.errors[place]):.2f} |"
            )
    return "\n".join(lines)
