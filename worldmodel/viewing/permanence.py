"""What a model believes of a thing behind a screen, and how much the impossible surprises it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import all_alike
from worldmodel.evaluation.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    as_image,
)
from worldmodel.evaluation.footage import (
    Block,
    Footage,
    find_samples,
    mirrored_too,
    read_block,
    read_footage,
)
from worldmodel.evaluation.measure import Effort, JudgeBlocks, choose_blocks, choose_training
from worldmodel.evaluation.network import CHUNK, Network, Place, levels_of, one_thread
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.probes.linear import LinearProbe, Moments, fit_ridge
from worldmodel.evaluation.probes.objects import Track
from worldmodel.evaluation.probes.observe import (
    CONTEXT,
    MODEL,
    UNTRAINED,
    UNTRAINED_CONTEXT,
    Observation,
    observe,
)
from worldmodel.evaluation.probes.permanence import HiddenWorlds, fit_permanence
from worldmodel.evaluation.probes.samples import PARTS, Samples
from worldmodel.evaluation.probes.states import ASK_EVERY_FRAMES, Source
from worldmodel.evaluation.probes.whereabouts import MIN_ROWS
from worldmodel.evaluation.scores import bootstrap_groups, r2_score
from worldmodel.evaluation.surprise import (
    COMBINED,
    BlockScores,
    Candidate,
    ScoreBlocks,
    bootstrap_interval,
    choose,
    contrast_wins,
    join_scores,
    splice_frames,
    worlds_by_step,
)
from worldmodel.evaluation.surprise.choice import (
    CurveKey,
    clip_scores,
    copy_key,
    copy_scores,
    spreads_of,
)
from worldmodel.evaluation.surprise.splices import equal_frames
from worldmodel.models.checkpoint import ClipSpec, LoadedModel
from worldmodel.viewing.alike import first_handles, say_in
from worldmodel.viewing.canvas import bare, canvas

CPU = torch.device("cpu")
# Clips that follow an object, of each split; those of training, as many as the report takes, count
# twice, mirrored as well.
NUM_CLIPS = {"train": 500, "val": 140, "test": 140}
# Probes fitted on resampled training clips, whose spread is shown.
NUM_MEMBERS = 16
NETWORKS = {MODEL: CONTEXT, UNTRAINED: UNTRAINED_CONTEXT}
LAST_SEEN, VELOCITY, CLOCK = "last seen", "constant velocity", "clock"
COLOURS = {MODEL: BLUE, UNTRAINED: ORANGE, LAST_SEEN: GREEN, VELOCITY: PURPLE, CLOCK: "0.45"}
# Bins of how long the object has been hidden, in frames [first, last].
HIDDEN_FOR = ((1, 4), (5, 8), (9, 10**6))
COLUMNS = 8
CLIP_LOOKS = (("AA", BLUE, "-"), ("BB", SKY, "-"), ("AB", RED, "--"), ("BA", ORANGE, "--"))
PROBED_KINDS = ("permanence", "reveal", "continuity")


# --- Where it is ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WatchTracks:
    """Runs networks over clips for the probes; may be called in any process.

    Attributes:
        networks: `model` and `untrained`.
        fps: frames per second of the clips.
        mirrored: event clips are watched in a mirror as well.
    """

    networks: Mapping[str, Network]
    fps: float
    mirrored: bool = False

    def __call__(self, clips: list[Footage]) -> Observation:
        """Of at most `CHUNK` clips."""
        if self.mirrored:
            clips = list(mirrored_too(clips))
        seen = observe(self.networks, clips, self.fps)
        seen.outputs.clear()
        return seen


@dataclass(frozen=True)
class Watched:
    """Clips that follow an object: of train and val to fit on, of test to ask about.

    Attributes:
        samples: by split.
        keys: of the test clips, as in `samples["test"]`.
        root: of the set, `clip` as they were read.
    """

    samples: Mapping[str, Samples]
    keys: Sequence[str]
    root: Path
    clip: ClipSpec

    def footage(self, number: int) -> Footage:
        """A test clip, read again."""
        refs = {ref.key: ref for ref in find_samples(self.root, "test", "clips")}
        return read_footage(refs[self.keys[number]], self.clip)


def watch_tracks(
    networks: Mapping[str, Network],
    clip: ClipSpec,
    root: Path,
    counts: Mapping[str, int] | None = None,
    pace: Pace | None = None,
) -> Watched:
    """Run `model` and `untrained` over clips that follow an object through an event.

    Args:
        networks: by name.
        clip: the clips that they see.
        root: folder of a set of the physics world.
        counts: clips of each split; `NUM_CLIPS` by default.
        pace: of passes over clips; changes no number.

    Raises:
        InputError: the set has no such clips.
    """
    counts = NUM_CLIPS if counts is None else counts
    spans = [level.span for level in levels_of(networks[MODEL])]
    read = partial(read_footage, clip=clip)
    samples, keys = {}, []
    for split in ("train", "val", "test"):
        effort = Effort(event_clips=counts[split], free_clips=0)
        refs = choose_training(find_samples(root, split, "clips"), effort)
        if not refs:
            raise InputError(f"no clip of {split} in {root} follows an object: make it anew")
        samples[split] = Samples(spans, clip.fps, clip.num_frames)
        work = WatchTracks(networks, clip.fps, mirrored=split == "train")
        for seen in run_pass(refs, read, work, CHUNK, CPU, pace or Pace(quiet=True)):
            samples[split].add(seen)
        keys = [ref.key for ref in refs]
    return Watched(samples, keys, root, clip)


def asked(samples: Samples, level: int) -> np.ndarray:
    """Steps `(n, A_l)` at which the object has been seen before and is in the image."""
    return np.any([samples.mask(part, level) for part in PARTS], axis=0)


@dataclass(frozen=True)
class Belief:
    """Where the tracked object is in test clips, and where it is said to be.

    One probe for all steps, whether the object shows or not: nobody tells it which.

    Attributes:
        level: whose context states are read; the best on validation clips.
        ends: `(A,)` frames at which it is asked.
        fps: frames per second.
        tracks: of each test clip.
        asked: `(n, A)`, see `asked`.
        said: `(n, A, 2)` px by whom: the two networks, and rules that are given the true past.
        members: `(num_members, n, A, 2)` px by network, of probes fitted on resampled clips.
    """

    level: int
    ends: np.ndarray
    fps: float
    tracks: Sequence[Track]
    asked: np.ndarray
    said: Mapping[str, np.ndarray]
    members: Mapping[str, np.ndarray]

    @property
    def true(self) -> np.ndarray:
        """`(n, A, 2)` px."""
        return np.stack([track.position for track in self.tracks])[:, self.ends]

    def part(self, name: str) -> np.ndarray:
        """`(n, A)`: asked steps that are `visible`, `partly` or `hidden`."""
        return self.asked & np.stack([getattr(track, name) for track in self.tracks])[:, self.ends]

    @property
    def hidden_for(self) -> np.ndarray:
        """`(n, A)`, for how many frames it has been hidden."""
        return np.stack([track.hidden_for for track in self.tracks])[:, self.ends]

    def error(self, who: str, rows: np.ndarray) -> tuple[float, list[float]]:
        """Mean absolute error in px over rows `(n, A)`, and its 95 % interval over clips."""
        off = np.abs(self.said[who] - self.true)[rows].mean(1)
        clips = np.nonzero(rows)[0]
        ends = bootstrap_groups(off, np.ones_like(off), clips, lambda total, count: total / count)
        return float(off.mean()), ends

    def r2(self, who: str, rows: np.ndarray) -> float:
        """Share of the place's spread over rows `(n, A)` that is explained."""
        return r2_score(self.said[who][rows], self.true[rows])

    def longest_hidden(self, count: int, comes_out: bool = False) -> list[int]:
        """The test clips in which the object is hidden longest, of equals the first.

        Args:
            count: how many.
            comes_out: of those alone in which it is seen again afterwards.
        """
        hidden, shown = self.part("hidden"), self.part("visible")
        # Seen at a step after the first that hides it.
        again = np.any(shown & (hidden.cumsum(1) > 0), axis=1)
        numbers = [number for number in range(len(hidden)) if again[number] or not comes_out]
        return sorted(numbers, key=lambda number: -hidden[number].sum())[:count]


