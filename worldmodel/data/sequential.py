"""Every frame of a video once, in the order shown: hours of video in the memory of one frame."""

from collections.abc import Iterator

import av
import numpy as np

from worldmodel.data.pyav_video import PyavVideo
from worldmodel.data.video import reason_of
from worldmodel.errors import InputError


class SequentialVideo(PyavVideo):
    """A video that can also be walked through from its first frame to its last.

    Frames are counted as everywhere else. Asking for them by index in stretches would decode part
    of a group of pictures again at each, and for files without packet times all that went before.
    """

    @property
    def codec(self) -> str:
        """Name of the codec, for example h264."""
        return str(self._stream.codec_context.name)

    def walk(self, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Decode everything.

        Args:
            size: (width, height) as shown to scale to while decoding.

        Yields:
            uint8 `(H, W, 3)`, as many as `num_frames`.

        Raises:
            InputError: a frame is missing or damaged.
        """
        try:
            yield from self._walk_from(0, size)
        except (av.FFmpegError, OSError, MemoryError) as error:
            raise InputError(f"{self._name} cannot be decoded: {reason_of(error)}") from error

    def stored(self) -> tuple[av.VideoStream, Iterator[av.Packet]]:
        """The stream and its packets as the file holds them, in the order of decoding."""
        self._container.close()
        self._open()
        packets = self._container.demux(self._stream)
        return self._stream, (packet for packet in packets if packet.size)

    def _walk_from(self, first: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
        number = 0
        for frame in self.decode_from_start():
            index = number
            if not self._sequential:
                index = self._position.get(frame.pts, -1) if frame.pts is not None else -1
            if index > number:
                break
            if index == number:
                if number >= first:
                    yield self._picture(frame, size)
                number += 1
        if number < self.num_frames:
            if self._sequential or not self._reindex():
                raise InputError(
                    f"{self._name} cannot be decoded: frame {number} of {self.num_frames} is "
                    "missing or damaged"
                )
            # As many frames as packets, at other times: from now on they are counted.
            yield from self._walk_from(number, size)
