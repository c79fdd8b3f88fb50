"""What the headers of an H.264 stream say, as far as planned decoding has to know it.

ITU-T H.264: NAL units 7.3.1, parameter sets 7.3.2, slice headers 7.3.3; avcC is ISO/IEC 14496-15.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import av

from worldmodel.data.video import MAX_PIXELS
from worldmodel.errors import InputError

_SLICES = range(1, 6)
_IDR_SLICE = 5
_MESSAGES = 6
_SEQUENCE_SET = 7
_PICTURE_SET = 8
# Sequence and picture parameter sets, and their extensions.
_PARAMETER_SETS = frozenset((_SEQUENCE_SET, _PICTURE_SET, 13, 15))
_DISPLAY_ORIENTATION = 47  # a message that turns the pictures after it
# x264 writes its version into the first picture's messages. Before 151 it coded 4:4:4 otherwise
# than the standard has it; a decoder that has not seen the version goes by the standard.
_ENCODER = re.compile(rb"x264 - core (\d{1,9})")
_ENCODER_AS_STANDARD = 151
# Profiles whose sequence sets tell the form of colours.
_HIGH_PROFILES = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))
_SLICE_HEADER_BYTES = 32  # the fields that are read here lie within them


@dataclass(frozen=True)
class Picture:
    """One packet's picture.

    Attributes:
        is_idr: decoding can start here.
        is_reference: other pictures may need it.
        frame_num: counts the reference pictures since the last IDR picture.
    """

    is_idr: bool
    is_reference: bool
    frame_num: int


@dataclass(frozen=True)
class _SequenceSet:
    number: int
    frame_num_bits: int
    has_separate_planes: bool
    has_frames_only: bool


def open_decoder(extradata: bytes) -> av.VideoCodecContext:
    """A decoder of the packets of one video, on this thread.

    Args:
        extradata: its avcC.
    """
    codec = av.CodecContext.create("h264", "r")
    codec.extradata = extradata
    codec.thread_type = "NONE"
    codec.thread_count = 1
    # The stream itself may tell another size than its index. And where it does not tell how far
    # pictures are reordered a container would have found out; without one only "strict" waits for
    # all of them, where else pictures are lost.
    codec.options = {"max_pixels": str(MAX_PIXELS), "strict": "1"}
    return codec


def is_avcc(extradata: bytes) -> bool:
    """Whether a decoder's configuration is of the form that mp4 holds."""
    return len(extradata) >= 7 and extradata[0] == 1


class Headers:
    """Reads the pictures of one stream, given its avcC.

    Raises:
        InputError: this is no avcC, or one with several sequence sets.
    """

    def __init__(self, extradata: bytes) -> None:
        if not is_avcc(extradata):
            raise InputError("the decoder's configuration is no avcC")
        self._length_size = 1 + (extradata[4] & 3)
        self._sets = _sets_in_avcc(extradata)
        sequences = [unit for unit in self._sets if unit[0] & 31 == _SEQUENCE_SET]
        if len(sequences) != 1:
            raise InputError(f"{len(sequences)} sequence sets in the header, not one")
        self._sequence = _read_sequence_set(sequences[0])
        self._picture_sets = {
            _read_picture_set(unit) for unit in self._sets if unit[0] & 31 == _PICTURE_SET
        }

    @property
    def num_frame_nums(self) -> int:
        """How far reference pictures are counted before the count begins anew."""
        return 1 << self._sequence.frame_num_bits

    def picture(self, content: bytes) -> Picture:
        """What one packet holds.

        Raises:
            InputError: no picture or half of one, parameter sets that are not those of the header,
                or a turn of the picture.
        """
        units = _split(content, self._length_size)
        for unit in units:
            if unit[0] & 31 in _PARAMETER_SETS and unit not in self._sets:
                raise InputError("parameter sets change on the way")
            if unit[0] & 31 == _MESSAGES and _DISPLAY_ORIENTATION in _message_types(unit):
                raise InputError("pictures are turned on the way")
            if _is_of_old_encoder(unit):
                raise InputError("pictures are of an encoder that has to be known to the decoder")
        slices = [unit for unit in units if unit[0] & 31 in _SLICES]
        if not slices:
            raise InputError("a packet holds no picture")
        # The other two parts of a partitioned slice have a header of another form.
        headers = [self._read_slice(unit) for unit in slices if unit[0] & 31 not in (3, 4)]
        if len({number for number, _ in headers}) != 1:
            raise InputError("a packet does not hold one picture")
        if {field for _, field in headers} not in ({"frame"}, {"top", "bottom"}):
            raise InputError("a packet holds half a picture")
        return Picture(
            is_idr=all(unit[0] & 31 == _IDR_SLICE for unit in slices),
            is_reference=any(unit[0] >> 5 & 3 for unit in slices),
            frame_num=headers[0][0],
        )

    def _read_slice(self, unit: bytes) -> tuple[int, str]:
        """(frame_num, whether it is of a frame, of a top or of a bottom field)."""
        bits = _Bits(unit[:_SLICE_HEADER_BYTES])
        bits.golomb()  # first macroblock
        bits.golomb()  # type
        picture_set = bits.golomb()
        if (picture_set, self._sequence.number) not in self._picture_sets:
            raise InputError("a picture needs parameter sets that are not in the header")
        if self._sequence.has_separate_planes:
            bits.read(2)
        frame_num = bits.read(self._sequence.frame_num_bits)
        if self._sequence.has_frames_only or not bits.read(1):
            return frame_num, "frame"
        return frame_num, "bottom" if bits.read(1) else "top"


