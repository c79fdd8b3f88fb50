"""Planned decoding gives the pictures of a sequential decode to the bit, or none."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest
from patterns import moving_pattern

from worldmodel.data import planned_video, pyav_video
from worldmodel.data.encode import encode_video
from worldmodel.data.packets import (
    HIDDEN,
    IDR,
    UNREFERENCED,
    PacketIndex,
    index_packets,
    with_packets,
)
from worldmodel.data.planned_video import PlannedVideo
from worldmodel.data.pyav_video import PyavVideo
from worldmodel.data.video import open_video
from worldmodel.errors import InputError

NUM_FRAMES = 48
TO_AVC1 = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")
TO_TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


@dataclass(frozen=True)
class Profile:
    """How a video is encoded."""

    params: str = "bframes=3"
    codec: str = "libx264"
    pixels: str = "yuv420p"
    size: tuple[int, int] = (48, 32)
    container: str = "mp4"
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    milliseconds: tuple[int, ...] | None = None
    first_pts: int = 0
    rotation: int | None = None
    sets_in_packets: bool = False


UNEVEN = tuple(np.cumsum(np.random.default_rng(0).integers(1, 200, NUM_FRAMES)).tolist())
PROFILES = {
    "plain": Profile(),
    "baseline": Profile("ref=2", options={"profile": "baseline"}),
    "pyramid": Profile("bframes=8:b-pyramid=normal:ref=8:b-adapt=2:keyint=16"),
    "strict pyramid": Profile("bframes=8:b-pyramid=strict:ref=8:b-adapt=2:keyint=16"),
    "temporal, weighted": Profile("bframes=3:direct=temporal:weightp=2:weightb=1:keyint=24"),
    "open groups": Profile("bframes=3:open-gop=1"),
    "scene cuts": Profile("bframes=3:open-gop=1:min-keyint=1:scenecut=400"),
    "top field first": Profile("bframes=3:tff=1"),
    "bottom field first": Profile("bframes=3:bff=1"),
    "told to be interlaced": Profile("bframes=3:fake-interlaced=1:pic-struct=1"),
    "uneven times": Profile(milliseconds=UNEVEN),
    "slices": Profile("bframes=3:slices=4", size=(48, 96)),
    "intra refresh": Profile("bframes=3:intra-refresh=1"),
    "sets before each keyframe": Profile("bframes=3:repeat-headers=1"),
    "sets in packets alone": Profile(sets_in_packets=True),
    "lossless RGB": Profile("", "libx264rgb", "rgb24", (33, 31), options={"qp": "0"}),
    "odd sides": Profile("bframes=3", pixels="yuv444p", size=(33, 31)),
    "cropped": Profile(size=(34, 30)),
    "10 bits": Profile(pixels="yuv420p10le"),
    "turned": Profile(rotation=90),
    "turned over": Profile(rotation=180),
    "first frames hidden": Profile(first_pts=-7),
    "starts late": Profile(first_pts=9),
    "shifted times": Profile(container_options={"movflags": "negative_cts_offsets"}),
    "fragments": Profile(container_options={"movflags": "frag_keyframe+empty_moov"}),
    "mov": Profile(container="mov"),
}


def encode(profile: Profile, seed: int = 0) -> bytes:
    """A moving pattern under noise, which leaves nothing to be skipped."""
    width, height = profile.size
    generator = np.random.default_rng(seed)
    buffer = io.BytesIO()
    with av.open(
        buffer, "w", format=profile.container, container_options=profile.container_options
    ) as out:
        # Later parameters override earlier ones.
        params = f"threads=1:keyint=12:{profile.params}".rstrip(":")
        options = {"x264-params": params, **profile.options}
        stream = out.add_stream(profile.codec, 12, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, profile.pixels
        codec = stream.codec_context
        codec.thread_count = 1
        if profile.sets_in_packets:
            codec.flags &= ~int(av.codec.context.Flags.global_header)
        if profile.milliseconds is not None:
            codec.time_base = Fraction(1, 1000)
        if profile.rotation is not None:
            stream.set_display_rotation(profile.rotation)
        for number, picture in enumerate(moving_pattern(NUM_FRAMES, height, width, float(seed))):
            noisy = picture.astype(int) + generator.integers(-20, 20, picture.shape)
            frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
            if profile.milliseconds is None:
                frame.pts, frame.time_base = number + profile.first_pts, Fraction(1, 12)
            else:
                frame.pts, frame.time_base = profile.milliseconds[number], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


@cache
def encoded(name: str) -> bytes:
    return encode(PROFILES[name])


def in_sequence(data: bytes, rotation: int = 0) -> np.ndarray:
    """Every frame by nothing but the library."""
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.rot90(np.stack(frames), rotation // 90, axes=(1, 2))


def random_plan(generator: np.random.Generator, num_frames: int) -> list[int]:
    """A clip at some stride, a few of them from one start, or frames in no order."""
    kind, count = generator.integers(3), int(generator.integers(1, 17))
    start = int(generator.integers(num_frames))
    if kind == 0:
        return [int(index) for index in generator.integers(0, num_frames, count)]
    strides = generator.integers(1, 9, kind)
    found = [start + int(stride) * step for stride in strides for step in range(count)]
    return [index for index in found if index < num_frames]


def assert_plans_are_exact(data: bytes, count: int, seed: int) -> None:
    index = index_packets(data)
    video, seeking = PlannedVideo(data, index.to_bytes()), PyavVideo(data)
    expected = in_sequence(data, index.rotation)
    assert (video.num_frames, video.height, video.width) == expected.shape[:3]
    assert video.pts_seconds(range(len(expected))) == pytest.approx(
        seeking.pts_seconds(range(len(expected)))
    )
    assert (video.fps, video.pixel_aspect) == (seeking.fps, seeking.pixel_aspect)
    assert np.array_equal(video.get_frames(range(len(expected))), expected)
    generator = np.random.default_rng(seed)
    for number in range(count):
        wanted = random_plan(generator, len(expected))
        assert np.array_equal(video.get_frames(wanted), expected[wanted]), wanted
        if number % 5 == 0:
            size = (int(generator.integers(8, 64)), int(generator.integers(8, 64)))
            apart = video.get_frames(wanted, size), seeking.get_frames(wanted, size)
            assert np.array_equal(*apart), (wanted, size)


@pytest.mark.parametrize("name", PROFILES)
def test_planned__equals_sequential_decoding(name: str) -> None:
    assert_plans_are_exact(encoded(name), 10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_planned__equals_sequential_decoding_500_times(name: str) -> None:
    for seed in range(5):
        assert_plans_are_exact(encode(PROFILES[name], seed), 100, seed)


def test_planned__decodes_no_more_than_it_needs() -> None:
    data = encode_video(moving_pattern(48), 12.0)
    index = index_packets(data)
    video = PlannedVideo(data, index.to_bytes())
    assert np.flatnonzero(index.flags & IDR).tolist() == [0, 12, 24, 36]
    assert (index.flags & UNREFERENCED > 0).sum() == 32
    # In order of display 40 is shown by some packet of the last group; nothing before is needed.
    packets = video.plan(np.flatnonzero(index.pts == np.sort(index.pts)[40]))
    assert min(packets) == 36 and len(packets) <= 4


def test_index_packets__knows_frames_that_are_not_shown() -> None:
    data = encoded("first frames hidden")
    index = index_packets(data)
    assert (index.flags & HIDDEN > 0).sum() == 7
    assert PlannedVideo(data, index.to_bytes()).num_frames == NUM_FRAMES - 7


@pytest.mark.parametrize("edits", [[(1000, 7168)], [(500, -1), (1000, 12288)]])
@pytest.mark.parametrize("name", ["plain", "open groups", "pyramid"])
def test_planned__follows_edit_lists(name: str, edits: list[tuple[int, int]]) -> None:
    """Pairs of milliseconds and the time within the video from which they are shown."""
    data, path = encoded(name), (b"moov", b"trak", b"edts", b"elst")
    start, size = boxes(data, path)[-1]
    content = struct.pack(">II", 0, len(edits))
    content += b"".join(struct.pack(">IiI", *edit, 1 << 16) for edit in edits)
    data = replaced(data, path[:-1], start, start + size, box(b"elst", content))
    index = index_packets(data)
    assert 0 < (index.flags & HIDDEN == 0).sum() < len(index.pts)
    assert_plans_are_exact(data, 10, seed=2)


# Parts of an mp4


def packets_of(data: bytes) -> list[tuple[bytes, int, int, bool]]:
    with av.open(io.BytesIO(data)) as container:
        return [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in container.demux(video=0)
            if packet.size
        ]


def extradata_of(data: bytes) -> bytes:
    with av.open(io.BytesIO(data)) as container:
        return bytes(container.streams.video[0].codec_context.extradata)


def remux(data: bytes, packets: Sequence[tuple[bytes, int, int, bool]]) -> bytes:
    """Other packets in the container of `data`."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="mp4") as out:
        template = source.streams.video[0]
        stream = out.add_stream_from_template(template)
        for content, pts, dts, is_keyframe in packets:
            packet = av.Packet(content)
            packet.pts, packet.dts, packet.time_base = pts, dts, template.time_base
            packet.stream, packet.is_keyframe, packet.duration = stream, is_keyframe, 1024
            out.mux(packet)
    return buffer.getvalue()


