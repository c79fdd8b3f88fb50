"""What a clip really shows, frame by frame: the tracked object, all things in view, the camera."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.clips import Truth
from worldmodel.evaluation.footage import Block, Footage

# Of what is visible at least this much shows; below it, an object is partly hidden.
VISIBLE_FRACTION = 0.9
# Objects that cover fewer pixels than this share of the image say too little about themselves.
MIN_AREA_SHARE = 0.004
PERMANENCE_KINDS = ("permanence", "reveal", "continuity")


@dataclass(frozen=True)
class Track:
    """The tracked object of one clip, frame by frame.

    Attributes:
        position: `(T, 2)` px, x and y of its centre, also when hidden.
        inside: `(T,)` it exists and its centre is in the image.
        visible: `(T,)` more than `VISIBLE_FRACTION` of it can be seen, and it is inside.
        partly: `(T,)` some of it can be seen, but no more than that, and it is inside.
        hidden: `(T,)` none of it can be seen, though it is inside.
        screens: `(T, S, 4)` boxes of the screens as shares of the frame.
    """

    position: np.ndarray
    inside: np.ndarray
    visible: np.ndarray
    partly: np.ndarray
    hidden: np.ndarray
    screens: np.ndarray

    @property
    def hidden_for(self) -> np.ndarray:
        """`(T,)`, for how many frames in a row it has been hidden, this one included."""
        run = np.zeros(len(self.hidden), dtype=np.int64)
        for frame, hidden in enumerate(self.hidden):
            run[frame] = (run[frame - 1] + 1 if frame else 1) if hidden else 0
        return run


def is_present(truth: Truth) -> bool:
    """Whether the tracked object exists in this world."""
    tracked = int(truth.state["tracked"])
    return tracked >= 0 and bool(truth.state["present"][tracked] > 0)


def track_of(truth: Truth) -> Track:
    """Follow the tracked object; never visible or hidden where there is none."""
    frames, height, width = truth.depth.shape
    state = truth.state
    screens = state["slab_box"] / np.array([width, height, width, height])
    # What stands behind a screen, such as a stopper, would tell where the object is.
    screens = screens[:, state["slab_screen"] > 0]
    if not is_present(truth):
        nowhere = np.zeros(frames, dtype=bool)
        return Track(np.zeros((frames, 2)), nowhere, nowhere, nowhere, nowhere, screens)
    tracked = int(state["tracked"])
    position = state["image_position"][:, tracked].astype(np.float64)
    inside = np.all((position >= 0) & (position < [width, height]), axis=1)
    fraction, area = state["visible_fraction"][:, tracked], state["amodal_area"][:, tracked]
    return Track(
        position,
        inside,
        inside & (fraction > VISIBLE_FRACTION),
        inside & (fraction > 0) & (fraction <= VISIBLE_FRACTION),
        inside & (fraction == 0) & (area > 0),
        screens,
    )


def behind_screen(clip: Footage) -> np.ndarray:
    """`(T,)`: the object of a clip is, or where it does not exist would be, behind the screen."""
    behind = np.zeros(len(clip.frames), dtype=bool)
    if clip.metadata.get("kind") in PERMANENCE_KINDS and "hidden_frames" in clip.metadata:
        start, stop = clip.metadata["hidden_frames"]
        source = np.arange(len(clip.frames)) * clip.frame_stride
        behind = (source >= start) & (source < stop)
    return behind


def hidden_windows(block: Block) -> np.ndarray:
    """`(T,)`, frames of a block that lie in one of its windows."""
    inside = np.zeros(block.frames.shape[1], dtype=bool)
    for start, stop in block.windows:
        inside[start:stop] = True
    return inside


@dataclass(frozen=True)
class Things:
    """Objects in full view at some frames, one row for each object and frame.

    Attributes:
        clip: `(R,)` number of the clip among those given.
        frame: `(R,)`.
        place: `(R, 2)` of the centre, x and y as shares of the frame, 0 to 1.
        category: `(R,)` index into `worldmodel.world.forms.CATEGORIES`.
        animate: `(R,)` moves by itself.
        supported: `(R,)` something carries it.
        touching: `(R,)` it touches another object, or a slab such as a platform.
    """

    clip: np.ndarray
    frame: np.ndarray
    place: np.ndarray
    category: np.ndarray
    animate: np.ndarray
    supported: np.ndarray
    touching: np.ndarray

    def __len__(self) -> int:
        return len(self.clip)

    @classmethod
    def join(cls, parts: Sequence["Things"], clips: Sequence[int]) -> "Things":
        """One table of several; clip numbers go on from part to part.

        Args:
            parts: at least one.
            clips: how many clips each of them is about.
        """
        starts = np.cumsum([0, *clips])
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("frame", "place", "category", "animate", "supported", "touching")
        }
        numbers = [part.clip + start for part, start in zip(parts, starts, strict=False)]
        return cls(clip=np.concatenate(numbers), **columns)

    def tokens(self, grid: tuple[int, int]) -> np.ndarray:
        """`(R,)`, the token of a grid of rows and columns that shows each object's centre."""
        column = np.minimum((self.place[:, 0] * grid[1]).astype(np.int64), grid[1] - 1)
        row = np.minimum((self.place[:, 1] * grid[0]).astype(np.int64), grid[0] - 1)
        return row * grid[1] + column


def things_in_view(truths: Sequence[Truth], frames: np.ndarray) -> Things:
    """All objects in full view at some frames of some clips."""
    rows = [_things_of(number, truth, frames) for number, truth in enumerate(truths)]
    return Things(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _things_of(number: int, truth: Truth, frames: np.ndarray) -> tuple[Any, ...]:
    state = truth.state
    _, height, width = truth.depth.shape
    place = state["image_position"][frames] / np.array([width, height])
    shown = state["visible_fraction"][frames] * state["amodal_area"][frames]
    seen = (
        (state["visible_fraction"][frames] > VISIBLE_FRACTION)
        & (shown >= MIN_AREA_SHARE * width * height)
        & np.all((place >= 0) & (place < 1), axis=2)
        & (state["present"] > 0)
    )
    row, slot = np.nonzero(seen)
    frame = frames[row]
    return (
        np.full(len(row), number),
        frame,
        place[row, slot].astype(np.float64),
        state["category"][slot].astype(np.int64),
        state["animate"][slot] > 0,
        (state["support"][frame, slot] > 0).any(1),
        # The last column is floor or wall, which nearly everything touches.
        (state["contact"][frame, slot, :-1] > 0).any(1),
    )


def camera_velocity(truth: Truth, frames: np.ndarray, fps: float) -> np.ndarray:
    """How the camera moved since the frame before.

    Args:
        truth: of one clip.
        frames: at which it is asked, from 1 on.
        fps: frames per second.

    Returns:
        `(len(frames), 6)`: m/s along the camera's right, down and forward, then rad/s about them.
    """
    pose = truth.state["camera_pose"].astype(np.float64)
    now, before = pose[frames], pose[frames - 1]
    axes = now[:, :, :3]
    moved = np.einsum("tij,ti->tj", axes, now[:, :, 3] - before[:, :, 3])
    turn = np.einsum("tki,tkj->tij", before[:, :, :3], axes)
    # Of a small turn the antisymmetric part holds the angle about each axis.
    about = np.stack(
        [
            turn[:, 2, 1] - turn[:, 1, 2],
            turn[:, 0, 2] - turn[:, 2, 0],
            turn[:, 1, 0] - turn[:, 0, 1],
        ]
    )
    return np.concatenate([moved, about.T / 2], axis=1) * fps