@one_thread()
def believe(watched: Watched, num_members: int = NUM_MEMBERS, seed: int = 0) -> Belief:
    """Fit probes of place to training clips, choose on validation, ask about test clips.

    Args:
        watched: clips of all splits.
        num_members: of each ensemble.
        seed: of the resampling.

    Raises:
        InputError: too few steps show where the object is.
    """
    train, val, test = (watched.samples[split] for split in ("train", "val", "test"))
    fitted: dict[tuple[str, int], tuple[LinearProbe, float]] = {}
    for level in range(len(train.spans)):
        for name, source in NETWORKS.items():
            rows, held = (_place_rows(part, source, level) for part in (train, val))
            if min(len(rows[1]), len(held[1]), int(asked(test, level).sum())) < MIN_ROWS:
                continue
            probe, _ = fit_ridge(rows[:2], held[:2])
            fitted[name, level] = probe, r2_score(probe(held[0]), held[1])
    if not fitted:
        raise InputError(f"fewer than {MIN_ROWS} steps follow an object: take more clips")
    level = max((key[1] for key in fitted), key=lambda each: (fitted[MODEL, each][1], -each))
    mask, ends = asked(test, level), test.ends(level)
    said = {
        LAST_SEEN: np.stack([each.last for each in test.sightings(level)])[:, ends],
        VELOCITY: np.stack([each.extrapolated for each in test.sightings(level)])[:, ends],
        CLOCK: _clock(train, val, test, level),
    }
    members = {}
    for name, source in NETWORKS.items():
        probe, states = fitted[name, level][0], test.states(source, level)
        said[name] = _ask(probe, states)
        ensemble = list(_resampled(train, source, level, probe.strength, num_members, seed))
        members[name] = np.stack([_ask(member, states) for member in ensemble])
    return Belief(level, ends, test.fps, test.tracks, mask, said, members)


