"""decord, or decord2 of the same name, behind `VideoDecoder`: a choice for those who have it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.video import OpenedVideo, reason_of
from worldmodel.errors import InputError

# decord 0.6 takes the padding of narrower pictures for a fourth colour; decord2 3.4 fails on them.
# Both fail at a few larger widths (72 and some up to 328), where the padding is of that size.
_DECORD_MIN_WIDTH = 64


class DecordVideo(OpenedVideo):
    """decord: opened anew for each size, since it scales only to the size it was opened with."""

    def __init__(self, data: bytes | Path) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:
            raise InputError(
                f"decoder 'decord' cannot be imported ({error}); "
                "install it with 'pip install decord', or use decoder 'auto'"
            ) from error
        self._decord = decord
        self._data = data
        self._readers: dict[tuple[int, int] | None, Any] = {}
        if isinstance(data, bytes) and not data:
            raise InputError("video is empty (0 bytes)")
        reader = self._reader(None)
        num_frames = len(reader)
        height, width = self._guard(lambda: reader[0].shape[:2]) if num_frames else (0, 0)
        super().__init__(float(reader.get_avg_fps()), num_frames, width, height)

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
        self.check_indices(indices)
        width = size[0] if size else self._width
        if width < _DECORD_MIN_WIDTH:
            raise InputError(
                f"decord gives no pictures narrower than {_DECORD_MIN_WIDTH} pixels, {width} were "
                "wanted; use decoder 'auto'"
            )
        reader = self._reader(size)
        try:
            frames: np.ndarray = self._guard(lambda: reader.get_batch(list(indices)).asnumpy())
        except InputError as error:
            if "must exactly match" not in str(error):
                raise
            raise InputError(
                f"decord gives no pictures {width} pixels wide; use decoder 'auto'"
            ) from error
        return frames

    def pts_seconds(self, indices: Sequence[int]) -> np.ndarray:
        reader = self._reader(None)
        starts = self._guard(lambda: reader.get_frame_timestamp([0, *indices]))[:, 0]
        return np.asarray(starts[1:] - starts[0], dtype=np.float64)

    def close(self) -> None:
        self._readers.clear()
