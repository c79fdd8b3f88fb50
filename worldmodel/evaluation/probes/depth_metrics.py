"""How wrong is a depth map? The usual metrics, the usual alignments, and sums that stream.

All nine metrics follow from ten sums over the cells of an image, so a set of any length costs 80
bytes an image. How images are put together changes the numbers, so both ways have names:
`mean_over_images`, the literature's on NYU and KITTI, where every image weighs the same, and
`pooled`, where every cell does, as in Eigen et al. 2014 and in our own reports.

Metrics are Eigen et al. 2014 (https://arxiv.org/abs/1406.2283), section 4.1, for a guess p and a
truth t in metres, d = ln p - ln t, means over cells:

    rmse_m     sqrt(mean (p - t)^2)
    abs_rel    mean |p - t| / t
    sq_rel     mean (p - t)^2 / t
    rmse_log   sqrt(mean d^2)
    log10      mean |log10 p - log10 t|
    silog      sqrt(mean d^2 - 0.5 (mean d)^2): the root of the training loss of the same paper (its
               equation 4, lambda 0.5). Its scale-invariant error has lambda 1, and so has KITTI's
               leaderboard, which multiplies by 100
    delta1..3  share of cells with max(p / t, t / p) < 1.25, 1.25^2, 1.25^3
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from worldmodel.evaluation.scores import bootstrap_groups

METRICS = (
    "rmse_m",
    "abs_rel",
    "sq_rel",
    "rmse_log",
    "log10",
    "silog",
    "delta1",
    "delta2",
    "delta3",
)

Alignment = Literal["metric", "median", "affine_disparity"]
ALIGNMENTS: tuple[Alignment, ...] = ("metric", "median", "affine_disparity")

NEAREST_M = 1e-3
CAP_M = 10.0
SILOG_LAMBDA = 0.5
# Columns of the sums: cells, e^2, |e| / t, e^2 / t, d^2, d, |log10|, and cells within each factor.
NUM_SUMS = 10


def cell_sums(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """What every metric is made of, summed over the cells that are `valid`.

    Args:
        predicted: metres, above 0 where `valid`; any shape.
        true: metres of the same shape, above 0 where `valid`.
        valid: bool of the same shape.

    Returns:
        float64 `(NUM_SUMS,)`, all zero where no cell is valid.

    Raises:
        ValueError: shapes differ, or a valid cell is not finite and above 0.
    """
    guess, truth = _chosen(predicted, true, valid)
    error = guess - truth
    log = np.log(guess) - np.log(truth)
    ratio = np.maximum(guess / truth, truth / guess)
    columns = [
        np.ones_like(truth),
        error**2,
        np.abs(error) / truth,
        error**2 / truth,
        log**2,
        log,
        np.abs(log) / math.log(10),
        *((ratio < 1.25**power).astype(np.float64) for power in (1, 2, 3)),
    ]
    return np.array([column.sum() for column in columns])


def _chosen(
    predicted: np.ndarray, true: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The valid cells of both, float64 `(n,)`."""
    if not predicted.shape == true.shape == valid.shape:
        raise ValueError(
            "predicted, true and valid must have one shape, "
            f"got {predicted.shape}, {true.shape} and {valid.shape}"
        )
    parts = []
    for name, depth in (("predicted", predicted), ("true", true)):
        cells = depth[valid.astype(bool)].astype(np.float64)
        usable = np.isfinite(cells) & (cells > 0)
        if not usable.all():
            raise ValueError(
                f"{name} depth must be finite and above 0 m on valid cells, found "
                f"{cells[~usable][0]:g}; clip a prediction, and mask a truth that is missing"
            )
        parts.append(cells)
    return parts[0], parts[1]


def scores_of(sums: np.ndarray) -> dict[str, float]:
    """The metrics from sums over at least one cell.

    Raises:
        ValueError: there is no cell.
    """
    count = float(sums[0])
    if count < 1:
        raise ValueError("depth metrics need at least one valid cell, found none")
    square, relative, square_relative, log_square, log, log10, *within = (
        float(value) / count for value in sums[1:]
    )
    return {
        "rmse_m": math.sqrt(square),
        "abs_rel": relative,
        "sq_rel": square_relative,
        "rmse_log": math.sqrt(log_square),
        "log10": log10,
        # Never below 0 but for rounding, since mean(d)^2 <= mean(d^2).
        "silog": math.sqrt(max(log_square - SILOG_LAMBDA * log * log, 0.0)),
        **{f"delta{number}": share for number, share in enumerate(within, 1)},
    }