def _place_rows(samples: Samples, source: Source, level: int) -> tuple[Tensor, np.ndarray, Any]:
    return samples.rows(source, level, asked(samples, level), samples.positions(level))


def _ask(probe: LinearProbe, states: Tensor) -> np.ndarray:
    """`(n, A, F)` -> `(n, A, K)`."""
    return probe(states.flatten(0, 1)).reshape(*states.shape[:2], -1)


def _clock(train: Samples, val: Samples, test: Samples, level: int) -> np.ndarray:
    """What the frame's number and the screens tell of the place, `(n, A, 2)`."""
    rows = []
    for samples in (train, val):
        mask = asked(samples, level)
        rows.append((samples.clock(level, mask), samples.positions(level)[mask]))
    probe, _ = fit_ridge(rows[0], rows[1])
    everywhere = np.ones((len(test), len(test.ends(level))), dtype=bool)
    return probe(test.clock(level, everywhere)).reshape(*everywhere.shape, 2)


def _resampled(
    train: Samples, source: Source, level: int, strength: float, count: int, seed: int
) -> Iterator[LinearProbe]:
    """Probes fitted on clips drawn with replacement; a clip and its mirror image go together."""
    features, places, clips = _place_rows(train, source, level)
    scene = np.cumsum(~np.array(train.mirrored, dtype=bool)) - 1
    generator, num_scenes = np.random.default_rng(seed), int(scene.max()) + 1
    for _ in range(count):
        drawn = generator.multinomial(num_scenes, [1 / num_scenes] * num_scenes)
        weights = drawn[scene[clips]]
        kept = np.flatnonzero(weights)
        moments = Moments(features.shape[1], places.shape[1])
        moments.add(features[torch.from_numpy(kept)], places[kept], weights[kept])
        yield moments.solve([strength])[0]


