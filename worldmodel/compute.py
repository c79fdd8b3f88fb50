"""How the same training step is had faster, or with less memory."""

from dataclasses import dataclass

from worldmodel.models.hierarchy import Hierarchy


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Choices that change what a step takes, and none of what it learns."""

    compile: bool = False
    """Compile encoders and predictors with `torch.compile`: a minute or so before the first step,
    faster ones after it. On a CPU it needs a C++ compiler."""
    activation_checkpointing: bool = False
    """Compute what layers found again in the backward pass instead of keeping it: a third more
    operations, and a fraction of the memory."""


def compile_parts(hierarchy: Hierarchy) -> None:
    """Have `torch.compile` work on every encoder and predictor; weights keep their names."""
    for level in hierarchy.levels:
        level.encoder.compile()
        level.predictor.compile()
