"""Somebody's video as a model sees it: at the rate of its clips, scaled to its square."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.cuts import ROWS, CutDetector
from worldmodel.data.sampling import CENTRE, clip_period, frame_stride_for, is_even
from worldmodel.data.sequential import SequentialVideo
from worldmodel.data.transforms import crop_clip, scaled_size
from worldmodel.evaluation.network import chunked
from worldmodel.models.checkpoint import ClipSpec

FRAMES_PER_LOOK = 32
SHORT_SIDE_PX, LONG_SIDE_PX = 480, 1280


@dataclass(frozen=True)
class SampledVideo:
    """A video as the model sees it.

    Attributes:
        frames: uint8 `(T, size, size, 3)`, on disk.
        indices: `(T,)`, which of the source's frames they are.
        seconds: `(T,)`, when they are shown.
        fps: frames per second of these.
        source_fps: of the source; `num_source_frames` counts its frames.
        cuts: source frames with which new scenes begin.
        size: (width, height) in which the source's frames are drawn.
    """

    frames: np.ndarray
    indices: np.ndarray
    seconds: np.ndarray
    fps: float
    source_fps: float
    num_source_frames: int
    cuts: list[int]
    size: tuple[int, int]

    def in_order(self, order: Sequence[int] | np.ndarray) -> Iterator[Tensor]:
        """Frames uint8 `(3, size, size)` one by one."""
        for number in order:
            yield torch.from_numpy(np.array(self.frames[number])).permute(2, 0, 1)

    def cut_frames(self) -> list[int]:
        """The first of these frames in each new scene, `0..T-1`."""
        first = np.searchsorted(self.indices, self.cuts)
        return np.unique(np.minimum(first, len(self.indices) - 1)).tolist()


def sampled_indices(times: np.ndarray, source_fps: float, fps: float) -> tuple[np.ndarray, float]:
    """Which frames of a video the model sees, every n-th as in training, and their rate.

    Where frames are unevenly spaced in time, those nearest to even times, none twice.

    Args:
        times: when each frame is shown, seconds, ascending.
        source_fps: frames per second of the video, on average.
        fps: of the model's clips.
    """
    if is_even(times):
        stride = frame_stride_for(source_fps, fps)
        return np.arange(0, len(times), stride), source_fps / stride
    period = clip_period(times, fps)
    wanted = np.arange(times[0], times[-1] + period / 2, period)
    return np.unique(np.searchsorted((times[1:] + times[:-1]) / 2, wanted)), 1 / period


def display_size(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """(width, height), even, in which a video is shown with its map."""
    size = scaled_size(width, height, SHORT_SIDE_PX, pixel_aspect)
    if max(size) > LONG_SIDE_PX:
        short = max(2, SHORT_SIDE_PX * LONG_SIDE_PX // max(size) // 2 * 2)
        size = scaled_size(width, height, short, pixel_aspect)
    return size


def read_video(
    path: Path, clip: ClipSpec, store: IO[bytes], bar: Any, passes: int = 0, whole: bool = True
) -> SampledVideo:
    """Decode a video once, look for its cuts, and keep the frames that the model sees.

    Args:
        path: the video.
        clip: rate and size of the model's clips.
        store: an open file that takes the frames: an hour of them is no matter for memory.
        bar: progress, in frames.
        passes: how often the kept frames will be gone through afterwards, for the bar's total.
        whole: squeeze each frame into the square that the model sees; else the square in the
            middle is cut out, as in training.

    Raises:
        InputError: the file is no video or is damaged.
    """
    video = SequentialVideo(path)
    try:
        shown = (clip.size, clip.size)
        if not whole:
            shown = scaled_size(video.width, video.height, clip.size, video.pixel_aspect)
        times = video.pts_seconds(range(video.num_frames))
        indices, fps = sampled_indices(times, video.fps, clip.fps)
        bar.total = video.num_frames + passes * len(indices)
        wanted = np.zeros(video.num_frames, dtype=bool)
        wanted[indices] = True
        detector, position = CutDetector(), 0
        for some in chunked(video.walk(shown), FRAMES_PER_LOOK):
            pictures = crop_clip(np.stack(some), clip.size, CENTRE.crop, flip=False)
            if clip.size >= ROWS:  # cuts cannot be seen in fewer pixels
                detector.feed(pictures)
            for picture in pictures:
                if wanted[position]:
                    store.write(picture.tobytes())
                position += 1
            bar.update(len(pictures))
        store.flush()
        return SampledVideo(
            frames=np.memmap(store, np.uint8, "r", shape=(len(indices), clip.size, clip.size, 3)),
            indices=indices,
            seconds=times[indices],
            fps=fps,
            source_fps=video.fps,
            num_source_frames=video.num_frames,
            cuts=detector.finish(),
            size=display_size(video.width, video.height, video.pixel_aspect),
        )
    finally:
        video.close()


def walk_pictures(path: Path, video: SampledVideo) -> Iterator[np.ndarray]:
    """The sampled frames uint8 `(H, W, 3)` in the size in which they are drawn."""
    source = SequentialVideo(path)
    wanted = set(video.indices.tolist())
    try:
        for number, picture in enumerate(source.walk(video.size)):
            if number in wanted:
                yield picture
    finally:
        source.close()
