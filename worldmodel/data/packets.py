"""Where each packet of a video lies, so that the wanted frames cost only the packets they need.

An H.264 picture needs the pictures since the last IDR picture that others refer to, and none of
those that nothing refers to (`nal_ref_idc` 0, ITU-T H.264, 7.4.1). The index says which is which,
with the place, the size and a checksum of every packet: a decoder can start anywhere without
opening the container, and a byte that has changed is an error instead of another picture.

It is stored beside its video, as the member `mp4.packets` beside `mp4`.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from worldmodel.data.h264 import is_avcc, open_decoder, read_pictures
from worldmodel.data.pyav_video import PyavVideo
from worldmodel.data.video import MAX_FRAMES, MAX_PIXELS, MAX_SECONDS, reason_of
from worldmodel.errors import InputError

# What the index member is called: the video's extension and this.
SUFFIX = "packets"

# Flags of a packet.
IDR = 1  # decoding can start here
UNREFERENCED = 2  # no other picture needs it
HIDDEN = 4  # the container says that it is not shown (an edit list)

_MAGIC = b"WMPX"
_VERSION = 1
# magic, version, rotation, width, height, time base, pixel aspect, fps, video bytes, packets,
# bytes of extradata
_HEADER = struct.Struct("<4sHHIIIIIIdQII")
_CHECKSUM = struct.Struct("<I")
_BYTES_PER_PACKET = 8 + 8 + 4 + 4 + 1

_MAX_FPS = 1e6
_MAX_PTS = 1 << 62  # their differences still fit an int64


@dataclass(frozen=True)
class PacketIndex:
    """The packets of one H.264 video, in the order in which they are decoded.

    Attributes:
        width: pixels across as stored (before rotation).
        height: pixels down as stored.
        rotation: degrees counter-clockwise to turn a picture by to be upright: 0, 90, 180 or 270.
        pixel_aspect: width of a stored pixel over its height.
        time_base: seconds of one unit of `pts`.
        fps: frames per second, averaged over the video.
        video_bytes: size of the video's file.
        extradata: the decoder's configuration (avcC).
        pts: int64 `(P,)`, when a picture is shown.
        offset: int64 `(P,)`, first byte within the file.
        size: int64 `(P,)`, bytes.
        checksum: uint32 `(P,)`, CRC-32 of the packet's bytes.
        flags: uint8 `(P,)`, sums of `IDR`, `UNREFERENCED` and `HIDDEN`.
    """

    width: int
    height: int
    rotation: int
    pixel_aspect: Fraction
    time_base: Fraction
    fps: float
    video_bytes: int
    extradata: bytes
    pts: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    checksum: np.ndarray
    flags: np.ndarray

    def to_bytes(self) -> bytes:
        """As it is stored; equal indices give equal bytes."""
        head = _HEADER.pack(
            _MAGIC,
            _VERSION,
            self.rotation,
            self.width,
            self.height,
            *self.time_base.as_integer_ratio(),
            *self.pixel_aspect.as_integer_ratio(),
            self.fps,
            self.video_bytes,
            len(self.pts),
            len(self.extradata),
        )
        body = b"".join(
            array.astype(kind).tobytes()
            for array, kind in zip(self._arrays(), _ARRAY_TYPES, strict=True)
        )
        content = head + body + self.extradata
        return content + _CHECKSUM.pack(zlib.crc32(content))

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return (self.pts, self.offset, self.size, self.checksum, self.flags)

    @classmethod
    def from_bytes(cls, data: bytes) -> "PacketIndex":
        """Read a stored index.

        Raises:
            InputError: it has been altered or cut short, is of a later version, or describes what
                no video is.
        """
        if len(data) < _HEADER.size + _CHECKSUM.size or data[:4] != _MAGIC:
            raise InputError("packet index is none: it does not begin as one; pack the video again")
        fields = _HEADER.unpack_from(data)
        version, rotation, width, height = fields[1:5]
        if version != _VERSION:
            raise InputError(
                f"packet index is of version {version}, this program knows {_VERSION}; "
                "update the program or pack the video again"
            )
        base, aspect, fps, video_bytes, count, extra = (
            fields[5:7],
            fields[7:9],
            *fields[9:13],
        )
        if len(data) != _HEADER.size + count * _BYTES_PER_PACKET + extra + _CHECKSUM.size:
            raise InputError("packet index has been cut short; pack the video again")
        if zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
            raise InputError("packet index has been altered; pack the video again")
        known = rotation in (0, 90, 180, 270) and 0 < fps <= _MAX_FPS
        if not known or not all((*base, *aspect, width, height)):
            raise InputError("packet index describes no video; pack the video again")
        arrays, at = [], _HEADER.size
        for kind in _ARRAY_TYPES:
            arrays.append(np.frombuffer(data, kind, count, at))
            at += count * np.dtype(kind).itemsize
        index = cls(
            width,
            height,
            rotation,
            Fraction(*aspect),
            Fraction(*base),
            fps,
            video_bytes,
            bytes(data[at : at + extra]),
            *arrays,
        )
        index._check()
        return index

    def _check(self) -> None:
        """Refuse numbers that lead out of the file or are too large to be meant."""
        if self.width * self.height > MAX_PIXELS or len(self.pts) > MAX_FRAMES:
            raise InputError(
                f"packet index claims {len(self.pts)} frames of {self.width}x{self.height} pixels; "
                f"at most {MAX_FRAMES} frames of {MAX_PIXELS} pixels are decoded"
            )
        if np.any(np.abs(self.pts) > _MAX_PTS) or self._span() > MAX_SECONDS:
            raise InputError(
                f"packet index claims {self._span():.0f} seconds; "
                f"at most {MAX_SECONDS:.0f} are read"
            )
        inside = (self.offset >= 0) & (self.size > 0) & (self.size <= self.video_bytes)
        inside &= self.offset <= self.video_bytes - self.size.astype(np.int64)
        if len(np.unique(self.pts)) != len(self.pts) or not is_avcc(self.extradata):
            raise InputError("packet index describes no video; pack the video again")
        if not len(self.pts) or not inside.all() or not self.flags[0] & IDR:
            raise InputError("packet index leads out of its video; pack the video again")

    def _span(self) -> float:
        shown = self.pts[self.flags & HIDDEN == 0]
        return (int(shown.max()) - int(shown.min())) * float(self.time_base) if len(shown) else 0.0


# pts, offset, size, checksum, flags
_ARRAY_TYPES = ("<i8", "<i8", "<u4", "<u4", "u1")


def index_packets(data: bytes) -> PacketIndex:
    """Index an H.264 video in mp4 or mov.

    Raises:
        InputError: this is no such video, or one whose packets alone do not say what a frame needs
            or how it looks (`worldmodel.data.h264` names the reasons; also times that are missing
            or doubled, several configurations, colours that only the container tells). Its frames
            can still be had by seeking.
    """
    video = PyavVideo(data)
    try:
        if not video.has_packet_times:
            raise InputError("packets lack the times of their frames")
        rotation, fps = video.rotation, video.fps
        look = _look(next(video.decode_from_start()))
    finally:
        video.close()
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            if codec.name != "h264":
                raise InputError(f"only H.264 has a packet index, this is {codec.name}")
            extradata, size = bytes(codec.extradata or b""), (codec.width, codec.height)
            base, aspect = stream.time_base, stream.sample_aspect_ratio
            packets = [packet for packet in container.demux(stream) if packet.size]
            _check_packets(packets, data)
            pictures = read_pictures(extradata, [bytes(packet) for packet in packets])
        if look not in _looks(extradata, packets):
            raise InputError("only the container tells what colours are meant")
    except av.FFmpegError as error:
        raise InputError(f"packets cannot be read: {reason_of(error)}") from error
    flags = [
        IDR * picture.is_idr
        + UNREFERENCED * (not picture.is_reference)
        + HIDDEN * bool(packet.is_discard)
        for picture, packet in zip(pictures, packets, strict=True)
    ]
    return PacketIndex(
        *size,
        rotation,
        Fraction(aspect or 1),
        Fraction(base or Fraction(1, 90000)),
        fps,
        len(data),
        extradata,
        np.array([packet.pts for packet in packets], np.int64),
        np.array([packet.pos for packet in packets], np.int64),
        np.array([packet.size for packet in packets], np.int64),
        np.array([zlib.crc32(bytes(packet)) for packet in packets], np.uint32),
        np.array(flags, np.uint8),
    )


def with_packets(video: bytes, extension: str = "mp4") -> dict[str, bytes]:
    """The members of a sample that hold a video: itself and, where there can be one, its index."""
    try:
        index = index_packets(video)
    except InputError:
        return {extension: video}
    return {extension: video, f"{extension}.{SUFFIX}": index.to_bytes()}


def _check_packets(packets: Sequence[av.Packet], data: bytes) -> None:
    """Refuse packets that the bytes of the file alone do not give, with one time for each."""
    if any(packet.has_sidedata("new_extradata") for packet in packets):
        raise InputError("the decoder's configuration changes on the way")
    for packet in packets:
        place = packet.pos
        if place is None or data[place : place + packet.size] != bytes(packet):
            raise InputError("packets do not lie in the file as they are decoded")
    times = [packet.pts for packet in packets]
    # Also among those that are not shown: a frame is known by its time.
    if None in times or len(set(times)) != len(times):
        raise InputError("packets lack times of their own")


def _looks(extradata: bytes, packets: Sequence[av.Packet]) -> list[tuple[object, ...]]:
    """What the packets alone say of the first frame's colours."""
    codec = open_decoder(extradata)
    return [
        _look(frame)
        for packet in (av.Packet(bytes(packets[0])), None)
        for frame in codec.decode(packet)
    ]


def _look(frame: av.VideoFrame) -> tuple[object, ...]:
    colours = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    return (frame.format.name, *colours)
