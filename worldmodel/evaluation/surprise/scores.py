"""What a pass over blocks leaves behind: surprise over time, and the facts to sort it by."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from worldmodel.evaluation.footage import Block
from worldmodel.evaluation.network import Place
from worldmodel.evaluation.surprise.splices import violation_frame

Window = tuple[int, int, int]
"""A level, one of its horizons in own steps, and how many frames of the past are seen."""

CurveKey = Place | Window | str
"""A place with the whole past, with a window of it, or the name of a scorer without a network."""

# Bounds of short, medium and long hidings in seconds. Of the 120 hidden test blocks of the default
# set 36 are hidden for less than 1 s, 59 for less than 1.5 s and 25 for longer.
HIDING_SECONDS = (1.0, 1.5)


@dataclass(frozen=True)
class BlockFacts:
    """What is known of a block, to sort scores by.

    Attributes:
        fps: frames of its clips per second.
        hiding_seconds: length of the first window; None in open view.
        violation_frame: see `violation_frame`.
        variant: in which of several ways its worlds differ; empty where its kind has one.
        moving_camera: None where its sample does not say.
    """

    fps: float
    hiding_seconds: float | None
    violation_frame: int | None
    variant: str
    moving_camera: bool | None

    @classmethod
    def of(cls, block: Block) -> "BlockFacts":
        """The facts of a block."""
        start, stop = block.windows[0]
        moving = block.metadata.get("moving_camera")
        return cls(
            fps=float(block.fps),
            hiding_seconds=(stop - start) / block.fps if stop > start else None,
            violation_frame=violation_frame(block),
            variant=str(block.metadata.get("variant", "")),
            moving_camera=None if moving is None else bool(moving),
        )

    @property
    def hiding(self) -> str:
        """Short, medium or long; empty in open view."""
        if self.hiding_seconds is None:
            return ""
        short, medium = HIDING_SECONDS
        if self.hiding_seconds < short:
            return "short"
        return "medium" if self.hiding_seconds < medium else "long"

    @property
    def camera(self) -> str:
        """Moving or standing; empty where that is not known."""
        return "" if self.moving_camera is None else ("standing", "moving")[self.moving_camera]


@dataclass
class NetworkScores:
    """Surprise of one network on the four clips of many blocks.

    Attributes:
        curves: float64 `(num_blocks, 4, steps)`, clips in the order AA, BB, AB, BA. With the whole
            past entry τ is the surprise at step τ + h of horizon h; with a window of it there is
            one entry for each window, in the order of time.
        space: per place of a level with several tokens `(num_blocks, 2, 2)`: for AB and BA whether
            the token of largest excess is where the tracked object is, and the chance of that; NaN
            where the object is in neither picture.
    """

    curves: dict[CurveKey, np.ndarray]
    space: dict[Place, np.ndarray] = field(default_factory=dict)


@dataclass
class BlockScores:
    """Scores of a model, and of what it is compared with, on many blocks.

    Attributes:
        keys: names of the blocks.
        kinds: their physical concepts.
        curves: the model's, as in `NetworkScores`; and those of scorers without a network:
            `copy{level}.{horizon}`, `copy{level}.{horizon}.c{frames}`, `pixels_short` and
            `pixels_long`.
        facts: of each block.
        space: the model's, as in `NetworkScores`.
        untrained: scores of each untrained network.
    """

    keys: list[str]
    kinds: np.ndarray
    curves: dict[CurveKey, np.ndarray]
    facts: list[BlockFacts] = field(default_factory=list)
    space: dict[Place, np.ndarray] = field(default_factory=dict)
    untrained: list[NetworkScores] = field(default_factory=list)

    @property
    def places(self) -> list[Place]:
        """Levels and horizons at which the model was scored with the whole past."""
        return [key for key in self.curves if isinstance(key, tuple) and len(key) == 2]

    @property
    def windows(self) -> list[Window]:
        """Levels, horizons and context lengths at which the model was scored."""
        return [key for key in self.curves if isinstance(key, tuple) and len(key) == 3]


def join_scores(parts: Iterable[BlockScores]) -> BlockScores:
    """The scores of several lists of blocks as those of one list, in the order given.

    Args:
        parts: at least one, all of the same `ScoreBlocks`.
    """
    parts = list(parts)
    assert parts, "there are no scores to join"
    first = parts[0]
    return BlockScores(
        keys=[key for part in parts for key in part.keys],
        kinds=np.concatenate([part.kinds for part in parts]),
        curves=_stack([part.curves for part in parts]),
        facts=[facts for part in parts for facts in part.facts],
        space=_stack([part.space for part in parts]),
        untrained=[
            NetworkScores(
                _stack([part.untrained[number].curves for part in parts]),
                _stack([part.untrained[number].space for part in parts]),
            )
            for number in range(len(first.untrained))
        ],
    )


def _stack(parts: list[dict]) -> dict:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
