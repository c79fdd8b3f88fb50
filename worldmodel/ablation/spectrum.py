"""How long do tokens remember? Autocorrelations of all directions, and where variance lies.

A regularizer makes tokens vary; what its scope is decides whether they vary between clips, within
them, fast or slowly. Tokens that carry what moves are neither constant nor noise: many directions,
with time constants between one step and the length of a clip.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.network import CHUNK, Network, one_thread, pad_chunk

# Directions with less than this share of the largest variance are rounding, and left out.
SMALLEST_SHARE = 1e-6
# A direction that changes in a straight line all along would have no time constant at all.
LARGEST_AUTOCORRELATION = 1 - 1e-9


@dataclass
class TokenMoments:
    """Sums over the tokens of one level, from which everything follows; all float64.

    Tokens are centred per clip and position: x_t minus its mean over the clip's T steps.

    Attributes:
        num_clips: taken in.
        num_steps: of a clip; 0 before the first.
        same: `(D, D)`, of x_t x_t' over steps that have a neighbour, both members of each pair of
            neighbours counting one half.
        next: `(D, D)`, of x_t x_(t+1)' over pairs of neighbours.
        within: of |x_t|^2 over all steps.
        means: `(N, D)`, of the clips' means at each position.
        means_squared: of the squared lengths of these means.
    """

    num_clips: int
    num_steps: int
    same: Tensor
    next: Tensor
    within: float
    means: Tensor
    means_squared: float

    @classmethod
    def of(cls, num_tokens: int, dim: int) -> "TokenMoments":
        """Nothing taken in yet.

        Args:
            num_tokens: per step, N.
            dim: width of a token, D.
        """
        square = torch.zeros(dim, dim, dtype=torch.float64)
        means = torch.zeros(num_tokens, dim, dtype=torch.float64)
        return cls(0, 0, square, square.clone(), 0.0, means, 0.0)

    def add(self, tokens: Tensor) -> None:
        """Take in clips' tokens, `(B, T, N, D)`; T is the same for all."""
        values = tokens.double()
        means = values.mean(1)
        centred = values - means[:, None]
        first, second = centred[:, :-1].flatten(0, 2), centred[:, 1:].flatten(0, 2)
        self.same += (first.T @ first + second.T @ second) / 2
        self.next += first.T @ second
        self.within += float(centred.square().sum())
        self.means += means.sum(0)
        self.means_squared += float(means.square().sum())
        self.num_clips += len(values)
        self.num_steps = values.shape[1]

    def merge(self, later: "TokenMoments") -> None:
        """Take in what another has taken in."""
        self.same += later.same
        self.next += later.next
        self.within += later.within
        self.means += later.means
        self.means_squared += later.means_squared
        self.num_clips += later.num_clips
        self.num_steps = later.num_steps

    @one_thread()
    def autocorrelations(self) -> np.ndarray:
        """At one step, of the directions that change most slowly, next most slowly and so on.

        The eigenvalues rho of C0^-1 (C1 + C1') / 2, C0 the covariance of centred tokens and C1 that
        of tokens and their successors: those of slow feature analysis (Wiskott and Sejnowski 2002,
        Neural Computation 14:715), whose slowness is 2 (1 - rho). Within [-1, 1], as C0 counts both
        members of each pair.

        Centring takes with it whatever is slower than a clip, so that white noise has
        rho = -1 / (T - 1) and a random walk less than 1: only levels of as many steps compare.

        Returns:
            From the largest to the smallest, one for each direction with any variance.
        """
        variances, directions = torch.linalg.eigh(self.same)
        kept = variances > SMALLEST_SHARE * variances[-1].clamp(min=0)
        white = directions[:, kept] / variances[kept].sqrt()
        rho = torch.linalg.eigvalsh(white.T @ (self.next + self.next.T) @ white / 2)
        return rho.flip(0).clamp(-1, LARGEST_AUTOCORRELATION).numpy()

    def variance_shares(self) -> dict[str, float]:
        """Where the variance of tokens lies; the shares add up to 1, or are 0 where there is none.

        `within_clips`: around each clip's mean at a position. `between_clips`: of these means
        around the position's mean over clips. `between_positions`: of positions' means.
        """
        num_tokens = len(self.means)
        rows = max(self.num_clips * num_tokens, 1)
        positions = self.means / max(self.num_clips, 1)
        squared = float(positions.square().sum()) / num_tokens
        parts = {
            "within_clips": self.within / (rows * max(self.num_steps, 1)),
            "between_clips": self.means_squared / rows - squared,
            "between_positions": squared - float(positions.mean(0).square().sum()),
        }
        parts = {name: max(value, 0.0) for name, value in parts.items()}
        total = sum(parts.values())
        return {name: value / total if total else 0.0 for name, value in parts.items()}

    def section(self, step_seconds: float) -> dict[str, object]:
        """What a result says of a level.

        Args:
            step_seconds: length of one of its steps.
        """
        rho = self.autocorrelations()
        return {
            "autocorrelations": rho.tolist(),
            "time_constants": time_constants(rho).tolist(),
            "variance_shares": self.variance_shares(),
            "num_clips": self.num_clips,
            "num_steps": self.num_steps,
            "step_seconds": step_seconds,
        }


def time_constants(autocorrelations: np.ndarray) -> np.ndarray:
    """-1 / log(rho) steps, after which e^-1 of a deviation is left; 0 where rho is not positive."""
    positive = np.clip(autocorrelations, 1e-300, LARGEST_AUTOCORRELATION)
    return np.where(autocorrelations > 0, -1 / np.log(positive), 0.0)


@dataclass(frozen=True)
class Watch:
    """Takes in the tokens of some clips; runs in any process.

    Attributes:
        network: whose tokens.
        device: where it is.
    """

    network: Network
    device: torch.device

    @torch.no_grad()
    def __call__(self, clips: list[Footage]) -> list[TokenMoments]:
        """Moments of each level."""
        frames = pad_chunk([clip.frames for clip in clips], CHUNK).to(self.device)
        found = []
        for tokens in self.network.encode(frames):
            moments = TokenMoments.of(tokens.shape[2], tokens.shape[3])
            moments.add(tokens[: len(clips)].cpu())
            found.append(moments)
        return found
