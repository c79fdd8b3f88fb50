"""What a model makes of one clip at one step of its training, as plain numbers.

The clip is always the same one, and so are the labelled clips from which depth and places are
learned to be read: the shown one is not among them. Nothing here knows a viewer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldmodel.clips import ClipBatch
from worldmodel.data.catalog import Catalog
from worldmodel.data.shards import SampleRef
from worldmodel.errors import InputError
from worldmodel.evaluation.figures import main_directions, token_colours
from worldmodel.evaluation.footage import Footage, read_footage
from worldmodel.evaluation.network import CHUNK, LevelShape, Network, Place, levels_of, run_chunk
from worldmodel.evaluation.probes.depth import CAP_M, DepthPlan, cell_pixels
from worldmodel.evaluation.probes.objects import track_of
from worldmodel.evaluation.probes.quick import (
    Labels,
    Split,
    States,
    event_samples,
    fit_quick,
    has_truth,
)
from worldmodel.evaluation.probes.stored import StoredProbes
from worldmodel.evaluation.videos.long_video import SurpriseCurve, curve_at
from worldmodel.evaluation.videos.readouts import Belief, DepthMaps, Readouts
from worldmodel.models.checkpoint import ClipSpec

# Clips that teach, choose and measure; with the shown one as many as fill whole chunks.
NUM_FIT, NUM_CHOOSE, NUM_MEASURE = 56, 15, 16
MIN_HELD = 2
"""Labelled validation clips beside the shown one without which nothing could be chosen."""
# True depth is shown with at most so many pixels a side: it comes again with every look.
MAX_DEPTH_SIDE = 64
MISSING_TRUTH = (
    "the first validation clip has no truth to learn them from; clips of the physics world have"
)


@dataclass(frozen=True)
class Shown:
    """The clip that is shown, and what is true of it.

    Attributes:
        key: name of its sample.
        frames: uint8 `(T, 3, H, W)`.
        fps: of these.
        depth: metres, float32 `(T, rows, columns)`, at most `CAP_M`, 0 where nothing is hit; None
            where nobody knows.
        places: `(T, 2)`, shares of the picture's width and height at which the tracked object is,
            hidden or not; NaN where it is not in the picture. None where nobody knows.
    """

    key: str
    frames: Tensor
    fps: float
    depth: np.ndarray | None = None
    places: np.ndarray | None = None

    @classmethod
    def of(cls, clip: Footage, fps: float) -> "Shown":
        """A clip of the physics world."""
        height, width = clip.truth.depth.shape[1:]
        rows, columns = (cell_pixels(side, min(side, MAX_DEPTH_SIDE)) for side in (height, width))
        depth = np.minimum(clip.truth.depth[:, rows[:, None], columns], np.float32(CAP_M))
        track = track_of(clip.truth)
        places = np.where(track.inside[:, None], track.position / (width, height), np.nan)
        return cls(clip.key, clip.frames, fps, depth, places)

    @property
    def seconds(self) -> np.ndarray:
        """`(T,)`, when each frame is shown."""
        return np.arange(len(self.frames)) / self.fps


@dataclass(frozen=True)
class Lesson:
    """Labelled clips: `frames` uint8 `(T, 3, H, W)` of each, and what is true of it."""

    frames: Sequence[Tensor]
    labels: Sequence[Labels]


@dataclass(frozen=True)
class Subject:
    """Everything that stays the same from look to look.

    Attributes:
        shown: the clip.
        lessons: clips that `fit`, `choose` and `measure`; empty without truth.
        missing: why there is neither depth nor belief, half a sentence.
    """

    shown: Shown
    lessons: Mapping[str, Lesson] = field(default_factory=dict)
    missing: str = ""


def read_subject(
    levels: Sequence[LevelShape],
    clip: ClipSpec,
    train: Catalog,
    val: Catalog,
    plain: Callable[[], ClipBatch],
) -> Subject:
    """Read the first validation clip, and labelled ones where there is truth.

    Training clips teach. Validation clips, all but the shown one, choose and measure in turn.

    Args:
        levels: of the model.
        clip: frames, rate and size of clips.
        train: training samples.
        val: validation samples, at least one.
        plain: reads the first of them where there is no truth.

    Raises:
        InputError: the first validation clip cannot be read.
    """
    missing = MISSING_TRUTH
    if not val.is_remote and has_truth(val[0]):
        try:
            shown = Shown.of(read_footage(val[0], clip), clip.fps)
        except InputError as error:  # such as a state of an earlier version
            missing = str(error)
        else:
            return Subject(shown, *read_lessons(levels, clip, train, val))
    first = plain()
    return Subject(Shown(first.keys[0], first.frames[0], clip.fps), {}, missing)


def read_lessons(
    levels: Sequence[LevelShape], clip: ClipSpec, train: Catalog, val: Catalog
) -> tuple[dict[str, Lesson], str]:
    """Labelled clips by what they are for, or none and why; see `read_subject`."""
    held = event_samples(val, NUM_CHOOSE + NUM_MEASURE, {val[0].key})
    taught = event_samples(train, NUM_FIT, {val[0].key, *(ref.key for ref in held)})
    if not taught or len(held) < MIN_HELD:
        return {}, (
            f"they are learned from clips with an event, of which there are {len(taught)} for "
            f"training and {len(held)} more for validation; 1 and {MIN_HELD} are needed"
        )
    plan = DepthPlan.of(levels, clip.num_frames)

    def lesson(refs: Sequence[SampleRef]) -> Lesson:
        clips = [read_footage(ref, clip) for ref in refs]
        return Lesson(
            [each.frames for each in clips], [Labels.of(each, plan, levels) for each in clips]
        )

    chosen = {"fit": taught, "choose": held[1::2], "measure": held[0::2]}
    return {name: lesson(refs) for name, refs in chosen.items()}, ""


@dataclass(frozen=True)
class Seen:
    """What the model gave, on the CPU.

    Attributes:
        tokens: of the shown clip, per level float32 `(T_l, N_l, D_l)`.
        context: its states, `(T_l, N_l, W_l)`.
        predicted: per level and horizon like the tokens.
        states: of the labelled clips, by what they are for.
    """

    tokens: Sequence[Tensor]
    context: Sequence[Tensor]
    predicted: Sequence[Mapping[int, Tensor]]
    states: Mapping[str, Sequence[States]]


def look_at(network: Network, subject: Subject, device: torch.device) -> Seen:
    """Run the model on the shown clip and on the labelled ones, `CHUNK` at a time.

    Args:
        network: the model.
        subject: these clips.
        device: where the model is.
    """
    levels = levels_of(network)
    frames = [subject.shown.frames]
    frames += [each for lesson in subject.lessons.values() for each in lesson.frames]
    plan = DepthPlan.of(levels, len(frames[0]))
    states: list[States] = []
    for start in range(0, len(frames), CHUNK):
        outputs = run_chunk(network, frames[start : start + CHUNK], device)
        if not start:
            own = tuple([each[0].float() for each in part] for part in outputs[:2])
            predicted = [{h: p[0].float() for h, p in level.items()} for level in outputs[2]]
        if subject.lessons:
            states += States.of_chunk(plan, levels, len(frames[0]), *outputs[:2])
    del states[:1]  # of the shown clip, which teaches nothing
    parts = {}
    for name, lesson in subject.lessons.items():
        parts[name], states = states[: len(lesson.frames)], states[len(lesson.frames) :]
    return Seen(own[0], own[1], predicted, parts)


@dataclass(frozen=True)
class Moment:
    """What is recorded at one step of a training.

    Attributes:
        step: of the optimizer.
        along: per level `(T_l N_l, 3)`, where tokens lie along their main directions, turned to
            those of the look before.
        colours: per level uint8 `(T_l, rows, columns, 3)`.
        curves: surprise at each place.
        readouts: depth and belief; None without truth.
        scores: one number each, by name.
    """

    step: int
    along: Sequence[np.ndarray]
    colours: Sequence[np.ndarray]
    curves: Mapping[Place, SurpriseCurve]
    readouts: Readouts | None
    scores: Mapping[str, float]


def moment_of(
    levels: Sequence[LevelShape],
    subject: Subject,
    seen: Seen,
    step: int,
    before: Sequence[np.ndarray | None] | None = None,
) -> Moment:
    """Make of what the model gave what is recorded; fits the probes anew.

    Args:
        levels: of the model.
        subject: the clips.
        seen: of `look_at`.
        step: of the optimizer.
        before: `along` of the look before, of the same clip.
    """
    before = before or [None] * len(levels)
    along = [main_directions(own, like) for own, like in zip(seen.tokens, before, strict=True)]
    colours = [
        np.round(255 * token_colours(own, level.grid, lying)).astype(np.uint8)
        for own, level, lying in zip(seen.tokens, levels, along, strict=True)
    ]
    curves = clip_curves(levels, seen)
    scores = dict(_over_copy(curves))
    readouts = None
    if subject.lessons:
        splits = {
            name: Split(lesson.labels, seen.states[name])
            for name, lesson in subject.lessons.items()
        }
        plan = DepthPlan.of(levels, len(subject.shown.frames))
        quick = fit_quick(plan, levels, splits["fit"], splits["choose"], splits["measure"])
        scores |= quick.scores
        readouts = _read_out(levels, seen, quick.probes)
    return Moment(step, along, colours, curves, readouts, scores)


def clip_curves(levels: Sequence[LevelShape], seen: Seen) -> dict[Place, SurpriseCurve]:
    """Surprise on the shown clip at every level and horizon that fits into it."""
    curves = {}
    for number, level in enumerate(levels):
        tokens = seen.tokens[number]
        for horizon in level.horizons:
            steps = np.arange(horizon, len(tokens))
            if len(steps):
                guess = seen.predicted[number][horizon]
                curves[number, horizon] = curve_at(level, tokens, guess, horizon, steps)
    return curves


def _over_copy(curves: Mapping[Place, SurpriseCurve]) -> dict[str, float]:
    """Per level, at its farthest horizon: mean surprise over that of the copy predictor."""
    scores = {}
    for level in sorted({level for level, _ in curves}):
        farthest = curves[level, max(horizon for other, horizon in curves if other == level)]
        copied = float(farthest.copied.mean())
        if copied > 0:
            scores[f"surprise_over_copy/level{level}"] = float(farthest.values.mean()) / copied
    return scores


def _read_out(levels: Sequence[LevelShape], seen: Seen, probes: StoredProbes) -> Readouts:
    """What the probes say of the shown clip."""

    def ends(level: int) -> np.ndarray:
        return (np.arange(len(seen.tokens[level]), dtype=np.int64) + 1) * levels[level].span - 1

    depth = probes.depth
    assert depth is not None, "there is always a probe of depth"
    maps = DepthMaps(ends(depth.level), depth(seen.tokens[depth.level]), depth.rmse_m)
    beliefs = {}
    for part, place in probes.position.items():
        half = (place.half_px / place.picture[0], place.half_px / place.picture[1])
        answers = place(seen.context[place.level]) / place.picture
        beliefs[part] = Belief(ends(place.level), answers, half)
    return Readouts(maps, beliefs)
