"""How the same training step is had faster, or with less memory."""

import os
import shutil
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from worldmodel.errors import InputError
from worldmodel.losses.kernels import compile_kernels, compiled
from worldmodel.models.encoder import FrameEncoder, StepEncoder
from worldmodel.models.hierarchy import Hierarchy
from worldmodel.models.predictor import Predictor, read_in, read_out, run_layer


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Choices that change what a step takes, and none of what it learns."""

    compile: bool = False
    """Compile encoders, predictors and losses with `torch.compile`: two minutes before the first
    step, faster ones after it. It needs a C compiler, on a CPU a C++ compiler."""
    activation_checkpointing: bool = False
    """Compute what layers found again in the backward pass instead of keeping it: a third more
    operations, and a fraction of the memory."""
    cuda_graph: bool | Literal["auto"] = False
    """Record the step of one GPU once and replay it since (`cuda_graph.py`), for models so small
    that the GPU would wait for the processor: 41 steps of `small` a second instead of 8 (H100).
    Directions and negatives are then drawn on the GPU, other ones than without. `auto` does so
    where it can be done."""


def check_precision(precision: str | int | None) -> None:
    """See that weights are in 32 bits, and gradients not scaled.

    In 16 bits a weight does not change by steps as small as those of a training's end; fp16 scales
    the gradient, whose norm is clipped and judged (`spikes.py`) before the scale is taken out.

    Args:
        precision: Lightning's name of it; None for what it does without.

    Raises:
        InputError: it is another one.
    """
    name = str(precision)
    if "16" in name and name not in ("bf16-mixed", "bf16"):
        raise InputError(
            f"trainer.precision {name} is not supported: weights stay in 32 bits here, and "
            "gradients are not scaled; take bf16-mixed or 32-true"
        )


def check_compiler(device: torch.device) -> None:
    """See that `torch.compile` finds what it compiles with, before minutes have gone by.

    Raises:
        InputError: no compiler, or no headers of Python, against which it builds.
    """
    names = {"cpu": ("CXX", "g++", "clang++"), "cuda": ("CC", "gcc", "clang", "cc")}
    if device.type not in names:
        return
    variable, *programs = names[device.type]
    programs = [os.environ.get(variable, ""), *programs]
    missing = ""
    if not any(shutil.which(program) for program in programs if program):
        missing = f"a compiler ({' or '.join(programs[1:])}, or what {variable} names)"
    elif not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing = "the headers of Python (python3-dev, or your distribution's name for them)"
    if missing:
        raise InputError(
            f"model.compute.compile is true, but torch.compile needs {missing} and there is none; "
            "install it, or set model.compute.compile to false"
        )


def compile_parts(hierarchy: Hierarchy, losses: Iterable[nn.Module]) -> None:
    """Have `torch.compile` work on every encoder and predictor, and on what losses compute.

    Predictors by layers: those of a level are alike and compiled once. Weights keep their names.
    """
    # As many shapes as there are levels, with and without gradient, and batches of other sizes.
    torch._dynamo.config.recompile_limit = 64
    for module in hierarchy.modules():
        if isinstance(module, Predictor):
            module.read_in, module.layer = compiled(read_in), compiled(run_layer)
            module.read_out = compiled(read_out)
        elif isinstance(module, FrameEncoder | StepEncoder):
            module.compile(dynamic=False)
    hierarchy.normalize = compiled(Hierarchy.normalize)  # type: ignore[method-assign]
    compile_kernels(losses)


def shard_parts(models: Iterable[nn.Module], others: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Leave to each process its part of the weights, gradients and moments (FSDP2).

    Each layer of encoders and predictors is gathered when it is its turn and let go of after it;
    what they have besides when they are. The numbers are those of DDP.

    Args:
        models: with encoders and predictors: the hierarchy in training, and its target.
        others: modules with weights that are called as a whole, such as a decoder to pixels.
        mesh: the processes, in one dimension.
    """
    parts = FrameEncoder | StepEncoder | Predictor
    for model in models:
        for part in [each for each in model.modules() if isinstance(each, parts)]:
            # FSDP knows no channels-last kernels; they are put in that order when they are used.
            part.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            for layer in _layers(part):
                fully_shard(layer, mesh=mesh)
            # A target's, which no backward pass lets go of, is let go of after the forward pass.
            trains = any(each.requires_grad for each in part.parameters())
            fully_shard(part, mesh=mesh, reshard_after_forward=None if trains else True)
            if isinstance(part, Predictor):
                for layer in part.over_time:
                    register_fsdp_forward_method(layer, "extend")
    for module in others:
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh)


def _layers(part: nn.Module) -> list[nn.Module]:
    if isinstance(part, Predictor):
        return [*part.over_time, *part.over_tokens]
    return [*part.blocks] if isinstance(part, FrameEncoder) else []
