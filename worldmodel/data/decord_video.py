"""decord behind the interface of `VideoDecoder`: a choice for those who have it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.video import MAX_PIXELS, VideoDecoder, reason_of
from worldmodel.errors import InputError

# decord 0.6 takes the padding of narrower pictures for a fourth colour.
_DECORD_MIN_WIDTH = 64


class DecordVideo(VideoDecoder):
    """decord: opened anew for each size, since it scales only to the size it was opened with."""

    def __init__(self, data: bytes | Path) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:
            raise InputError(
                f"decoder 'decord' cannot be imported ({error}); "
                "install it with 'pip install decord', or use decoder 'pyav'"
            ) from error
        self._decord = decord
        self._data = data
        self._readers: dict[tuple[int, int] | None, Any] = {}
        if isinstance(data, bytes) and not data:
            raise InputError("video is empty (0 bytes)")
        reader = self._reader(None)
        self._num_frames = len(reader)
        if not self._num_frames:
            raise InputError("video holds no frame; it is empty or has been cut short")
        self._fps = float(reader.get_avg_fps())
        self._height, self._width = self._guard(lambda: reader[0].shape[:2])
        if self._width * self._height > MAX_PIXELS:
            raise InputError(f"video has frames of {self._width}x{self._height} pixels: too large")

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

    def _guard(self, action: Any) -> Any:
        try:
            return action()
        except (self._decord.DECORDError, RuntimeError, MemoryError) as error:
            raise InputError(f"video cannot be decoded by decord: {reason_of(error)}") from error

    def _reader(self, size: tuple[int, int] | None) -> Any:
        if size not in self._readers:
            source = io.BytesIO(self._data) if isinstance(self._data, bytes) else str(self._data)
            width, height = size or (-1, -1)
            self._readers[size] = self._guard(
                lambda: self._decord.VideoReader(
                    source, self._decord.cpu(0), width=width, height=height, num_threads=1
                )
            )
        return self._readers[size]

    def get_frames(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        if not len(indices) or min(indices) < 0 or max(indices) >= self.num_frames:
            raise IndexError(f"frames {list(indices)} wanted, video has 0..{self.num_frames - 1}")
        width = size[0] if size else self._width
        if width < _DECORD_MIN_WIDTH:
            raise InputError(
                f"decord gives no pictures narrower than {_DECORD_MIN_WIDTH} pixels, {width} were "
                "wanted; use decoder 'pyav'"
            )
        reader = self._reader(size)
        frames: np.ndarray = self._guard(lambda: reader.get_batch(list(indices)).asnumpy())
        return frames

    def pts_seconds(self, indices: Sequence[int]) -> np.ndarray:
        reader = self._reader(None)
        starts = self._guard(lambda: reader.get_frame_timestamp([0, *indices]))[:, 0]
        return np.asarray(starts[1:] - starts[0], dtype=np.float64)

    def close(self) -> None:
        self._readers.clear()
