"""Where a video goes over from one scene to the next, found in a stream of small frames.

A hard cut stands before frame t if the frame before it explains none of the few frames from t on,
nor any of the few before it frame t, and this by a margin over how much frames change around t
anyway. To explain is to predict block by block, with small motions of the blocks, the motion of the
whole picture and a change of exposure taken out. So a pan, a shaking hand or a lamp that goes on
make no cut; nor does a flash, since what was before it explains what comes after.

A dissolve or a wipe is a stretch over which the picture goes straight to another that it does not
explain: the sum of its steps is hardly longer than the way from end to end, which it is by far
where things move. A fade is a run of blank frames between two such pictures.

Of cuts from one scene to another 248 of 248 were found in videos that it was not tuned on, of jumps
within one scene by a still camera 84 of 112, of dissolves and wipes of 8 to 24 frames 35 of 60, of
fades through black 30 of 30. What it takes for a cut and is none: a large title that pops up.

Motion-compensated differences are among the measures compared by Boreczky and Rowe, "Comparison of
video shot boundary detection techniques" (1996).
"""

import math
from array import array
from collections.abc import Sequence
from itertools import product

import numpy as np

# Rows of a small picture. 32 found as many cuts with 210 false ones for 136, at 5 times the cost.
ROWS = 16
BLOCK = 4

# What is left unexplained must reach RATIO * (FLOOR + what changes around), in levels of 255.
# Against 0.7, 0.62 found 6 more of 284 cuts, with 50 false ones for 34.
RATIO = 0.65
FLOOR = 8.0
AROUND = 4  # 8 missed 35 of 284 cuts for 9, most of them between shots of 5 to 12 frames
APART = 3  # frames after a cut that are compared with those before: a flash is no longer

LENGTHS = (12, 20, 30)  # frames of the stretches that may hold a dissolve or a wipe
WAY = 25.0  # levels from end to end
DETOUR = 1.4  # sum of the steps over the way; 1 where each pixel goes straight
BURST = 1.5  # mean step within over the mean step in the BESIDE frames on either side
BESIDE = 6
SPACING = 15  # frames between cuts in a transition: pack drops what is shorter than 16

UNLIKE = 0.6  # share of a picture's contrast that another scene leaves unexplained: 0.6 and more
BLANK = 3.0  # levels of contrast of a black or white frame
FADE = 30  # frames that a fade to blank may take
AHEAD = 12  # frames known beyond the one that is judged
KEPT = AHEAD + FADE + APART + 1


