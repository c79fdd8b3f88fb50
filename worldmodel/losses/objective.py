"""The objective of one level: a prediction loss plus the regularizer over each scope."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.losses.prediction import PredictionLoss, SquaredError
from worldmodel.losses.regularizers import Regularizer
from worldmodel.losses.scopes import SCOPES, rows_of
from worldmodel.models.transformer import full_precision


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of a level's losses; a loss of weight 0 is not computed."""

    prediction: float = 1.0
    """The prediction loss, mean over horizons."""
    batch: float = 10.0
    """The regularizer over all tokens of the batch."""
    within_clip: float = 5.0
    """The regularizer over tokens minus their clip's temporal mean. Too much of it makes tokens
    vary fast for its own sake: they become noise that nothing predicts."""
    per_step: float = 0.0
    """The regularizer over the tokens of each time step apart, mean over steps."""
    per_token: float = 0.0
    """The regularizer over the tokens of each position apart, mean over positions."""
    max_rows: int = 0
    """No weight: how many tokens of the global batch each group of a scope may have, drawn anew at
    every step; 0 takes all. Fewer cost less, and make the penalty noisier and greater, by a bias
    that falls with 1 / rows (`losses/scopes.py`)."""

    def __post_init__(self) -> None:
        for name, weight in self._weights().items():
            if not weight >= 0 or (name == "prediction" and weight == 0):
                least = "positive" if name == "prediction" else "0 or more"
                raise InputError(f"weights.{name} must be {least}, got {weight}")
        if self.max_rows < 0 or self.max_rows == 1:
            raise InputError(
                "weights.max_rows must be 0 (all) or at least 2, better as many as tokens have "
                f"dimensions; got {self.max_rows}"
            )

    def _weights(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if name != "max_rows"}

    def used(self) -> dict[str, float]:
        """The weights that are not 0."""
        return {name: weight for name, weight in self._weights().items() if weight}


def level_losses(
    tokens: Tensor,
    predicted: Mapping[int, Tensor],
    target: Tensor,
    regularizer: Regularizer | nn.ModuleDict,
    weights: LossWeights,
    seed: int,
    prediction_loss: PredictionLoss | None = None,
    level: int = 0,
    frames: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of one level, unweighted, by the names of their weights.

    Args:
        tokens: `(B, T, N, D)`, the encoder's.
        predicted: per horizon `(B, T, N, D)`.
        target: `(B, T, N, D)`.
        regularizer: applied once per scope; or one for each scope.
        weights: losses of weight 0 are left out.
        seed: for what is random in the losses; the same on every rank.
        prediction_loss: what compares predicted with target tokens; squared error if not given.
        level: of the hierarchy.
        frames: what the tokens come from, for prediction losses that look at pixels.
    """
    if prediction_loss is None:
        prediction_loss = SquaredError()
    # Variances, correlations and characteristic functions of half-precision sums are not worth
    # having. Tensors without content (`cost.py`) have no autocast to switch off.
    kind = tokens.device.type
    with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
        ahead = {horizon: full_precision(values) for horizon, values in predicted.items()}
        # Each scope draws places and directions of its own, and the prediction loss its negatives.
        first = seed * (2 * len(SCOPES) + 1)
        losses = {
            "prediction": prediction_loss(ahead, full_precision(target), level, frames, first)
        }
        for number, scope in enumerate(SCOPES):
            if scope in weights.used():
                draw = first + 1 + 2 * number
                rows = rows_of(full_precision(tokens), scope, weights.max_rows, draw)
                penalty = (
                    regularizer if isinstance(regularizer, Regularizer) else regularizer[scope]
                )
                losses[scope] = penalty(rows, draw + 1)
    return losses


def total_loss(losses: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum.

    Raises:
        ValueError: a loss without a weight, or a weight other than 0 without its loss.
    """
    used = weights.used()
    if losses.keys() != used.keys():
        raise ValueError(f"losses {sorted(losses)} do not match the weights {sorted(used)}")
    return torch.stack([weight * losses[name] for name, weight in used.items()]).sum()
