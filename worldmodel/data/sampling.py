"""Which frames make a clip: arithmetic only, no decoding.

A clip is `num_frames` frames of one scene of one video, `frame_stride` source frames apart. It
never runs over the end of its scene: a start is drawn among the starts for which the whole clip
lies inside, and a video with no such start is too short to be used. No frame is repeated to fill a
clip, since a picture that stands still would teach that the world does.

    video of 10 frames, 4 frames at stride 2 -> a clip covers 7 frames -> starts 0, 1, 2 or 3
    start 3 -> frames 3, 5, 7, 9

Where frames are unevenly spaced in time (a phone in the dark), a clip takes those nearest to even
times instead of every n-th. A pause of more than two of the clip's own spacings, of which nobody
knows what happened in it, ends a scene, and no clip lies where frames are too few for its rate.

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
# Most that a frame may be off its even time, in the same unit: one frame that is missing where a
# clip takes every one moves those after it by 1, a second one by 2.
MAX_SHIFT = 1.25
# A whole number of frames is taken where it meets the rate so well; 30 frames a second give 7.5
# for 8, evenly, and the nearest to each 1/8 s would be 3 or 4 frames apart.
NEAR_SHARE = 0.1


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


def clip_period(times: np.ndarray, fps: float) -> float:
    """Seconds from one frame of a clip to the next in a video whose frames are unevenly spaced.

    1 / fps, or the usual spacing where that is more: no frame is taken twice. Within 10 % of it a
    whole number of usual spacings, so that a few late frames do not change a video's rate.

    Args:
        times: when each frame of the video is shown, seconds, ascending; at least two.
        fps: frames per second of a clip.
    """
    usual = float(np.median(np.diff(times)))
    whole = usual * frame_stride_for(1 / usual, fps)
    return whole if abs(whole * fps - 1) <= NEAR_SHARE else max(1 / fps, usual)


def choose_clips(
    draw: Draw,
    times: np.ndarray,
    cuts: Sequence[int],
    num_frames: int,
    source_fps: float,
    rates: Sequence[float],
) -> list[list[int]] | None:
    """The source frames of the clips of one visit, all from one start, one clip per rate.

    Args:
        draw: what chance says.
        times: when each frame of the video is shown, seconds, ascending.
        cuts: frames at which a new scene begins.
        num_frames: of a clip.
        source_fps: frames per second of the video, on average.
        rates: frames per second of each clip.

    Returns:
        Frame indices per rate; None where no scene is long enough for the longest clip, or none
        has frames enough for the rates.
    """
    if not is_even(times):
        return _choose_in_time(draw, times, cuts, num_frames, rates)
    frame_strides = [frame_stride_for(source_fps, fps) for fps in rates]
    scenes = scenes_of(len(times), cuts)
    counts = [count_starts(end - first, num_frames, max(frame_strides)) for first, end in scenes]
    if not sum(counts):
        return None
    place = pick_start(draw, sum(counts))
    number = int(np.searchsorted(np.cumsum(counts), place, side="right"))
    start = scenes[number][0] + place - sum(counts[:number])
    return [clip_indices(start, num_frames, stride) for stride in frame_strides]


def _choose_in_time(
    draw: Draw, times: np.ndarray, cuts: Sequence[int], num_frames: int, rates: Sequence[float]
) -> list[list[int]] | None:
    """`choose_clips` where frames are unevenly spaced."""
    periods = [clip_period(times, fps) for fps in rates]
    longest = max(periods)
    pauses = 1 + np.flatnonzero(np.diff(times) > MAX_PAUSE * longest)
    starts, ends = [], []
    for first, end in scenes_of(len(times), [*cuts, *pauses.tolist()]):
        last = times[end - 1] - (num_frames - 1.5) * longest
        in_time = int(np.searchsorted(times[first:end], last, side="right"))
        count = max(0, min(in_time, end - first - num_frames + 1))
        found = np.arange(first, first + count)
        for period in periods:
            found = found[_is_in_time(times[:end], found, num_frames, period)]
        starts.append(found)
        ends.append(np.full(len(found), end))
    possible = np.concatenate(starts)
    if not len(possible):
        return None
    place = pick_start(draw, len(possible))
    start, end = int(possible[place]), int(np.concatenate(ends)[place])
    return [
        _frames_in_time(times[:end], np.array([start]), num_frames, period)[0].tolist()
        for period in periods
    ]


def _is_in_time(
    times: np.ndarray, starts: np.ndarray, num_frames: int, period: float
) -> np.ndarray:
    """Whether all frames of the clip from each start are near their even times, bool."""
    # Frames that follow each other faster than those of the clip are never far from any time; a
    # video with few gaps between them has few clips to look at.
    late = times[:-1][np.diff(times) > period]
    stops = times[starts] + num_frames * period
    suspect = np.flatnonzero(np.searchsorted(late, times[starts]) < np.searchsorted(late, stops))
    frames = _frames_in_time(times, starts[suspect], num_frames, period)
    shift = times[frames] - times[frames[:, :1]] - period * np.arange(num_frames)
    good = np.ones(len(starts), bool)
    good[suspect] = np.abs(shift).max(axis=1, initial=0.0) <= MAX_SHIFT * period
    return good


def _frames_in_time(
    times: np.ndarray, starts: np.ndarray, num_frames: int, period: float
) -> np.ndarray:
    """The frames nearest to `num_frames` even times from each start on, none twice `(S, T)`."""
    steps = np.arange(num_frames)
    wanted = times[starts][:, None] + period * steps
    found = np.searchsorted((times[1:] + times[:-1]) / 2, wanted, side="left")
    # After a late frame two even times may have the same nearest one; the next is taken then, and
    # at the end the one before.
    found = np.maximum.accumulate(found - steps, axis=1) + steps
    return np.asarray(np.minimum(found, len(times) - num_frames + steps))


def too_short(found: int, num_frames: int, frame_stride: int) -> str:
    """Why a video gives no clip, in words that say what to do."""
    return (
        f"a clip needs {clip_span(num_frames, frame_stride)} frames "
        f"(num_frames={num_frames}, frame_stride={frame_stride}) but the longest scene has "
        f"{found}; lower num_frames or raise fps"
    )


def too_uneven(num_frames: int, rates: Sequence[float]) -> str:
    """Why a video whose frames are unevenly spaced gives no clip."""
    seconds = (num_frames - 1) / min(rates)
    named = " and ".join(f"{fps:g}" for fps in rates)
    return (
        f"a clip needs {num_frames} evenly spaced frames over {seconds:.3g} s "
        f"(num_frames={num_frames}, fps={named}), but the frames of this video are unevenly spaced "
        "and no stretch between cuts and pauses has as many so near to even times; lower "
        "num_frames or fps"
    )


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
