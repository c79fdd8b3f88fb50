"""Heads that read a depth map from the tokens of one frame: a linear one, a small convolution.

Both see how a token differs from its mean at that place in the image, and say how depth differs
from its own mean there, so that no place has to share another's offset. Every place has the same
head. What a token says about its own patch is the linear head's score; what its neighbours add, and
what is not linear, the convolution's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.evaluation.probes.depth_metrics import CAP_M
from worldmodel.evaluation.probes.linear import LinearProbe, Moments

NEAREST_M = 0.1
# Ridge strengths as in `probes.STRENGTHS`, but from lower on: with 16 rows a frame there are enough
# of them, and the weakest of those won on validation for level-0 tokens of every network.
STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

HIDDEN = 128
# 4 passes over 4096 frames; as many steps over fewer, so that how well they are learned does not
# depend on how many there are.
NUM_STEPS = 256
NUM_CHECKS = 8
FRAMES_PER_STEP = 64
# Half and twice this rate changed rmse by 0.5 % (tokens of the tiny model, 1024 clips), another
# seed likewise.
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
# Wider tokens are first mapped to half this width: 3 x 3 weights on 768 would take minutes.
MAX_CONV_DIM = 256


@dataclass(frozen=True)
class Examples:
    """Frames to learn from, cells grouped by the token that answers for them.

    Attributes:
        features: `(n, N, F)`.
        metres: float64 `(n, N, K)`, at most `CAP_M`.
        hit: bool `(n, N, K)`, the cell shows a surface; else its metres mean nothing.
    """

    features: Tensor
    metres: np.ndarray
    hit: np.ndarray


Parts = Callable[[], Iterable[Examples]]
"""The same examples in the same parts each time it is called, so that not all need be in memory."""


@runtime_checkable
class Head(Protocol):
    """From how tokens differ from their mean to how depth does."""

    def __call__(self, change: Tensor) -> np.ndarray:
        """float64 `(n, N, F)` to metres, float64 `(n, N, K)`."""


@dataclass(frozen=True)
class DepthProbe:
    """Mean depth at each place of the image, plus what a head reads from that place's token.

    Attributes:
        mean: metres, float64 `(N, K)`: mean depth map of training.
        usual: float64 `(N, F)`, mean features of training.
        head: shared by all places.
    """

    mean: np.ndarray
    usual: Tensor
    head: Head

    def __call__(self, features: Tensor) -> np.ndarray:
        """Metres `(n, N, K)`, `NEAREST_M` to `CAP_M`, from features `(n, N, F)`."""
        change = self.head(features.double() - self.usual)
        return np.clip(self.mean + change, NEAREST_M, CAP_M)


@dataclass(frozen=True)
class LinearHead:
    """The same linear map at every place."""

    probe: LinearProbe

    def __call__(self, change: Tensor) -> np.ndarray:
        """float64 `(n, N, F)` to metres `(n, N, K)`."""
        return self.probe(change.flatten(0, 1)).reshape(*change.shape[:2], -1)


def fit_linear(train: Parts, val: Parts, strengths: Sequence[float] = STRENGTHS) -> DepthProbe:
    """Ridge regression in closed form; validation chooses its strength.

    Args:
        train: at least one frame.
        val: at least one frame; chooses by squared error on cells that hit something, ties go to
            the stronger ridge.
        strengths: to choose from.

    Raises:
        InputError: there is nothing to learn from, or nothing to choose by.
    """
    mean, usual = _means(train)
    moments = Moments(usual.shape[1], mean.shape[1])
    for part in train():
        change = (part.features.double() - usual).flatten(0, 1)
        # A cell without a surface teaches nothing: its target is the mean.
        wanted = np.where(part.hit, part.metres - mean, 0.0)
        moments.add(change, wanted.reshape(-1, mean.shape[1]))
    heads = [LinearHead(probe) for probe in moments.solve(strengths)]
    errors = [_error(DepthProbe(mean, usual, head), val) for head in heads]
    best = min(range(len(heads)), key=lambda i: (errors[i], -heads[i].probe.strength))
    return DepthProbe(mean, usual, heads[best])


def _means(parts: Parts) -> tuple[np.ndarray, Tensor]:
    """Mean depth where something was hit, `(N, K)`, and mean features, `(N, F)`."""
    count, metres, hits, features = 0, 0.0, 0.0, torch.zeros((), dtype=torch.float64)
    for part in parts():
        count += len(part.features)
        metres = metres + (part.metres * part.hit).sum(0)
        hits = hits + part.hit.sum(0)
        features = features + part.features.double().sum(0)
    if not count:
        raise InputError(
            "a depth probe has no training frames; give at least one training clip that is as long "
            "as a step of the slowest level"
        )
    return metres / np.maximum(hits, 1), features / count


def _error(probe: DepthProbe, parts: Parts) -> float:
    """Mean squared error in m² over all cells that hit something, before any clipping."""
    total, count = 0.0, 0
    for part in parts():
        change = probe.head(part.features.double() - probe.usual)
        total += float((((probe.mean + change - part.metres) ** 2) * part.hit).sum())
        count += int(part.hit.sum())
    if not count:
        raise InputError(
            "a depth probe has no validation frames that show a surface, so nothing chooses its "
            "strength; give at least one validation clip"
        )
    return total / count


@dataclass(frozen=True)
class ConvHead:
    """What a linear head says, plus what a small convolution over the token grid adds to it.

    Attributes:
        linear: the head it starts from.
        layers: 3 x 3 convolution, GELU, and a linear map of the `HIDDEN` values at each place.
        scale: `(F,)`, spread of the features, by which they are divided.
        unit_m: metres per unit of the layers' output.
        grid: rows and columns of tokens.
    """

    linear: Head
    layers: nn.Module
    scale: Tensor
    unit_m: float
    grid: tuple[int, int]

    @torch.no_grad()
    def __call__(self, change: Tensor) -> np.ndarray:
        """float64 `(n, N, F)` to metres `(n, N, K)`."""
        added = self.layers(_as_image(change / self.scale, self.grid))
        return self.linear(change) + self.unit_m * added.flatten(2).transpose(1, 2).double().numpy()


def fit_conv(
    linear: DepthProbe, train: Parts, val: Parts, grid: tuple[int, int], seed: int = 0
) -> DepthProbe:
    """Train a convolution on what a linear probe leaves unexplained.

    It starts at that probe, its last layer at zero, and the rate falls evenly to zero over
    `NUM_STEPS` steps. Of `NUM_CHECKS` states on the way the one that is best on validation is kept;
    where none is better than the linear probe the layers add nothing. So neither rate nor length of
    training can make it worse than where it starts, on validation.

    Args:
        linear: from `fit_linear` on the same examples.
        train: what it learns from.
        val: chooses the state.
        grid: rows and columns of tokens.
        seed: of weights and order.
    """
    parts = list(train())
    change = torch.cat([part.features for part in parts]).double() - linear.usual
    left = np.concatenate([part.metres for part in parts]) - linear.mean - linear.head(change)
    left = np.where(np.concatenate([part.hit for part in parts]), left, 0.0)
    # A feature that never varies, or a fit without a rest, must not divide by zero.
    scale, unit_m = change.flatten(0, 1).std(0, correction=0) + 1e-9, float(left.std()) + 1e-9
    images = _as_image(change / scale, grid)
    wanted = _as_image(torch.from_numpy(left / unit_m), grid)
    generator = torch.Generator().manual_seed(seed)
    layers = _conv_layers(change.shape[2], left.shape[2], generator)
    probe = DepthProbe(
        linear.mean, linear.usual, ConvHead(linear.head, layers, scale, unit_m, grid)
    )
    _train(layers, images, wanted, generator, partial(_error, probe, val))
    return probe


def _train(
    layers: nn.Module,
    images: Tensor,
    wanted: Tensor,
    generator: torch.Generator,
    error: Callable[[], float],
) -> None:
    optimizer = torch.optim.AdamW(layers.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, NUM_STEPS)
    best, chosen = error(), _copy(layers)
    for step, frames in zip(
        range(1, NUM_STEPS + 1), _shuffled(len(images), generator), strict=False
    ):
        loss = nn.functional.mse_loss(layers(images[frames]), wanted[frames])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % (NUM_STEPS // NUM_CHECKS) == 0 and (found := error()) < best:
            best, chosen = found, _copy(layers)
    layers.load_state_dict(chosen)
    layers.requires_grad_(False)


def _shuffled(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Numbers of `FRAMES_PER_STEP` frames at a time, pass after pass, each in a new order."""
    while True:
        yield from torch.randperm(count, generator=generator).split(FRAMES_PER_STEP)


def _copy(layers: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layers.state_dict().items()}


def _as_image(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """`(n, N, F)` to float32 `(n, F, rows, columns)`."""
    return values.float().transpose(1, 2).unflatten(2, grid).contiguous()


def _conv_layers(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    narrow = [(inputs, MAX_CONV_DIM // 2, 1)] if inputs > MAX_CONV_DIM else []
    width = narrow[0][1] if narrow else inputs
    layers = [
        nn.utils.skip_init(nn.Conv2d, fan_in, fan_out, size, padding=size // 2)
        for fan_in, fan_out, size in (*narrow, (width, HIDDEN, 3), (HIDDEN, outputs, 1))
    ]
    for layer in layers:
        # Weights come from the head's own generator; the global one stays as it is.
        nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(layers[-1].weight)
    return nn.Sequential(*layers[:-1], nn.GELU(), layers[-1])
