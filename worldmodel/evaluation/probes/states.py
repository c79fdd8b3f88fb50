"""Features that probes read: a level's tokens or context states at the moments that are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
import torch
from torch import Tensor, nn

# Neighbouring frames say nearly the same; asking every second one halves the cost of a probe.
ASK_EVERY_FRAMES = 2
# Things and the camera are asked more seldom still: there is a row for each thing.
ASK_THINGS_EVERY_FRAMES = 4
# What a probe of a whole step reads at most. Large encoders have 10^5 numbers per step: their
# tokens are averaged to MAX_SIDE x MAX_SIDE and projected at random (Johnson and Lindenstrauss
# 1984). Levels of our own sizes fit and are read as they are.
MAX_FEATURES = 4096
MAX_SIDE = 4


def asked_steps(num_frames: int, span: int, every: int = ASK_EVERY_FRAMES) -> np.ndarray:
    """Steps of a level at which probes ask: every step, but at most one in `every` frames."""
    stride = max(1, every // span)
    return np.arange(stride - 1, num_frames // span, stride)


def step_ends(num_frames: int, span: int, every: int = ASK_EVERY_FRAMES) -> np.ndarray:
    """The last frame of each step of `asked_steps`: what its state has seen everything up to."""
    return asked_steps(num_frames, span, every) * span + span - 1


def thing_frames(num_frames: int, spans: Sequence[int]) -> np.ndarray:
    """Frames at which things and the camera are asked: an asked step of every level ends there."""
    # Of a span of 1 every second step is asked: beside a span of 5, frames are those of both.
    shared = lcm(*(max(1, ASK_EVERY_FRAMES // span) * span for span in spans))
    every = -(-ASK_THINGS_EVERY_FRAMES // shared) * shared
    return np.arange(every - 1, num_frames, every)


def flat_states(values: Tensor, grid: tuple[int, int], steps: np.ndarray) -> Tensor:
    """All tokens of a step as one row of at most `MAX_FEATURES` numbers.

    Args:
        values: `(n, T_l, N, D)`.
        grid: rows and columns of the N tokens.
        steps: which steps.

    Returns:
        float32 `(n, len(steps), F)`.
    """
    chosen = values[:, torch.from_numpy(steps)].float()
    if chosen.shape[2] * chosen.shape[3] <= MAX_FEATURES:
        return chosen.flatten(2)
    maps = chosen.flatten(0, 1).unflatten(1, grid).permute(0, 3, 1, 2)
    sides = (min(MAX_SIDE, grid[0]), min(MAX_SIDE, grid[1]))
    cells = nn.functional.adaptive_avg_pool2d(maps, sides).flatten(2).transpose(1, 2)
    width = MAX_FEATURES // cells.shape[1]
    if cells.shape[2] > width:
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(cells.shape[2], width, generator=generator) / width**0.5
        cells = cells @ projection
    return cells.flatten(1).unflatten(0, chosen.shape[:2])


@dataclass(frozen=True)
class Source:
    """What a probe reads from.

    Attributes:
        network: `model` or `untrained`.
        kind: `context` or `tokens`.
    """

    network: str
    kind: str
