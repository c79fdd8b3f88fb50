"""How far is what a token shows? Probes from the tokens of a frame to metric depth.

The headline is linear and reads level-0 tokens of a single frame. Beside it stand a convolution on
the same tokens, the tokens and context states of all levels (a context state has seen the past, so
that a moving camera could tell it depth), smaller shares of the training clips, and what needs no
training of the network: the untrained one, pixels, the mean depth map.

Everything passes by in three steps, so that memory does not grow with the number of clips:
`take_depth` keeps a few frames of each clip, `DepthSamples` a limited number of clips to learn
from, and `DepthScores` (depth_scores.py) sums of each test clip alone.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.clips import Truth
from worldmodel.data.truth import SLAB_ID
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.network import LevelShape, one_thread
from worldmodel.evaluation.probes.depth_heads import (
    CAP_M,
    NEAREST_M,
    DepthProbe,
    Examples,
    Parts,
    fit_conv,
    fit_linear,
)

# Depth is read at 4 x 4 places per token of level 0: 16 x 16 for 4 x 4 tokens, one per 4 x 4 pixels
# at 64.
CELLS = 4
FRAMES_PER_CLIP = 4
# With all 2150 training clips (mirrored ones included) instead of 1024 the headline's rmse was
# 0.0002 m lower, with 512 it was 0.0012 m higher, with 256 0.004 m. A level of 1 x 1 tokens, which
# has the fewest rows to learn from, lost 0.003 to 0.01 m to 1024.
MAX_TRAIN_CLIPS = 1024
MAX_VAL_CLIPS = 256
# 1024 clips of the tiny model and its untrained twin take 235 MB, of wider networks fewer fit.
MAX_BYTES = 2**29
CLIPS_PER_PART = 32
# Pixels per side of a patch that the null `pixels` sees; finer ones cost seconds and win nothing.
PATCH_PIXELS = 8
PERCENTS = (1, 10, 100)


@dataclass(frozen=True)
class Reading:
    """What a probe reads.

    Attributes:
        network: `model`, `untrained` or the name of any other; `pixels` for no network.
        level: of the network.
        source: `tokens` or `context` (states); `pixels` for no network.
    """

    network: str
    level: int = 0
    source: str = "tokens"


PIXELS = Reading("pixels", 0, "pixels")


@dataclass(frozen=True)
class Case:
    """One probe.

    Attributes:
        reading: what it reads.
        head: `linear` or `conv`.
        percent: share of the training clips that it learned from.
    """

    reading: Reading
    head: str = "linear"
    percent: int = 100


HEADLINE = Case(Reading("model"))
MEAN = Case(Reading("mean", 0, "mean"))
"""No probe at all: the mean depth map of training."""


@dataclass(frozen=True)
class DepthPlan:
    """Which frames of a clip are asked for depth, in which cells.

    Attributes:
        frames: numbers of the frames. Each is the last of a step, of all levels where steps of one
            are whole steps of the next.
        steps: per level, the step that ends with each of these frames (or last before it); none
            where one step is longer than a clip.
        grids: per level rows and columns of tokens.
    """

    frames: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    grids: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, levels: Sequence[LevelShape], num_frames: int) -> "DepthPlan":
        """At most `FRAMES_PER_CLIP` frames, evenly spread, the last one at the end of a step.

        Args:
            levels: of the network; the untrained one has the same.
            num_frames: frames of a clip.

        Raises:
            InputError: a clip is shorter than a step of level 0.
        """
        spans = [level.span for level in levels]
        if num_frames < spans[0]:
            raise InputError(
                f"depth is asked at the end of a step, but a step of level 0 covers {spans[0]} "
                f"frames and a clip has {num_frames}; evaluate on longer clips"
            )
        slowest = max(span for span in spans if span <= num_frames)
        ends = range(slowest - 1, num_frames, slowest)
        count = min(FRAMES_PER_CLIP, len(ends))
        frames = tuple(ends[(k + 1) * len(ends) // count - 1] for k in range(count))
        steps = tuple(
            tuple((frame + 1) // span - 1 for frame in frames) if span <= num_frames else ()
            for span in spans
        )
        return cls(frames, steps, tuple((level.grid[0], level.grid[1]) for level in levels))

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells, the same for all levels."""
        return self.grids[0][0] * CELLS, self.grids[0][1] * CELLS

    def answering(self, level: int) -> tuple[int, int]:
        """Rows and columns of tokens that answer for one level, each for cells of its own.

        A coarser grid answers for more cells per token. A grid that does not divide the cells is
        laid out on that of level 0 (`features`).
        """
        rows, columns = self.grids[level]
        divides = self.cells[0] % rows == 0 and self.cells[1] % columns == 0
        return self.grids[level] if divides else self.grids[0]

    def features(self, level: int, values: Tensor) -> Tensor:
        """What is read of one level.

        Args:
            level: whose steps.
            values: tokens or context states of clips, `(B, T_l, N_l, F)`.

        Returns:
            `(B, n, N, F)` for the n frames and the N tokens of `answering`.
        """
        chosen = values[:, list(self.steps[level])]
        own, answering = self.grids[level], self.answering(level)
        if own == answering:
            return chosen
        # At each place the token within whose patch the place's centre lies.
        rows, columns = (
            (np.arange(count) * 2 + 1) * mine // (2 * count)
            for mine, count in zip(own, answering, strict=True)
        )
        index = (rows[:, None] * own[1] + columns).reshape(-1)
        return chosen[:, :, torch.from_numpy(index)]


