"""What the predictor must predict: which encoder's tokens, and with or without gradient."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.models.hierarchy import Hierarchy


class Target(nn.Module):
    """Gives the tokens that predictions are compared with."""

    def forward(
        self, hierarchy: Hierarchy, frames: Tensor, tokens: Sequence[Tensor]
    ) -> list[Tensor]:
        """Targets of every level.

        Args:
            hierarchy: the model in training.
            frames: the clip, as `Hierarchy.encode` takes it.
            tokens: `hierarchy.encode(frames)`, already computed.
        """
        raise NotImplementedError("forward(hierarchy, frames, tokens) -> targets per level")

    def attach(self, hierarchy: Hierarchy) -> None:
        """Called once, before the optimizer or any checkpoint is made."""

    def update(self, hierarchy: Hierarchy) -> None:
        """Called once after every optimizer step."""


class SameEncoder(Target):
    """The tokens of the encoder itself; the regularizer alone prevents collapse.

    Args:
        stop_gradient: whether targets are constants. With gradient (the default) the encoder is
            also pulled towards what can be predicted.
    """

    def __init__(self, stop_gradient: bool = False) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient

    def forward(
        self, hierarchy: Hierarchy, frames: Tensor, tokens: Sequence[Tensor]
    ) -> list[Tensor]:
        return [level.detach() if self.stop_gradient else level for level in tokens]


class MovingAverage(Target):
    """A target encoder: the exponential moving average of the encoder's weights, without gradient.

    As in BYOL (Grill et al. 2020, arXiv 2006.07733, eq. 1) and V-JEPA (arXiv 2404.08471, sec. 3).

    Args:
        decay: share of the old average kept at each step, in [0, 1).
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InputError(f"the moving average's decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.encoders: nn.ModuleList | None = None

    def attach(self, hierarchy: Hierarchy) -> None:
        """Take a first copy of the encoders."""
        encoders = [copy.deepcopy(level.encoder) for level in hierarchy.levels]
        self.encoders = nn.ModuleList(encoders).requires_grad_(False)

    def forward(
        self, hierarchy: Hierarchy, frames: Tensor, tokens: Sequence[Tensor]
    ) -> list[Tensor]:
        assert self.encoders is not None, "attach() comes first"
        targets = []
        with torch.no_grad():
            below = frames if frames.is_floating_point() else hierarchy.normalize(frames)
            for encoder in self.encoders:
                below = encoder(below)
                targets.append(below)
        return targets

    @torch.no_grad()
    def update(self, hierarchy: Hierarchy) -> None:
        assert self.encoders is not None, "attach() comes first"
        online = nn.ModuleList(level.encoder for level in hierarchy.levels)
        for old, new in zip(self.encoders.parameters(), online.parameters(), strict=True):
            old.lerp_(new, 1 - self.decay)