def read_pictures(extradata: bytes, contents: Sequence[bytes]) -> list[Picture]:
    """What each packet holds; refuses streams in which pictures need more than can be told.

    Args:
        extradata: the stream's avcC.
        contents: its packets, in the order in which they are decoded.

    Raises:
        InputError: there is no IDR picture at the start, parameter sets change, a packet holds half
            a picture, or a reference picture is missing (lost, or cut away by an edit).
    """
    headers = Headers(extradata)
    pictures = [headers.picture(content) for content in contents]
    if not pictures or not pictures[0].is_idr:
        raise InputError("the first picture is no IDR picture")
    previous = 0
    for number, picture in enumerate(pictures):
        # A decoder makes up for a missing reference from what it has seen last, so that the
        # pictures after it would depend on which were decoded.
        expected = 0 if picture.is_idr else (previous + 1) % headers.num_frame_nums
        if picture.frame_num != expected:
            raise InputError(f"reference pictures are missing before packet {number}")
        if picture.is_reference:
            previous = picture.frame_num
    return pictures


def leaves_trace(extradata: bytes, content: bytes) -> bool:
    """Whether a packet may change how a decoder reads the packets of other videos after it.

    An index that was made by `index_packets` vouches that none does; one that was forged does not.
    """
    length_size, at = 1 + (extradata[4] & 3), 0
    while at + length_size < len(content):
        length = int.from_bytes(content[at : at + length_size], "big")
        at += length_size
        kind = content[at] & 31
        if kind not in (1, _IDR_SLICE) and (
            kind != _MESSAGES or _is_of_old_encoder(content[at : at + length])
        ):
            return True
        at += length
    return at != len(content)


def _is_of_old_encoder(unit: bytes) -> bool:
    if unit[0] & 31 != _MESSAGES:
        return False
    return any(int(found) < _ENCODER_AS_STANDARD for found in _ENCODER.findall(unit))


def _sets_in_avcc(extradata: bytes) -> tuple[bytes, ...]:
    sets: list[bytes] = []
    at = 5
    # Sequence sets (their number in 5 bits), then picture sets.
    for mask in (31, 255):
        if at >= len(extradata):
            raise InputError("the decoder's configuration is cut short")
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            unit, at = extradata[at + 2 : at + 2 + length], at + 2 + length
            if len(unit) != length or not length:
                raise InputError("the decoder's configuration is cut short")
            sets.append(unit)
    return tuple(sets)


def _read_sequence_set(unit: bytes) -> _SequenceSet:
    bits = _Bits(unit)
    profile = bits.read(8)
    bits.read(16)  # constraints and level
    number = bits.golomb()
    separate = False
    if profile in _HIGH_PROFILES:
        separate = _pass_colours(bits)
    frame_num_bits = bits.golomb() + 4
    if frame_num_bits > 16:
        raise InputError("the sequence set is damaged")
    _pass_order(bits)
    bits.golomb()  # number of reference frames
    bits.read(1)  # whether gaps in their numbers are allowed
    bits.golomb()  # width
    bits.golomb()  # height
    return _SequenceSet(number, frame_num_bits, separate, bool(bits.read(1)))


def _pass_colours(bits: "_Bits") -> bool:
    """Pass over the form of colours; whether the three planes are coded apart."""
    form = bits.golomb()
    separate = form == 3 and bool(bits.read(1))
    bits.golomb()  # depth of luma
    bits.golomb()  # depth of chroma
    bits.read(1)
    if bits.read(1):
        for number in range(12 if form == 3 else 8):
            if bits.read(1):
                _pass_scaling_list(bits, 16 if number < 6 else 64)
    return separate


def _pass_scaling_list(bits: "_Bits", length: int) -> None:
    last = following = 8
    for _ in range(length):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


def _pass_order(bits: "_Bits") -> None:
    """Pass over how the order of display is coded."""
    kind = bits.golomb()
    if kind == 0:
        bits.golomb()
    elif kind == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()


def _read_picture_set(unit: bytes) -> tuple[int, int]:
    """(its number, that of its sequence set)."""
    bits = _Bits(unit)
    return bits.golomb(), bits.golomb()


def _split(content: bytes, length_size: int) -> list[bytes]:
    """The NAL units of a packet, each without the length before it."""
    units: list[bytes] = []
    at = 0
    while at + length_size < len(content):
        length = int.from_bytes(content[at : at + length_size], "big")
        at += length_size
        if not length:
            raise InputError("a packet holds an empty unit")
        units.append(content[at : at + length])
        at += length
    if at != len(content):
        raise InputError("a packet's units do not fill it")
    return units


def _message_types(unit: bytes) -> list[int]:
    """The types of the messages (SEI) in a unit."""
    content = unit[1:].replace(b"\0\0\3", b"\0\0")
    types: list[int] = []
    at = 0
    while at + 2 < len(content):  # what follows the last message is a byte that ends the unit
        values = []
        for _ in range(2):  # type and size, each a sum of bytes up to the first below 255
            value = 0
            while at < len(content) and content[at] == 255:
                value, at = value + 255, at + 1
            values.append(value + (content[at] if at < len(content) else 0))
            at += 1
        types.append(values[0])
        at += values[1]
    return types


class _Bits:
    """The fields of a NAL unit after its first byte, from the left."""

    def __init__(self, unit: bytes) -> None:
        # Within a unit 0 0 is followed by a 3 that means nothing, lest it look like a start code.
        content = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(content, "big")
        self._left = 8 * len(content)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise InputError("a header ends early")
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        value = self.golomb()
        return (value + 1) // 2 if value & 1 else -(value // 2)
