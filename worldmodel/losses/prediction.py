"""Predicted against target tokens: the loss in training, and the surprise later.

Which loss it is is one choice of its own (`class_path`), beside the regularizer and its scopes.
What JEPA is compared with, contrast and pixels, is such a choice too (`baselines.py`).
"""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.losses.kernels import CompilableLoss
from worldmodel.losses.ranks import global_mean, own_part
from worldmodel.models.hierarchy import Hierarchy


class PredictionLoss(CompilableLoss):
    """How far predicted tokens are from what came. Subclasses are chosen by `class_path`.

    Those that look at one horizon at a time say what its `distance` is, others what `forward` is.
    """

    def forward(
        self,
        predicted: Mapping[int, Tensor],
        target: Tensor,
        level: int = 0,
        frames: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The loss of one level, a scalar; each horizon counts the same.

        Over ranks its mean is the loss of the global batch: means over clips are given through
        `ranks.own_part`, since ranks may hold unequally many.

        Args:
            predicted: per horizon `(B, T, N, D)`; entry τ is the prediction for step τ + horizon.
            target: `(B, T, N, D)`; entry τ is the token at step τ.
            level: of the hierarchy.
            frames: what the tokens come from, `(B, T_frames, 3, size, size)`, as
                `Hierarchy.encode` takes them; for losses that look at pixels.
            seed: for what is random in it; the same on every rank, another at every step.
        """
        return mean_over_horizons(predicted, target, self.distance)

    def distance(self, ahead: Tensor, came: Tensor, horizon: int) -> Tensor:
        """The loss at one horizon, a scalar.

        Args:
            ahead: what was predicted for the steps from `horizon` on, `(B, T - horizon, N, D)`.
            came: what came at these steps, `(B, T - horizon, N, D)`.
            horizon: steps ahead.
        """
        raise NotImplementedError(
            "distance(ahead, came, horizon) -> scalar, "
            "or forward(predicted, target, level, frames, seed) -> scalar"
        )

    def attach(self, hierarchy: Hierarchy) -> None:
        """Called once, before the optimizer or any checkpoint is made.

        Here a loss builds what it must itself learn; by default nothing.
        """


def aligned(
    predicted: Float[Tensor, "batch time tokens _dim"],
    target: Float[Tensor, "batch time tokens _target_dim"],
    horizon: int,
) -> tuple[
    Float[Tensor, "batch steps tokens _dim"], Float[Tensor, "batch steps tokens _target_dim"]
]:
    """What was predicted for the steps from `horizon` on, and what came at these steps.

    Args:
        predicted: entry τ is the prediction for step τ + horizon.
        target: entry τ is what came at step τ.
        horizon: steps ahead, at least 1.

    Raises:
        InputError: the clip is not longer than the horizon.
    """
    if target.shape[1] <= horizon:
        raise InputError(
            f"a horizon of {horizon} steps needs clips of more steps, got {target.shape[1]}; "
            "raise data.num_frames or lower the level's horizons"
        )
    return predicted[:, :-horizon], target[:, horizon:]


def mean_over_horizons(
    predicted: Mapping[int, Tensor], target: Tensor, loss: Callable[[Tensor, Tensor, int], Tensor]
) -> Tensor:
    """The mean over horizons h of `loss(predicted for steps, what came at these steps, h)`."""
    losses = [loss(*aligned(ahead, target, h), h) for h, ahead in predicted.items()]
    return torch.stack(losses).mean()


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
    ahead, came = aligned(predicted, target, horizon)
    return (ahead - came).pow(2).mean(-1)


class SquaredError(PredictionLoss):
    """Mean squared difference of the tokens.

    Nothing in it prevents collapse; the regularizer or the target must.

    Args:
        moving: how much more tokens count that change. Each token is weighted by 1 + moving * (its
            squared change from τ to τ + h) / (the mean of that over the global batch), divided by
            the mean weight, 1 + moving. The weights have no gradient. Most places of most steps
            change little; with 0 they have most of the say.
    """

    def __init__(self, moving: float = 0.0) -> None:
        super().__init__()
        if not 0 <= moving < float("inf"):
            raise InputError(f"SquaredError's moving must be 0 or more and finite, got {moving}")
        self.moving = moving

    def forward(
        self,
        predicted: Mapping[int, Tensor],
        target: Tensor,
        level: int = 0,
        frames: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        if not self.moving:
            return own_part(self.kernel(mean_squared_error, target)(predicted, target))

        def energy(ahead: Tensor, came: Tensor, horizon: int) -> Tensor:
            each = (ahead - came).square().mean(-1)
            return (each * moving_weights(target, horizon, self.moving)).mean()

        return own_part(mean_over_horizons(predicted, target, energy))


def mean_squared_error(predicted: Mapping[int, Tensor], target: Tensor) -> Tensor:
    """Mean squared difference of all tokens, mean over horizons."""

    def energy(ahead: Tensor, came: Tensor, horizon: int) -> Tensor:
        return (ahead - came).square().mean(-1).mean()

    return mean_over_horizons(predicted, target, energy)


@torch.no_grad()
def moving_weights(
    target: Float[Tensor, "batch time tokens dim"], horizon: int, moving: float
) -> Float[Tensor, "batch steps tokens"]:
    """Weights of tokens at the steps from `horizon` on; their mean over the global batch is 1.

    Where nothing changes at all every token counts the same.
    """
    change = prediction_energy(target, target, horizon)
    mean = global_mean(change.mean())
    # The mean of change / mean is 1 by construction, that of the weights 1 + moving.
    share = torch.where(mean > 0, change / mean, torch.ones_like(change))
    return (1 + moving * share) / (1 + moving)


class CombinedPrediction(PredictionLoss):
    """Several prediction losses on the same predictions: their weighted sum.

    Such as a contrast, which finds what tells moments apart, beside the squared error, which gives
    predictions the scale of their targets.

    Args:
        losses: any, at least one.
        weights: one for each, 0 or more.
    """

    def __init__(self, losses: list[PredictionLoss], weights: list[float]) -> None:
        super().__init__()
        if not losses or len(losses) != len(weights):
            raise InputError(
                "CombinedPrediction needs as many weights as losses, and at least one, got "
                f"{len(losses)} losses and {len(weights)} weights"
            )
        if not all(0 <= weight < float("inf") for weight in weights):
            raise InputError(
                f"CombinedPrediction's weights must be 0 or more and finite, got {weights}"
            )
        self.losses, self.weights = nn.ModuleList(losses), list(weights)

    def forward(
        self,
        predicted: Mapping[int, Tensor],
        target: Tensor,
        level: int = 0,
        frames: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        number = len(self.weights)
        losses = [
            weight * loss(predicted, target, level, frames, seed * number + place)
            for place, (weight, loss) in enumerate(zip(self.weights, self.losses, strict=True))
        ]
        return torch.stack(losses).sum()

    def attach(self, hierarchy: Hierarchy) -> None:
        for loss in self.losses:
            cast(PredictionLoss, loss).attach(hierarchy)


class BarlowTwins(PredictionLoss):
    """Cross-correlation of predicted and target tokens drawn to the identity.

    Zbontar et al. 2021, arXiv 2103.03230, eq. 1-2: C_ij is the correlation of dimension i of the
    predicted and dimension j of the target tokens over all rows of a horizon (clips, steps,
    places) of the global batch, and the loss sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j}
    C_ij^2, here divided by D, so that its weight does not depend on it.

    No regularizer is needed: a dimension that does not vary correlates with nothing, which costs 1,
    and one that repeats another costs off the diagonal. But correlation knows no scale. Tokens may
    grow or shrink, and predicted ones may differ from their targets by a factor and a constant in
    each dimension, which the distance, the surprise, then counts.

    Args:
        off_diagonal: weight of the correlations between different dimensions, the paper's lambda.
    """

    # Added to variances, as batch normalisation does: dimensions that do not vary divide by this.
    FLOOR = 1e-5

    def __init__(self, off_diagonal: float = 0.005) -> None:
        super().__init__()
        if not off_diagonal >= 0:
            raise InputError(f"BarlowTwins' off_diagonal must be 0 or more, got {off_diagonal}")
        self.off_diagonal = off_diagonal

    def distance(self, ahead: Tensor, came: Tensor, horizon: int) -> Tensor:
        correlation = cross_correlation(ahead.flatten(0, 2), came.flatten(0, 2), self.FLOOR)
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return ((1 - diagonal).square().sum() + self.off_diagonal * off_diagonal) / len(diagonal)


def cross_correlation(
    first: Float[Tensor, "rows dim"], second: Float[Tensor, "rows dim"], floor: float
) -> Float[Tensor, "dim dim"]:
    """Correlation of every dimension of one with every dimension of the other, over all ranks.

    Args:
        first: gives the rows of the result.
        second: gives its columns.
        floor: added to every variance.
    """
    # No gradient through the means: summed over all ranks it is zero, on one rank alone it is not.
    first = first - global_mean(first.mean(0)).detach()
    second = second - global_mean(second.mean(0)).detach()
    covariance = global_mean(first.T @ second / len(first))
    spread = [torch.sqrt(global_mean(rows.square().mean(0)) + floor) for rows in (first, second)]
    return covariance / (spread[0][:, None] * spread[1])


class VICRegL(PredictionLoss):
    """Invariance of VICRegL: tokens agree by place, by likeness, and on average over a step.

    Bardes et al. 2022, arXiv 2210.01571. The local part is the squared error to the target token at
    the same place plus that to the most similar target token of the same step, whatever its place,
    for the best-matching share of the predicted tokens of each step. The global part is the squared
    error of the mean tokens of a step. All are means over dimensions.

    The paper's other two terms, variance and covariance, are the regularizer's, which alone
    prevents collapse: `VICReg` with the scope `per_token`, since the authors' code takes them at
    each place apart.

    Args:
        global_share: the paper's alpha: weight of the global part; the local part has the rest.
        matched_share: the paper's gamma as a share of a step's tokens: 20 of 49 there.
    """

    def __init__(self, global_share: float = 0.75, matched_share: float = 0.4) -> None:
        super().__init__()
        if not (0 <= global_share <= 1 and 0 < matched_share <= 1):
            raise InputError(
                "VICRegL needs a global_share in [0, 1] and a matched_share in (0, 1], got "
                f"{global_share} and {matched_share}"
            )
        self.global_share, self.matched_share = global_share, matched_share

    def distance(self, ahead: Tensor, came: Tensor, horizon: int) -> Tensor:
        same_place = (ahead - came).square().mean()
        count = max(1, round(self.matched_share * ahead.shape[2]))
        local = same_place + matched_energy(ahead, came, count).mean()
        overall = (ahead.mean(2) - came.mean(2)).square().mean()
        return own_part(self.global_share * overall + (1 - self.global_share) * local)


def matched_energy(
    ahead: Float[Tensor, "batch steps tokens dim"],
    came: Float[Tensor, "batch steps tokens dim"],
    count: int,
) -> Float[Tensor, "batch steps count"]:
    """Of each step the `count` smallest energies of a predicted and its most similar target token.

    Two predicted tokens may share a target. With gradient to both, none through the choice.
    """
    with torch.no_grad():
        nearest = torch.cdist(ahead, came).argmin(-1)
    energy = (ahead - came.take_along_dim(nearest[..., None], dim=2)).square().mean(-1)
    return energy.topk(count, dim=-1, largest=False).values
