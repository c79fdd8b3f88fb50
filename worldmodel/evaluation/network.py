"""What evaluation asks of a model, and how it runs one.

A model always runs on chunks of the same number of clips, the last one padded, so that kernels
cannot round differently for another batch size.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldmodel.models.hierarchy import LevelPrediction

CHUNK = 8
"""Clips that a model sees at once."""

Place = tuple[int, int]
"""A level and one of its horizons in own steps."""


@runtime_checkable
class LevelShape(Protocol):
    """What is known of a level without running it."""

    grid: tuple[int, int]
    """Rows and columns of tokens per step."""
    num_tokens: int
    """Their product, N_l."""
    span: int
    """Frames that one step covers."""
    horizons: Sequence[int]
    """Steps predicted ahead; empty where the level predicts nothing."""
    dim: int
    """Width D_l of a token."""
    width: int
    """Width W_l of a context state."""


@runtime_checkable
class Network(Protocol):
    """A frozen model: a `Hierarchy`, or somebody else's encoder behind the same two methods.

    Attributes:
        levels: what is known of each level.
        steps_are_local: each step's tokens depend on the frames of that step alone. Then tokens of
            two worlds can be spliced in place of their frames.
    """

    levels: Sequence[Any]
    steps_are_local: bool

    def encode(self, frames: Tensor) -> list[Tensor]:
        """uint8 `(B, T, 3, H, W)` -> per level tokens `(B, T // span, N_l, D_l)`."""

    def predict(self, tokens: Sequence[Tensor]) -> Sequence[LevelPrediction]:
        """Tokens of every level -> per level context states and predicted tokens.

        Entry τ depends on no step after τ. Models whose steps are not local take the frames that
        the tokens come from as a second argument.
        """


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, so that a sum is the same to the bit however many cores there are.

    It costs little: the matrices are small, and other processes use the other cores. Beside busy
    ones, two threads that wait for one another took more than ten times as long as one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def chunked(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` consecutive items; the last one may be shorter."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def pad_chunk(clips: list[Tensor], size: int) -> Tensor:
    """Stack clips and repeat the last one until there are `size` of them.

    Kernels may round differently for another number of clips; with a fixed one they cannot.
    """
    return torch.stack(clips + [clips[-1]] * (size - len(clips)))


def levels_of(model: Network) -> list[LevelShape]:
    """Its levels, as what evaluation knows of them."""
    return list(model.levels)


@torch.no_grad()
def run_chunk(
    model: Network, clips: list[Tensor], device: torch.device
) -> tuple[list[Tensor], list[Tensor], list[dict[int, Tensor]]]:
    """Run the model on at most `CHUNK` clips.

    Args:
        model: a `Network`.
        clips: uint8 `(T, C, H, W)` each.
        device: where the model is.

    Returns:
        Per level, on the CPU: tokens `(n, T_l, N_l, D_l)`, context states `(n, T_l, N_l, W_l)` and
        per horizon the predicted tokens `(n, T_l, N_l, D_l)`.
    """
    frames = pad_chunk(clips, CHUNK).to(device)
    return run_tokens(model, model.encode(frames), len(clips), frames)


def predict_level(model: Network, tokens: Sequence[Tensor], level: int) -> LevelPrediction:
    """What one level predicts, at little more than its own cost.

    Each level predicts from its own tokens alone, or from what it abstracts of them, so of others
    one step is enough to call the model with.
    """
    if hasattr(model, "predict_level"):
        return model.predict_level(tokens[level], level)
    given = [own if number == level else own[:, :1] for number, own in enumerate(tokens)]
    return model.predict(given)[level]


@torch.no_grad()
def run_tokens(
    model: Network, tokens: list[Tensor], keep: int, frames: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor], list[dict[int, Tensor]]]:
    """Predict from tokens of whole chunks; returns the first `keep` clips as `run_chunk`.

    Args:
        model: a `Network`.
        tokens: per level of whole chunks.
        keep: how many clips are no padding.
        frames: what the tokens come from; needed where the model's steps are not local.
    """
    more = () if model.steps_are_local else (frames,)
    predictions = model.predict(tokens, *more)
    return (
        [level[:keep].cpu() for level in tokens],
        [prediction.context[:keep].cpu() for prediction in predictions],
        [
            {horizon: values[:keep].cpu() for horizon, values in prediction.predicted.items()}
            for prediction in predictions
        ],
    )