def later(packets: Sequence[tuple[bytes, int, int, bool]]) -> list[tuple[bytes, int, int, bool]]:
    span = NUM_FRAMES * 1024
    return [(content, pts + span, dts + span, key) for content, pts, dts, key in packets]


def before_keyframes(
    packets: Sequence[tuple[bytes, int, int, bool]], *units: bytes
) -> list[tuple[bytes, int, int, bool]]:
    added = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    return [(added * key + content, pts, dts, key) for content, pts, dts, key in packets]


def sets_of(data: bytes) -> tuple[bytes, bytes]:
    """The sequence set and the picture set."""
    extradata = extradata_of(data)
    length = int.from_bytes(extradata[6:8], "big")
    at = 8 + length
    count = int.from_bytes(extradata[at + 1 : at + 3], "big")
    return extradata[8:at], extradata[at + 3 : at + 3 + count]


def boxes(data: bytes, path: Sequence[bytes]) -> list[tuple[int, int]]:
    """(start, size) of each box on the way to the last of `path`."""
    found: list[tuple[int, int]] = []
    at = 0
    for name in path:
        while data[at + 4 : at + 8] != name:
            at += int.from_bytes(data[at : at + 4], "big")
        found.append((at, int.from_bytes(data[at : at + 4], "big")))
        at += 8 + {b"stsd": 8, b"avc1": 78}.get(name, 0)
    return found


