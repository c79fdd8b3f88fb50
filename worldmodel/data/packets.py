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
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from worldmodel.data.pyav_video import PyavVideo
from worldmodel.data.video import MAX_FRAMES, MAX_PIXELS
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

_SLICES = range(1, 6)
_IDR_SLICE = 5
# Sequence and picture parameter sets, and their extensions.
_PARAMETER_SETS = frozenset((7, 8, 13, 15))


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
        if not all((*base, *aspect, width, height, fps > 0)) or rotation not in (0, 90, 180, 270):
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
        inside = (self.offset >= 0) & (self.size > 0) & (self.size <= self.video_bytes)
        inside &= self.offset <= self.video_bytes - self.size.astype(np.int64)
        if not len(self.pts) or not inside.all() or not self.flags[0] & IDR:
            raise InputError("packet index leads out of its video; pack the video again")


# pts, offset, size, checksum, flags
_ARRAY_TYPES = ("<i8", "<i8", "<u4", "<u4", "u1")


def index_packets(data: bytes) -> PacketIndex:
    """Index an H.264 video in mp4 or mov.

    Raises:
        InputError: this is no such video, or one whose packets alone do not say what a frame needs
            (times missing, parameter sets that change between IDR pictures, no IDR at the start).
            Its frames can still be had by seeking.
    """
    video = PyavVideo(data)
    try:
        if not video.has_packet_times:
            raise InputError("packets lack the times of their frames")
        rotation, fps = video.rotation, video.fps
    finally:
        video.close()
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        extradata = bytes(codec.extradata or b"")
        if codec.name != "h264" or extradata[:1] != b"\x01":
            raise InputError(f"only H.264 as mp4 holds it has a packet index, this is {codec.name}")
        base, aspect = stream.time_base, stream.sample_aspect_ratio
        packets = [packet for packet in container.demux(stream) if packet.size]
        places = [(packet.pts, packet.pos, packet.size, packet.is_discard) for packet in packets]
        contents = [bytes(packet) for packet in packets]
        size = (codec.width, codec.height)
    for (_, place, length, _), content in zip(places, contents, strict=True):
        if place is None or data[place : place + length] != content:
            raise InputError("packets do not lie in the file as they are decoded")
    flags = _flags(contents, 1 + (extradata[4] & 3))
    hidden = [HIDDEN * bool(discard) for *_, discard in places]
    return PacketIndex(
        *size,
        rotation,
        Fraction(aspect or 1),
        Fraction(base or Fraction(1, 90000)),
        fps,
        len(data),
        extradata,
        np.array([pts for pts, *_ in places], np.int64),
        np.array([place for _, place, *_ in places], np.int64),
        np.array([length for *_, length, _ in places], np.int64),
        np.array([zlib.crc32(content) for content in contents], np.uint32),
        np.array(flags, np.uint8) + np.array(hidden, np.uint8),
    )


def with_packets(video: bytes, extension: str = "mp4") -> dict[str, bytes]:
    """The members of a sample that hold a video: itself and, where there can be one, its index."""
    try:
        index = index_packets(video)
    except InputError:
        return {extension: video}
    return {extension: video, f"{extension}.{SUFFIX}": index.to_bytes()}


def _flags(contents: list[bytes], length_size: int) -> list[int]:
    """What each packet's slices say; refuses streams in which a packet depends on more than those.

    Parameter sets within the packets are fine where every IDR picture brings its own.
    """
    flags: list[int] = []
    with_sets: list[bool] = []
    for content in contents:
        units = _units(content, length_size)
        slices = [unit for unit in units if unit & 31 in _SLICES]
        if not slices:
            raise InputError("a packet holds no picture")
        is_idr = all(unit & 31 == _IDR_SLICE for unit in slices)
        has_sets = any(unit & 31 in _PARAMETER_SETS for unit in units)
        if has_sets and not is_idr:
            raise InputError("parameter sets change between two IDR pictures")
        if is_idr:
            with_sets.append(has_sets)
        unreferenced = all(unit >> 5 & 3 == 0 for unit in slices)
        flags.append(IDR * is_idr + UNREFERENCED * (unreferenced and not is_idr))
    if not flags or not flags[0] & IDR:
        raise InputError("the first picture is no IDR picture")
    if any(with_sets) and not all(with_sets):
        raise InputError("only some IDR pictures bring their parameter sets")
    return flags


def _units(content: bytes, length_size: int) -> list[int]:
    """The first byte of each NAL unit: its reference count and its type."""
    units: list[int] = []
    at = 0
    while at + length_size < len(content):
        length = int.from_bytes(content[at : at + length_size], "big")
        units.append(content[at + length_size])
        at += length_size + length
    if at != len(content):
        raise InputError("a packet's units do not fill it")
    return units
