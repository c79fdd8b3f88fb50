"""What a training step costs, counted without computing it: operations, and bytes it must keep.

The step runs on PyTorch's meta device, where tensors have shapes and no content: what takes a large
GPU is counted in two seconds on any machine.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.clips import ClipBatch
from worldmodel.models import transformer
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
    """Of frames and of what the forward pass keeps for the backward pass; where layers are
    computed again, of their inputs and of what one of them keeps meanwhile, at the worst moment."""
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
        size = twin.hierarchy.size
        shape = (batch_size, num_frames, 3, size, size)
        batch = ClipBatch(
            torch.empty(shape, dtype=torch.uint8, device="meta"),
            torch.empty(batch_size, num_frames, device="meta"),
            ("",) * batch_size,
        )
        with FlopCounterMode(display=False) as counter, kept_for_backward(twin) as kept:
            losses, _ = twin.objective(batch)
            total = twin.total(losses)
            kept_bytes = kept.most
            total.backward()
    trained = [each.numel() for each in task.parameters() if each.requires_grad]
    frozen = [each.numel() for each in task.parameters() if not each.requires_grad]
    return StepCost(
        flops=counter.get_total_flops(),
        weights=sum(trained),
        kept_bytes=kept_bytes + batch.frames.numel(),
        state_bytes=BYTES_PER_WEIGHT * sum(trained) + BYTES_PER_FROZEN_WEIGHT * sum(frozen),
    )


@dataclass
class Kept:
    """Bytes that autograd keeps for the backward pass.

    Attributes:
        blocks: by memory block.
        again: the most that there is while a function is computed again (`recomputed`): what it
            keeps, and what was kept before it. The backward pass has let go of the rest by then.
    """

    blocks: dict[int, int] = field(default_factory=dict)
    again: int = 0

    @property
    def most(self) -> int:
        """At the end of the forward pass or later."""
        return max(sum(self.blocks.values()), self.again)


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[Kept]:
    """What autograd keeps of what is computed here; no weights.

    Of what is computed again for the backward pass (`activation_checkpointing`) the inputs are
    kept, where no hook of autograd's sees them. Here it is computed once, with everything kept, to
    see how much that is.
    """
    own = {_block(each) for each in (*module.parameters(), *module.buffers())}
    kept = Kept()

    def keep_in(blocks: dict[int, int], tensor: Tensor) -> Tensor:
        if _block(tensor) not in own:
            blocks[_block(tensor)] = tensor.untyped_storage().nbytes()
        return tensor  # not freed before the end: no other block gets its number

    def once(function: Callable[..., Any], *inputs: Any, **_: Any) -> Any:
        for each in tree_leaves(inputs):
            if isinstance(each, Tensor):
                keep_in(kept.blocks, each)
        inside: dict[int, int] = {}
        with saved_tensors_hooks(partial(keep_in, inside), lambda tensor: tensor):
            found = function(*inputs)
        together = sum((kept.blocks | inside).values())
        kept.again = max(kept.again, together)
        return found

    with (
        patch.object(transformer, "checkpoint", once),
        saved_tensors_hooks(partial(keep_in, kept.blocks), lambda tensor: tensor),
    ):
        yield kept


def _block(tensor: Tensor) -> int:
    """A number of the memory that a tensor looks at; views have the same."""
    return tensor.untyped_storage()._cdata
