"""The objective of one level: prediction plus its regularizer over each scope."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.losses.prediction import prediction_loss
from worldmodel.losses.regularizers import SCOPES, Regularizer


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of a level's losses; a loss of weight 0 is not computed."""

    prediction: float = 1.0
    """Mean squared error of the predicted tokens, mean over horizons."""
    batch: float = 10.0
    """The regularizer over all tokens of the batch."""
    within_clip: float = 5.0
    """The regularizer over tokens minus their clip's temporal mean. Too much of it makes tokens
    vary fast for its own sake: they become noise that nothing predicts."""

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if weight < 0 or (name == "prediction" and weight == 0):
                least = "positive" if name == "prediction" else "0 or more"
                raise InputError(f"weights.{name} must be {least}, got {weight}")

    def used(self) -> dict[str, float]:
        """The weights that are not 0."""
        return {name: weight for name, weight in asdict(self).items() if weight}


def level_losses(
    tokens: Tensor,
    predicted: Mapping[int, Tensor],
    target: Tensor,
    regularizer: Regularizer,
    weights: LossWeights,
    seed: int,
) -> dict[str, Tensor]:
    """The losses of one level, unweighted, by the names of their weights.

    Args:
        tokens: `(B, T, N, D)`, the encoder's.
        predicted: per horizon `(B, T, N, D)`.
        target: `(B, T, N, D)`.
        regularizer: applied once per scope.
        weights: losses of weight 0 are left out.
        seed: for what is random in the regularizer.
    """
    losses = {"prediction": prediction_loss(predicted, target)}
    # Variances and characteristic functions of half-precision sums are not worth having.
    with torch.autocast(tokens.device.type, enabled=False):
        for number, (name, scope) in enumerate(SCOPES.items()):
            if name in weights.used():
                losses[name] = regularizer(scope(tokens.float()), seed * len(SCOPES) + number)
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
