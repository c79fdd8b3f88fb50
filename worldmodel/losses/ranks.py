"""What the ranks of a data-parallel training tell one another: global means and global batches.

Whether there are ranks is decided when a function is called, not before: losses are built before
the process group is. DDP averages gradients over ranks, and the gradients here are made for that: N
ranks with B clips each give, after the averaging, the gradient of one rank with N * B clips.

Where clips could not be read, ranks hold unequally many. A mean over a rank's own clips then counts
for its share of the global batch: (its clips) * ranks / (all clips), 1 to the bit where all hold as
many, 0 for a rank that has none and only keeps step (`ClipBatch.filler`). The clips are counted in
one exchange a step (`shared_batch`), on the device: no rank waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class SharedBatch:
    """What is known of the global batch.

    Attributes:
        places: clips that each rank was to have, the same number on every rank.
        counts: `(ranks,)`, clips that each has; None where there is but one rank.
        weight: how much a mean over this rank's clips counts, 1 on average over ranks.
    """

    places: int
    counts: Float[Tensor, " ranks"] | None = None
    weight: Float[Tensor, ""] | None = None


_shared: SharedBatch | None = None


@contextmanager
def shared_batch(num_clips: int, num_places: int, device: torch.device) -> Iterator[None]:
    """Within it, losses and statistics are exact for ranks that hold unequally many clips.

    Without it all are taken to hold as many. Every rank must come here.

    Args:
        num_clips: of this rank; 0 where what it computes on is no clip at all.
        num_places: how many it was to have, as many on every rank.
        device: where the losses are computed.
    """
    global _shared
    before, _shared = _shared, _share(num_clips, num_places, device)
    try:
        yield
    finally:
        _shared = before


def _share(num_clips: int, places: int, device: torch.device) -> SharedBatch:
    if num_ranks() == 1 or device.type == "meta":
        return SharedBatch(places)
    # Filled where it lies: a copy from here would wait for the device.
    own = torch.full((1,), num_clips, dtype=torch.float64, device=_place_of_exchange(device))
    everyone = [torch.empty_like(own) for _ in range(num_ranks())]
    distributed.all_gather(everyone, own)
    counts = torch.cat(everyone).to(device)
    # No rank may have any: then nothing is learned from this step.
    all_clips = counts.sum().clamp(min=1)
    return SharedBatch(places, counts, counts[own_rank()] * num_ranks() / all_clips)


def _place_of_exchange(device: torch.device) -> torch.device:
    """A group of GPUs (NCCL) exchanges nothing that lies elsewhere."""
    return torch.device("cuda") if distributed.get_backend() == "nccl" else device


def num_ranks() -> int:
    """Processes that train together; 1 without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def own_rank() -> int:
    """The number of this process among them."""
    return distributed.get_rank() if num_ranks() > 1 else 0


def num_places(num_clips: int) -> int:
    """Clips that the global batch was to have; the same number on every rank.

    Args:
        num_clips: of this rank, which all have where nothing else is known (`shared_batch`).
    """
    return num_ranks() * (num_clips if _shared is None else _shared.places)


def _clips_of_ranks(num_clips: int, device: torch.device) -> Int[Tensor, " ranks"]:
    """How many clips each rank has; all as many where nothing else is known."""
    counts = None if _shared is None else _shared.counts
    if counts is None:
        counts = torch.full((num_ranks(),), num_clips, device=device)
    return counts.long()


def own_numbers(num_clips: int, device: torch.device) -> Int[Tensor, " clips"]:
    """Which of the clips of all ranks, in the order of ranks, are this rank's.

    For what is drawn for each clip of the global batch (`num_places`) from one seed.

    Args:
        num_clips: of this rank.
        device: where the numbers are wanted.
    """
    first = _clips_of_ranks(num_clips, device)[: own_rank()].sum()
    # What stands in for a clip, on a rank that has none, has no number of its own.
    return (first + torch.arange(num_clips, device=device)).clamp(max=num_places(num_clips) - 1)