def depth_scores(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """All metrics over all valid cells at once, without any alignment; see the head of this file.

    Args:
        predicted: metres, above 0 where `valid`; any shape.
        true: metres of the same shape, above 0 where `valid`.
        valid: bool of the same shape.

    Returns:
        The keys of `METRICS`, in that order.

    Raises:
        ValueError: no cell is valid, shapes differ, or a valid cell is not finite and above 0.
    """
    return scores_of(cell_sums(predicted, true, valid))


def align(
    predicted: np.ndarray,
    true: np.ndarray,
    valid: np.ndarray,
    how: Alignment,
    nearest_m: float = NEAREST_M,
    cap_m: float = CAP_M,
) -> np.ndarray:
    """One image's depth after what an evaluation forgives.

    Args:
        predicted: metres or, but for `metric`, any unit of depth; above 0.
        true: metres of the same shape.
        valid: cells from which scale and shift are found; where there are none nothing is forgiven.
        how: `metric` forgives nothing; `median` multiplies by median(true) / median(predicted), as
            Zhou et al. 2017 (https://arxiv.org/abs/1704.07813); `affine_disparity` finds the s and
            b that minimise sum (s / predicted + b - 1 / true)^2, as MiDaS
            (https://arxiv.org/abs/1907.01341).
        nearest_m: the result is clipped to this from below ...
        cap_m: ... and to this from above, for all three. A disparity at or below 1 / cap_m becomes
            cap_m.

    Returns:
        float64 metres of the same shape.

    Raises:
        ValueError: `how` is not one of these, shapes differ, or a depth is not finite and above 0.
    """
    if how not in ALIGNMENTS:
        raise ValueError(f"alignment must be one of {', '.join(ALIGNMENTS)}, got {how!r}")
    _chosen(predicted, np.ones(predicted.shape), np.ones(predicted.shape, bool))
    guess, truth = _chosen(predicted, true, valid)
    depth = predicted.astype(np.float64)
    if how == "median" and len(guess):
        depth = depth * (np.median(truth) / np.median(guess))
    if how == "affine_disparity" and len(guess):
        scale, shift = _line(1 / guess, 1 / truth)
        depth = 1 / np.clip(scale / depth + shift, 1 / cap_m, 1 / nearest_m)
    return np.clip(depth, nearest_m, cap_m)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of least squares; slope 0 where x does not vary."""
    centred = x - x.mean()
    spread = float((centred**2).sum())
    # Equal numbers have a spread of rounding only, about 1e-32 of their own squares.
    if spread <= 1e-24 * float((x**2).sum()):
        return 0.0, float(y.mean())
    slope = float((centred * (y - y.mean())).sum()) / spread
    return slope, float(y.mean() - slope * x.mean())


class DepthSums:
    """Metrics over many images that come one by one; their order changes no bit of the result.

    Attributes:
        num_empty: images without any valid cell; they count in no score.
    """

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self.num_empty = 0

    def add(self, predicted: np.ndarray, true: np.ndarray, valid: np.ndarray) -> None:
        """Take in one image, arguments as in `depth_scores`."""
        sums = cell_sums(predicted, true, valid)
        if sums[0]:
            self._rows.append(sums)
        else:
            self.num_empty += 1

    @property
    def num_images(self) -> int:
        """Images that count."""
        return len(self._rows)

    @property
    def num_cells(self) -> int:
        """Valid cells of all of them."""
        return int(sum(row[0] for row in self._rows))

    def pooled(self) -> dict[str, float]:
        """Metrics over all cells of all images: every cell weighs the same.

        Raises:
            ValueError: no image counts.
        """
        return scores_of(np.array([_exact_sum(column) for column in self._columns()]))

    def mean_over_images(self) -> dict[str, float]:
        """Means of each image's own metrics: every image weighs the same.

        Raises:
            ValueError: no image counts.
        """
        if not self._rows:
            raise ValueError("depth metrics need at least one image with a valid cell, found none")
        scores = [scores_of(row) for row in self._rows]
        return {name: _exact_sum([s[name] for s in scores]) / len(scores) for name in METRICS}

    def intervals(self, seed: int = 0) -> dict[str, list[float] | None]:
        """95 % intervals of the root mean squared error, both ways, resampling images.

        None of a single image. Images of one scene resemble one another, so that the true intervals
        are wider.
        """
        # By size and not by time of arrival, so that order changes nothing.
        rows = np.array(sorted(self._rows, key=tuple)).reshape(-1, NUM_SUMS)
        count, square = rows[:, 0], rows[:, 1]
        groups = np.arange(len(rows))
        roots = np.sqrt(square / count)
        return {
            "pooled": bootstrap_groups(square, count, groups, lambda a, b: np.sqrt(a / b), seed),
            "mean_over_images": bootstrap_groups(
                roots, np.ones(len(rows)), groups, lambda a, b: a / b, seed
            ),
        }

    def _columns(self) -> list[tuple[float, ...]]:
        return list(zip(*(row.tolist() for row in self._rows), strict=True)) or [(0.0,)] * NUM_SUMS


def _exact_sum(values: Sequence[float]) -> float:
    """The sum rounded once, whatever the order."""
    return math.fsum(values)
