"""What is hidden from the predictors in training, so that they must remember it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.models.hierarchy import Hierarchy


@dataclass(frozen=True, kw_only=True)
class BlankConfig:
    """Boxes of space and time whose tokens are not shown; they are still to be predicted."""

    share: float = 0.0
    """Chance of each of two boxes of a clip, at each level; 0 shows everything."""
    num_frames: int = 8
    """The longest that a box lasts; at slower levels at least one step."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.num_frames < 1:
            raise InputError(
                "blanks.share must be from 0 to 1 and blanks.num_frames at least 1, got "
                f"{self.share} and {self.num_frames}"
            )


BOXES = 2


def draw_blanks(
    config: BlankConfig, hierarchy: Hierarchy, tokens: Sequence[Tensor], seed: int
) -> list[Bool[Tensor, "batch time tokens"]]:
    """Which tokens of each level are not shown: boxes of random place, size and time.

    The first step of a clip is always shown.

    Args:
        config: how often and how long.
        hierarchy: whose levels have grids.
        tokens: per level `(B, T_l, N_l, D_l)`.
        seed: another one for each step, and each rank.
    """
    generator = torch.Generator().manual_seed(seed)
    blanks = []
    for level, values in zip(hierarchy.levels, tokens, strict=True):
        batch, time = values.shape[:2]
        blank = torch.zeros(batch, time, *level.grid, dtype=torch.bool)
        longest = max(1, config.num_frames // level.span)
        for clip in range(batch):
            for _ in range(BOXES):
                chance, length, start, *box = torch.rand(7, generator=generator).tolist()
                if chance >= config.share:
                    continue
                steps = 1 + int(length * longest)
                first = 1 + int(start * max(1, time - 1 - steps))
                rows, columns = (
                    _interval(size, place, side)
                    for size, place, side in zip(box[:2], box[2:], level.grid, strict=True)
                )
                blank[clip, first : first + steps, rows, columns] = True
        blanks.append(blank.flatten(2).to(values.device))
    return blanks


def _interval(size: float, place: float, side: int) -> slice:
    """A random interval of rows or columns, from two numbers in [0, 1)."""
    length = 1 + int(size * side)
    start = int(place * (side - length + 1))
    return slice(start, start + length)