def replaced(data: bytes, path: Sequence[bytes], start: int, stop: int, content: bytes) -> bytes:
    """`data[start:stop]` changed, and with it the sizes of the boxes around it."""
    changed = bytearray(data)
    for at, size in boxes(data, path):
        changed[at : at + 4] = (size + len(content) - (stop - start)).to_bytes(4, "big")
    changed[start:stop] = content
    return bytes(changed)


def box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def with_table(data: bytes, name: bytes, content: bytes) -> bytes:
    start, size = boxes(data, [*TO_TABLES, name])[-1]
    return replaced(data, TO_TABLES, start, start + size, box(name, content))


def other_video() -> bytes:
    """Of the same size and with another picture set."""
    return encode(Profile("bframes=3:qp=40:cqm=jvt"))


def colours_in_container() -> bytes:
    data = encoded("plain")
    start, size = boxes(data, TO_AVC1)[-1]
    colours = box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 1, 1, 0x80))
    return replaced(data, TO_AVC1, start + size, start + size, colours)


def two_configurations() -> bytes:
    first, second = encoded("plain"), other_video()
    one, two = packets_of(first), packets_of(second)
    data = remux(first, one + later(two))
    start, size = boxes(second, TO_AVC1)[-1]
    entry = second[start : start + size]
    start, size = boxes(data, TO_AVC1)[-1]
    data = replaced(data, TO_AVC1[:-1], start + size, start + size, entry)
    at = boxes(data, TO_AVC1[:-1])[-1][0]
    data = data[: at + 12] + (2).to_bytes(4, "big") + data[at + 16 :]
    offset = int.from_bytes(data[boxes(data, [*TO_TABLES, b"stco"])[-1][0] + 16 :][:4], "big")
    chunks = (1, NUM_FRAMES, 1, 2, NUM_FRAMES, 2)
    data = with_table(data, b"stsc", struct.pack(">8I", 0, 2, *chunks))
    after = offset + sum(len(content) for content, *_ in one)
    return with_table(data, b"stco", struct.pack(">4I", 0, 2, offset, after))


def changing_picture_sets() -> bytes:
    first, second = encoded("plain"), other_video()
    one = before_keyframes(packets_of(first), *sets_of(first))
    return remux(first, one + later(before_keyframes(packets_of(second), *sets_of(second))))


def header_of_another() -> bytes:
    """The sets before the first pictures are right, those in the header are not."""
    packets, sets = packets_of(encoded("plain")), sets_of(encoded("plain"))
    later_ones = before_keyframes(packets[12:], sets[0])
    return remux(other_video(), before_keyframes(packets[:12], *sets) + later_ones)