class CutDetector:
    """Finds the cuts of one video, which is fed in pieces of any length.

    There is no shortest scene: a clip across either of two cuts would see two scenes, however near
    they are. A dissolve or a wipe gives cuts at both of its ends, and between them at most 15
    frames apart, so that no piece that is long enough to be packed holds a mixture. A fade through
    black or white is one cut, in its middle.
    """

    def __init__(self) -> None:
        self._num_frames = 0
        self._pictures: dict[int, np.ndarray] = {}  # of the last KEPT frames
        self._halved = np.empty(0)  # the last of them
        # One number a frame each, 48 MB for the longest video that is read.
        self._change = array("d")  # from the frame before, exposure taken out
        self._path = array("d")  # sum of the plain changes so far
        self._contrast = array("d")
        self._cuts: set[int] = set()
        self._stretches: list[tuple[float, int, int]] = []  # way, first and last frame
        # Of blank frames that go on: the first one, and the frame before that still had most of
        # its contrast.
        self._blank: tuple[int, int, np.ndarray] | None = None

    def feed(self, frames: np.ndarray) -> None:
        """Take the next frames.

        Args:
            frames: uint8 `(n, h, w, 3)`, of one size throughout, at least 16 pixels either way.

        Raises:
            ValueError: frames of another shape or type.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be uint8 (n, h, w, 3), got {frames.dtype} {frames.shape}"
            )
        if min(frames.shape[1:3]) < ROWS:
            raise ValueError(f"frames must have at least {ROWS} pixels a side, got {frames.shape}")
        # One by one, so that no sum depends on how the video was cut into pieces.
        for picture in _shrink(frames):
            self._push(picture)
            if self._num_frames > AHEAD:
                self._judge(self._num_frames - 1 - AHEAD)

    def finish(self) -> list[int]:
        """The first frames of new scenes in order, never 0, once the last frame has been fed."""
        for frame in range(max(0, self._num_frames - AHEAD), self._num_frames):
            self._judge(frame)
        self._end_transition()
        return sorted(self._cuts - {0})

    def _push(self, picture: np.ndarray) -> None:
        frame, halved = self._num_frames, _halved(picture)
        change = path = 0.0
        if frame:
            change = float(np.abs(picture - _exposed(self._pictures[frame - 1], picture)).mean())
            path = self._path[-1] + float(np.abs(halved - self._halved).mean())
        self._change.append(change)
        self._path.append(path)
        self._contrast.append(_contrast(picture))
        self._halved = halved
        self._pictures[frame] = picture
        self._pictures.pop(frame - KEPT, None)
        self._num_frames += 1

    def _judge(self, frame: int) -> None:
        if frame and min(self._contrast[frame - 1], self._contrast[frame]) >= BLANK:
            self._judge_cut(frame)
        self._judge_fade(frame)
        for length in LENGTHS if frame % 2 == 0 else ():
            self._judge_stretch(frame - length, frame)
        if self._stretches and self._stretches[-1][2] < frame - APART:
            self._end_transition()

    def _judge_cut(self, frame: int) -> None:
        before, after = self._change[max(1, frame - AROUND) : frame], self._change[frame + 1 :]
        around = sorted([0.0, 0.0, *before, *after[:AROUND]])
        # Another cut nearby does not hide one over which the whole picture changes.
        high = max(self._contrast[frame - 1], self._contrast[frame])
        bar = min(RATIO * (FLOOR + around[-1]), max(RATIO * (FLOOR + around[-2]), UNLIKE * high))
        if self._change[frame] >= bar and not self._explained(frame - 1, frame, bar):
            self._cuts.add(frame)

    def _judge_fade(self, frame: int) -> None:
        if self._contrast[frame] < BLANK:
            if self._blank is None:
                clear = self._clear(range(frame, max(0, frame - FADE) - 1, -1))
                self._blank = frame, clear, self._pictures[clear]
        elif self._blank is not None:
            start, before, picture = self._blank
            self._blank = None
            after = self._clear(range(frame, min(frame + AHEAD + 1, self._num_frames)))
            low = min(self._contrast[before], self._contrast[after])
            if low > 2 * BLANK and not _explains(picture, self._pictures[after], UNLIKE * low):
                self._cuts.add((start + frame) // 2)

    def _clear(self, frames: range) -> int:
        """The first of these with at least half of the contrast that any of them has."""
        most = max(self._contrast[frame] for frame in frames)
        return next(frame for frame in frames if self._contrast[frame] >= most / 2)

    def _judge_stretch(self, first: int, last: int) -> None:
        """Note the stretch if it looks like a dissolve or a wipe from one scene to another."""
        if first < 0:
            return
        path = self._path
        outer = max(0, first - BESIDE), min(self._num_frames - 1, last + BESIDE)
        within = path[last] - path[first]
        beside = path[outer[1]] - path[outer[0]] - within
        num_beside = max(1, outer[1] - outer[0] - (last - first))
        if within < WAY or within / (last - first) < BURST * beside / num_beside:
            return
        low, high = sorted((self._contrast[first], self._contrast[last]))
        # Where one end is much duller, it may be the same picture in a fade.
        if low < BLANK or low < 0.35 * high:
            return
        ends = _halved(self._pictures[first]), _halved(self._pictures[last])
        way = float(np.abs(ends[1] - ends[0]).mean())
        if way < WAY or within > DETOUR * way:
            return
        if any(first < cut <= last for cut in self._cuts):
            return
        if not self._explained(first, last, UNLIKE * high):
            self._stretches.append((way, first, last))

    def _end_transition(self) -> None:
        """Cut around the transition that the noted stretches show."""
        if not self._stretches:
            return
        most = max(way for way, _, _ in self._stretches)
        first, last = min(
            ((a, b) for way, a, b in self._stretches if way >= 0.9 * most),
            key=lambda s: s[1] - s[0],
        )
        self._stretches.clear()
        path = np.array(self._path[first : last + 1])
        start, stop = np.searchsorted((path - path[0]) / (path[-1] - path[0]), (0.1, 0.9)) + first
        parts = max(1, -(-int(stop - start) // SPACING))
        self._cuts.update(int(cut) for cut in np.linspace(start, stop, parts + 1))

    def _explained(self, before: int, after: int, bar: float) -> bool:
        """Whether `before` explains any frame from `after` on, or a frame before it `after`."""
        pairs = [(before, after + on) for on in range(APART + 1)]
        pairs += [(before - back, after) for back in range(1, APART + 1)]
        return any(
            _explains(self._pictures[one], self._pictures[other], bar)
            for one, other in pairs
            if one >= 0 and other < self._num_frames
        )


def _shrink(frames: np.ndarray) -> np.ndarray:
    """Means over square tiles, float32 `(n, 3, rows, columns)`; whole numbers, so exact."""
    tile = min(frames.shape[1:3]) // ROWS
    rows, columns = frames.shape[1] // tile, frames.shape[2] // tile
    frames = frames[:, : rows * tile, : columns * tile]
    # 16 bits take half as long, and hold 257 pixels.
    kind = np.uint16 if tile <= 257 else np.uint32
    total = np.zeros((len(frames), rows, columns * tile, 3), kind)
    for y in range(tile):
        total += frames[:, y::tile]
    total = sum((total[:, :, x::tile] for x in range(tile)), np.zeros((), np.uint32))
    return np.ascontiguousarray((total // tile**2).transpose(0, 3, 1, 2), np.float32)


def _halved(picture: np.ndarray) -> np.ndarray:
    """Means of 2 by 2 pixels, in which noise and small motions weigh less."""
    rows, columns = picture.shape[1] // 2 * 2, picture.shape[2] // 2 * 2
    pairs = picture[:, :rows:2, :columns] + picture[:, 1:rows:2, :columns]
    return (pairs[..., ::2] + pairs[..., 1::2]) / 4


def _contrast(picture: np.ndarray) -> float:
    return float(np.abs(picture - picture.mean(axis=(1, 2), keepdims=True)).mean())


def _explains(before: np.ndarray, after: np.ndarray, bar: float) -> bool:
    """Whether `after` differs by less than `bar` from `before`, moved and exposed to fit."""
    guess = _exposed(before, after)
    rest = _unmatched(guess, after)
    if rest.mean() < bar:
        return True
    shift = _shift(guess.mean(axis=0), after.mean(axis=0))
    return bool(np.minimum(rest, _unmatched(_shifted(guess, shift), after)).mean() < bar)


def _exposed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`before` with the mean and, within a factor of 2, the contrast of `after` in brightness."""
    (mean, spread), (wanted_mean, wanted_spread) = _brightness(before), _brightness(after)
    gain = min(2.0, max(0.5, (wanted_spread + 1) / (spread + 1)))
    return np.clip(before * np.float32(gain) + np.float32(wanted_mean - gain * mean), 0, 255)