def cell_pixels(size: int, cells: int) -> np.ndarray:
    """Index of the pixel at each cell's centre along one side of the frame."""
    return ((np.arange(cells) + 0.5) * size / cells).astype(np.int64)


def depth_cells(
    truth: Truth, frames: Sequence[int], cells: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True depth where the probe is asked for it.

    The pixel at a cell's centre stands for the cell: a mean over the cell would mix an object with
    the wall behind it to a depth that nothing has.

    Args:
        truth: of one clip.
        frames: which of its frames.
        cells: rows and columns of cells.

    Returns:
        Metres, float32, at most `CAP_M`; whether any surface was hit; whether it is an object's.
        Each `(len(frames), *cells)`.
    """
    rows = cell_pixels(truth.depth.shape[1], cells[0])
    columns = cell_pixels(truth.depth.shape[2], cells[1])
    take = np.ix_(np.asarray(frames), rows, columns)
    depth, ids = truth.depth[take], truth.ids[take]
    hit = depth > 0
    objects = (ids > 0) & (ids < SLAB_ID) & hit
    return np.minimum(depth, np.float32(CAP_M)), hit, objects


def per_token(cells: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Maps `(n, rows, columns)` to the cells of each token, `(n, N, K)`."""
    tall, wide = cells.shape[1] // grid[0], cells.shape[2] // grid[1]
    split = cells.reshape(len(cells), grid[0], tall, grid[1], wide)
    return split.transpose(0, 1, 3, 2, 4).reshape(len(cells), grid[0] * grid[1], tall * wide)


def as_map(values: np.ndarray, grid: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """The inverse of `per_token`."""
    tall, wide = cells[0] // grid[0], cells[1] // grid[1]
    split = values.reshape(len(values), grid[0], grid[1], tall, wide)
    return split.transpose(0, 1, 3, 2, 4).reshape(len(values), *cells)


def patches(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each token's patch with half a patch around it, `PATCH_PIXELS` a side or half its own size.

    Args:
        frames: uint8 `(n, C, H, W)`.
        grid: rows and columns of tokens.

    Returns:
        `(n, N, F)`, 0 to 1; outside the frame its border is repeated.
    """
    sides = [size // count // 2 for size, count in zip(frames.shape[-2:], grid, strict=True)]
    height, width = (min(max(side, 1), PATCH_PIXELS) for side in sides)
    small = nn.functional.adaptive_avg_pool2d(
        frames.float() / 255, (grid[0] * height, grid[1] * width)
    )
    margin = (width // 2, width - width // 2, height // 2, height - height // 2)
    padded = nn.functional.pad(small, margin, mode="replicate")
    columns = nn.functional.unfold(padded, (2 * height, 2 * width), stride=(height, width))
    return columns.transpose(1, 2)


@dataclass(frozen=True)
class DepthClip:
    """What is kept of a clip: n of its frames.

    Of numpy, because it comes from other processes: torch hands tensors over as open files, one
    each for as long as it lives, and the usual limit of 1024 is reached after 80 clips.

    Attributes:
        frames: uint8 `(n, C, H, W)`.
        metres: float32 `(n, rows, columns)`, at most `CAP_M`, 0 where nothing is hit.
        hit: bool, the same shape: the cell shows a surface.
        objects: bool, the same shape: an object's surface.
        features: per reading float32 `(n, N, F)`.
        moving_camera: whether the camera moves, if known.
    """

    frames: np.ndarray
    metres: np.ndarray
    hit: np.ndarray
    objects: np.ndarray
    features: Mapping[Reading, np.ndarray]
    moving_camera: bool | None

    @property
    def num_bytes(self) -> int:
        """Of all arrays together."""
        arrays = (self.frames, self.metres, self.hit, self.objects, *self.features.values())
        return sum(array.nbytes for array in arrays)

    def read(self, reading: Reading, grid: tuple[int, int]) -> Tensor:
        """`(n, N, F)`: features, or for `PIXELS` what surrounds each token of `grid`."""
        if reading == PIXELS:
            return patches(torch.from_numpy(self.frames), grid)
        return torch.from_numpy(self.features[reading])


def take_depth(
    plan: DepthPlan,
    clips: Sequence[Footage],
    values: Mapping[str, Mapping[str, Sequence[Tensor]]],
) -> list[DepthClip]:
    """What the depth section keeps of some clips; plain arrays that hold on to nothing else.

    Args:
        plan: of the network.
        clips: with their truth.
        values: per network and source (`tokens`, `context`) a tensor `(B, T_l, N_l, F)` for each
            level from 0 on. Whoever leaves out a source, or the higher levels, has no score there.

    Raises:
        InputError: a network's values are not finite.
    """
    kept = {
        Reading(network, level, source): plan.features(level, own).float()
        for network, sources in values.items()
        for source, levels in sources.items()
        for level, own in enumerate(levels)
        if plan.steps[level]
    }
    for reading, own in kept.items():
        if not torch.isfinite(own).all():
            number = int((~torch.isfinite(own)).flatten(1).any(1).nonzero()[0])
            raise InputError(
                f"{reading.source} of level {reading.level} of the network {reading.network} are "
                f"not finite on {clips[number].key}: its training diverged; evaluate an earlier "
                "checkpoint"
            )
    taken = []
    for number, clip in enumerate(clips):
        moving = clip.metadata.get("moving_camera")
        taken.append(
            DepthClip(
                # Copies: a view would keep all frames and steps of every clip in memory.
                clip.frames[list(plan.frames)].numpy().copy(),
                *depth_cells(clip.truth, plan.frames, plan.cells),
                {reading: own[number].numpy().copy() for reading, own in kept.items()},
                None if moving is None else bool(moving),
            )
        )
    return taken


class DepthSamples:
    """Clips of one split to learn from or to choose by: all of them, or an even sample.

    Each clip has a random number from its place in the order of clips, and those with the lowest
    are kept. So the sample is the same however clips are grouped, and a smaller share of the clips
    lies within every larger one.

    Args:
        max_clips: clips to keep.
        max_bytes: to keep, if that is fewer clips; at least one is kept.
        seed: of the random numbers.
    """

    def __init__(self, max_clips: int, max_bytes: int = MAX_BYTES, seed: int = 0) -> None:
        self.max_clips, self.max_bytes, self.seed = max_clips, max_bytes, seed
        self.num_seen = 0
        self._kept: list[tuple[float, int, DepthClip]] = []

    def add(self, clips: Iterable[DepthClip]) -> None:
        """Take in the next clips of the split."""
        for clip in clips:
            number = float(np.random.default_rng([self.seed, self.num_seen]).random())
            # No two clips share a place, so that clips themselves are never compared.
            bisect.insort(self._kept, (number, self.num_seen, clip))
            self.num_seen += 1
            if len(self._kept) > min(self.max_clips, max(1, self.max_bytes // clip.num_bytes)):
                self._kept.pop()

    def __len__(self) -> int:
        return len(self._kept)

    def clips(self, percent: int = 100) -> list[DepthClip]:
        """A share of the kept clips, at least one, in the order in which they came."""
        count = max(1, round(len(self._kept) * percent / 100))
        return [clip for _, _, clip in sorted(self._kept[:count], key=lambda kept: kept[1])]


def _examples(
    clips: Sequence[DepthClip], reading: Reading, grid: tuple[int, int]
) -> Iterator[Examples]:
    for start in range(0, len(clips), CLIPS_PER_PART):
        part = clips[start : start + CLIPS_PER_PART]
        yield Examples(
            torch.cat([clip.read(reading, grid) for clip in part]),
            per_token(np.concatenate([clip.metres for clip in part]), grid).astype(np.float64),
            per_token(np.concatenate([clip.hit for clip in part]), grid),
        )


@dataclass(frozen=True)
class DepthProbes:
    """Everything that was fitted.

    Attributes:
        plan: that the clips were taken with.
        probes: by case.
        mean: float64 metres `(rows, columns)`, the mean depth map of training.
        train_clips: clips learned from, by percent.
        num_val_clips: clips that chose.
    """

    plan: DepthPlan
    probes: Mapping[Case, DepthProbe]
    mean: np.ndarray
    train_clips: Mapping[int, int]
    num_val_clips: int

    def maps(self, case: Case, clip: DepthClip) -> np.ndarray:
        """Metres `(n, rows, columns)` that one probe reads from a clip."""
        if case == MEAN:
            return np.broadcast_to(self.mean, clip.metres.shape)
        grid = self.plan.answering(case.reading.level)
        return as_map(self.probes[case](clip.read(case.reading, grid)), grid, self.plan.cells)


@one_thread()
def fit_depth(
    plan: DepthPlan, train: DepthSamples, val: DepthSamples, seed: int = 0, conv: bool = True
) -> DepthProbes:
    """Fit all probes: 15 s on one core for 1024 clips of the tiny model and its untrained twin.

    Args:
        plan: that the clips were taken with.
        train: teaches.
        val: chooses the ridge's strength and the convolution's length of training.
        seed: of the convolution.
        conv: False leaves it out, which takes most of the time.

    Raises:
        InputError: a split has no clips.
    """
    if not len(train) or not len(val):
        raise InputError(
            "depth probes need training and validation clips, "
            f"got {len(train)} and {len(val)}; evaluate on a set that has both"
        )
    choose = val.clips()
    readings = list(train.clips()[0].features)

    def parts(reading: Reading, percent: int = 100) -> tuple[Parts, Parts]:
        grid = plan.answering(reading.level)
        return (
            partial(_examples, train.clips(percent), reading, grid),
            partial(_examples, choose, reading, grid),
        )

    probes = {Case(reading): fit_linear(*parts(reading)) for reading in (*readings, PIXELS)}
    for reading in readings:
        if reading != Reading(reading.network):
            continue
        for percent in PERCENTS:
            if percent != 100:
                case = Case(reading, percent=percent)
                probes[case] = fit_linear(*parts(reading, percent))
        if conv:
            linear, (learn, check) = probes[Case(reading)], parts(reading)
            probes[Case(reading, "conv")] = fit_conv(linear, learn, check, plan.grids[0], seed)
    mean = as_map(probes[Case(PIXELS)].mean[None], plan.grids[0], plan.cells)[0]
    # As any probe's answer: where training hit nothing the mean is 0, which has no logarithm.
    mean = np.clip(mean, NEAREST_M, CAP_M)
    counts = {percent: len(train.clips(percent)) for percent in PERCENTS}
    return DepthProbes(plan, probes, mean, counts, len(choose))
