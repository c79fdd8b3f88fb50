"""What answers are judged by: scores, and their intervals."""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
from scipy.special import ndtr, stdtrit
from torch import Tensor

# Of the normal distribution 95 % lie within so many standard deviations.
NORMAL = 1.959963984540054


def r2_score(predicted: np.ndarray, true: np.ndarray) -> float:
    """1 - squared error / spread of the truth, both summed over rows and columns.

    At most 1; 0 for the best constant; 0 as well where the truth does not vary at all.
    """
    spread = float(((true - true.mean(0)) ** 2).sum())
    if spread == 0:
        return 0.0
    return 1 - float(((predicted - true) ** 2).sum()) / spread


def mean_absolute_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error over rows and columns, in the truth's unit."""
    return float(np.abs(predicted - true).mean())


def token_distances(guess: Tensor, true: Tensor) -> np.ndarray:
    """How far predicted tokens are from what came: the energy that surprise is made of.

    The Euclidean distance over the square root of D. The distance rather than its square, whose
    mean over a clip is that of its few most surprising steps: matched blocks of physics are told
    apart better by distances, by 0.02 of all on ten networks (LOG.md).

    Args:
        guess: `(..., D)`.
        true: `(..., D)`.

    Returns:
        float64 `(...)`, in units of the spread of a token's dimension where that is 1.
    """
    return (guess.double() - true).square_().mean(-1).sqrt_().numpy()


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher; ties count half.

    0.5 where one of the classes is empty: there is nothing to tell apart.
    """
    positive = positive.astype(bool)
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    if not len(high) or not len(low):
        return 0.5
    below = np.searchsorted(low, high, side="left").sum()
    equal = np.searchsorted(low, high, side="right").sum() - below
    return float((below + 0.5 * equal) / (len(high) * len(low)))


def wilson(share: float, count: int) -> list[float]:
    """95 % interval of a share of `count` independent trials (Wilson 1927, equation for p)."""
    centre = share + NORMAL**2 / (2 * count)
    reach = NORMAL * sqrt(share * (1 - share) / count + NORMAL**2 / (4 * count**2))
    scale = 1 + NORMAL**2 / count
    return [max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)]


def percentile_interval(resampled: np.ndarray | Sequence[float], num_groups: int) -> list[float]:
    """95 % interval from the scores of resamples: percentiles, farther out where groups are few.

    The spread of resamples is too small by `sqrt((n - 1) / n)`, and Student's t reaches farther
    than the normal distribution: the expanded percentile interval (Hesterberg 2015, The American
    Statistician 69, section 3.5). Of 10 groups it is a fifth wider, of 100 a fiftieth.

    Args:
        resampled: the score in each resample.
        num_groups: clips or blocks that were resampled, 2 or more.
    """
    reach = stdtrit(num_groups - 1, 0.975) * sqrt(num_groups / (num_groups - 1))
    tail = 100 * float(ndtr(-reach))
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return [float(low), float(high)]


def bootstrap_groups(
    numerator: np.ndarray,
    denominator: np.ndarray,
    groups: np.ndarray,
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray],
    seed: int = 0,
    resamples: int = 2000,
) -> list[float] | None:
    """95 % interval of a ratio of sums, resampling whole groups.

    Rows of one clip are not independent, so clips are resampled and not rows.

    Args:
        numerator: `(n,)`, such as squared errors.
        denominator: `(n,)`, such as squared distances from the mean, or ones. Groups in which it
            sums to zero have no part in it.
        groups: `(n,)`, the clip or block of each row, whole numbers from 0.
        combine: the score from both sums.
        seed: of the resampling.
        resamples: how many.

    Returns:
        None of fewer than two groups: one says nothing about how others differ from it.
    """
    _, number = np.unique(groups, return_inverse=True)
    top, bottom = np.bincount(number, numerator), np.bincount(number, denominator)
    there = int((bottom > 0).sum())
    if there < 2:
        return None
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, len(top), size=(resamples, len(top)))
    top_sums, bottom_sums = top[rows].sum(1), bottom[rows].sum(1)
    usable = bottom_sums > 0
    return percentile_interval(combine(top_sums[usable], bottom_sums[usable]), there)


def r2_interval(predicted: np.ndarray, true: np.ndarray, groups: np.ndarray) -> list[float] | None:
    """95 % interval of `r2_score`, resampling clips; spread around the mean of all rows."""
    return bootstrap_groups(
        ((predicted - true) ** 2).sum(1),
        ((true - true.mean(0)) ** 2).sum(1),
        groups,
        lambda error, spread: 1 - error / spread,
    )
