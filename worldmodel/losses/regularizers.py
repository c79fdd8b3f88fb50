"""What prevents collapse, and over which scope its statistics are taken.

A regularizer looks at a cloud of tokens and pushes its distribution away from a point. *Which*
cloud is a choice of its own, the scope: all tokens of the batch, or tokens minus their clip's
temporal mean. The first alone can be met by what never changes within a clip (colours, the camera),
and then copying is perfect prediction and nothing about change is learned; the second forces tokens
to vary in time, and prediction picks from that what varies predictably.

Every statistic is that of the global batch: under data-parallel training `global_mean` averages
over ranks, decided when it is called. N ranks with B clips each give the loss and, after the
averaging of gradients that DDP does, the gradient of one rank with N * B clips.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from worldmodel.errors import InputError


def global_mean(local_mean: Tensor) -> Tensor:
    """The mean over all ranks, which must hold equally many rows; with gradient.

    The value is that of all ranks, the gradient that of this rank's own rows: DDP averages
    gradients over ranks, which makes the sum exact without a second exchange in the backward pass.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return local_mean
    mean = local_mean.detach().clone()
    distributed.all_reduce(mean)
    mean /= distributed.get_world_size()
    return local_mean + (mean - local_mean).detach()


def whole_batch(
    tokens: Float[Tensor, "batch time tokens dim"],
) -> Float[Tensor, "rows dim"]:
    """Scope `batch`: every token of every step of every clip is one row."""
    return tokens.flatten(0, -2)


def within_clip(
    tokens: Float[Tensor, "batch time tokens dim"],
) -> Float[Tensor, "rows dim"]:
    """Scope `within_clip`: rows minus their clip's temporal mean at that token position."""
    return (tokens - tokens.mean(dim=1, keepdim=True)).flatten(0, -2)


SCOPES: dict[str, Callable[[Tensor], Tensor]] = {"batch": whole_batch, "within_clip": within_clip}


class Regularizer(nn.Module):
    """A penalty on the distribution of rows; 0 is best. Subclasses are chosen by `class_path`."""

    def forward(self, rows: Float[Tensor, "rows dim"], seed: int) -> Float[Tensor, ""]:
        """The penalty.

        Args:
            rows: as many on every rank.
            seed: drives whatever is random in it, the same on every rank; the task passes the
                number of the optimizer step, so that a resumed run draws the same.
        """
        raise NotImplementedError("forward(rows (R, D), seed) -> scalar")


class SIGReg(Regularizer):
    """Sketched isotropic Gaussian regularization: rows must look standard normal from every side.

    Along random unit directions, the empirical characteristic function of the projected rows is
    compared with that of N(0, 1) (Epps and Pulley 1983; LeJEPA, Balestriero and LeCun 2025,
    arXiv 2511.08544). Without the factor N of the test statistic, so that its weight does not
    depend on the batch size.

    Slices alone are blind to how variance is spread over dimensions: most random projections of
    many dimensions look normal whatever the covariance (Diaconis and Freedman 1984, Ann. Statist.
    12:793), so a few directions could carry nearly everything. The covariance C of the rows is
    therefore compared with the identity as well: ||C - I||_F^2 / D, which is VICReg's covariance
    term with the variances drawn to 1. It doubled the effective rank of 128 dimensions.

    Args:
        covariance: weight of ||C - I||_F^2 / D; 0 leaves slices alone.
        num_directions: random unit directions, fresh at every step.
        num_points: points t at which the characteristic functions are compared.
        t_min: the smallest t.
        t_max: the largest t; the difference is weighted by exp(-t^2 / 2).
    """

    def __init__(
        self,
        covariance: float = 0.05,
        num_directions: int = 128,
        num_points: int = 8,
        t_min: float = 0.2,
        t_max: float = 3.0,
    ) -> None:
        super().__init__()
        if covariance < 0:
            raise InputError(f"SIGReg's covariance weight must be 0 or more, got {covariance}")
        if num_directions < 1 or num_points < 1 or not 0 < t_min <= t_max:
            raise InputError(
                "SIGReg needs at least one direction and one point and 0 < t_min <= t_max, got "
                f"{num_directions} directions, {num_points} points, t in [{t_min}, {t_max}]"
            )
        self.covariance = covariance
        self.num_directions, self.num_points = num_directions, num_points
        self.t_min, self.t_max = t_min, t_max

    def forward(self, rows: Float[Tensor, "rows dim"], seed: int) -> Float[Tensor, ""]:
        # Drawn on the CPU: every rank and every kind of device then gets the same directions.
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(rows.shape[1], self.num_directions, generator=generator)
        directions = (directions / directions.norm(dim=0)).to(rows, non_blocking=True)
        projected = rows @ directions
        loss = rows.new_zeros(())
        for t in torch.linspace(self.t_min, self.t_max, self.num_points).tolist():
            angle = projected * t
            normal = torch.exp(rows.new_tensor(-(t**2) / 2))
            real = global_mean(angle.cos().mean(0)) - normal
            imaginary = global_mean(angle.sin().mean(0))
            loss = loss + normal * (real.square() + imaginary.square()).mean()
        if self.covariance:
            loss = loss + self.covariance * identity_distance(global_covariance(rows))
        return loss


class VICReg(Regularizer):
    """Variance and covariance terms of VICReg (Bardes et al. 2022, arXiv 2105.04906, eq. 1-4).

    Args:
        std: standard deviation below which a dimension is pushed up.
        variance: weight of mean_d max(0, std - sqrt(Var_d + 1e-4)).
        covariance: weight of the squared off-diagonal covariances, summed and divided by D as in
            the paper (some implementations divide by D (D - 1): their weight is larger by D - 1).
    """

    def __init__(self, std: float = 1.0, variance: float = 1.0, covariance: float = 0.04) -> None:
        super().__init__()
        self.std, self.variance, self.covariance = std, variance, covariance

    def forward(self, rows: Float[Tensor, "rows dim"], seed: int) -> Float[Tensor, ""]:
        covariance = global_covariance(rows)
        return self.variance * variance_loss(covariance, self.std) + (
            self.covariance * covariance_loss(covariance)
        )


def global_covariance(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "dim dim"]:
    """Covariance of the rows of all ranks, divided by their number."""
    # No gradient through the mean: summed over all ranks it is zero, on one rank alone it is not.
    centred = rows - global_mean(rows.mean(0)).detach()
    return global_mean(centred.T @ centred / len(rows))


def identity_distance(covariance: Float[Tensor, "dim dim"]) -> Float[Tensor, ""]:
    """Squared Frobenius distance from the identity, per dimension."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return (covariance - identity).square().sum() / len(covariance)


def variance_loss(covariance: Float[Tensor, "dim dim"], std: float) -> Float[Tensor, ""]:
    """How far dimensions fall short of the standard deviation asked for, on average."""
    return torch.relu(std - torch.sqrt(covariance.diagonal() + 1e-4)).mean()


def covariance_loss(covariance: Float[Tensor, "dim dim"]) -> Float[Tensor, ""]:
    """Squared covariances between different dimensions, per dimension."""
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / len(covariance)


class NoRegularizer(Regularizer):
    """No penalty: for objectives whose target alone must prevent collapse."""

    def forward(self, rows: Float[Tensor, "rows dim"], seed: int) -> Float[Tensor, ""]:
        return rows.new_zeros(())
