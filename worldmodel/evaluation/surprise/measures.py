"""From the surprise of clips to accuracies, intervals and chances of error.

Every accuracy counts a tie one half, so that a scorer that says nothing gets exactly 0.5.
"""

from collections.abc import Sequence
from math import comb, hypot

import numpy as np

from worldmodel.evaluation.scores import wilson

# Contrast that is a matter of rounding, as a share of the four scores: float64 sums of a few
# thousand terms in another order differ by about 1e-13.
TIE_SHARE = 1e-9
NUM_RESAMPLES = 4000
# Below this many networks the 2.5 and 97.5 percentiles lie between the two outermost values.
FEW_NETWORKS = 40


def contrast_wins(scores: np.ndarray) -> np.ndarray:
    """Relative accuracy of each block: 1 where the impossible clips surprise more, 1/2 for a tie.

    Args:
        scores: float64 `(num_blocks, 4)`, non-negative, of AA, BB, AB, BA.
    """
    contrast = scores[:, 2] + scores[:, 3] - scores[:, 0] - scores[:, 1]
    return _wins(contrast, scores.sum(1))


def pair_wins(scores: np.ndarray) -> np.ndarray:
    """Share of a block's two matched pairs in which the impossible clip surprises more.

    The pairs that begin alike: AA with AB, BB with BA. The relative accuracy of the literature
    (Riochet et al. 2018, arXiv 1803.07616; Garrido et al. 2025, arXiv 2502.11831), ties one half.
    Other than the contrast it rewards whoever is surprised by what the second half shows.

    Args:
        scores: as in `contrast_wins`.
    """
    pairs = [
        _wins(scores[:, impossible] - scores[:, possible], scores[:, impossible])
        for possible, impossible in ((0, 2), (1, 3))
    ]
    return (pairs[0] + pairs[1]) / 2


def _wins(differences: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    wins = np.where(differences > 0, 1.0, 0.0)
    wins[np.abs(differences) <= TIE_SHARE * sizes] = 0.5
    return wins


def kind_mean(values: np.ndarray, kinds: np.ndarray) -> float:
    """Mean over kinds of the mean over that kind's blocks, so that no kind outweighs another.

    Rounded to 12 digits: four fifths are 0.8 and not 0.7999999999999999.
    """
    return round(float(np.mean([values[kinds == kind].mean() for kind in np.unique(kinds)])), 12)


def bootstrap_interval(
    values: np.ndarray,
    kinds: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = NUM_RESAMPLES,
) -> list[float]:
    """95 % interval of the mean: percentiles over resampled blocks.

    Args:
        values: `(n,)`, one per block, the unit that is resampled.
        kinds: `(n,)`; blocks are then resampled within kinds, and the mean is that over kinds.
        seed: of the resampling.
        resamples: how many.
    """
    generator = np.random.default_rng(seed)
    kinds = np.zeros(len(values)) if kinds is None else kinds
    means = []
    for kind in np.unique(kinds):
        own = values[kinds == kind]
        rows = generator.integers(0, len(own), size=(resamples, len(own)))
        means.append(own[rows].mean(1))
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return [float(low), float(high)]


def accuracy_interval(
    wins: np.ndarray, kinds: np.ndarray | None = None, seed: int = 0
) -> list[float]:
    """95 % interval of a relative accuracy: `bootstrap_interval`, never narrower than is known.

    Twenty blocks of twenty are twenty in every resample, and yet no certainty. Where all blocks of
    a kind were won, or all lost, the reach of Wilson's interval for as many is added, as a root of
    squares and as that kind counts in the mean. Ties, of a scorer that says nothing, add none.

    Args:
        wins: `(n,)` of 0, 1/2 and 1.
        kinds: `(n,)`; the accuracy is then the mean over kinds.
        seed: of the resampling.
    """
    kinds = np.zeros(len(wins)) if kinds is None else kinds
    mean, (low, high) = kind_mean(wins, kinds), bootstrap_interval(wins, kinds, seed)
    below, above = [mean - low], [high - mean]
    names = np.unique(kinds)
    for kind in names:
        own = wins[kinds == kind]
        if own[0] != 0.5 and (own == own[0]).all():
            ends = wilson(float(own[0]), len(own))
            below.append((own[0] - ends[0]) / len(names))
            above.append((ends[1] - own[0]) / len(names))
    return [max(0.0, mean - hypot(*below)), min(1.0, mean + hypot(*above))]


def bootstrap_networks(
    wins: np.ndarray, kinds: np.ndarray, seed: int = 0, resamples: int = NUM_RESAMPLES
) -> list[float]:
    """95 % interval of the mean over networks and blocks, both resampled.

    Args:
        wins: `(num_networks, num_blocks)`.
        kinds: `(num_blocks,)`; the mean is that over kinds.
        seed: of the resampling.
        resamples: how many.
    """
    generator = np.random.default_rng(seed)
    num_networks = len(wins)
    networks = generator.multinomial(num_networks, [1 / num_networks] * num_networks, resamples)
    means = []
    for kind in np.unique(kinds):
        own = wins[:, kinds == kind]
        size = own.shape[1]
        blocks = generator.multinomial(size, [1 / size] * size, resamples)
        means.append(((networks @ own) * blocks).sum(1) / (num_networks * size))
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return [float(low), float(high)]


def network_range(accuracies: Sequence[float]) -> tuple[float, float]:
    """2.5 and 97.5 percentiles over networks; least and most where they are few."""
    if len(accuracies) < FEW_NETWORKS:
        return min(accuracies), max(accuracies)
    low, high = np.percentile(accuracies, [2.5, 97.5])
    return float(low), float(high)


def sign_test(wins: np.ndarray) -> float:
    """Chance that as many blocks or more are won by tossing coins: exact, one-sided, without ties.

    Args:
        wins: `(n,)` of 0, 1/2 and 1.
    """
    won, lost = int((wins > 0.5).sum()), int((wins < 0.5).sum())
    count = won + lost
    return sum(comb(count, more) for more in range(won, count + 1)) / 2**count


def sign_flip_test(differences: np.ndarray) -> float:
    """Chance of so large a sum if each difference were as likely of either sign; exact, one-sided.

    The permutation test for paired values (Fisher 1935). All 2^n sign patterns are counted by
    building up the distribution of their sum, which whole numbers make possible.

    Args:
        differences: whole numbers, `(n,)`; a common factor changes nothing.
    """
    sizes = np.abs(differences[differences != 0]).astype(np.int64)
    reach = int(sizes.sum())
    chances = np.zeros(2 * reach + 1)  # entry i: that of the sum i - reach
    chances[reach] = 1.0
    for size in sizes.tolist():
        up, down = np.zeros_like(chances), np.zeros_like(chances)
        up[size:], down[:-size] = chances[:-size], chances[size:]
        chances = (up + down) / 2
    observed = int(differences.sum())
    return min(float(chances[observed + reach :].sum()), 1.0)


def against_networks(wins: np.ndarray, others: np.ndarray) -> float:
    """`sign_flip_test` of a model's wins less the mean of other networks' wins, block by block.

    Args:
        wins: `(num_blocks,)` of 0, 1/2 and 1.
        others: `(num_networks, num_blocks)`, likewise.
    """
    halves, other_halves = np.rint(2 * wins), np.rint(2 * others)
    return sign_flip_test((len(others) * halves - other_halves.sum(0)).astype(np.int64))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by the step-down rule of Holm (1979), as in the paper.

    The i-th smallest of n is multiplied by n - i (from 0), made no smaller than those before it,
    and at most 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, number in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = largest
    return corrected