# --- Whether it is there, and surprise ------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """What the networks make of blocks.

    Attributes:
        scores: of test blocks: the model's, its untrained networks' and those of rules.
        spreads: of possible validation clips, the units in which levels are combined.
        hidden: states of validation and test blocks of which one world lacks the object.
        spans: frames per step of each level.
        fps: frames per second.
    """

    scores: BlockScores
    spreads: Mapping[str, Mapping[CurveKey, float]]
    hidden: Mapping[str, HiddenWorlds]
    spans: Sequence[int]
    fps: float

    def wins(self, kind: str, places: Sequence[Place]) -> dict[str, np.ndarray]:
        """Relative accuracy of each block of a kind, some places combined.

        Args:
            kind: of block.
            places: levels and horizons.

        Returns:
            `model` and `copy` `(num_blocks,)`, `untrained` `(num_networks, num_blocks)`. All blocks
            are ties, one half, where whatever happens surprises the model alike.
        """
        rows, curves = self.scores.kinds == kind, self.scores.curves
        surprised = [place for place in places if self.is_surprised(place)]
        places = surprised or places
        candidate = COMBINED if len(places) > 1 else Candidate(*places[0])
        some: dict[CurveKey, np.ndarray] = {place: curves[place] for place in places}
        copies: dict[CurveKey, np.ndarray] = {
            copy_key(place): curves[copy_key(place)] for place in places
        }
        # Networks differ in how much surprises them, so that each has its own spread as unit.
        others = [
            clip_scores(
                {place: each.curves[place] for place in places},
                candidate,
                spreads_of(each.curves),
            )
            for each in self.scores.untrained
        ]
        own = contrast_wins(clip_scores(some, candidate, self.spreads))
        return {
            MODEL: (own if surprised else np.full_like(own, 0.5))[rows],
            "copy": contrast_wins(copy_scores(some | copies, candidate, self.spreads))[rows],
            UNTRAINED: np.array([contrast_wins(each)[rows] for each in others]),
        }

    def is_surprised(self, place: Place) -> bool:
        """Whether anything surprises the model more than something else, at a level and horizon.

        If not, its level has collapsed, and contrasts are those of rounding.
        """
        return not all_alike(self.scores.curves[place].reshape(-1, 1))

    def rule(self, kind: str, name: str) -> float:
        """Relative accuracy of `pixels_short` or `pixels_long` on the blocks of a kind."""
        wins = contrast_wins(self.scores.curves[name].mean(2))
        return float(wins[self.scores.kinds == kind].mean())


def judge_blocks(
    model: LoadedModel,
    root: Path,
    kinds: Sequence[str],
    num_untrained: int = 5,
    pace: Pace | None = None,
) -> Judgement:
    """Score a set's blocks by a model and untrained networks, everywhere, with the whole past.

    Args:
        model: whose blocks; its untrained networks have seeds from 0 on.
        root: folder of a set of the physics world.
        kinds: of the test blocks that are scored; of those without the object in one world states
            are kept as well.
        num_untrained: how many.
        pace: of the passes; changes no number.

    Raises:
        InputError: the set lacks blocks of these kinds, or the model predicts nothing.
    """
    networks = {MODEL: model.network, UNTRAINED: model.untrained(0)}
    spans = [level.span for level in levels_of(model.network)]
    score = ScoreBlocks(model.network, context_frames=())
    scores, hidden, choice = {}, {}, None
    for split in ("val", "test"):
        refs = choose_blocks(find_samples(root, split, "blocks"), Effort(kinds=tuple(kinds)))
        if not refs:
            raise InputError(f"{root} has no {split} blocks of {', '.join(kinds)}")
        read = partial(read_block, clip=model.clip, maps=False)
        work = JudgeBlocks(score, networks, CPU)
        parts = list(run_pass(refs, read, work, CHUNK // 2, CPU, pace or Pace(quiet=True)))
        scores[split] = join_scores([part.scores for part in parts])
        joined = HiddenWorlds.join([part.hidden for part in parts if part.hidden is not None])
        if joined is not None:
            hidden[split] = joined
        if split == "val":
            choice = choose(scores["val"], spans)
            if choice is None:
                raise InputError("the model predicts nothing within its clips: no surprise")
            untrained = tuple(model.untrained(seed) for seed in range(num_untrained))
            # Untrained networks are scored everywhere where everything is combined.
            choice = replace(choice, candidate=COMBINED)
            score = replace(score, untrained=untrained, choice=choice)
    assert choice is not None
    return Judgement(scores["test"], choice.spreads, hidden, spans, model.clip.fps)


def clearest_block(root: Path, kind: str, clip: ClipSpec) -> Block:
    """The test block of a kind whose two worlds look most different, so that one sees what changes.

    Chosen by pixels (mean absolute difference over all frames), never by a score.

    Raises:
        InputError: there is none.
    """
    refs = choose_blocks(find_samples(root, "test", "blocks"), Effort(kinds=(kind,)))
    if not refs:
        raise InputError(f"{root} has no test block of the kind {kind}")
    blocks = [read_block(ref, clip, maps=False) for ref in refs]
    return max(blocks, key=_world_difference)


def _world_difference(block: Block) -> float:
    """Mean absolute difference of the worlds' pixels."""
    return float(block.frames.float().diff(dim=0).abs().mean())


@dataclass(frozen=True)
class Presence:
    """Answers to: is the object behind the screen? Where the frames of both worlds are equal.

    Attributes:
        level: whose context states are read, the best on validation blocks.
        said: `(rows,)` by network: above 0 for yes.
        there: `(rows,)` it is.
        blocks: `(rows,)`.
        seconds: `(rows,)`, for how long both worlds have looked the same, rounded up to the time
            between two questions.
    """

    level: int
    said: Mapping[str, np.ndarray]
    there: np.ndarray
    blocks: np.ndarray
    seconds: np.ndarray

    def accuracy(self, who: str, rows: np.ndarray) -> tuple[float, list[float]]:
        """Share of right answers among rows, and its 95 % interval over blocks."""
        right = ((self.said[who] > 0) == self.there)[rows].astype(np.float64)
        ends = bootstrap_groups(
            right, np.ones_like(right), self.blocks[rows], lambda total, count: total / count
        )
        return float(right.mean()), ends


