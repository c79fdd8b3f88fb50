"""The optimizer and its schedule, in steps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from worldmodel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine decay over the run's steps."""

    lr: float = 1e-3
    """Highest learning rate, reached at the end of the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of the first and second moment."""
    weight_decay: float = 0.02
    """Decoupled weight decay of matrices and kernels; norms, biases and embeddings have none."""
    warmup_steps: int = 100
    """Optimizer steps of the warm-up; at most a tenth of the run is used."""
    final_lr_share: float = 0.02
    """Learning rate at the last step, as a share of the highest."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("lr", self.lr, math.inf),
            ("weight_decay", self.weight_decay, math.inf),
            ("warmup_steps", self.warmup_steps, math.inf),
            ("final_lr_share", self.final_lr_share, 1),
        ):
            if not (0 <= value <= most and math.isfinite(value)):
                end = "" if most == math.inf else f" and at most {most}"
                raise InputError(f"optim.{name} must be at least 0{end}, got {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optim.betas must be at least 0 and below 1, got {list(self.betas)}")


def build_optimizer(module: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the parameters that train, in two groups: with and without weight decay."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # Position embeddings are (tokens, width) matrices, but there is no reason to shrink them.
    embeddings = {id(p) for name, p in module.named_parameters() if name.endswith("position")}
    decayed = [p for p in trainable if p.ndim > 1 and id(p) not in embeddings]
    rest = [p for p in trainable if p.ndim <= 1 or id(p) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    # One fused kernel instead of some ten per parameter; it exists for CPU and CUDA.
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def build_schedule(optimizer: AdamW, config: OptimConfig, total_steps: int) -> LambdaLR:
    """Learning rate per optimizer step.

    Args:
        optimizer: whose rate is set.
        config: warm-up and final share.
        total_steps: optimizer steps of the whole run.
    """
    return LambdaLR(optimizer, lambda step: lr_share(step, total_steps, config))


def take_effect(
    optimizer: Optimizer, schedules: Iterable[LambdaLR], config: OptimConfig
) -> list[str]:
    """Have a configuration hold for an optimizer whose state a checkpoint has brought back.

    With its moments that state has the rate, the decays and betas of before. Where those are the
    configuration's, every number stays as it is, to the bit.

    Args:
        optimizer: `build_optimizer`'s.
        schedules: of its rate, at the step that was reached.
        config: as it shall be from here on.

    Returns:
        What is other than before, in words: `model.optim.lr 0.001 -> 0.0005`.
    """
    decayed = optimizer.param_groups[0]
    changes = [
        f"model.optim.{name} {before} -> {now}"
        for name, before, now in (
            ("lr", decayed["initial_lr"], config.lr),
            ("betas", tuple(decayed["betas"]), tuple(config.betas)),
            ("weight_decay", decayed["weight_decay"], config.weight_decay),
        )
        if before != now
    ]
    decayed["weight_decay"] = config.weight_decay
    for group in optimizer.param_groups:
        group["betas"], group["initial_lr"] = tuple(config.betas), config.lr
    for schedule in schedules:
        schedule.base_lrs = [config.lr] * len(optimizer.param_groups)
        for group, share in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
            group["lr"] = config.lr * share(schedule.last_epoch)
    return changes


def lr_share(step: int, total_steps: int, config: OptimConfig) -> float:
    """Share of the highest learning rate at a step: linear up, then half a cosine down.

    Args:
        step: optimizer steps done, 0 before the first.
        total_steps: optimizer steps of the run; beyond them the final share holds.
        config: warm-up and final share.
    """
    warmup = max(1, min(config.warmup_steps, total_steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_lr_share + (1 - config.final_lr_share) * cosine
