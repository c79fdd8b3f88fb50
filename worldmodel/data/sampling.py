"""Which frames make a clip: arithmetic only, no decoding.

A clip is `num_frames` frames of one scene of one video, `frame_stride` source frames apart. It
never runs over the end of its scene: a start is drawn among the starts for which the whole clip
lies inside, and a video with no such start is too short to be used. No frame is repeated to fill a
clip, since a picture that stands still would teach that the world does.

    video of 10 frames, 4 frames at stride 2 -> a clip covers 7 frames -> starts 0, 1, 2 or 3
    start 3 -> frames 3, 5, 7, 9

Where frames are unevenly spaced in time (a phone in the dark), a clip takes those nearest to even
times instead of every n-th. A pause of more than two of the clip's own spacings, of which nobody
knows what happened in it, ends a scene.

Everything that is drawn is a pure function of (seed, epoch, key, visit), so it does not depend on
the number of processes, on the order of loading or on where a run was interrupted.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.data.transforms import CHANNEL_ORDERS

VALIDATION_SHARE = 0.05
# A frame is late or early when it is off by more than this share of the usual spacing; rounding to
# milliseconds (mkv) is 0.06 of it at 60 frames a second.
UNEVEN_SHARE = 0.25
# Times the spacing of a clip's frames.
MAX_PAUSE = 2.0


@dataclass(frozen=True)
class Draw:
    """What chance says about one visit to one video.

    Attributes:
        start: in [0, 1), which of the possible starts.
        flip: whether the clip is mirrored left to right.
        crop: (across, down), each in [0, 1), where a square is cut out of a video that is none.
        zoom: in [0, 1), how much of the allowed magnification is used.
        channels: 0 to 5, in which order red, green and blue are taken; 0 leaves them.
        gamma: in [0, 1), how bright the clip becomes; 0.5 leaves it as it is.
        colored: in [0, 1); below the share of clips whose colours change, these do.
    """

    start: float
    flip: bool
    crop: tuple[float, float]
    zoom: float = 0.0
    channels: int = 0
    gamma: float = 0.5
    colored: float = 0.0


# What validation and evaluation see: the middle, as it is.
CENTRE = Draw(start=0.5, flip=False, crop=(0.5, 0.5))


def frame_stride_for(source_fps: float, fps: float) -> int:
    """Source frames from one frame of a clip to the next: max(1, round(source_fps / fps)).

    Halves round up, so 12 frames a second are read as 6 rather than 12 where 8 are asked for.

    Raises:
        ValueError: a rate is not above 0.
    """
    if not source_fps > 0 or not fps > 0:
        raise ValueError(f"frame rates must be above 0, got source {source_fps} and clip {fps}")
    return max(1, int(source_fps / fps + 0.5))


def clip_span(num_frames: int, frame_stride: int) -> int:
    """Source frames that a clip covers, from its first to its last."""
    return (num_frames - 1) * frame_stride + 1


def count_starts(video_frames: int, num_frames: int, frame_stride: int) -> int:
    """How many starts keep the clip within its scene; 0 where that is too short."""
    return max(0, video_frames - clip_span(num_frames, frame_stride) + 1)


def clip_indices(start: int, num_frames: int, frame_stride: int) -> list[int]:
    """Source frames of the clip that starts at `start`."""
    return list(range(start, start + clip_span(num_frames, frame_stride), frame_stride))


def scenes_of(num_frames: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """[first, end) of each scene of a video.

    Args:
        num_frames: of the video.
        cuts: frames at which a new scene begins, in any order; those outside are passed over.
    """
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < num_frames}), num_frames]
    return list(itertools.pairwise(borders))


def is_even(times: np.ndarray) -> bool:
    """Whether frames shown at `times` (seconds, ascending) are evenly spaced."""
    steps = np.diff(times)
    usual = np.median(steps) if len(steps) else 0.0
    return bool(len(steps) == 0 or np.abs(steps - usual).max() <= UNEVEN_SHARE * usual)


def choose_clips(
    draw: Draw,
    times: np.ndarray,
    cuts: Sequence[int],
    num_frames: int,
    frame_strides: Sequence[int],
) -> list[list[int]] | None:
    """The source frames of the clips of one visit, all from one start, one clip per stride.

    Args:
        draw: what chance says.
        times: when each frame of the video is shown, seconds, ascending.
        cuts: frames at which a new scene begins.
        num_frames: of a clip.
        frame_strides: source frames from one frame of a clip to the next, for each clip.

    Returns:
        Frame indices per stride; None where no scene is long enough for the longest clip.
    """
    longest = max(frame_strides)
    even = is_even(times)
    spacing = 0.0 if even else float(np.median(np.diff(times)))
    scenes = scenes_of(len(times), cuts)
    if not even:
        pauses = 1 + np.flatnonzero(np.diff(times) > MAX_PAUSE * spacing * longest)
        scenes = scenes_of(len(times), [*cuts, *pauses.tolist()])
    counts = []
    for first, end in scenes:
        counts.append(count_starts(end - first, num_frames, longest))
        if not even:
            last = times[end - 1] - (num_frames - 1.5) * spacing * longest
            in_time = int(np.searchsorted(times[first:end], last, side="right"))
            counts[-1] = max(0, min(in_time, end - first - num_frames + 1))
    if not sum(counts):
        return None
    place = pick_start(draw, sum(counts))
    number = int(np.searchsorted(np.cumsum(counts), place, side="right"))
    first, end = scenes[number]
    start = first + place - sum(counts[:number])
    if even:
        return [clip_indices(start, num_frames, stride) for stride in frame_strides]
    return [_frames_in_time(times[:end], start, num_frames, spacing * n) for n in frame_strides]


def _frames_in_time(times: np.ndarray, start: int, num_frames: int, period: float) -> list[int]:
    """The frames nearest to `num_frames` even times from that of `start` on, none twice."""
    wanted = times[start] + period * np.arange(num_frames)
    found = np.searchsorted((times[1:] + times[:-1]) / 2, wanted, side="left")
    # After a late frame two even times may have the same nearest one; the next is taken then, and
    # at the end the one before.
    steps = np.arange(num_frames)
    found = np.maximum.accumulate(found - steps) + steps
    return [int(index) for index in np.minimum(found, len(times) - num_frames + steps)]


def pick_start(draw: Draw, starts: int) -> int:
    """The start that was drawn, among `starts` of them (at least 1)."""
    return min(int(draw.start * starts), starts - 1)


def draw_clip(seed: int, epoch: int, key: str, visit: int = 0) -> Draw:
    """Draw what happens to one sample in one epoch.

    Args:
        seed: of the run.
        epoch: counted from 0.
        key: the sample's name.
        visit: counted from 0 where several clips are taken of a sample at once.
    """
    words = hash_words(f"{seed}/{epoch}/{visit}/{key}")
    start, across, down = (word / 2**64 for word in words[:3])
    # A double has 53 bits: the largest words would round to 1.
    below_one = 1 - 2**-53
    # The last word's bits are shared out: 1 for the mirror, 15 for whether colours change, 16 each
    # for what follows.
    last = words[3]
    return Draw(
        start=min(start, below_one),
        flip=bool(last & 1),
        crop=(min(across, below_one), min(down, below_one)),
        zoom=(last >> 16 & 0xFFFF) / 2**16,
        channels=(last >> 32 & 0xFFFF) % len(CHANNEL_ORDERS),
        gamma=(last >> 48) / 2**16,
        colored=(last >> 1 & 0x7FFF) / 2**15,
    )


def validation_rank(key: str) -> float:
    """Where a key stands in [0, 1]; the lowest 5 % of keys serve validation in sets without one.

    Depends on the key alone, so neither the seed nor other samples ever move a sample across.
    """
    return hash_words(f"validation/{key}")[0] / 2**64


def hash_words(text: str) -> tuple[int, int, int, int]:
    """Four independent uniform 64-bit numbers, the same on every machine and in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=32).digest()
    first, second, third, fourth = (
        int.from_bytes(digest[at : at + 8], "little") for at in range(0, 32, 8)
    )
    return first, second, third, fourth