@one_thread()
def ask_presence(watched: Watched, judgement: Judgement) -> Presence:
    """Fit the probe of permanence to single worlds and ask it where no frame can tell.

    Raises:
        InputError: too few steps, or no blocks of which one world lacks the object.
    """
    train, hidden = watched.samples["train"], judgement.hidden
    probes: dict[str, dict[int, tuple[LinearProbe, float]]] = {name: {} for name in NETWORKS}
    for name, source in NETWORKS.items() if len(hidden) == 2 else ():
        for level in range(len(train.spans)):
            fitted = fit_permanence(train, hidden["val"], source, level)
            if fitted is not None:
                probes[name][level] = fitted
    levels = [level for level in probes[MODEL] if level in probes[UNTRAINED]]
    if not levels:
        raise InputError(
            f"too few steps at which an object is hidden; take more clips, and blocks of the kinds "
            f"{', '.join(PROBED_KINDS)}"
        )
    level = max(levels, key=lambda each: (probes[MODEL][each][1], -each))
    said = {}
    for name, source in NETWORKS.items():
        states, sign, blocks, frames = hidden["test"].rows(source, level)
        said[name] = probes[name][level][0](states)[:, 0]
    # Windows begin at odd and at even frames: without rounding neighbours are of other blocks.
    every = max(ASK_EVERY_FRAMES, train.spans[level])
    seconds = np.ceil(frames / every) * every / judgement.fps
    return Presence(level, said, sign[:, 0] > 0, blocks, seconds)


# --- Figures --------------------------------------------------------------------------------------


def _border(axes: Any, colour: str, line: str = "-") -> None:
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3, linestyle=line)