def lost_reference() -> bytes:
    packets = packets_of(encoded("pyramid"))
    needed = [i for i, flags in enumerate(index_packets(encoded("pyramid")).flags) if not flags & 3]
    return remux(encoded("pyramid"), [*packets[: needed[2]], *packets[needed[2] + 1 :]])


def turned_on_the_way() -> bytes:
    # Message 47: not cancelled, not mirrored, a quarter turn, for all pictures from now on.
    fields_of_message = int("000" + f"{0x4000:016b}" + "010" + "0" + "1", 2)
    message = b"\x06\x2f\x03" + fields_of_message.to_bytes(3, "big") + b"\x80"
    packets = packets_of(encoded("plain"))
    return remux(encoded("plain"), [*packets[:12], *before_keyframes(packets[12:], message)])


def old_encoder() -> bytes:
    data = encoded("lossless RGB")
    at = data.index(b"x264 - core ") + len(b"x264 - core ")
    return data[:at] + b"148" + data[at + 3 :]


def times_that_are_doubled() -> bytes:
    packets = packets_of(encoded("plain"))
    content, _, dts, key = packets[5]
    packets[5] = (content, packets[6][1], dts, key)
    return remux(encoded("plain"), packets)


def no_first_idr() -> bytes:
    """It begins with a keyframe of an open group."""
    packets = packets_of(encoded("open groups"))
    keyframes = [number for number, (*_, is_keyframe) in enumerate(packets) if is_keyframe]
    return remux(encoded("open groups"), packets[keyframes[1] :])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (colours_in_container, "only the container tells what colours"),
        (two_configurations, "configuration changes"),
        (changing_picture_sets, "parameter sets change"),
        (header_of_another, "parameter sets change"),
        (lost_reference, "reference pictures are missing"),
        (turned_on_the_way, "turned on the way"),
        (old_encoder, "encoder that has to be known"),
        (times_that_are_doubled, "lack.* times"),
        (no_first_idr, "no IDR picture"),
        (lambda: encode(Profile(container="matroska")), "do not lie in the file"),
        (lambda: encode(Profile(container="mpegts")), "do not lie in the file"),
        (lambda: encode(Profile("", "mpeg4")), "only H.264"),
    ],
)
def test_index_packets__refuses_what_packets_alone_do_not_give(
    make: Callable[[], bytes], message: str
) -> None:
    data = make()
    with pytest.raises(InputError, match=message):
        index_packets(data)
    assert with_packets(data) == {"mp4": data}


@pytest.mark.parametrize("make", [colours_in_container, two_configurations, changing_picture_sets])
def test_refused_videos__can_still_be_had_by_seeking(make: Callable[[], bytes]) -> None:
    data = make()
    expected = in_sequence(data)
    video = open_video(data)
    for wanted in ([0, 5, 40], list(range(len(expected))), [len(expected) - 1]):
        assert np.array_equal(video.get_frames(wanted), expected[wanted])


def without_usability(sequence: bytes) -> bytes:
    """A sequence set without its last part, which tells how far pictures are reordered."""
    bits = "".join(f"{byte:08b}" for byte in sequence.replace(b"\0\0\3", b"\0\0"))
    at = 32

    def golomb() -> int:
        nonlocal at
        zeros = bits.index("1", at) - at
        at += 2 * zeros + 1
        return int(bits[at - zeros - 1 : at], 2) - 1

    golomb()
    if sequence[1] >= 100:
        golomb(), golomb(), golomb()
        at += 2
    golomb()
    if golomb() == 0:
        golomb()
    golomb()
    at += 1
    golomb(), golomb()
    at += 1 if bits[at] == "1" else 2
    at += 1
    if bits[at] == "1":
        at += 1
        golomb(), golomb(), golomb(), golomb()
    else:
        at += 1
    assert bits[at] == "1"
    kept = bits[:at] + "01"
    kept += "0" * (-len(kept) % 8)
    found = bytearray()
    for byte in int(kept, 2).to_bytes(len(kept) // 8, "big"):
        if byte <= 3 and found[-2:] == b"\0\0":
            found.append(3)
        found.append(byte)
    return bytes(found)


@pytest.mark.parametrize("name", ["plain", "pyramid", "open groups", "baseline", "top field first"])
def test_planned__waits_for_reordered_pictures_that_nothing_announces(name: str) -> None:
    data = encoded(name)
    sequence = sets_of(data)[0]
    shorter = without_usability(sequence)
    path = (*TO_AVC1, b"avcC")
    start = boxes(data, path)[-1][0] + 8 + 6
    content = len(shorter).to_bytes(2, "big") + shorter
    data = replaced(data, path, start, start + 2 + len(sequence), content)
    assert_plans_are_exact(data, 10, seed=1)


# Indices that are not what was written


def test_packet_index__comes_back_as_it_was() -> None:
    for name in ("plain", "turned", "uneven times", "lossless RGB", "first frames hidden"):
        index = index_packets(encoded(name))
        found = PacketIndex.from_bytes(index.to_bytes())
        for each in fields(PacketIndex):
            assert np.array_equal(getattr(found, each.name), getattr(index, each.name)), each.name
        assert found.to_bytes() == index.to_bytes() == index_packets(encoded(name)).to_bytes()


def signed(content: bytes) -> bytes:
    """With the checksum that belongs to it, as somebody who knows the format would."""
    return content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))


