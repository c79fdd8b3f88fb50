"""What the ranks of a data-parallel training tell one another: global means and global batches.

Whether there are ranks is decided when a function is called, not before: losses are built before
the process group is. Every rank must hold equally many clips. DDP averages gradients over ranks,
and the gradients here are made for that: N ranks with B clips each give, after the averaging, the
gradient of one rank with N * B clips.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def num_ranks() -> int:
    """Processes that train together; 1 without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def own_rank() -> int:
    """The number of this process among them."""
    return distributed.get_rank() if num_ranks() > 1 else 0


def global_mean(local_mean: Tensor) -> Tensor:
    """The mean over all ranks, which must hold equally many rows; with gradient.

    The value is that of all ranks, the gradient that of this rank's own rows: DDP averages
    gradients over ranks, which makes the sum exact without a second exchange in the backward pass.
    """
    if num_ranks() == 1:
        return local_mean
    # A group of GPUs (NCCL) exchanges nothing that lies elsewhere.
    needs_gpu = distributed.get_backend() == "nccl"
    place = torch.device("cuda") if needs_gpu else local_mean.device
    mean = local_mean.detach().to(place, copy=True)
    distributed.all_reduce(mean)
    mean = (mean / num_ranks()).to(local_mean.device)
    return local_mean + (mean - local_mean).detach()


def gather_clips(clips: Float[Tensor, "batch *rest"]) -> Float[Tensor, "global_batch *rest"]:
    """The clips of all ranks in the order of ranks; with gradient.

    Here an exchange in the backward pass cannot be saved: what another rank's loss says about this
    rank's clips is known there alone. The gradients of all ranks are summed, not averaged; the loss
    of the global batch is the mean of the ranks' losses, and DDP's averaging divides by their
    number once.
    """
    return clips if num_ranks() == 1 else GatherClips.apply(clips)


class GatherClips(torch.autograd.Function):
    """All ranks' clips forward; back, the sum over ranks of the gradient of this rank's own."""

    @staticmethod
    def forward(ctx: Any, clips: Tensor) -> Tensor:
        """`(B, ...)` of this rank -> `(ranks B, ...)`."""
        everyone = [torch.empty_like(clips) for _ in range(num_ranks())]
        distributed.all_gather(everyone, clips.contiguous())
        return torch.cat(everyone)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        """`(ranks B, ...)` -> `(B, ...)`."""
        gradient = outputs[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient.chunk(num_ranks())[own_rank()]