def belief_frames(belief: Belief, watched: Watched, numbers: Sequence[int]) -> Figure:
    """Frames of test clips with the object's true place and where the probes say it is.

    Args:
        belief: of `watched`.
        watched: clips.
        numbers: which test clips, one row each.
    """
    figure = canvas(1.42 * COLUMNS + 0.3, 1.6 * len(numbers) + 0.9)
    grid = figure.subplots(len(numbers), COLUMNS, squeeze=False)
    for axes_row, number in zip(grid, numbers, strict=True):
        clip, steps = watched.footage(number), np.flatnonzero(belief.asked[number])
        size = clip.frames.shape[-1]
        chosen = steps[np.linspace(0, len(steps) - 1, COLUMNS).astype(int)]
        for axes, step in zip(axes_row, chosen, strict=True):
            frame = int(belief.ends[step])
            bare(axes)
            axes.imshow(
                as_image(clip.frames[frame]), interpolation="nearest", extent=(0, size, size, 0)
            )
            hidden = belief.part("hidden")[number, step]
            partly = belief.part("partly")[number, step]
            state = "hidden" if hidden else "partly" if partly else "visible"
            axes.set_title(f"{frame / belief.fps:.2f} s, {state}", fontsize=7)
            if hidden:
                _border(axes, BLACK)
            true = belief.true[number, step]
            axes.plot(*true, "o", markersize=11, fillstyle="none", color="white", mew=2.6)
            axes.plot(*true, "o", markersize=11, fillstyle="none", color=BLACK, mew=1.2)
            for name, marker in ((MODEL, "P"), (UNTRAINED, "X")):
                x, y = np.clip(belief.said[name][number, step], 0, size)
                axes.plot(x, y, marker, color=COLOURS[name], markersize=7, mec="white", mew=0.8)
            axes.set(xlim=(0, size), ylim=(size, 0))
        axes_row[0].set_ylabel(watched.keys[number], fontsize=8)
    marks = [
        Line2D([], [], marker="o", fillstyle="none", color=BLACK, linestyle="", label="true"),
        *(
            Line2D([], [], marker=marker, color=COLOURS[name], linestyle="", label=name)
            for name, marker in ((MODEL, "P"), (UNTRAINED, "X"))
        ),
        Patch(facecolor="none", edgecolor=BLACK, linewidth=2.5, label="frame: wholly hidden"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def belief_over_time(belief: Belief, keys: Sequence[str], numbers: Sequence[int]) -> Figure:
    """The object's x over time, true and decoded, with the spread of the ensemble of probes.

    Args:
        belief: of test clips.
        keys: of all test clips.
        numbers: which are shown, one column each; a row for each network.
    """
    figure = canvas(2.6 * len(numbers) + 0.8, 5.0)
    grid = figure.subplots(len(NETWORKS), len(numbers), sharey=True, sharex=True, squeeze=False)
    for row, name in enumerate(NETWORKS):
        for axes, number in zip(grid[row], numbers, strict=True):
            track, steps = belief.tracks[number], belief.asked[number]
            for frame in np.flatnonzero(track.hidden):
                edges = (frame - 0.5) / belief.fps, (frame + 0.5) / belief.fps
                axes.axvspan(*edges, color="0.87", linewidth=0)
            seconds = np.arange(len(track.position)) / belief.fps
            true = np.where(track.inside, track.position[:, 0], np.nan)
            when = belief.ends[steps] / belief.fps
            low, high = np.percentile(belief.members[name][:, number, :, 0], [5, 95], axis=0)
            axes.fill_between(
                when, low[steps], high[steps], color=COLOURS[name], alpha=0.25, linewidth=0
            )
            axes.plot(seconds, true, color=BLACK, linewidth=1.5, label="true")
            decoded = belief.said[name][number, steps, 0]
            axes.plot(when, decoded, "o-", color=COLOURS[name], markersize=3, label=name)
            rule = belief.said[LAST_SEEN][number, steps, 0]
            axes.plot(when, rule, ":", color=COLOURS[LAST_SEEN], label=LAST_SEEN)
            if row == 0:
                axes.set_title(keys[number], fontsize=9)
            else:
                axes.set_xlabel("time, s")
        grid[row, 0].set_ylabel(f"{name}: x in the image, px")
        grid[row, 0].legend(fontsize=7)
    figure.suptitle(
        f"Grey: nothing of it shows. Band: 5 to 95 % of {len(belief.members[MODEL])} probes on "
        "resampled training clips",
        fontsize=9,
    )
    return figure


def belief_errors(belief: Belief) -> Figure:
    """Error of the decoded place by how much of the object shows and how long it has been gone."""
    hidden = belief.part("hidden")
    bins = {"in full view": belief.part("visible"), "partly hidden": belief.part("partly")}
    for first, last in HIDDEN_FOR:
        inside = hidden & (belief.hidden_for >= first) & (belief.hidden_for <= last)
        low, high = (first - 1) / belief.fps, last / belief.fps
        bins[f"hidden, {low:g} to {high:g} s" if last < 10**6 else f"hidden, over {low:g} s"] = (
            inside
        )
    shown = {name: rows for name, rows in bins.items() if rows.sum() >= MIN_ROWS}
    figure = canvas(9.6, 3.8)
    axes = figure.subplots()
    x = np.arange(len(shown))
    for number, who in enumerate(COLOURS):
        found = [belief.error(who, rows) for rows in shown.values()]
        values = np.array([value for value, _ in found])
        ends = np.array([interval for _, interval in found])
        reach = np.clip([values - ends[:, 0], ends[:, 1] - values], 0, None)
        axes.errorbar(
            x + 0.15 * (number - 2),
            values,
            yerr=reach,
            fmt="os^vD"[number],
            color=COLOURS[who],
            capsize=2,
            label=who if who in NETWORKS else f"{who} (rule)",
        )
    names = [f"{name}\n{rows.sum()} steps" for name, rows in shown.items()]
    axes.set_xticks(x, names, fontsize=8)
    axes.set(ylabel="mean error of the place, px", ylim=(0, None))
    axes.set_title(
        "One probe for all steps; rules are given the true past (95 % over clips)", fontsize=9
    )
    axes.legend(fontsize=8, ncols=5, loc="upper center")
    axes.set_ylim(0, 1.18 * axes.get_ylim()[1])
    return figure


def presence_over_time(presence: Presence) -> Figure:
    """What the probe of permanence answers while both worlds look the same, and how often rightly.

    Args:
        presence: of test blocks.
    """
    figure = canvas(10.2, 3.5)
    panels = figure.subplots(1, 3)
    times = [t for t in np.unique(presence.seconds) if (presence.seconds == t).sum() >= MIN_ROWS]
    for axes, name in zip(panels, NETWORKS, strict=False):
        for there, colour, label in ((True, BLUE, "it is there"), (False, RED, "it is not")):
            rows = [(presence.seconds == time) & (presence.there == there) for time in times]
            middle = np.array([np.median(presence.said[name][each]) for each in rows])
            ends = np.array([np.percentile(presence.said[name][each], [25, 75]) for each in rows])
            axes.fill_between(times, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
            axes.plot(times, middle, "o-", color=colour, markersize=3, label=label)
        axes.axhline(0, color=BLACK, linewidth=0.8, linestyle=":")
        axes.set(xlabel="s since the worlds look the same", title=name)
    panels[0].set_ylabel("answer: median, middle half")
    panels[0].legend(fontsize=8)
    ends = np.array([axes.get_ylim() for axes in panels[:2]])
    for axes in panels[:2]:
        axes.set_ylim(ends.min(), ends.max())
    for name in NETWORKS:
        found = [presence.accuracy(name, presence.seconds == time) for time in times]
        values, ends = np.array([v for v, _ in found]), np.array([e for _, e in found])
        panels[2].fill_between(
            times, ends[:, 0], ends[:, 1], color=COLOURS[name], alpha=0.15, linewidth=0
        )
        panels[2].plot(times, values, "o-", color=COLOURS[name], markersize=3, label=name)
    panels[2].axhline(0.5, color=BLACK, linewidth=0.8, linestyle=":", label="chance")
    panels[2].set(
        xlabel="s since the worlds look the same", title="right answers (95 %)", ylim=(0, 1.02)
    )
    panels[2].legend(fontsize=8, loc="lower right")
    return figure


def block_frames(block: Block, figure: Any) -> None:
    """The four clips of a block as strips: what is equal to the bit, and what is impossible."""
    num_frames = block.frames.shape[1]
    worlds = worlds_by_step(splice_frames(block.windows, 1) or (), num_frames)
    equal = equal_frames(block)
    began = worlds[:, :1]
    grid = figure.subplots(4, COLUMNS)
    for column, frame in enumerate(np.linspace(0, num_frames - 1, COLUMNS).astype(int)):
        mark = "\nequal" if equal[frame] else "\n"
        grid[0, column].set_title(f"{frame / block.fps:.1f} s{mark}", fontsize=7)
        for row, (name, _, _) in enumerate(CLIP_LOOKS):
            axes = grid[row, column]
            bare(axes)
            picture = as_image(block.frames[worlds[row, frame], frame])
            axes.imshow(picture, interpolation="nearest")
            if equal[frame]:
                _border(axes, GREEN)
            elif worlds[row, frame] != began[row, 0]:
                _border(axes, RED, "--")
            if column == 0:
                words = "possible" if row < 2 else "impossible"
                axes.set_ylabel(f"{name}\n{words}", fontsize=7)


def block_surprise(block: Block, judgement: Judgement) -> Figure:
    """One block: its four clips, and their surprise over time at every level and horizon.

    Args:
        block: one of those that were scored.
        judgement: of its set.

    Raises:
        InputError: it was not scored.
    """
    scores = judgement.scores
    if block.key not in scores.keys:
        raise InputError(
            f"{block.key} was not scored; blocks of {', '.join(set(scores.kinds))} were"
        )
    number, levels = scores.keys.index(block.key), sorted({level for level, _ in scores.places})
    columns = max(sum(place[0] == level for place in scores.places) for level in levels)
    figure = canvas(11.0, 4.4 + 1.75 * len(levels))
    heights = [4.4, 1.75 * len(levels)]
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=heights))
    block_frames(block, top)
    grid = bottom.subplots(len(levels), columns, squeeze=False)
    equal, half = np.flatnonzero(equal_frames(block)), 0.5 / judgement.fps
    for axes in grid.flat:
        axes.set_visible(False)
    for row, level in enumerate(levels):
        span = judgement.spans[level]
        horizons = [horizon for own, horizon in scores.places if own == level]
        for axes, horizon in zip(grid[row], horizons, strict=False):
            axes.set_visible(True)
            ahead = f"level {level}, {horizon * span / judgement.fps:g} s ahead"
            if not judgement.is_surprised((level, horizon)):
                axes.set_title(f"{ahead}: tie", fontsize=7)
                say_in(axes, "whatever happens surprises it alike")
                continue
            curves = scores.curves[level, horizon][number]
            steps = np.arange(curves.shape[1]) + horizon
            seconds = ((steps + 1) * span - 1) / judgement.fps
            for middle in equal / judgement.fps:
                axes.axvspan(middle - half, middle + half, color=GREEN, alpha=0.13, linewidth=0)
            for (_, colour, line), curve in zip(CLIP_LOOKS, curves, strict=True):
                axes.plot(seconds, curve, line, color=colour, linewidth=1.2)
            for frame in splice_frames(block.windows, 1) or ():
                axes.axvline(frame / judgement.fps, color=BLACK, linewidth=0.8, linestyle=":")
            means = curves.mean(1)
            contrast = float(means[2] + means[3] - means[0] - means[1])
            word = {1.0: "right", 0.5: "tie", 0.0: "wrong"}[float(contrast_wins(means[None])[0])]
            axes.set_title(f"{ahead}: {contrast:+.2g}, {word}", fontsize=7)
            axes.tick_params(labelsize=7)
            axes.set(xlim=(0, block.frames.shape[1] / judgement.fps), ylim=(0, None))
            axes.set_xlabel("time, s", fontsize=7)
        grid[row, 0].set_ylabel("surprise", fontsize=8)
    handles: list[Any] = [
        Line2D([], [], color=colour, ls=line, label=name) for name, colour, line in CLIP_LOOKS
    ]
    handles += [
        Patch(color=GREEN, alpha=0.3, label="A and B equal to the bit"),
        Line2D([], [], color=BLACK, linestyle=":", label="change of worlds"),
        Patch(facecolor="none", edgecolor=RED, linestyle="--", label="after the change"),
    ]
    bottom.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=8)
    figure.suptitle(
        f"{block.key}; numbers: S(AB) + S(BA) - S(AA) - S(BB), means over time; above 0 is right",
        fontsize=9,
    )
    return figure