def own_weight() -> Tensor | None:
    """How much a mean over this rank's clips counts, 1 on average over ranks; None if all do 1."""
    return None if _shared is None else _shared.weight


def own_part(local_mean: Tensor) -> Tensor:
    """A mean over this rank's own clips as its part of the loss.

    The mean of the ranks' parts is that over all clips, and so are the gradients that DDP averages.
    For losses that are such means; what goes through `global_mean` is weighted there.
    """
    weight = own_weight()
    return local_mean if weight is None else local_mean * weight.to(local_mean)


def global_mean(local_mean: Tensor) -> Tensor:
    """The mean over the rows of all ranks; with gradient.

    The value is that of all ranks, the gradient that of this rank's own rows: DDP averages
    gradients over ranks, which makes the sum exact without a second exchange in the backward pass.
    Ranks count by their clips (`shared_batch`), all rows of a clip alike.
    """
    if num_ranks() == 1 or local_mean.device.type == "meta":  # nothing to tell
        return local_mean
    part = own_part(local_mean)
    mean = part.detach().to(_place_of_exchange(part.device), copy=True)
    distributed.all_reduce(mean)
    mean = (mean / num_ranks()).to(part.device)
    return part + (mean - part).detach()


class GatheredClips(NamedTuple):
    """The clips of all ranks, in the order of ranks.

    Attributes:
        clips: `(places, ...)`; those that there are come first, then zeros for those that could not
            be read, so that the shape is the same at every step.
        are_there: which of them there are.
        first: the number of this rank's first one.
    """

    clips: Float[Tensor, "places ..."]
    are_there: Bool[Tensor, " places"]
    first: Int[Tensor, ""]


def gather_clips(clips: Float[Tensor, "batch ..."]) -> GatheredClips:
    """The clips of all ranks; with gradient.

    Here an exchange in the backward pass cannot be saved: what another rank's loss says about this
    rank's clips is known there alone. The gradients of all ranks are summed, not averaged; the loss
    of the global batch is the mean of the ranks' parts (`own_part`), and DDP's averaging divides by
    their number once.
    """
    places = num_places(clips.shape[0])
    each = places // num_ranks()
    counts = _clips_of_ranks(clips.shape[0], clips.device)
    numbers = torch.arange(places, device=clips.device)
    are_there = numbers < counts.sum()
    first = counts[: own_rank()].sum()
    if missing := each - clips.shape[0]:
        clips = torch.cat([clips, clips.new_zeros(missing, *clips.shape[1:])])
    if num_ranks() == 1:
        return GatheredClips(clips, are_there, first)
    if clips.device.type == "meta":
        return GatheredClips(torch.cat([clips] * num_ranks()), are_there, first)
    # Of the padded batches one after the other, those places first that hold a clip.
    holds = numbers % each < counts.repeat_interleave(each, output_size=places)
    order = holds.logical_not().byte().argsort(stable=True)
    own = counts[own_rank()]
    return GatheredClips(GatherClips.apply(clips, order, first, own), are_there, first)


class GatherClips(torch.autograd.Function):
    """All ranks' clips forward; back, the sum over ranks of the gradient of this rank's own."""

    @staticmethod
    def forward(ctx: Any, clips: Tensor, order: Tensor, first: Tensor, own: Tensor) -> Tensor:
        """`(B, ...)`, of which `own` are clips -> `(ranks B, ...)`, in the order given."""
        everyone = [torch.empty_like(clips) for _ in range(num_ranks())]
        distributed.all_gather(everyone, clips.contiguous())
        ctx.save_for_backward(first, own)
        return torch.cat(everyone)[order]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        """`(ranks B, ...)` -> `(B, ...)`, 0 for a place without a clip."""
        first, own = ctx.saved_tensors
        gradient = outputs[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        places = torch.arange(len(gradient) // num_ranks(), device=gradient.device)
        found = gradient[(first + places).clamp(max=len(gradient) - 1)]
        is_clip = (places < own).view(-1, *[1] * (gradient.ndim - 1))
        return torch.where(is_clip, found, 0), None, None, None
