"""Predicted against target tokens: the loss in training, and the surprise later."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from worldmodel.errors import InputError


def prediction_energy(
    predicted: Float[Tensor, "batch time tokens dim"],
    target: Float[Tensor, "batch time tokens dim"],
    horizon: int,
) -> Float[Tensor, "batch steps tokens"]:
    """Mean squared difference per token between what was predicted for a step and what came.

    An energy, not a likelihood: low where the future was as expected.

    Args:
        predicted: entry τ is the prediction for step τ + horizon.
        target: entry τ is the token at step τ.
        horizon: steps ahead, at least 1.

    Returns:
        `(B, T - horizon, N)`; entry i belongs to step i + horizon.

    Raises:
        InputError: the clip is not longer than the horizon.
    """
    if target.shape[1] <= horizon:
        raise InputError(
            f"a horizon of {horizon} steps needs clips of more steps, got {target.shape[1]}; "
            "raise data.num_frames or lower the level's horizons"
        )
    return (predicted[:, :-horizon] - target[:, horizon:]).pow(2).mean(-1)


def prediction_loss(
    predicted: Mapping[int, Float[Tensor, "batch time tokens dim"]],
    target: Float[Tensor, "batch time tokens dim"],
) -> Float[Tensor, ""]:
    """Mean over a level's horizons of the mean energy; each horizon counts the same."""
    energies = [prediction_energy(p, target, horizon).mean() for horizon, p in predicted.items()]
    return sum(energies[1:], energies[0]) / len(energies)