def kind_accuracies(judgement: Judgement, kinds: Sequence[str]) -> Figure:
    """Relative accuracy of some kinds at every level and horizon, beside what knows nothing.

    Args:
        judgement: of blocks of these kinds.
        kinds: one panel each; where no block of it was scored, the panel says so.

    Raises:
        InputError: no block of any was.
    """
    if not np.isin(judgement.scores.kinds, kinds).any():
        raise InputError(f"no block of the kinds {', '.join(kinds)} was scored")
    places = judgement.scores.places
    groups: dict[str, list[Place]] = {
        f"L{level} {horizon * judgement.spans[level] / judgement.fps:g} s": [(level, horizon)]
        for level, horizon in places
    }
    for level in sorted({level for level, _ in places}):
        groups[f"L{level} all"] = [place for place in places if place[0] == level]
    groups["all"] = list(places)
    figure = canvas(11.0, 2.3 * -(-len(kinds) // 2) + 0.7)
    panels = figure.subplots(-(-len(kinds) // 2), 2, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(kinds) :]:
        axes.set_visible(False)
    x = np.arange(len(groups))
    for axes, kind in zip(panels.flat, kinds, strict=False):
        wins = [judgement.wins(kind, own) for own in groups.values()]
        count = len(wins[0][MODEL])
        if not count:
            axes.set_title(kind, fontsize=9)
            say_in(axes, "no block of this kind was scored")
            axes.set_axis_on()  # its ticks are those of the column
            axes.set_xticks(x, list(groups), rotation=60, fontsize=7)
            continue
        others = np.array([each[UNTRAINED].mean(1) for each in wins])
        axes.bar(
            x,
            others.max(1) - others.min(1),
            bottom=others.min(1),
            width=0.7,
            color="0.85",
            label=f"{others.shape[1]} untrained networks, range",
        )
        axes.plot(x, others.mean(1), "_", color="0.4", markersize=14, label="their mean")
        axes.plot(x, [each["copy"].mean() for each in wins], "x", color=ORANGE, label="copy")
        for name, colour, line in (("pixels_long", PURPLE, "--"), ("pixels_short", GREEN, ":")):
            value, label = judgement.rule(kind, name), name.replace("_", ", ") + " memory"
            axes.axhline(value, color=colour, linestyle=line, linewidth=1.3, label=label)
        values = np.array([each[MODEL].mean() for each in wins])
        ends = np.array([bootstrap_interval(each[MODEL]) for each in wins])
        reach = np.clip([values - ends[:, 0], ends[:, 1] - values], 0, None)
        axes.errorbar(x, values, yerr=reach, fmt="o", color=BLUE, capsize=2, label="model, 95 %")
        alike = not any(map(judgement.is_surprised, places))
        more = "; whatever happens surprises the model alike" if alike else ""
        axes.set_title(f"{kind} ({count} blocks){more}", fontsize=9)
        axes.set_ylim(-0.03, 1.05)
        axes.axvline(len(places) - 0.5, color="0.7", linewidth=0.8)
        axes.set_xticks(x, list(groups), rotation=60, fontsize=7)
    for axes in panels[:, 0]:
        axes.set_ylabel("relative accuracy", fontsize=8)
    handles, labels = first_handles(panels.flat)
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    return figure
