"""What a training step costs, counted without computing it: operations, and bytes it must keep.

The step runs on PyTorch's meta device, where tensors have shapes and no content: what takes a large
GPU is counted in two seconds on any machine.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.clips import ClipBatch
from worldmodel.task import WorldModelTask

# Of a weight that trains: itself, its gradient and AdamW's two moments, each in float32.
BYTES_PER_WEIGHT = 16
BYTES_PER_FROZEN_WEIGHT = 4


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one training step costs one process, in float32."""

    flops: int
    """Floating-point operations of its matrix products and convolutions, forward and backward,
    losses included; a product and its sum are two."""
    weights: int
    """How many numbers are trained."""
    kept_bytes: int
    """Of frames and of what the forward pass keeps for the backward pass."""
    state_bytes: int
    """Of weights, gradients and the optimizer's moments."""


def count_step(task: WorldModelTask, batch_size: int, num_frames: int) -> StepCost:
    """The cost of a training step.

    What is computed twice to save memory (`activation_checkpointing`) counts once in `flops`: it
    is no more work done.

    Args:
        task: stays as it is.
        batch_size: clips of a step, of one process.
        num_frames: of a clip.
    """
    with torch.random.fork_rng(devices=[]):
        twin = copy.deepcopy(task).to("meta").train()
        twin._seed_of_rank = lambda: 0  # type: ignore[method-assign]  # it has no trainer
        size = twin.hierarchy.size
        shape = (batch_size, num_frames, 3, size, size)
        batch = ClipBatch(
            torch.empty(shape, dtype=torch.uint8, device="meta"),
            torch.empty(batch_size, num_frames, device="meta"),
            ("",) * batch_size,
        )
        with kept_for_backward(twin) as kept:
            losses, _ = twin.objective(batch)
            total = twin.total(losses)
        kept_bytes = sum(kept.values())
        del losses, total
        twin.hierarchy.activation_checkpointing = False
        with FlopCounterMode(display=False) as counter:
            losses, _ = twin.objective(batch)
            twin.total(losses).backward()
    trained = [each.numel() for each in task.parameters() if each.requires_grad]
    frozen = [each.numel() for each in task.parameters() if not each.requires_grad]
    return StepCost(
        flops=counter.get_total_flops(),
        weights=sum(trained),
        kept_bytes=kept_bytes + batch.frames.numel(),
        state_bytes=BYTES_PER_WEIGHT * sum(trained) + BYTES_PER_FROZEN_WEIGHT * sum(frozen),
    )


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes that autograd keeps of what is computed here, by memory block; no weights.

    Of what is computed twice (`activation_checkpointing`) its inputs, which are kept, are not seen.
    """
    own = {_block(each) for each in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _block(tensor) not in own:
            kept[_block(tensor)] = tensor.untyped_storage().nbytes()
        return tensor  # not freed before the end: no other block gets its number

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _block(tensor: Tensor) -> int:
    """A number of the memory that a tensor looks at; views have the same."""
    return tensor.untyped_storage()._cdata
