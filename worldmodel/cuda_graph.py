"""A training step recorded once on a GPU and replayed since: thousands of launches become one.

A step of `small` is 6000 operations of a few microseconds each, and launching them takes the
processor five times as long as the GPU needs to run them: 124 and 24 ms (H100). A CUDA graph holds
all of forward and backward pass; replayed, it computes the same on other frames.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.clips import ClipBatch
from worldmodel.errors import InputError
from worldmodel.losses.draws import draws_from
from worldmodel.models.hub_files import first_line

# Before recording: kernels are compiled and chosen, and libraries have their workspaces.
WARM_UP = 3


@dataclass(frozen=True)
class StepResult:
    """What a training step found; of a replay the memory is written anew by the next.

    Attributes:
        loss: the total, a scalar.
        losses: per level, by name.
        seen: what the losses were computed from.
    """

    loss: Tensor
    losses: list[dict[str, Tensor]]
    seen: dict[str, Any]


class RecordedStep:
    """Forward and backward pass of whole batches of one shape.

    Everything in it must be on the GPU and draw its random numbers through `losses.draws`; other
    batches, such as one of which a clip could not be read, are computed as ever.

    Args:
        module: whose parameters get gradients.
        step: from a batch to what is found, without the backward pass.
    """

    def __init__(self, module: nn.Module, step: Callable[[ClipBatch], StepResult]) -> None:
        self.parameters = [each for each in module.parameters() if each.requires_grad]
        self.step = step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: ClipBatch
        self.result: StepResult
        self.gradients: list[Tensor | None]
        self.generator: torch.Generator

    def takes(self, batch: ClipBatch) -> bool:
        """Whether a batch is of the shape that is recorded; the first whole one decides."""
        if batch.num_missing or not batch.frames.is_cuda:
            return False
        if self.graph is None:
            return True
        frames = self.batch.frames
        return frames.shape == batch.frames.shape and frames.stride() == batch.frames.stride()

    def replay(self, batch: ClipBatch, seed: int) -> StepResult:
        """What the step finds in a batch; `hand_over` gives the gradients.

        Args:
            batch: one that it takes.
            seed: of all that is drawn in it.
        """
        if self.graph is None:
            self._record(batch)
        assert self.graph is not None
        self.batch.frames.copy_(batch.frames, non_blocking=True)
        self.generator.manual_seed(seed)
        self.graph.replay()
        return self.result

    def hand_over(self, share: float = 1.0) -> None:
        """Give the parameters the last replay's gradients, or add a share of them to what is there.

        Args:
            share: of the step in what the optimizer is to see; below 1 where several add up.
        """
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if gradient is None:
                continue
            if share == 1:
                parameter.grad = gradient
            elif parameter.grad is None:
                parameter.grad = gradient * share
            else:
                parameter.grad.add_(gradient, alpha=share)

    def _record(self, batch: ClipBatch) -> None:
        device = batch.frames.device
        self.batch = replace(batch, frames=batch.frames.clone())
        self.generator = torch.Generator(device)
        held = [parameter.grad for parameter in self.parameters]
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with draws_from(self.generator), without_autocast_cache():
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._clear_gradients()
                    self.step(self.batch).loss.backward()
            self._clear_gradients()
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            try:
                # The thread that pins the next batches goes on meanwhile.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    result = self.step(self.batch)
                    result.loss.backward()
            except RuntimeError as error:
                raise InputError(
                    f"the training step cannot be recorded ({first_line(error)}); something in it "
                    "waits for the GPU or brings it something, such as a loss of your own, or "
                    "memory is short: set model.compute.cuda_graph to false"
                ) from error
        self.gradients = [parameter.grad for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, held, strict=True):
            parameter.grad = gradient
        self.result = StepResult(
            result.loss.detach(),
            [{name: loss.detach() for name, loss in level.items()} for level in result.losses],
            result.seen,
        )
        self.graph = graph

    def _clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


@contextmanager
def without_autocast_cache() -> Iterator[None]:
    """Weights are cast where they are used: casts kept from outside would never change again."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def why_not_recorded(
    device: torch.device,
    world_size: int,
    is_random: Sequence[str],
    is_sharded: bool = False,
) -> str | None:
    """What keeps a step from being recorded, in words; None if nothing does.

    Args:
        device: of the training.
        world_size: processes.
        is_random: choices that draw on the processor.
        is_sharded: whether weights are gathered when they are used.
    """
    if device.type != "cuda":
        return f"a CUDA graph needs a GPU, and this run is on {device.type}"
    if world_size > 1:
        return f"a step is recorded for one process, and this run has {world_size}"
    if is_sharded:
        return "the strategy is fsdp2, which gathers weights at every step"
    if is_random:
        return f"{' and '.join(is_random)} draws on the processor at every step"
    return None
