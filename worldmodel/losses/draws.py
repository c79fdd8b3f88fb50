"""Where a training step's random draws come from: a seed, or the generator of a recorded step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_recorded: torch.Generator | None = None


def seeded_generator(seed: int, device: torch.device) -> torch.Generator:
    """What to draw from; draw on its own device.

    Args:
        seed: of this draw.
        device: where to draw.

    Returns:
        A generator of that seed on that device; within `draws_from`, the one that it was given.
    """
    return torch.Generator(device).manual_seed(seed) if _recorded is None else _recorded


@contextmanager
def draws_from(generator: torch.Generator) -> Iterator[None]:
    """Within it all draws of a step come from one generator, one after the other.

    A seed is a number of the processor's, which a recorded step would keep for ever; a generator is
    set anew before each replay (`cuda_graph.py`).
    """
    global _recorded
    before, _recorded = _recorded, generator
    try:
        yield
    finally:
        _recorded = before