def test_packet_index__altered_or_cut_is_refused() -> None:
    content = index_packets(encoded("plain")).to_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        altered = bytearray(content)
        altered[int(generator.integers(len(content)))] ^= int(generator.integers(1, 256))
        with pytest.raises(InputError, match="packet index"):
            PacketIndex.from_bytes(bytes(altered))
    for length in range(0, len(content), 7):
        with pytest.raises(InputError, match="packet index"):
            PacketIndex.from_bytes(content[:length])
    with pytest.raises(InputError, match="packet index has been cut short"):
        PacketIndex.from_bytes(content + b"\0")
    with pytest.raises(InputError, match=r"version 2, this program knows 1; update"):
        PacketIndex.from_bytes(signed(content[:4] + b"\2\0" + content[6:]))


def test_planned__refuses_the_index_of_another_video_of_the_same_size() -> None:
    one, two = (encode_video(moving_pattern(24, phase=phase), 12.0) for phase in (0.0, 1.0))
    # What is missing in length is added in a box that means nothing.
    length = max(len(one), len(two)) + 8
    one, two = (data + box(b"free", bytes(length - len(data) - 8)) for data in (one, two))
    assert len(one) == len(two) == length
    packets = index_packets(one).to_bytes()
    assert np.array_equal(PlannedVideo(one, packets).get_frames([3]), in_sequence(one)[[3]])
    with pytest.raises(InputError, match="has been altered"):
        PlannedVideo(two, packets).get_frames([3])
    with pytest.raises(InputError, match="one of them has been altered or cut short"):
        PlannedVideo(two[:-1], packets)


def test_planned__any_changed_byte_of_a_packet_is_an_error() -> None:
    data = encode_video(moving_pattern(24), 12.0)
    packets = index_packets(data)
    generator = np.random.default_rng(0)
    for packet in range(24):
        changed = bytearray(data)
        place = int(packets.offset[packet] + generator.integers(packets.size[packet]))
        changed[place] ^= 1 << int(generator.integers(8))
        with pytest.raises(InputError, match=f"packet {packet} has been altered"):
            PlannedVideo(bytes(changed), packets.to_bytes()).get_frames(range(24))


def test_planned__survives_every_forged_index() -> None:
    data = encode_video(moving_pattern(24), 12.0)
    content = index_packets(data).to_bytes()
    generator = np.random.default_rng(0)
    numbers = (0, 1, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1)
    ends = {"error": 0, "frames": 0}
    for _ in range(400):
        forged = bytearray(content)
        for _ in range(int(generator.integers(1, 4))):
            place = 6 + int(generator.integers(len(forged) - 14))
            struct.pack_into("<I", forged, place, numbers[generator.integers(len(numbers))])
        try:
            video = PlannedVideo(data, signed(bytes(forged)))
            video.get_frames(range(min(24, video.num_frames)))
            ends["frames"] += 1
        except InputError:
            ends["error"] += 1
    assert ends["error"] > 200, ends


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": float("inf")}, "describes no video"),
        ({"fps": float("nan")}, "describes no video"),
        ({"rotation": 45}, "describes no video"),
        ({"width": 0}, "describes no video"),
        ({"extradata": b"\x01"}, "describes no video"),
        ({"width": 2**15, "height": 2**15}, "at most 2000000 frames"),
        ({"time_base": Fraction(2**31)}, r"claims \d+ seconds; at most 86400"),
        ({"offset": np.full(24, 2**62)}, "leads out of its video"),
        ({"offset": np.full(24, -1)}, "leads out of its video"),
        ({"size": np.zeros(24, np.int64)}, "leads out of its video"),
        ({"flags": np.zeros(24, np.uint8)}, "leads out of its video"),
        ({"pts": np.zeros(24, np.int64)}, "describes no video"),
        ({"pts": np.arange(24) - 2**62 - 2**61}, r"claims|describes no video"),
        ({"flags": np.full(24, IDR | HIDDEN, np.uint8)}, "shows no frame"),
    ],
)
def test_planned__names_what_a_forged_index_claims(change: dict[str, object], message: str) -> None:
    data = encode_video(moving_pattern(24), 12.0)
    forged = replace(index_packets(data), **change)
    with pytest.raises(InputError, match=message):
        PlannedVideo(data, forged.to_bytes())


