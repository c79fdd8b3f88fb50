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

from worldmodel.data.packets import HIDDEN, IDR, UNREFERENCED, PacketIndex
from worldmodel.data.pyav_video import to_rgb
from worldmodel.data.video import MAX_PIXELS, VideoDecoder, reason_of
from worldmodel.errors import InputError


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
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if not len(unique):
            raise IndexError("no frames asked for")
        if unique[0] < 0 or unique[-1] >= self.num_frames:
            raise IndexError(
                f"frames {unique[0]} to {unique[-1]} wanted, video has 0 to {self.num_frames - 1}"
            )
        frames = self._decode(self._packet_of[unique], size)
        return frames if np.array_equal(inverse, np.arange(len(indices))) else frames[inverse]

    def plan(self, wanted: np.ndarray) -> list[int]:
        """The packets to decode for the frames of the packets `wanted`, ascending."""
        flags = self._index.flags
        needed = np.zeros(len(flags), bool)
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        for group in np.unique(groups):
            first, last = self._starts[group], wanted[groups == group].max()
            needed[first : last + 1] = flags[first : last + 1] & UNREFERENCED == 0
        needed[wanted] = True
        return [int(packet) for packet in np.flatnonzero(needed)]

    def _decode(self, wanted: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
        """Frames of the packets `wanted`, in that order."""
        place = {int(self._index.pts[packet]): number for number, packet in enumerate(wanted)}
        frames: np.ndarray | None = None
        reformatter = VideoReformatter()
        try:
            for frame in self._decoded(self.plan(wanted)):
                number = place.pop(frame.pts, None) if frame.pts is not None else None
                if number is None:
                    continue
                picture = to_rgb(reformatter, frame, size, self._index.rotation)
                if frames is None:
                    frames = np.empty((len(wanted), *picture.shape), np.uint8)
                if picture.shape != frames.shape[1:]:
                    raise InputError("video changes its size on the way; cut it there")
                frames[number] = picture
                if not place:
                    return frames
        except (av.FFmpegError, MemoryError) as error:
            raise InputError(f"video cannot be decoded: {reason_of(error)}") from error
        raise InputError(f"video cannot be decoded: {len(place)} wanted frames are damaged")

    def _decoded(self, packets: Sequence[int]) -> Iterator[av.VideoFrame]:
        index = self._index
        codec = av.CodecContext.create("h264", "r")
        codec.extradata = index.extradata
        codec.thread_type = "NONE"
        codec.thread_count = 1
        # The stream itself may tell another size than its index.
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        for number in packets:
            first = int(index.offset[number])
            content = self._data[first : first + int(index.size[number])]
            if zlib.crc32(content) != index.checksum[number]:
                raise InputError(f"video is damaged: packet {number} has been altered")
            packet = av.Packet(content)
            packet.pts = int(index.pts[number])
            yield from codec.decode(packet)
        yield from codec.decode(None)

    def close(self) -> None:
        """Nothing is open."""
