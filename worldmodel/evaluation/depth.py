"""How far is what a token shows? A probe from the tokens of a single frame to metric depth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.clips import Truth
from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.probes import MlpProbe, bootstrap_groups, depth_scores, fit_ridge

CAP_M = 10.0
NEAREST_M = 0.1
# Depth is read at 4 x 4 places per token: 16 x 16 for 4 x 4 tokens, one per 4 x 4 pixels at 64.
CELLS = 4
FRAME_STEP = 8
FIRST_OBJECT, LAST_OBJECT = 1, 99


def cell_pixels(size: int, tokens: int) -> np.ndarray:
    """Index of the pixel at each cell's centre along one side of the frame."""
    cells = tokens * CELLS
    return ((np.arange(cells) + 0.5) * size / cells).astype(np.int64)


def depth_cells(
    truth: Truth, frames: Sequence[int], grid: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """True depth where the probe is asked for it.

    The pixel at a cell's centre stands for the cell: a mean over the cell would mix an object with
    the wall behind it to a depth that nothing has.

    Args:
        truth: of one clip.
        frames: which of its frames.
        grid: rows and columns of tokens.

    Returns:
        Metres, at most `CAP_M`; whether any surface was hit; whether it is an object's. Each
        `(len(frames), N, CELLS * CELLS)`.
    """
    rows = cell_pixels(truth.depth.shape[1], grid[0])
    columns = cell_pixels(truth.depth.shape[2], grid[1])
    take = np.ix_(np.asarray(frames), rows, columns)
    depth, ids = truth.depth[take], truth.ids[take]

    def per_token(cells: np.ndarray) -> np.ndarray:
        split = cells.reshape(len(frames), grid[0], CELLS, grid[1], CELLS)
        return split.transpose(0, 1, 3, 2, 4).reshape(len(frames), grid[0] * grid[1], CELLS**2)

    objects = (ids >= FIRST_OBJECT) & (ids <= LAST_OBJECT)
    metres = np.minimum(depth, CAP_M).astype(np.float64)
    return per_token(metres), per_token(depth > 0), per_token(objects & (depth > 0))


def as_map(cells: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """`(n, N, CELLS * CELLS)` back to pictures `(n, rows * CELLS, columns * CELLS)`."""
    split = cells.reshape(len(cells), grid[0], grid[1], CELLS, CELLS)
    return split.transpose(0, 1, 3, 2, 4).reshape(len(cells), grid[0] * CELLS, grid[1] * CELLS)


@dataclass
class DepthSamples:
    """Single frames of one split: their tokens under several networks, pixels and true depth.

    Attributes:
        grid: rows and columns of tokens of level 0.
    """

    grid: tuple[int, int]
    frames: list[Tensor] = field(default_factory=list)
    tokens: dict[str, list[Tensor]] = field(default_factory=dict)
    metres: list[np.ndarray] = field(default_factory=list)
    hit: list[np.ndarray] = field(default_factory=list)
    objects: list[np.ndarray] = field(default_factory=list)

    def add_truth(self, clips: Sequence[Footage]) -> None:
        """Take in every `FRAME_STEP`-th frame of some clips."""
        for clip in clips:
            chosen = range(FRAME_STEP // 2, len(clip.frames), FRAME_STEP)
            metres, hit, objects = depth_cells(clip.truth, chosen, self.grid)
            # A copy: a view would keep all frames of every clip in memory.
            self.frames.append(clip.frames[chosen.start :: FRAME_STEP].clone())
            self.metres.append(metres)
            self.hit.append(hit)
            self.objects.append(objects)

    def add_tokens(self, network: str, tokens: Tensor) -> None:
        """Take in a network's level-0 tokens `(n, T, N, D)` of the same clips."""
        chosen = tokens[:, FRAME_STEP // 2 :: FRAME_STEP].flatten(0, 1)
        self.tokens.setdefault(network, []).append(chosen.clone())

    @property
    def num_clips(self) -> int:
        """Clips taken in so far."""
        return len(self.metres)

    def truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Metres, hit and object masks of all frames, `(n, N, CELLS * CELLS)` each."""
        return np.concatenate(self.metres), np.concatenate(self.hit), np.concatenate(self.objects)

    def features(self, network: str) -> Tensor:
        """`(n, N, F)`, each frame's tokens, or for `pixels` what surrounds each token."""
        if network == "pixels":
            return patches(torch.cat(self.frames), self.grid)
        return torch.cat(self.tokens[network])


def patches(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each token's patch with half a patch around it, at half resolution.

    Args:
        frames: uint8 `(n, C, H, W)`.
        grid: rows and columns of tokens.

    Returns:
        `(n, N, F)`, 0 to 1; outside the frame its border is repeated.
    """
    halved = nn.functional.avg_pool2d(frames.float() / 255, 2)
    height, width = halved.shape[-2] // grid[0], halved.shape[-1] // grid[1]
    margin = (width // 2, width - width // 2, height // 2, height - height // 2)
    padded = nn.functional.pad(halved, margin, mode="replicate")
    columns = nn.functional.unfold(padded, (2 * height, 2 * width), stride=(height, width))
    return columns.transpose(1, 2)


@dataclass(frozen=True)
class DepthProbe:
    """Depth as its mean at a place in the image, plus what a head reads from that place's token.

    The head is the same everywhere and sees how a token differs from its mean at that place, so
    that no place has to share another's offset.

    Attributes:
        mean: metres `(N, CELLS * CELLS)`, mean depth map of training.
        usual: `(N, F)`, mean features of training.
        head: maps rows of features to metres above the mean.
    """

    mean: np.ndarray
    usual: Tensor
    head: Callable[[Tensor], np.ndarray]

    def __call__(self, features: Tensor) -> np.ndarray:
        """Metres `(n, N, CELLS * CELLS)` from features `(n, N, F)`."""
        change = self.head((features - self.usual).flatten(0, 1)).reshape(-1, *self.mean.shape)
        return np.clip(self.mean + change, NEAREST_M, CAP_M)


def mean_map(samples: DepthSamples) -> np.ndarray:
    """Mean depth at each cell over frames in which it hit anything, metres."""
    metres, hit, _ = samples.truth()
    return (metres * hit).sum(0) / np.maximum(hit.sum(0), 1)


def fit_depth(
    train: DepthSamples, val: DepthSamples, network: str, mlp: bool = False
) -> DepthProbe:
    """Fit a depth probe shared by all places; validation chooses strength or length of training."""
    mean, usual = mean_map(train), train.features(network).mean(0)

    def rows(samples: DepthSamples) -> tuple[Tensor, np.ndarray]:
        metres, hit, _ = samples.truth()
        # A cell without a surface teaches nothing: its target is the mean.
        change = np.where(hit, metres - mean, 0.0)
        features = (samples.features(network) - usual).flatten(0, 1)
        return features, change.reshape(-1, change.shape[-1])

    fitted = MlpProbe(rows(train), rows(val)) if mlp else fit_ridge(rows(train), rows(val))[0]
    return DepthProbe(mean, usual, fitted)


def score_depth(predicted: np.ndarray, samples: DepthSamples) -> dict[str, object]:
    """Depth metrics on all cells that hit something, and on those of objects."""
    metres, hit, objects = samples.truth()
    scores: dict[str, object] = dict(depth_scores(predicted, metres, hit))
    if objects.any():
        scores["objects"] = depth_scores(predicted, metres, objects)
    return scores


def depth_section(
    train: DepthSamples, val: DepthSamples, test: DepthSamples
) -> tuple[dict[str, object], DepthProbe]:
    """The section `depth`, and the linear probe behind it.

    Args:
        train: with tokens of the networks `model` and `untrained`, and the other splits likewise.
        val: chooses.
        test: is reported on.
    """
    probes = {name: fit_depth(train, val, name) for name in ("model", "untrained", "pixels")}
    mlp = fit_depth(train, val, "model", mlp=True)
    guesses = {name: probe(test.features(name)) for name, probe in probes.items()}
    metres, hit, _ = test.truth()
    section = score_depth(guesses["model"], test)
    squares = np.where(hit, (guesses["model"] - metres) ** 2, 0.0)
    section["ci95_rmse_m"] = bootstrap_groups(
        squares.sum((1, 2)),
        hit.sum((1, 2)).astype(np.float64),
        np.repeat(np.arange(test.num_clips), len(metres) // test.num_clips),
        lambda total, count: np.sqrt(total / count),
    )
    section |= {
        "level": 0,
        "num_clips": test.num_clips,
        "num_frames": len(metres),
        "cells_per_frame": int(np.prod(metres.shape[1:])),
        "mlp": score_depth(mlp(test.features("model")), test),
        "null": {
            "untrained": score_depth(guesses["untrained"], test),
            "pixels": score_depth(guesses["pixels"], test),
            "mean": score_depth(np.broadcast_to(mean_map(train), metres.shape), test),
        },
    }
    return section, probes["model"]
