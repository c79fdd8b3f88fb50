"""Functions of tensors alone that `torch.compile` may make one kernel of.

A regularizer over 65,000 tokens in half a dozen elementwise operations for each of its points reads
and writes the memory of a GPU a hundred times; compiled, it does so once. What exchanges something
with other ranks stays outside.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


class CompilableLoss(nn.Module):
    """A loss whose kernels can be compiled; they are not unless `compile_kernels` says so."""

    compiled = False

    def compiles(self, like: Tensor) -> bool:
        """Whether kernels are compiled for such a tensor; never for one without content."""
        return self.compiled and not like.is_meta

    def kernel(self, function: Callable[Inputs, Output], like: Tensor) -> Callable[Inputs, Output]:
        """The function, or what `torch.compile` makes of it.

        Args:
            function: of the module it stands in, without state and without exchange over ranks.
            like: a tensor of where it is to run.
        """
        return compiled(function) if self.compiles(like) else function


def compile_kernels(losses: Iterable[nn.Module]) -> None:
    """Have these losses, and those they are made of, compile their kernels when first used."""
    for loss in losses:
        for module in loss.modules():
            if isinstance(module, CompilableLoss):
                module.compiled = True


@cache
def compiled(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """What `torch.compile` makes of a function, for each shape that it meets; one for all."""
    # Shapes are few and stay: one for each level. As many are kept as a hierarchy may have levels.
    return torch.compile(function, dynamic=False)
