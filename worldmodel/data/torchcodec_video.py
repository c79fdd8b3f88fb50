"""torchcodec behind the interface of `VideoDecoder`: a choice for those where it imports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.data.video import OpenedVideo, reason_of
from worldmodel.errors import InputError


class TorchcodecVideo(OpenedVideo):
    """torchcodec with exact seeking, one thread; pictures are scaled after decoding."""

    def __init__(self, data: bytes | Path) -> None:
        try:
            from torchcodec.decoders import VideoDecoder as Decoder
        except (ImportError, OSError, RuntimeError) as error:
            raise InputError(
                f"decoder 'torchcodec' cannot be imported ({reason_of(error)}); install a build "
                "that fits this torch and FFmpeg, or use decoder 'auto'"
            ) from error
        if isinstance(data, bytes) and not data:
            raise InputError("video is empty (0 bytes)")
        source = data if isinstance(data, bytes) else str(data)
        self._decoder: Any = _guard(
            lambda: Decoder(source, dimension_order="NHWC", num_ffmpeg_threads=1)
        )
        metadata = self._decoder.metadata
        num_frames = int(metadata.num_frames or 0)
        height, width = _guard(lambda: self._decoder[0].shape[:2]) if num_frames else (0, 0)
        super().__init__(float(metadata.average_fps or 0), num_frames, width, height)

    def get_frames(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        frames = self._frames(indices).data
        if size is not None and size != (self._width, self._height):
            pictures = frames.permute(0, 3, 1, 2)
            # On uint8, antialiased: the mean over the area, as the other decoders scale.
            pictures = torch.nn.functional.interpolate(
                pictures, (size[1], size[0]), mode="bilinear", antialias=True
            )
            frames = pictures.permute(0, 2, 3, 1)
        return np.ascontiguousarray(frames.numpy())

    def pts_seconds(self, indices: Sequence[int]) -> np.ndarray:
        times = self._frames([0, *indices]).pts_seconds.numpy().astype(np.float64)
        return np.asarray(times[1:] - times[0], dtype=np.float64)

    def _frames(self, indices: Sequence[int]) -> Any:
        self.check_indices(indices)
        found = _guard(lambda: self._decoder.get_frames_at([int(index) for index in indices]))
        if len(found.data) != len(indices):
            raise InputError("video cannot be decoded by torchcodec: frames are missing")
        return found

    def close(self) -> None:
        del self._decoder


def _guard(action: Any) -> Any:
    try:
        return action()
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        raise InputError(f"video cannot be decoded by torchcodec: {reason_of(error)}") from error
