"""Linear probes: ridge regression in closed form.

From moments kept in float64, so the result does not depend on the order or grouping of rows beyond
rounding, and there is nothing to tune but one strength, which validation rows choose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Ridge strengths as a share of the variance of a standardised feature: from nearly none to ten
# times the data's own weight.
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0)
ROWS_PER_STEP = 4096


@dataclass(frozen=True)
class LinearProbe:
    """`y = x @ weight + bias`.

    Attributes:
        weight: float64 `(F, K)`.
        bias: float64 `(K,)`.
        strength: the ridge strength it was fitted with.
    """

    weight: Tensor
    bias: Tensor
    strength: float

    def __call__(self, features: Tensor) -> np.ndarray:
        """Predict float64 `(n, K)` from `(n, F)`."""
        parts = [rows.double() @ self.weight for rows in features.split(ROWS_PER_STEP)]
        if not parts:
            return np.zeros((0, len(self.bias)))
        return (torch.cat(parts) + self.bias).numpy()


class Moments:
    """First and second moments of features and targets: enough for every ridge strength.

    Products of features are summed in the features' own precision over `ROWS_PER_STEP` rows, about
    the mean of the first of them, and in float64 from there: for float32 features half the time.

    Args:
        num_features: width F of the features.
        num_targets: width K of the targets.
    """

    def __init__(self, num_features: int, num_targets: int) -> None:
        self.count = 0.0
        self.origin: Tensor | None = None
        self.total = torch.zeros(num_features, dtype=torch.float64)
        self.target_total = torch.zeros(num_targets, dtype=torch.float64)
        self.second = torch.zeros(num_features, num_features, dtype=torch.float64)
        self.mixed = torch.zeros(num_features, num_targets, dtype=torch.float64)

    def add(self, features: Tensor, targets: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Take in `(n, F)` features and `(n, K)` targets, each row counted `weights` times."""
        wanted = torch.from_numpy(np.asarray(targets, dtype=np.float64))
        counts = torch.ones(len(features), dtype=torch.float64)
        if weights is not None:
            counts = torch.from_numpy(np.asarray(weights, dtype=np.float64))
        for start in range(0, len(features), ROWS_PER_STEP):
            part = slice(start, start + ROWS_PER_STEP)
            if self.origin is None:
                self.origin = features[part].mean(0)
            rows = features[part] - self.origin
            weighted = rows * counts[part, None].to(rows.dtype)
            self.count += float(counts[part].sum())
            self.total += weighted.double().sum(0)
            self.target_total += (wanted[part] * counts[part, None]).sum(0)
            self.second += (rows.T @ weighted).double()
            self.mixed += weighted.double().T @ wanted[part]

    def solve(self, strengths: Sequence[float]) -> list[LinearProbe]:
        """Ridge solutions on standardised features; the intercept is not penalised."""
        assert self.origin is not None, "there are no rows to solve for"
        mean, centre = self.total / self.count, self.target_total / self.count
        covariance = self.second / self.count - torch.outer(mean, mean)
        scale = inverse_deviation(covariance.diagonal())
        gram = covariance * scale * scale[:, None]
        moment = (self.mixed / self.count - torch.outer(mean, centre)) * scale[:, None]
        mean = mean + self.origin.double()
        probes = []
        for strength in strengths:
            ridged = gram.clone()
            ridged.diagonal().add_(strength)
            factor = torch.linalg.cholesky(ridged)
            weight = torch.cholesky_solve(moment, factor) * scale[:, None]
            probes.append(LinearProbe(weight, centre - mean @ weight, strength))
        return probes


def inverse_deviation(variance: Tensor) -> Tensor:
    """One over the standard deviation; 0 for a feature that never varies, not infinity."""
    return torch.where(variance > 1e-12 * variance.max(), variance, torch.inf).rsqrt()


def solve_few(
    features: Tensor, targets: np.ndarray, strengths: Sequence[float]
) -> list[LinearProbe]:
    """The same solutions as `Moments.solve`, from fewer rows than features: in their own space.

    With Z the standardised features of n rows, (ZᵀZ/n + s)⁻¹ Zᵀy/n = Zᵀ (ZZᵀ/n + s)⁻¹ y/n.
    """
    rows, wanted = features.double(), torch.from_numpy(np.asarray(targets, dtype=np.float64))
    mean, centre = rows.mean(0), wanted.mean(0)
    scale = inverse_deviation((rows - mean).square().mean(0))
    standard = (rows - mean) * scale
    gram = standard @ standard.T / len(rows)
    probes = []
    for strength in strengths:
        ridged = gram.clone()
        ridged.diagonal().add_(strength)
        factor = torch.linalg.cholesky(ridged)
        inner = torch.cholesky_solve(wanted - centre, factor) / len(rows)
        weight = (standard.T @ inner) * scale[:, None]
        probes.append(LinearProbe(weight, centre - mean @ weight, strength))
    return probes


def fit_ridge(
    train: tuple[Tensor, np.ndarray],
    val: tuple[Tensor, np.ndarray],
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[LinearProbe, float]:
    """Fit a linear probe on training rows, its strength chosen on validation rows.

    Args:
        train: features `(n, F)` and targets `(n, K)`.
        val: the same for the rows that choose.
        strengths: ridge strengths to choose from; ties go to the stronger.

    Returns:
        The probe, and its mean squared error on the validation rows.
    """
    found = fit_ridges((train[0], {"": train[1]}), (val[0], {"": val[1]}), strengths=strengths)
    return found[""]


def fit_ridges(
    train: tuple[Tensor, Mapping[str, np.ndarray]],
    val: tuple[Tensor, Mapping[str, np.ndarray]],
    weights: Mapping[str, np.ndarray] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> dict[str, tuple[LinearProbe, float]]:
    """Linear probes for several questions about the same rows; one factorisation answers all.

    Args:
        train: features `(n, F)`, and for each question targets `(n, K)`.
        val: the same for the rows that choose each question's strength.
        weights: how often each training row counts, per question that is weighted; such a question
            needs moments of its own.
        strengths: ridge strengths to choose from; ties go to the stronger.

    Returns:
        Per question the probe and its mean squared error on the validation rows.
    """
    weights = weights or {}
    plain = [name for name in train[1] if name not in weights]
    groups = ([plain] if plain else []) + [[name] for name in weights]
    found = {}
    for names in groups:
        widths = [train[1][name].shape[1] for name in names]
        targets = np.concatenate([train[1][name] for name in names], axis=1)
        if len(train[0]) < train[0].shape[1] and names[0] not in weights:
            solutions = solve_few(train[0], targets, strengths)
        else:
            moments = Moments(train[0].shape[1], sum(widths))
            moments.add(train[0], targets, weights.get(names[0]))
            solutions = moments.solve(strengths)
        guesses = [probe(val[0]) for probe in solutions]
        for name, stop in zip(names, np.cumsum(widths), strict=True):
            part = slice(int(stop) - train[1][name].shape[1], int(stop))
            errors = [float(np.mean((guess[:, part] - val[1][name]) ** 2)) for guess in guesses]
            best = min(range(len(errors)), key=lambda i: (errors[i], -strengths[i]))
            probe = solutions[best]
            own = LinearProbe(probe.weight[:, part], probe.bias[part], probe.strength)
            found[name] = (own, errors[best])
    return found
