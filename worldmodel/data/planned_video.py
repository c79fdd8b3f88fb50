"""Planned decoding: PyAV, fed only the packets that the wanted frames need.

For each group of pictures with a wanted frame the packets from its IDR picture to the last wanted
one are decoded, but for those that are neither wanted nor referred to. The container is never
opened: the index that is stored with the video (`worldmodel.data.packets`) replaces it. The result
is that of a sequential decode, to the bit.
"""

import zlib
from collections.abc import Iterator, Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from worldmodel.data.h264 import leaves_trace, open_decoder
from worldmodel.data.packets import HIDDEN, IDR, UNREFERENCED, PacketIndex
from worldmodel.data.pyav_video import MAX_DECODED_PIXELS, check_clip_bytes, to_rgb
from worldmodel.data.video import VideoDecoder, reason_of
from worldmodel.errors import InputError

# A used decoder has its tables and frame buffers; a new one faults them in page by page, which is
# 4 to 6 % of a clip of 16 frames at 128 pixels. The buffers of large videos are too much to keep.
_MAX_IDLE_PIXELS = 1280 * 720
_MAX_IDLE = 4


class _Tools:
    """What decodes and scales the frames of one video, and serves for the next one like it."""

    def __init__(self, extradata: bytes) -> None:
        self.codec = open_decoder(extradata)
        self.is_used_up = False
        self.reformatter = VideoReformatter()


# By the decoder's configuration: an index vouches that no packet brings another. Taken out while in
# use, so threads never share one; no decoder has threads, so they survive a fork.
_idle: dict[bytes, _Tools] = {}


class PlannedVideo(VideoDecoder):
    """Frames of an H.264 video whose packets are indexed.

    Args:
        data: the whole file's bytes.
        packets: its stored index.

    Raises:
        InputError: the index is broken or belongs to another video.
    """

    def __init__(self, data: bytes, packets: bytes) -> None:
        self._data = data
        self._index = index = PacketIndex.from_bytes(packets)
        if len(data) != index.video_bytes:
            raise InputError(
                f"video has {len(data)} bytes, its packet index speaks of {index.video_bytes}; "
                "one of them has been altered or cut short"
            )
        shown = np.flatnonzero(index.flags & HIDDEN == 0)
        # frame -> packet, and back; a hidden packet shows no frame
        self._packet_of = shown[np.argsort(index.pts[shown], kind="stable")]
        if not len(shown) or np.any(np.diff(index.pts[self._packet_of]) <= 0):
            raise InputError("packet index shows no frame, or two at one time; pack it again")
        self._starts = np.flatnonzero(index.flags & IDR)

    @property
    def fps(self) -> float:
        return self._index.fps

    @property
    def num_frames(self) -> int:
        return len(self._packet_of)

    @property
    def width(self) -> int:
        return self._index.height if self._index.rotation % 180 else self._index.width

    @property
    def height(self) -> int:
        return self._index.width if self._index.rotation % 180 else self._index.height

    @property
    def pixel_aspect(self) -> float:
        aspect = float(self._index.pixel_aspect)
        return 1 / aspect if self._index.rotation % 180 else aspect

    def pts_seconds(self, indices: Sequence[int]) -> np.ndarray:
        pts = self._index.pts[self._packet_of]
        seconds = (pts[np.asarray(indices)] - pts[0]) * float(self._index.time_base)
        return np.asarray(seconds, dtype=np.float64)

    def get_frames(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        self.check_indices(indices)
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        return self._decode(self._packet_of[unique], inverse, size)

    def plan(self, wanted: np.ndarray) -> np.ndarray:
        """The packets to decode for the frames of the packets `wanted`, ascending."""
        flags = self._index.flags
        needed = np.zeros(len(flags), bool)
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        for group in np.unique(groups):
            first, last = self._starts[group], wanted[groups == group].max()
            needed[first : last + 1] = flags[first : last + 1] & UNREFERENCED == 0
        needed[wanted] = True
        return np.flatnonzero(needed)

    def _decode(
        self, wanted: np.ndarray, order: np.ndarray, size: tuple[int, int] | None
    ) -> np.ndarray:
        """Frames of the packets `wanted[order]`."""
        index = self._index
        # Each goes straight to all its places: copying repeated ones afterwards took 5 % longer.
        places: dict[int, list[int]] = {pts: [] for pts in index.pts[wanted].tolist()}
        of_wanted = list(places.values())
        for place, number in enumerate(order.tolist()):
            of_wanted[number].append(place)
        frames: np.ndarray | None = None
        tools = _idle.pop(index.extradata, None) or _Tools(index.extradata)
        try:
            for frame in self._decoded(tools, self.plan(wanted)):
                found = places.pop(frame.pts, None) if frame.pts is not None else None
                if found is None:
                    continue
                picture = to_rgb(tools.reformatter, frame, size, index.rotation)
                if frames is None:
                    check_clip_bytes(len(order), picture)
                    frames = np.empty((len(order), *picture.shape), np.uint8)
                for place in found:
                    frames[place] = picture
                if not places:
                    self._put_back(tools)
                    return frames
        except (av.FFmpegError, MemoryError) as error:
            raise InputError(f"video cannot be decoded: {reason_of(error)}") from error
        raise InputError(f"video cannot be decoded: {len(places)} wanted frames are damaged")

    def _put_back(self, tools: _Tools) -> None:
        """Keep for the next video what has served without an error."""
        if tools.is_used_up or self._index.width * self._index.height > _MAX_IDLE_PIXELS:
            return
        tools.codec.flush_buffers()
        if len(_idle) >= _MAX_IDLE:
            _idle.clear()
        _idle[self._index.extradata] = tools

    def _decoded(self, tools: _Tools, packets: np.ndarray) -> Iterator[av.VideoFrame]:
        index, codec = self._index, tools.codec
        if len(packets) * index.width * index.height > MAX_DECODED_PIXELS:
            raise InputError(
                f"the wanted frames need {len(packets)} of {index.width}x{index.height} pixels "
                "decoded; pack the video again with more keyframes"
            )
        columns = (index.offset, index.size, index.checksum, index.pts)
        rows = zip(packets.tolist(), *(each[packets].tolist() for each in columns), strict=True)
        for number, first, length, checksum, pts in rows:
            content = self._data[first : first + length]
            if zlib.crc32(content) != checksum:
                raise InputError(f"video is damaged: packet {number} has been altered")
            # An index that was forged may hide packets that would change how others are read.
            tools.is_used_up = tools.is_used_up or leaves_trace(index.extradata, content)
            packet = av.Packet(content)
            packet.pts = pts
            yield from self._sound(codec.decode(packet))
        yield from self._sound(codec.decode(None))

    def _sound(self, frames: Sequence[av.VideoFrame]) -> Sequence[av.VideoFrame]:
        """The frames, none of which may be damaged or of another size than was indexed.

        A decoder covers up what it cannot read with what it has. Each packet of a plan is needed by
        a wanted frame, so that one that is damaged spoils it.
        """
        for frame in frames:
            if frame.is_corrupt:
                raise InputError("video is damaged, though its packets are as they were indexed")
            if (frame.width, frame.height) != (self._index.width, self._index.height):
                raise InputError(
                    f"video has a frame of {frame.width}x{frame.height} pixels, its packet index "
                    f"speaks of {self._index.width}x{self._index.height}; pack it again"
                )
        return frames

    def close(self) -> None:
        """Nothing is open."""
