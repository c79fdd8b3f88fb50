"""What is hidden from the predictors in training, so that they must remember it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.losses.ranks import num_places, own_numbers
from worldmodel.models.hierarchy import Hierarchy, Level


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

    The first step of a clip is always shown. A box ends before the last one if it can: from that
    nothing is predicted that comes within the clip. Boxes are drawn for the global batch, of which
    a rank takes its own clips' (see `losses/ranks.py`).

    With `top_down` a predictor also reads what a slower level has seen. Tokens of slower levels
    that hold a hidden one are then hidden too, and no box begins before the slowest level's first
    step has ended, since that one is shown.

    Args:
        config: how often and how long.
        hierarchy: whose levels have grids.
        tokens: per level `(B, T_l, N_l, D_l)`.
        seed: another one for each step, the same on every rank.
    """
    generator = torch.Generator().manual_seed(seed)
    shown = hierarchy.levels[-1].span if hierarchy.top_down else 1
    blanks: list[Tensor] = []
    for number, (level, values) in enumerate(zip(hierarchy.levels, tokens, strict=True)):
        batch, time = values.shape[:2]
        drawn = torch.rand(num_places(batch), BOXES, 7, generator=generator).double()
        longest = max(1, config.num_frames // level.span)
        first, last = max(1, shown // level.span), time - 1
        length = 1 + (drawn[..., 1] * longest).long()
        start = first + (drawn[..., 2] * (last - first - length + 1).clamp(min=1)).long()
        length = length.where(drawn[..., 0] < config.share, 0)
        boxes = [torch.stack([start, start + length], -1)]
        for size, place, side in zip((3, 4), (5, 6), level.grid, strict=True):
            boxes.append(_intervals(drawn[..., size], drawn[..., place], side))
        own = own_numbers(batch, values.device)
        in_time, in_rows, in_columns = (
            _within(bounds.to(values.device, non_blocking=True)[own], steps)
            for bounds, steps in zip(boxes, (time, *level.grid), strict=True)
        )
        inside = (
            in_time[..., None, None] & in_rows[:, :, None, :, None] & in_columns[:, :, None, None]
        )
        blank = inside.any(1).flatten(2)
        if hierarchy.top_down and number:
            blank = blank | _merged(blanks[-1], hierarchy.levels[number - 1], level, time)
        blanks.append(blank)
    return blanks


def _intervals(size: Tensor, place: Tensor, side: int) -> Tensor:
    """Random intervals of rows or columns, first and end, from two numbers in [0, 1) each."""
    length = 1 + (size * side).long()
    start = (place * (side - length + 1)).long()
    return torch.stack([start, start + length], -1)


def _within(bounds: Tensor, count: int) -> Tensor:
    """Which of `count` numbers lie in intervals `(..., 2)`: `(..., count)`."""
    numbers = torch.arange(count, device=bounds.device)
    return (bounds[..., :1] <= numbers) & (numbers < bounds[..., 1:])


def _merged(blank: Tensor, below: Level, level: Level, time: int) -> Tensor:
    """Which tokens of a level are made of tokens of the one below of which one is blank."""
    rows, columns = level.grid
    stride = level.span // below.span
    parts = rearrange(
        blank[:, : time * stride],
        "b (t s) (h p w q) -> b t (h w) (s p q)",
        s=stride,
        h=rows,
        w=columns,
        p=below.grid[0] // rows,
    )
    return parts.any(-1)