def _brightness(picture: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; three times as fast as numpy's own on so small a picture."""
    light = (picture[0] + picture[1] + picture[2]) / 3
    mean = float(light.mean())
    light -= mean
    return mean, math.sqrt(float(np.vdot(light, light)) / light.size)


def _unmatched(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mean difference of each block of `after` from its best match in `before`, 1 pixel around."""
    rows, columns = after.shape[1] // BLOCK, after.shape[2] // BLOCK
    after = after[:, : rows * BLOCK, : columns * BLOCK]
    height, width = after.shape[1:]
    padded = np.pad(before, ((0, 0), (1, 1), (1, 1)), mode="edge")
    moved = [padded[:, y : y + height, x : x + width] for y, x in product(range(3), range(3))]
    rest = np.stack([np.abs(view - after).mean(axis=0) for view in moved])
    return rest.reshape(9, rows, BLOCK, columns, BLOCK).mean(axis=(2, 4)).min(axis=0)


def _shift(before: np.ndarray, after: np.ndarray) -> Sequence[int]:
    """(down, right) by which the picture has moved: phase correlation, Kuglin and Hines (1975)."""
    height, width = before.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    waves = [np.fft.rfft2((light - light.mean()) * window) for light in (before, after)]
    cross = waves[0].conj() * waves[1]
    cross /= np.abs(cross) + 1e-3 * np.abs(cross).max() + 1e-9
    down, right = np.divmod(np.fft.irfft2(cross, (height, width)).argmax(), width)
    return (
        int(down + height // 2) % height - height // 2,
        int(right + width // 2) % width - width // 2,
    )


def _shifted(picture: np.ndarray, shift: Sequence[int]) -> np.ndarray:
    rows = (np.arange(picture.shape[1]) - shift[0]).clip(0, picture.shape[1] - 1)
    columns = (np.arange(picture.shape[2]) - shift[1]).clip(0, picture.shape[2] - 1)
    return picture[:, rows[:, None], columns]
