"""Does surprise peak when, and where, the impossible happens?"""

from collections.abc import Sequence

import numpy as np

from worldmodel.clips import Truth
from worldmodel.evaluation.network import Place
from worldmodel.evaluation.surprise.scores import BlockFacts

# A clip samples every other source frame, so what happens within a step may show in the next.
NEAR_STEPS = 1
# On a smaller grid nearly every token is a neighbour of every other.
NEIGHBOURS_FROM = 4
POSSIBLE, IMPOSSIBLE = (0, 1), (2, 3)


def near_steps(violation_frame: int | None, place: Place, span: int, num_entries: int) -> range:
    """Entries of a curve whose steps are within one of the step of the violation.

    Args:
        violation_frame: None where there is none.
        place: level and horizon h; entry τ of its curve is the surprise at step τ + h.
        span: frames per step.
        num_entries: of the curve.
    """
    if violation_frame is None:
        return range(0)
    middle = violation_frame // span - place[1]
    return range(max(middle - NEAR_STEPS, 0), max(min(middle + NEAR_STEPS + 1, num_entries), 0))


def share_of_peaks(values: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the largest values, of which there may be several equal ones, that are wanted.

    Args:
        values: any shape.
        wanted: booleans of that shape.
    """
    return float(wanted[values == values.max()].mean())


def peak_times(
    curves: np.ndarray, facts: Sequence[BlockFacts], place: Place, span: int
) -> np.ndarray:
    """Whether the largest surprise of each impossible clip falls on its violation.

    Args:
        curves: `(num_blocks, 4, steps)` of `place`.
        facts: of the blocks.
        place: level and horizon.
        span: frames per step of the level.

    Returns:
        `(num_blocks, 2, 3)`, for AB and BA: the hit of the largest surprise; the hit of the largest
        excess over the possible clip that begins alike; the chance that an evenly drawn step is a
        hit. NaN where surprise is not known at the violation.
    """
    steps = curves.shape[2]
    found = np.full((len(curves), 2, 3), np.nan)
    for number, (block, fact) in enumerate(zip(curves, facts, strict=True)):
        near = near_steps(fact.violation_frame, place, span, steps)
        if not len(near):
            continue
        wanted = np.isin(np.arange(steps), near)
        for pair, (possible, impossible) in enumerate(zip(POSSIBLE, IMPOSSIBLE, strict=True)):
            excess = block[impossible] - block[possible]
            found[number, pair] = (
                share_of_peaks(block[impossible], wanted),
                share_of_peaks(excess, wanted),
                wanted.mean(),
            )
    return found


def tokens_of_object(
    truth: Sequence[Truth], frames: range, grid: tuple[int, int]
) -> np.ndarray | None:
    """Tokens that hold the tracked object's place, `(rows, columns)`; None where none does.

    Args:
        truth: of worlds A and B; only where the object is present in a world it has a place.
        frames: of the step.
        grid: rows and columns of tokens. From 4 x 4 on the neighbours count as well.
    """
    found = np.zeros(grid, dtype=bool)
    reach = 1 if min(grid) >= NEIGHBOURS_FROM else 0
    for world in truth:
        tracked = int(world.state["tracked"])
        if tracked < 0 or not world.state["present"][tracked]:
            continue
        height, width = world.depth.shape[1:]
        for x, y in world.state["image_position"][list(frames), tracked]:
            if not (0 <= x < width and 0 <= y < height):
                continue
            row, column = int(y / height * grid[0]), int(x / width * grid[1])
            found[
                max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1
            ] = True
    return found if found.any() else None


def peak_places(
    errors: np.ndarray,
    truth: Sequence[Truth],
    violation_frame: int | None,
    place: Place,
    span: int,
    grid: tuple[int, int],
) -> np.ndarray:
    """Whether the largest excess around the violation is in the tracked object's place.

    Args:
        errors: `(4, steps, N)` surprise of each token at `place`, clips AA, BB, AB, BA.
        truth: of worlds A and B.
        violation_frame: see `BlockFacts`.
        place: level and horizon.
        span: frames per step of the level.
        grid: rows and columns of tokens, N together.

    Returns:
        `(2, 2)`, for AB and BA: whether it is, and the chance that an evenly drawn token of these
        steps is; NaN where the object is in neither picture at any of the steps.
    """
    found = np.full((2, 2), np.nan)
    near = near_steps(violation_frame, place, span, errors.shape[1])
    wanted, kept = [], []
    for entry in near:
        first = (entry + place[1]) * span
        tokens = tokens_of_object(truth, range(first, first + span), grid)
        if tokens is not None:
            wanted.append(tokens.reshape(-1))
            kept.append(entry)
    if kept:
        for pair, (possible, impossible) in enumerate(zip(POSSIBLE, IMPOSSIBLE, strict=True)):
            excess = errors[impossible, kept] - errors[possible, kept]
            found[pair] = share_of_peaks(excess, np.stack(wanted)), np.mean(wanted)
    return found
