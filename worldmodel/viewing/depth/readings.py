"""Depth read from single frames, and over time where the camera moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Footage, find_samples, read_footage, read_samples
from worldmodel.evaluation.measure import evenly
from worldmodel.evaluation.network import (
    CHUNK,
    Network,
    levels_of,
    one_thread,
    pad_chunk,
    run_chunk,
)
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.probes.depth import (
    MEAN,
    PIXELS,
    Case,
    DepthClip,
    DepthPlan,
    DepthProbes,
    DepthSamples,
    Reading,
    fit_depth,
    take_depth,
)
from worldmodel.evaluation.probes.depth_metrics import NUM_SUMS, cell_sums
from worldmodel.evaluation.scores import bootstrap_groups, percentile_interval
from worldmodel.models.checkpoint import ClipSpec

CPU = torch.device("cpu")
# Of the report's 650 training and 200 validation clips. The rmse of tiny is .4502 m with
# these and .4505 m with all of them.
NUM_CLIPS = {"train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class WatchDepth:
    """Keeps of clips what depth probes read; may be called in any process.

    Attributes:
        networks: by name, of equal levels.
        plan: which frames are asked.
        past: context states too, which have seen the frames before.
    """

    networks: Mapping[str, Network]
    plan: DepthPlan
    past: bool = False

    def __call__(self, clips: Sequence[Footage]) -> list[DepthClip]:
        """Of at most `CHUNK` clips."""
        frames = [clip.frames for clip in clips]
        values: dict[str, dict[str, list[Tensor]]] = {}
        for name, network in self.networks.items():
            if self.past:
                tokens, context, _ = run_chunk(network, frames, CPU)
                values[name] = {"tokens": tokens[:1], "context": context[:1]}
            else:  # what is not asked for need not be predicted
                with torch.no_grad():
                    tokens = network.encode(pad_chunk(frames, CHUNK))
                values[name] = {"tokens": [tokens[0][: len(frames)]]}
        return take_depth(self.plan, clips, values)


@dataclass(frozen=True)
class DepthReadings:
    """Probes of several networks and the test clips that they are asked about.

    Attributes:
        probes: fitted on training clips, strengths chosen on validation clips.
        clips: of the test split, at the frames of the probes' plan.
        sums: per case `(num_clips, frames, 2, NUM_SUMS)`, over all cells of a frame and over those
            of objects.
    """

    probes: DepthProbes
    clips: Sequence[DepthClip]
    sums: Mapping[Case, np.ndarray]

    def rmse(
        self,
        case: Case,
        objects: bool = False,
        moving: bool | None = None,
        frame: int | None = None,
    ) -> tuple[float, list[float]]:
        """Root mean squared error in metres, and its 95 % interval over clips.

        Args:
            case: whose.
            objects: over the cells of objects alone.
            moving: of clips whose camera moves, or stands; None for all.
            frame: a place in the plan's frames; None for all of them.

        Raises:
            InputError: no such cells.
        """
        chosen = [moving is None or clip.moving_camera is moving for clip in self.clips]
        sums = self.sums[case][chosen, :, int(objects), :2]
        rows = sums.sum(1) if frame is None else sums[:, frame]
        if not rows[:, 0].sum():
            raise InputError("no test clip shows such cells; take more test clips")
        interval = bootstrap_groups(
            rows[:, 1], rows[:, 0], np.arange(len(rows)), lambda a, b: np.sqrt(a / b)
        )
        if interval is None:
            raise InputError("one test clip alone shows such cells; take more test clips")
        return float(np.sqrt(rows[:, 1].sum() / rows[:, 0].sum())), interval

    def gain(self, case: Case, other: Case) -> tuple[float, list[float]]:
        """By how many metres of rmse a case is better than another, on the same clips.

        Returns:
            The difference, above 0 where `case` is better, and its 95 % interval over clips.
        """
        mine, theirs = (self.sums[each][:, :, 0, :2].sum(1) for each in (case, other))
        rows = np.random.default_rng(0).integers(0, len(mine), size=(2000, len(mine)))
        rows[0] = np.arange(len(mine))

        def rmse(sums: np.ndarray) -> np.ndarray:
            return np.sqrt(sums[rows, 1].sum(1) / sums[rows, 0].sum(1))

        difference = rmse(theirs) - rmse(mine)
        return float(difference[0]), percentile_interval(difference[1:], len(mine))

    def frames(self, count: int) -> list[tuple[int, int]]:
        """Clip and frame of `count` test frames, evenly spread over all."""
        per_clip = len(self.probes.plan.frames)
        chosen = np.linspace(0, len(self.clips) * per_clip - 1, count).astype(int)
        return [divmod(int(number), per_clip) for number in chosen]


def read_depth(
    networks: Mapping[str, Network],
    clip: ClipSpec,
    root: Path,
    past: bool = False,
    conv: bool = True,
    counts: Mapping[str, int] | None = None,
    pace: Pace | None = None,
) -> DepthReadings:
    """Fit depth probes on a set's training clips and ask them about its test clips.

    Args:
        networks: by name, all of the same levels; probes of each are fitted.
        clip: the clips that they see.
        root: folder of a set of the physics world.
        past: probes of context states too.
        conv: small convolutions too, which take most of the fitting.
        counts: clips of each split, evenly spread; `NUM_CLIPS` by default.
        pace: of passes over clips; changes no number.

    Raises:
        InputError: the set lacks clips.
    """
    counts = NUM_CLIPS if counts is None else counts
    levels = levels_of(next(iter(networks.values())))
    plan = DepthPlan.of(levels, clip.num_frames)
    watch = WatchDepth(networks, plan, past)
    kept = {}
    for split in ("train", "val", "test"):
        refs = evenly(find_samples(root, split, "clips"), counts[split])
        parts = run_pass(
            refs, partial(read_footage, clip=clip), watch, CHUNK, CPU, pace or Pace(quiet=True)
        )
        kept[split] = [one for part in parts for one in part]
    learn, choose = (DepthSamples(len(kept[split])) for split in ("train", "val"))
    learn.add(kept["train"])
    choose.add(kept["val"])
    probes = fit_depth(plan, learn, choose, conv=conv)
    return DepthReadings(probes, kept["test"], _sums(probes, kept["test"]))


@one_thread()
def _sums(probes: DepthProbes, clips: Sequence[DepthClip]) -> dict[Case, np.ndarray]:
    sums = {}
    for case in (*probes.probes, MEAN):
        rows = []
        for clip in clips:
            guess = probes.maps(case, clip)
            rows.append(
                [
                    [cell_sums(guess[n], clip.metres[n], cells[n]) for cells in _cells(clip)]
                    for n in range(len(guess))
                ]
            )
        sums[case] = np.array(rows).reshape(len(clips), len(probes.plan.frames), 2, NUM_SUMS)
    return sums


def _cells(clip: DepthClip) -> tuple[np.ndarray, np.ndarray]:
    return clip.hit, clip.objects


def readers(readings: DepthReadings) -> dict[str, Case]:
    """A name for each probe that was fitted on all training clips, nulls last."""
    named = {}
    for case in readings.probes.probes:
        if case.percent == 100 and case.reading.network not in ("untrained", "pixels"):
            more = ", convolution" if case.head == "conv" else ""
            more += ", with the past" if case.reading.source == "context" else ""
            named[case.reading.network + more] = case
    return named | {"untrained": Case(Reading("untrained")), "pixels": Case(PIXELS), "mean": MEAN}


@dataclass(frozen=True)
class DepthFilm:
    """Depth at every frame of one clip, each read from that frame's tokens alone.

    Attributes:
        key: of its sample.
        frames: uint8 `(T, C, H, W)`.
        seconds: `(T,)`.
        metres: `(T, rows, columns)`, true.
        hit: `(T, rows, columns)`, the cell shows a surface.
        guesses: by name of a reader, metres of the same shape.
        travelled: `(T,)` metres that the camera has moved since the first frame.
    """

    key: str
    frames: Tensor
    seconds: np.ndarray
    metres: np.ndarray
    hit: np.ndarray
    guesses: Mapping[str, np.ndarray]
    travelled: np.ndarray

    def rmse(self, name: str) -> np.ndarray:
        """Metres, per frame `(T,)`."""
        square = ((self.guesses[name] - self.metres) ** 2) * self.hit
        return np.sqrt(square.sum((1, 2)) / np.maximum(self.hit.sum((1, 2)), 1))


def travelled(clip: Footage) -> np.ndarray:
    """Metres that a clip's camera has moved since its first frame, `(T,)`."""
    place = clip.truth.state["camera_pose"][:, :, 3].astype(np.float64)
    steps = np.linalg.norm(np.diff(place, axis=0), axis=1)
    return np.concatenate([[0.0], steps.cumsum()])


