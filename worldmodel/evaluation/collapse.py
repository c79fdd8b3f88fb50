"""Has the representation collapsed? Effective rank and spread of tokens, as metrics."""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

with warnings.catch_warnings():
    # It loads transformers where that is installed, which in a notebook asks for widgets.
    warnings.filterwarnings("ignore", "IProgress not found")
    from torchmetrics import Metric

# Variance below this share of the mean square is what float32 rounding leaves of a constant
# (1e-7 squared is 1e-14), so it counts as none.
ROUNDING_SHARE = 1e-12
# The same of values: float32 rounds at 1e-7, and states after some layers differ by 2e-6.
ROUNDING = 1e-5
# Below this share of its width a level's tokens have collapsed; healthy runs stay above 0.15.
COLLAPSED_RANK = 0.05


def has_collapsed(effective_rank: float, dim: int) -> bool:
    """Whether a level's tokens use so few of their directions that what it predicts says nothing.

    Args:
        effective_rank: of its tokens, 1 to D.
        dim: width D of a token.
    """
    return effective_rank < max(COLLAPSED_RANK * dim, 1.5)


def all_alike(rows: np.ndarray) -> bool:
    """Whether rows `(..., F)` differ by no more than rounding leaves: nothing tells them apart."""
    flat = rows.reshape(-1, rows.shape[-1])
    if not flat.size:
        return True
    low, high = flat.min(0), flat.max(0)
    return bool((high - low).max() <= ROUNDING * max(np.abs(low).max(), np.abs(high).max()))


class TokenMoments(Metric):
    """Count, sum and second moment of tokens, in float64: all that spread and rank need.

    Sums over processes equal the sums over all of their tokens, so the result does not depend on
    how a batch was split.

    Args:
        dim: width D of a token.
    """

    full_state_update = False
    higher_is_better = True

    count: Tensor
    total: Tensor
    moment: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("moment", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, tokens: Float[Tensor, "*batch dim"]) -> None:
        """Take in tokens; every leading axis is averaged over."""
        if tokens.shape[-1] != self.dim:
            raise ValueError(f"tokens must be (..., {self.dim}), got {tuple(tokens.shape)}")
        rows = tokens.detach().reshape(-1, self.dim).double()
        self.count += rows.shape[0]
        self.total += rows.sum(0)
        self.moment += rows.T @ rows

    def covariance(self) -> Float[Tensor, "dim dim"]:
        """Covariance of all tokens so far (divided by their number), zero before the first."""
        count = self.count.clamp(min=1)
        mean = self.total / count
        return self.moment / count - torch.outer(mean, mean)

    def smallest_deviation(self) -> Float[Tensor, ""]:
        """Standard deviation of the dimension that varies least, in units of the tokens."""
        variance = self.covariance().diagonal().min()
        return torch.where(variance > self.rounding(), variance, 0.0).clamp(min=0).sqrt()

    def rounding(self) -> Float[Tensor, ""]:
        """Variance that cannot be told from rounding, given how large the tokens are."""
        return ROUNDING_SHARE * self.moment.trace() / self.count.clamp(min=1)


class EffectiveRank(TokenMoments):
    """How many directions the tokens use: 1 when collapsed, D when they fill the space evenly.

    The exponential of the entropy of the normalised singular values of the centred tokens (RankMe,
    Garrido et al. 2023, https://arxiv.org/abs/2210.02885, equation 2, with centring). Singular
    values are the roots of the covariance's eigenvalues up to a factor that normalising removes,
    so the number is exact however many tokens there are.
    """

    def compute(self) -> Float[Tensor, ""]:
        """The effective rank, in [1, D]; 1 for tokens without any spread."""
        eigenvalues = torch.linalg.eigvalsh(self.covariance())
        eigenvalues = torch.where(eigenvalues > self.rounding(), eigenvalues, 0.0)
        singular = eigenvalues.sqrt()
        if singular.sum() == 0:
            return torch.ones_like(self.count)
        share = singular / singular.sum()
        return torch.special.entr(share).sum().exp()