def test_planned__a_frame_of_another_size_than_indexed_is_an_error() -> None:
    data = encode_video(moving_pattern(24), 12.0)
    forged = replace(index_packets(data), width=16, height=16)
    with pytest.raises(InputError, match="frame of 32x32 pixels, its packet index speaks of 16x16"):
        PlannedVideo(data, forged.to_bytes()).get_frames([0])


def test_planned__a_forged_video_does_not_spoil_the_next() -> None:
    # Two videos of one configuration may share a decoder; what one brings must not stay in it.
    good, sets = encoded("plain"), sets_of(encode(Profile("bframes=3:cqm=jvt")))
    expected = in_sequence(good)
    forged = remux(good, before_keyframes(packets_of(good), sets[1]))
    with av.open(io.BytesIO(forged)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        index = replace(
            index_packets(good),
            video_bytes=len(forged),
            offset=np.array([packet.pos for packet in packets]),
            size=np.array([packet.size for packet in packets]),
            checksum=np.array([zlib.crc32(bytes(packet)) for packet in packets], np.uint32),
        )
    packets_of_good = index_packets(good).to_bytes()
    for _ in range(3):
        other = PlannedVideo(forged, index.to_bytes()).get_frames(range(NUM_FRAMES))
        assert not np.array_equal(other, expected)
        found = PlannedVideo(good, packets_of_good).get_frames(range(NUM_FRAMES))
        assert np.array_equal(found, expected)


# Damage that no checksum tells


def damaged_reference() -> tuple[bytes, range]:
    """A video and the frames of its second group, whose second picture is damaged."""
    packets = packets_of(encoded("pyramid"))
    keyframes = [number for number, (*_, is_keyframe) in enumerate(packets) if is_keyframe]
    chosen = keyframes[1] + 1
    content, *rest = packets[chosen]
    for place in range(len(content) // 4, len(content)):
        damaged = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        data = remux(
            encoded("pyramid"), [*packets[:chosen], (damaged, *rest), *packets[chosen + 1 :]]
        )
        with av.open(io.BytesIO(data)) as container:
            if any(frame.is_corrupt for frame in container.decode(video=0)):
                return data, range(keyframes[1], keyframes[2])
    raise AssertionError("no byte of it can be damaged so that it shows")


@pytest.mark.parametrize("planned", [False, True])
def test_damage__is_an_error_in_its_group_and_nothing_in_others(planned: bool) -> None:
    data, group = damaged_reference()
    expected = in_sequence(data)
    video = open_video(data, "auto", index_packets(data).to_bytes() if planned else None)
    for wanted in ([group[-1]], [group[5], group[8]], [0, group[-1], NUM_FRAMES - 1]):
        with pytest.raises(InputError, match="damaged"):
            video.get_frames(wanted)
    for wanted in ([0, group[0] - 1], [group[-1] + 1, NUM_FRAMES - 1], [5, NUM_FRAMES - 3]):
        assert np.array_equal(video.get_frames(wanted), expected[wanted])


def test_decoding__ends_where_it_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Profile("keyint=250:scenecut=0"))  # one keyframe
    packets = index_packets(data).to_bytes()
    for module in (pyav_video, planned_video):
        monkeypatch.setattr(module, "MAX_DECODED_PIXELS", 20 * 48 * 32)
    for video in (open_video(data), open_video(data, "auto", packets)):
        assert len(video.get_frames([3])) == 1
        with pytest.raises(InputError, match="with more keyframes"):
            video.get_frames([NUM_FRAMES - 1])
    monkeypatch.setattr(pyav_video, "MAX_CLIP_BYTES", 5 * 48 * 32 * 3)
    for video in (open_video(data), open_video(data, "auto", packets)):
        with pytest.raises(InputError, match="6 frames of 48x32 pixels are more than"):
            video.get_frames(range(6))
        assert len(video.get_frames(range(6), (8, 8))) == 6
