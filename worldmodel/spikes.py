"""Steps that would spoil a run are not taken: gradients that are not finite, or far too large."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from worldmodel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SpikeConfig:
    """Which steps of the optimizer are skipped, and when that is too many."""

    factor: float = 30.0
    """A step is skipped where the gradient's norm, before clipping, is not finite or is more than
    this many times the usual one. Trainings of this recipe stay below 7 times (`LOG.md`)."""
    max_share: float = 0.1
    """Of the last hundred steps or so; where more are skipped, the run stops."""

    def __post_init__(self) -> None:
        if not self.factor > 1 or not 0 < self.max_share <= 1:
            raise InputError(
                "spikes.factor must be above 1 and spikes.max_share above 0 and at most 1, got "
                f"{self.factor} and {self.max_share}"
            )


class SpikeGuard:
    """Judges each gradient and has the fused optimizer leave out the step, all on the device.

    Nothing waits for the device: the verdict is a tensor that the optimizer's kernel reads, as it
    reads that of a gradient scaler. Under data-parallel training gradients are averaged before
    they come here, so that all ranks judge alike.

    Args:
        config: what is too much.
    """

    MEMORY = 0.98
    """Of the usual norm, a mean of logarithms, per step."""
    RECENT = 0.99
    """Of the share of skipped steps, per step: a hundred steps or so."""
    FIRST_STEPS = 20
    """Before which no norm is too large: there is nothing usual yet."""

    def __init__(self, config: SpikeConfig) -> None:
        self.config = config
        # The usual norm's logarithm, steps it was seen in, skipped steps, their recent share.
        self.state = torch.zeros(4, dtype=torch.float64)
        self.verdict: Tensor | None = None

    @torch.no_grad()
    def judge(self, norm: Tensor, optimizer: Optimizer) -> None:
        """Look at a gradient and tell the optimizer.

        Args:
            norm: of the whole gradient, before clipping; a scalar on the optimizer's device.
            optimizer: a fused one.
        """
        if self.verdict is None or self.verdict.device != norm.device:
            self.state = self.state.to(norm.device)
            self.verdict = torch.zeros((), device=norm.device)
        usual, seen, skipped, share = self.state
        log = norm.double().log()  # of 0, minus infinity: nothing to learn from, and no harm
        finite = norm.isfinite()
        too_large = (seen >= self.FIRST_STEPS) & (log > usual + math.log(self.config.factor))
        skip = ~finite | too_large
        weight = torch.where(seen < self.FIRST_STEPS, 1 / (seen + 1), 1 - self.MEMORY)
        counts = ~skip & (norm > 0)
        usual = torch.where(counts, usual + weight * (log - usual), usual)
        self.state = torch.stack(
            [
                usual,
                seen + counts,
                skipped + skip,
                self.RECENT * share + (1 - self.RECENT) * skip,
            ]
        )
        self.verdict.copy_(skip)
        optimizer.found_inf = self.verdict  # type: ignore[attr-defined]

    @property
    def num_skipped(self) -> int:
        """Steps left out so far; asking waits for the device."""
        return int(self.state[2])

    def check(self) -> None:
        """Stop the run where too many of the last steps were left out; waits for the device.

        Raises:
            InputError: they were.
        """
        share = float(self.state[3])
        if share > self.config.max_share:
            raise InputError(
                f"the training diverges: {share:.0%} of the last hundred steps or so were left "
                f"out, since their gradient was not finite or more than {self.config.factor:g} "
                f"times the usual ({self.num_skipped} in all). The weights are those of before. "
                "Lower model.optim.lr, or raise model.spikes.factor if this is meant to be"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"state": self.state.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on as a checkpoint says."""
        self.state, self.verdict = state["state"].clone(), None
