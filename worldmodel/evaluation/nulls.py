"""What every number is compared with: predictors that know nothing of the world.

A score means something only beside the score of a rule that needs no model: the last state, the
mean so far, a drift fitted per dimension, the last place something was seen, the clock, the
pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def running_mean(tokens: Tensor) -> Tensor:
    """Mean over the steps so far, the present one included; `(B, T, N, D)` in and out."""
    steps = torch.arange(1, tokens.shape[1] + 1, dtype=tokens.dtype, device=tokens.device)
    return tokens.cumsum(1) / steps[:, None, None]


@dataclass(frozen=True)
class DriftInputs:
    """What drift predictors of every horizon read from tokens, at steps 1..T-1.

    Attributes:
        tokens: float64 `(B, T, N, D)`.
        mean: `(B, T - 1, N, D)`, running mean.
        level: the token's distance from it.
        change: the token's change since the step before.
    """

    tokens: Tensor
    mean: Tensor
    level: Tensor
    change: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> "DriftInputs":
        """Inputs from float64 tokens `(B, T, N, D)`."""
        mean = running_mean(tokens)[:, 1:]
        return cls(tokens, mean, tokens[:, 1:] - mean, tokens[:, 1:] - tokens[:, :-1])

    def products(self) -> Tensor:
        """Sums over clips and tokens of level², level x change and change²; `(T - 1, D, 3)`."""
        level, change = self.level, self.change
        pairs = (level * level, level * change, change * change)
        return torch.stack([pair.sum((0, 2)) for pair in pairs], dim=-1)


class DriftFit:
    """AR(1) plus last change around the running mean, per dimension, by least squares.

    For a token value y with running mean m the prediction h steps ahead is
    `m + a (y - m) + b (y - y_before)`, with one `a` and `b` for each dimension and horizon, shared
    by all token positions. It reproduces a constant, a decay towards the mean and, with a = 1 and
    b = h, constant velocity. Steps count from 1 on, where the first change exists.

    Args:
        dim: width D of the tokens.
        horizon: steps ahead.
    """

    def __init__(self, dim: int, horizon: int) -> None:
        self.horizon = horizon
        self.gram = torch.zeros(dim, 2, 2, dtype=torch.float64)
        self.moment = torch.zeros(dim, 2, dtype=torch.float64)
        self.coefficients = torch.zeros(dim, 2, dtype=torch.float64)

    def add(self, inputs: DriftInputs, products: Tensor) -> None:
        """Take in training tokens; nothing happens where no target lies within the clip.

        Args:
            inputs: of the tokens.
            products: `inputs.products()`, which every horizon shares.
        """
        kept = inputs.mean.shape[1] - self.horizon
        if kept < 1:
            return
        wanted = inputs.tokens[:, 1 + self.horizon :] - inputs.mean[:, :kept]
        square, mixed, other = products[:kept].sum(0).unbind(-1)
        gram = torch.stack([square, mixed, mixed, other], dim=-1).unflatten(-1, (2, 2))
        parts = (inputs.level, inputs.change)
        moment = torch.stack([(p[:, :kept] * wanted).sum((0, 1, 2)) for p in parts], dim=-1)
        # What is fitted stays where it is, wherever the tokens are.
        self.gram += gram.to(self.gram.device)
        self.moment += moment.to(self.moment.device)

    def merge(self, later: "DriftFit") -> None:
        """Take in what another fit has taken in."""
        self.gram += later.gram
        self.moment += later.moment

    def solve(self) -> None:
        """Fit the coefficients to what was taken in."""
        # A dimension that never changes has a gram of zero; the ridge, far below any real
        # variance, gives it coefficients of zero instead of failing.
        size = self.gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        ridge = 1e-9 * size + torch.finfo(torch.float64).tiny ** 0.5
        regular = self.gram + ridge[:, None, None] * torch.eye(2, dtype=torch.float64)
        self.coefficients = torch.linalg.solve(regular, self.moment.unsqueeze(-1)).squeeze(-1)

    def predict(self, inputs: DriftInputs) -> Tensor:
        """Predictions for `horizon` after steps 1..T-1, float64 `(B, T - 1, N, D)`."""
        a, b = self.coefficients.to(inputs.mean.device).unbind(-1)
        return inputs.mean + a * inputs.level + b * inputs.change


@dataclass(frozen=True)
class Sightings:
    """Where an object was last seen before a step, and how it moved then.

    Attributes:
        seen: `(T,)`, it was seen at some frame that counts as past.
        last: `(T, 2)` px, its place then; 0 where not seen.
        extrapolated: `(T, 2)` px, that place carried on at the velocity between the last two
            sightings (at rest after a single one).
    """

    seen: np.ndarray
    last: np.ndarray
    extrapolated: np.ndarray


def sightings(position: np.ndarray, visible: np.ndarray, span: int) -> Sightings:
    """What somebody who only writes down where the object was seen could say at each frame.

    Where the object is hidden every earlier frame counts as past. Where it is visible, only frames
    before the step of `span` frames that ends there: otherwise the rule could be given the answer.

    Args:
        position: `(T, 2)` px.
        visible: `(T,)` bool.
        span: frames per step of the level that is compared with.
    """
    frames = len(position)
    seen = np.zeros(frames, dtype=bool)
    last, extrapolated = np.zeros((frames, 2)), np.zeros((frames, 2))
    for frame in range(frames):
        end = frame - span + 1 if visible[frame] else frame
        past = np.flatnonzero(visible[: max(end, 0)])
        if not len(past):
            continue
        seen[frame] = True
        last[frame] = extrapolated[frame] = position[past[-1]]
        if len(past) > 1:
            velocity = (position[past[-1]] - position[past[-2]]) / (past[-1] - past[-2])
            extrapolated[frame] += velocity * (frame - past[-1])
    return Sightings(seen, last, extrapolated)


def clock_features(num_frames: int, screens: np.ndarray, max_screens: int) -> np.ndarray:
    """Frame index and the screens' place, with their squares and products.

    Args:
        num_frames: frames T of the clip.
        screens: `(T, S, 4)`, each screen's box as shares of the frame, x0 y0 x1 y1.
        max_screens: screens to make room for; absent ones are zero.

    Returns:
        `(T, F)`.
    """
    time = np.linspace(-1, 1, num_frames)[:, None]
    boxes = np.zeros((num_frames, max_screens, 5))
    count = min(screens.shape[1], max_screens)
    # A screen far outside the image would dominate every square; beyond half a frame it is just
    # "outside".
    boxes[:, :count, :4] = np.clip(screens[:, :count], -0.5, 1.5)
    boxes[:, :count, 4] = 1
    linear = np.concatenate([time, boxes.reshape(num_frames, -1)], axis=1)
    first, second = np.triu_indices(linear.shape[1])
    return np.concatenate([linear, linear[:, first] * linear[:, second], time**3], axis=1)


def pixel_surprise(frames: np.ndarray, long: bool) -> np.ndarray:
    """Surprise of a scorer that sees pixels only.

    Args:
        frames: float64 `(..., T, P)`, P values per frame, 0 to 255.
        long: compare each frame with the mean of all before it; else with the one before, a window
            of two frames, shorter than any hidden interval.

    Returns:
        `(..., T - 1)`, log(1 + mean squared difference). Without the logarithm the scorer would be
        a sum over pixels, and its contrast zero wherever the object is at other pixels before and
        after, however long its memory.
    """
    if long:
        steps = np.arange(1, frames.shape[-2])[:, None]
        expected = np.cumsum(frames[..., :-1, :], axis=-2) / steps
    else:
        expected = frames[..., :-1, :]
    return np.log1p(((frames[..., 1:, :] - expected) ** 2).mean(-1))
