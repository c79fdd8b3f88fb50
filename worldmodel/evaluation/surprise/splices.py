"""From two worlds to the four clips of a block: what each shows at each step.

A block holds two valid worlds A and B that are equal to the bit while something is hidden. Changing
from one to the other in that time gives the impossible clips AB and BA; AA and BB are the worlds
themselves.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.footage import Block

CLIPS = ("AA", "BB", "AB", "BA")


def splice_frames(windows: Sequence[tuple[int, int]], span: int) -> tuple[int, ...] | None:
    """Frames at which to change worlds so that no step of `span` frames holds both.

    Args:
        windows: per violation the frames `(start, stop)` that are equal in both worlds.
        span: frames per step of the slowest level.

    Returns:
        Per window the multiple of `span` in `start..stop` that is nearest to its middle, or None
        if a window contains none.
    """
    frames = []
    for start, stop in windows:
        choices = range(-(-start // span) * span, stop + 1, span)
        if not choices:
            return None
        frames.append(min(choices, key=lambda frame: (abs(2 * frame - start - stop), frame)))
    return tuple(frames)


def worlds_by_step(splices: Sequence[int], num_steps: int) -> np.ndarray:
    """Which world each of the four clips shows at each step; `(4, num_steps)` of 0 (A) and 1 (B).

    Args:
        splices: steps at which the impossible clips change worlds; twice gives ABA and BAB.
        num_steps: steps of the clip.
    """
    changes = np.zeros(num_steps, dtype=np.int64)
    for splice in splices:
        changes[splice:] ^= 1
    zero = np.zeros_like(changes)
    return np.stack([zero, zero + 1, changes, 1 - changes])


def splice(values: Tensor, splices: Sequence[int]) -> Tensor:
    """The clips AA, BB, AB, BA from worlds A and B: `(2, T, ...)` -> `(4, T, ...)`."""
    worlds = torch.from_numpy(worlds_by_step(splices, values.shape[1]))
    return values[worlds, torch.arange(values.shape[1])]


def equal_frames(block: Block) -> np.ndarray:
    """Frames that are equal to the bit in both worlds, `(T,)`."""
    return (block.frames[0] == block.frames[1]).flatten(1).all(1).numpy()


def frame_sources(block: Block) -> np.ndarray:
    """Which picture each clip shows at each frame: `(4, T)`, t for A's and T + t for B's own.

    Where both worlds show the same picture it counts as A's, so that equal numbers mean equal
    pictures.
    """
    splices = splice_frames(block.windows, 1)
    assert splices is not None, f"a window of {block.key} ends before it starts"
    num_frames = block.frames.shape[1]
    worlds = worlds_by_step(splices, num_frames)
    own = np.where(equal_frames(block), 0, worlds)
    return own * num_frames + np.arange(num_frames)


def step_owners(sources: np.ndarray, span: int) -> np.ndarray:
    """The first of the four clips that shows what each clip shows at each step; `(4, T // span)`.

    AA owns its steps; another clip owns a step only if no clip before it shows the same frames.
    Tokens of local steps are taken from the owner: kernels may round by the place in the batch,
    and a tie of a million equal terms must not be broken by that.

    Args:
        sources: `(4, T)` of `frame_sources`.
        span: frames per step.
    """
    steps = sources.shape[1] // span
    shown = sources[:, : steps * span].reshape(len(sources), steps, span)
    same = (shown[:, None] == shown[None]).all(-1)
    return same.argmax(1)


def take_from_owners(tokens: Tensor, owners: np.ndarray) -> Tensor:
    """Give each clip the tokens of the clip that owns its step; `(4, T_l, N, D)` in and out."""
    return tokens[torch.from_numpy(owners), torch.arange(tokens.shape[1])]


def violation_frame(block: Block) -> int | None:
    """First frame at which an impossible clip visibly differs from the one it began as.

    The first at or after the first window's end (in open view: the splice) that is not equal to
    the bit in both worlds; the same for AB and BA. None where the worlds never differ again.
    """
    stop = block.windows[0][1]
    differing = np.flatnonzero(~equal_frames(block)[stop:])
    return stop + int(differing[0]) if len(differing) else None