def farthest_camera(clip: ClipSpec, root: Path) -> Footage:
    """The test clip whose camera travels farthest: chosen without asking any network.

    Raises:
        InputError: the set has no test clips.
    """
    clips = read_samples(find_samples(root, "test", "clips"), clip, blocks=False)
    return max(clips, key=lambda each: float(travelled(each)[-1]))


def film_depth(
    readings: DepthReadings, networks: Mapping[str, Network], clip: Footage, fps: float
) -> DepthFilm:
    """Ask the probes about every frame of one clip.

    Args:
        readings: with probes of `networks`.
        networks: by name.
        clip: any.
        fps: frames per second of the clip.
    """
    count = len(clip.frames)
    span = levels_of(next(iter(networks.values())))[0].span
    ends = range(span - 1, count, span)
    steps = (tuple(range(len(ends))), *(() for _ in readings.probes.plan.steps[1:]))
    plan = replace(readings.probes.plan, frames=tuple(ends), steps=steps)
    (taken,) = WatchDepth(networks, plan)([clip])
    chosen = {
        name: case
        for name, case in readers(readings).items()
        if case.head == "linear" and case.reading.source != "context"
    }
    return DepthFilm(
        clip.key,
        clip.frames[list(ends)],
        np.array(ends) / fps,
        taken.metres.astype(np.float64),
        taken.hit,
        {name: readings.probes.maps(case, taken) for name, case in chosen.items()},
        travelled(clip)[list(ends)],
    )
