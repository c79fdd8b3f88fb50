"""Bytes to frames by index: one small interface, `VideoDecoder`, and what can stand behind it.

    planned     PyAV, fed only the packets that the wanted frames need; where they are indexed
    pyav        PyAV, seeking to the keyframe before each wanted frame; any video
    decord, torchcodec    a choice for those who have them

An index always counts frames in the order in which they are shown, from 0, as a sequential decode
would give them. Frame counts come from the packets, never from the header, and nothing is allocated
before the first wanted frame has really been decoded, so that a header that lies costs no memory.

Decoders must be opened in the process that uses them: one that has been carried over a fork hangs.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from worldmodel.errors import InputError

# `auto` is `planned` where the packets are indexed, else `pyav`.
Backend = Literal["auto", "pyav", "decord", "torchcodec"]

MAX_PIXELS = 8192 * 8192  # per frame: 67 million, twice the area of 8K video
MAX_FRAMES = 2_000_000  # per video: 9 hours at 60 frames a second
MAX_SECONDS = 86_400.0  # per video: a day


class VideoDecoder(ABC):
    """Frames of one video by index.

    Attributes:
        fps: frames per second, averaged over the video.
        num_frames: how many frames can be asked for.
        width: pixels across as shown (after rotation).
        height: pixels down as shown (after rotation).
    """

    @property
    @abstractmethod
    def fps(self) -> float: ...

    @property
    @abstractmethod
    def num_frames(self) -> int: ...

    @property
    @abstractmethod
    def width(self) -> int: ...

    @property
    @abstractmethod
    def height(self) -> int: ...

    @property
    def pixel_aspect(self) -> float:
        """Width of a pixel over its height as shown; 1.0 where the file does not say."""
        return 1.0

    @property
    def num_missing(self) -> int:
        """Frames that the header announces and the file does not hold, since it was cut short."""
        return 0

    @abstractmethod
    def get_frames(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Decode frames in the order asked for, repeats allowed.

        Args:
            indices: frame indices, 0 to num_frames - 1.
            size: (width, height) in pixels to scale to while decoding; the video's own by default.

        Returns:
            uint8 `(n, H, W, 3)`, red green blue.

        Raises:
            IndexError: an index lies outside of the video.
            InputError: the video is damaged at a frame that is wanted.
        """

    @abstractmethod
    def pts_seconds(self, indices: Sequence[int]) -> np.ndarray:
        """When frames are shown, float64 `(n,)` in seconds after the video's first frame."""

    @abstractmethod
    def close(self) -> None:
        """Free the decoder."""

    def check_indices(self, indices: Sequence[int]) -> None:
        """Refuse to look for frames that are not there.

        Raises:
            IndexError: there is none, or one lies outside of the video.
        """
        if not len(indices):
            raise IndexError("no frames asked for")
        if min(indices) < 0 or max(indices) >= self.num_frames:
            raise IndexError(
                f"frames {min(indices)} to {max(indices)} wanted, the video has 0 to "
                f"{self.num_frames - 1}"
            )


class OpenedVideo(VideoDecoder):
    """A decoder that learns what its video is like when it opens it.

    Args:
        fps: frames per second.
        num_frames: how many.
        width: pixels across as shown.
        height: pixels down as shown.

    Raises:
        InputError: there is no frame, or it is too large to be meant.
    """

    def __init__(self, fps: float, num_frames: int, width: int, height: int) -> None:
        if not num_frames or not fps > 0:
            raise InputError("video holds no frame; it is empty or has been cut short")
        if width * height > MAX_PIXELS:
            raise InputError(f"video has frames of {width}x{height} pixels: too large")
        self._fps, self._num_frames, self._width, self._height = fps, num_frames, width, height

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def num_frames(self) -> int:
        return self._num_frames

    @property
    def width(self) -> int:
        return self._width

    @property
    def height(self) -> int:
        return self._height


def open_video(
    data: bytes | Path, backend: Backend = "auto", packets: bytes | None = None
) -> VideoDecoder:
    """Open a video held in memory or in a file.

    Args:
        data: a whole video file's bytes, or its path.
        backend: which library decodes.
        packets: the stored index of the packets of `data`, for `auto`.

    Raises:
        InputError: this is no video, it has no frames, its frames are too large to be meant, or
            the library that was asked for is not installed.
    """
    # Each is imported here, since it builds on this module.
    if backend == "auto" and packets is not None and isinstance(data, bytes):
        from worldmodel.data.planned_video import PlannedVideo

        return PlannedVideo(data, packets)
    if backend in ("auto", "pyav"):
        from worldmodel.data.pyav_video import PyavVideo

        return PyavVideo(data)
    if backend == "decord":
        from worldmodel.data.decord_video import DecordVideo

        return DecordVideo(data)
    if backend == "torchcodec":
        from worldmodel.data.torchcodec_video import TorchcodecVideo

        return TorchcodecVideo(data)
    raise InputError(f"decoder must be auto, pyav, decord or torchcodec, got {backend!r}")


def reason_of(error: BaseException) -> str:
    """The library's reason in one line, without its numbers and places."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0]
