"""Forged and damaged shards: an error that names them, or nothing; never anything else.

Each seed stands for one shard, made from a small good one by one kind of harm. It is read as
training reads it, and verified.
"""

import io
import os
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from patterns import clip_members, moving_pattern

from worldmodel.clips import ClipBatch, Truth
from worldmodel.data.catalog import open_catalog
from worldmodel.data.order import ClipRequest
from worldmodel.data.packets import PacketIndex, index_packets, with_packets
from worldmodel.data.shards import SampleRef, read_members, read_metadata, scan_shard
from worldmodel.data.stream import ClipDataset, ClipLoader, FixedSampler
from worldmodel.data.truth import encode_truth
from worldmodel.data.verify import verify_shards
from worldmodel.data.video import open_video
from worldmodel.errors import InputError

NUM_FRAMES, SIZE = 20, 32
MAX_CPU_SECONDS = 2.0  # per shard, reading and verifying together
MAX_WALL_SECONDS = 60  # the machine may be busy with other things
NUMBERS = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Member:
    """A member of a tar as it is going to be written, true or not."""

    name: str
    content: bytes
    size: int | None = None  # what the header says, if it lies
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    records: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]

    def to_bytes(self) -> bytes:
        info = tarfile.TarInfo(self.name)
        info.size = len(self.content) if self.size is None else self.size
        info.type, info.linkname, info.pax_headers = self.kind, self.link, self.records
        head = info.tobuf(tarfile.PAX_FORMAT if self.records else tarfile.GNU_FORMAT)
        return head + self.content + bytes(-len(self.content) % 512)


@dataclass(frozen=True)
class Harmed:
    """A shard's bytes, the samples that may be broken and those that must be."""

    content: bytes
    may_break: frozenset[str] | None = None  # None: any of them
    must_break: frozenset[str] = frozenset()


def to_tar(members: list[Member]) -> bytes:
    return b"".join(member.to_bytes() for member in members) + bytes(1024)


def encode(container: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, 16, options={"g": "8", "x264-params": "threads=1"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, picture in enumerate(moving_pattern(NUM_FRAMES, SIZE, SIZE)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 16)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def truth_members() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    depth = generator.uniform(1, 9, (NUM_FRAMES, SIZE, SIZE)).astype(np.float32)
    ids = generator.integers(0, 9, (NUM_FRAMES, SIZE, SIZE)).astype(np.uint8)
    state = {
        "camera_pose": generator.normal(size=(NUM_FRAMES, 3, 4)).astype(np.float32),
        "distance": generator.normal(size=(NUM_FRAMES, 5)).astype(np.float32),
        "category": np.arange(5, dtype=np.float32),
    }
    return encode_truth(Truth(depth, ids, state))


@cache
def good_samples() -> dict[str, dict[str, bytes]]:
    """One sample of each kind that can be read."""
    physics, packed = clip_members(NUM_FRAMES), clip_members(NUM_FRAMES, phase=9.0)
    return {
        "physics": {**physics, **with_packets(physics["mp4"]), **truth_members()},
        "plain": {"mp4": clip_members(NUM_FRAMES, phase=3.0)["mp4"]},
        "packed": {**packed, **with_packets(packed["mp4"])},
        "old": {"avi": encode("avi", "mpeg4"), "json": b'{"kind": "video"}'},
        "free": {"mkv": encode("matroska", "libx264")},
    }


def good_members() -> list[Member]:
    return [
        Member(f"{key}.{name}", content)
        for key, sample in good_samples().items()
        for name, content in sample.items()
    ]


Harm = Callable[[np.random.Generator], Harmed]


def below(generator: np.random.Generator, count: int) -> int:
    return int(generator.integers(count))


def flip(generator: np.random.Generator, content: bytes) -> bytes:
    """1 to 200 bytes changed, few more often than many."""
    changed = bytearray(content)
    for _ in range(int(200 ** generator.random())):
        changed[below(generator, len(changed))] ^= int(generator.integers(1, 256))
    return bytes(changed)


def with_content(
    members: list[Member], chosen: int, content: bytes, must_break: bool = False
) -> Harmed:
    key = frozenset([members[chosen].key])
    members = [*members]
    members[chosen] = replace(members[chosen], content=content)
    return Harmed(to_tar(members), key, key if must_break else frozenset())


def flipped_anywhere(generator: np.random.Generator) -> Harmed:
    return Harmed(flip(generator, to_tar(good_members())))


def flipped_member(generator: np.random.Generator) -> Harmed:
    members = good_members()
    chosen = below(generator, len(members))
    return with_content(members, chosen, flip(generator, members[chosen].content))


def flipped_where_checksums_are(generator: np.random.Generator) -> Harmed:
    members = good_members()
    chosen = next(i for i, member in enumerate(members) if member.name == "packed.mp4")
    content = bytearray(members[chosen].content)
    start = content.index(b"mdat") + 4
    index = index_packets(bytes(content))
    place = below(generator, int(index.size.sum()))
    content[start + place] ^= int(generator.integers(1, 256))
    # Between the box's start and the first packet there is nothing.
    return with_content(members, chosen, bytes(content), must_break=True)


def numbers_in_member(generator: np.random.Generator) -> Harmed:
    members = good_members()
    chosen = below(generator, len(members))
    content = bytearray(members[chosen].content)
    for _ in range(int(generator.integers(1, 9))):
        place = below(generator, max(1, len(content) - 4))
        order = ">I" if generator.random() < 0.5 else "<I"
        struct.pack_into(order, content, place, NUMBERS[below(generator, len(NUMBERS))])
    return with_content(members, chosen, bytes(content))


def numbers_in_boxes(generator: np.random.Generator) -> Harmed:
    """Sizes, counts and tables of an mp4's header."""
    members = good_members()
    names = [i for i, member in enumerate(members) if member.name.endswith(".mp4")]
    chosen = names[below(generator, len(names))]
    content = bytearray(members[chosen].content)
    start = content.index(b"moov")
    for _ in range(int(generator.integers(1, 4))):
        place = start + 4 * below(generator, (len(content) - start) // 4 - 1)
        struct.pack_into(">I", content, place, NUMBERS[below(generator, len(NUMBERS))])
    return with_content(members, chosen, bytes(content))


def shifted_member(generator: np.random.Generator) -> Harmed:
    members = good_members()
    chosen = below(generator, len(members))
    content = members[chosen].content
    place, count = below(generator, len(content)), below(generator, 100) + 1
    added = generator.bytes(count) if generator.random() < 0.5 else b""
    removed = 0 if added else count
    return with_content(members, chosen, content[:place] + added + content[place + removed :])


def truncated(generator: np.random.Generator) -> Harmed:
    content = to_tar(good_members())
    # The mark that ends a tar is two empty blocks, of which one is enough.
    return Harmed(content[: below(generator, len(content) - 1024)])


def truncated_between_blocks(generator: np.random.Generator) -> Harmed:
    content = to_tar(good_members())
    return Harmed(content[: 512 * below(generator, len(content) // 512 - 1)])


def truncated_member(generator: np.random.Generator) -> Harmed:
    members = good_members()
    chosen = below(generator, len(members))
    content = members[chosen].content
    return with_content(members, chosen, content[: below(generator, len(content))])


def swapped(generator: np.random.Generator) -> Harmed:
    members = good_members()
    one, two = (int(i) for i in generator.choice(len(members), 2, replace=False))
    first, second = members[one].content, members[two].content
    members[one] = replace(members[one], content=second)
    members[two] = replace(members[two], content=first)
    return Harmed(to_tar(members), frozenset([members[one].key, members[two].key]))


def forged_size(generator: np.random.Generator) -> Harmed:
    members = good_members()
    chosen = below(generator, len(members))
    size = len(members[chosen].content)
    sizes = (0, size - 1, size + 1, size + 512, size - 512, 1 << 20, 8**11 - 1, 1 << 62)
    sizes = (*sizes, -1, -512, -(1 << 40), 1 << 31, (1 << 31) + 1)
    members[chosen] = replace(members[chosen], size=sizes[below(generator, len(sizes))])
    return Harmed(to_tar(members))


def nested(generator: np.random.Generator) -> Harmed:
    members = good_members()
    return with_content(members, below(generator, len(members)), to_tar(good_members()[:3]))


def empty_member(generator: np.random.Generator) -> Harmed:
    members = good_members()
    return with_content(members, below(generator, len(members)), b"", must_break=True)


def no_tar(generator: np.random.Generator) -> Harmed:
    contents = (
        *(b"", bytes(512), bytes(1024), bytes(10240), b"\0", b"\x1f\x8b\x08" + bytes(99)),
        *(generator.bytes(5000), b"a" * 3000, to_tar(good_members())[512:]),
    )
    return Harmed(contents[below(generator, len(contents))])


def duplicates(generator: np.random.Generator) -> Harmed:
    members = good_members()
    again = members[below(generator, len(members))]
    if generator.random() < 0.3:
        again = replace(again, name=again.name.upper())
    members.insert(below(generator, len(members) + 1), again)
    return Harmed(to_tar(members))


def names_elsewhere(generator: np.random.Generator) -> Harmed:
    video = good_samples()["plain"]["mp4"]
    names = (
        *("/evil.mp4", "../evil.mp4", "../../../../evil.mp4", "a/../../evil.mp4", "./evil.mp4"),
        *("evil\0.mp4", "ev\nil.mp4", "\x1b[31mevil.mp4", "C:\\evil.mp4", "~/evil.mp4", ".mp4"),
        *("..mp4", "evil.", "evil..mp4", "evil.mp4.", "$(touch evil).mp4", "pipe:touch evil.mp4"),
        *("\udcff\udcfe.mp4", "é" * 40 + ".mp4", "\u202eevil.mp4", "a" * 99 + "/b.mp4", "//.mp4"),
    )
    member = Member(names[below(generator, len(names))], video)
    return Harmed(to_tar([*good_members(), member]), frozenset([member.key]))


def links(generator: np.random.Generator) -> Harmed:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    kinds = (*kinds, tarfile.DIRTYPE, tarfile.CONTTYPE, b"7", b"Z", b"V", tarfile.GNUTYPE_SPARSE)
    members = good_members()
    for number in range(int(generator.integers(1, 6))):
        kind = kinds[below(generator, len(kinds))]
        target = ("/etc/passwd", "../../evil", "plain.mp4", "evil")[below(generator, 4)]
        place = below(generator, len(members) + 1)
        size = (0, 0, 512, -512, 1 << 40)[below(generator, 5)]
        members.insert(place, Member(f"evil-{number}.mp4", b"", size, kind, target))
    return Harmed(to_tar(members))


def long_names(generator: np.random.Generator) -> Harmed:
    members = good_members()
    name = "n" * (1 << int(generator.integers(6, 20))) + ".mp4"
    long = Member(name, good_samples()["plain"]["mp4"])
    if generator.random() < 0.5:
        size = (0, -1, 1 << 33, 1 << 62, 70000, 511)[below(generator, 6)]
        kind = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)[below(generator, 2)]
        long = Member("././@LongLink", name.encode()[:5000], size, kind)
    count = 1 if generator.random() < 0.7 else 1 + (1 << 20) // len(name)
    place = below(generator, len(members) + 1)
    return Harmed(to_tar([*members[:place], *[long] * count, *members[place:]]))


def odd_records(generator: np.random.Generator) -> Harmed:
    records = (
        *({"size": "-512"}, {"size": "9" * 30}, {"size": "x"}, {"size": "1e9"}, {"size": "-1"}),
        *({"path": "../../evil.mp4"}, {"path": "\0"}, {"path": ""}, {"path": "a" * 60000}),
        *({"mtime": "nan"}, {"mtime": "-inf"}, {"uid": "-1"}, {"linkpath": "/etc/passwd"}),
        *({"hdrcharset": "BINARY"}, {"hdrcharset": "none"}, {"charset": "\udcff"}),
        *({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {"GNU.sparse.map": "1,2,x"}),
        *({"GNU.sparse.size": "99999999999"}, {"GNU.sparse.realsize": "-5"}),
        *({"GNU.sparse.offset": "9", "GNU.sparse.numbytes": "-9", "GNU.sparse.size": "1"},),
        {f"k{number}": "v" for number in range(3000)},
    )
    members = good_members()
    chosen = below(generator, len(members))
    chosen_records = records[below(generator, len(records))]
    members[chosen] = replace(members[chosen], records=chosen_records)
    content = to_tar(members)
    if generator.random() < 0.3:  # for all members
        content = content.replace(b"x\0\0\0", b"g\0\0\0", 1)
    if generator.random() < 0.3:  # a header of headers of headers
        info = tarfile.TarInfo("p")
        info.type, info.size = tarfile.XHDTYPE, 512
        content = (info.tobuf() + b"12 path=a.b\n".ljust(512, b"\0")) * 1500 + content
    if generator.random() < 0.2:  # lengths of records that are none
        content = content.replace(b" path=", b"0path=", 1).replace(b" size=", b"9size=", 1)
    return Harmed(content)


def missing(generator: np.random.Generator) -> Harmed:
    members = good_members()
    gone = members.pop(below(generator, len(members)))
    key = frozenset([gone.key])
    ending = gone.name.rpartition(".")[2]
    needed = gone.name.startswith("physics") and ending in ("png", "npz")
    needed = needed or gone.name in ("physics.mp4", "packed.mp4", "old.avi")
    return Harmed(to_tar(members), key, key if needed else frozenset())


def other_packets(generator: np.random.Generator) -> Harmed:
    members = good_members()
    chosen = next(i for i, member in enumerate(members) if member.name == "packed.mp4.packets")
    other = clip_members(NUM_FRAMES, phase=float(generator.random()))["mp4"]
    return with_content(members, chosen, with_packets(other)["mp4.packets"], must_break=True)


def forged_packets(generator: np.random.Generator) -> Harmed:
    """An index that is altered by somebody who knows to compute its checksum."""
    members = good_members()
    chosen = next(i for i, member in enumerate(members) if member.name == "packed.mp4.packets")
    content = members[chosen].content
    if generator.random() < 0.5:
        forged = bytearray(content[:-4])
        for _ in range(int(generator.integers(1, 4))):
            place = 4 + below(generator, len(forged) - 8)
            forged[place : place + 4] = struct.pack("<I", NUMBERS[below(generator, len(NUMBERS))])
        content = bytes(forged) + struct.pack("<I", zlib.crc32(forged))
    else:
        content = _forge(generator, PacketIndex.from_bytes(content)).to_bytes()
    return with_content(members, chosen, content)


def _forge(generator: np.random.Generator, index: PacketIndex) -> PacketIndex:
    count = len(index.pts)
    order = generator.permutation(count)
    changes = (
        {"fps": float("inf")},
        {"fps": 1e300},
        {"fps": 1e-300},
        {"pts": index.pts * 2**40},
        {"pts": index.pts + np.int64(2**62)},
        {"pts": index.pts * np.int64(2**50)},
        {"pts": index.pts[::-1].copy()},
        {"pts": np.zeros(count, np.int64)},
        {"offset": index.offset[order], "size": index.size[order]},
        {
            "offset": index.offset[order],
            "size": index.size[order],
            "checksum": index.checksum[order],
        },
        {"offset": -index.offset},
        {"flags": np.full(count, int(generator.integers(256)), np.uint8)},
        {"flags": generator.integers(0, 8, count).astype(np.uint8) | 1},
        {"extradata": generator.bytes(40)},
        {"extradata": b""},
        {"extradata": b"\x01" + index.extradata[1 : below(generator, 30) + 1]},
        {"extradata": flip(generator, index.extradata)},
        {"width": 8192, "height": 8192},
        {"width": 1, "height": 1},
        {"rotation": 90},
        {"pixel_aspect": Fraction(2**32 - 1)},
        {"pixel_aspect": Fraction(1, 2**32 - 1)},
        {"time_base": Fraction(2**32 - 1)},
        {"time_base": Fraction(1, 2**32 - 1)},
        {
            name: np.tile(getattr(index, name), 500)
            for name in ("offset", "size", "checksum", "flags")
        }
        | {"pts": np.arange(count * 500, dtype=np.int64)},
    )
    return replace(index, **changes[below(generator, len(changes))])


def bombs(generator: np.random.Generator) -> Harmed:
    members = good_members()
    member, content = _bombs()[below(generator, len(_bombs()))]
    chosen = next(i for i, each in enumerate(members) if each.name == member)
    return with_content(members, chosen, content, must_break=True)


@cache
def _bombs() -> list[tuple[str, bytes]]:
    found = [
        ("packed.json", b"[" * 100_000),
        ("packed.json", b'{"a":' * 50_000),
        ("packed.json", b'{"a": ' + b"9" * 100_000 + b"}"),
        ("packed.json", b'{"a": [' + b"[]," * 2_000_000 + b"1]}"),
        ("packed.json", b'{"num_frames": 1' + b"0" * 400 + b', "fps": 1e300}'),
        ("packed.json", b'{"num_frames": 20, "fps": 1' + b"0" * 400 + b', "width": 1}'),
        ("packed.json", b'{"scene_cuts": 5, "num_frames": 1e99, "width": 33}'),
    ]
    for name in ("depth.png", "ids.png"):
        for width, height in ((2**31 - 1, 2**31 - 1), (30000, 30000), (SIZE, SIZE * 10**6), (0, 0)):
            png = bytearray(good_samples()["physics"][name])
            struct.pack_into(">II", png, 16, width, height)
            struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
            found.append((f"physics.{name}", bytes(png)))
    header = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
    for text in (
        header % ("<f4", "(10**12, 3, 4)"),
        header % ("<f4", "(1000000000000, 3, 4)"),
        header % ("<f4", "(-20, 3, -4)"),
        header % ("|O", "(20, 3, 4)"),
        header % ("|V999999999", "(20, 3, 4)"),
        header % ("|S9", "(20, 3, 4)"),
        header % ("<M8[s]", "(20, 3, 4)"),
        header % ("<f4", "(" * 90 + ")" * 90),
        "__import__('os').system('touch evil')",
    ):
        head = text.encode().ljust(118) + b"\n"
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(960)
        found.append(("physics.state.npz", _zip({"camera_pose.npy": array})))
    found.append(("physics.state.npz", _zip({"camera_pose.npy": bytes(1 << 27)})))
    found.append(("physics.state.npz", _zip({f"{i}.npy": b"" for i in range(3000)})))
    found.append(("physics.state.npz", _zip({"../../evil.npy": b"x", "a.pkl": b"x"})))
    return found


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


HARMS: tuple[Harm, ...] = (
    *(flipped_anywhere, flipped_member, flipped_where_checksums_are, numbers_in_member),
    *(numbers_in_boxes, shifted_member, truncated, truncated_between_blocks, truncated_member),
    *(swapped, forged_size, nested, empty_member, no_tar, duplicates, names_elsewhere, links),
    *(long_names, odd_records, missing, other_packets, forged_packets, bombs),
)


def harmed(seed: int) -> tuple[str, Harmed]:
    """The shard of a seed, and the name of what was done to it."""
    harm = HARMS[seed % len(HARMS)]
    return harm.__name__, harm(np.random.default_rng(seed))


class Hang(BaseException):
    """Reading takes too long; not an Exception, so that nothing takes it for damage."""


@contextmanager
def watched() -> Iterator[None]:
    """Ends what hangs, as far as it comes back to Python at all."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MAX_WALL_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measure(ref: SampleRef) -> tuple[int, float]:
    """Frames and rate of a sample whose json does not tell."""
    assert ref.video_extension is not None
    video = open_video(read_members(ref, [ref.video_extension])[ref.video_extension])
    try:
        return video.num_frames, video.fps
    finally:
        video.close()


def train_on(path: Path) -> tuple[dict[str, str], set[str]]:
    """Read a shard as training does: sample -> why it failed, and the samples that gave a clip."""
    failed: dict[str, str] = {}
    clips: set[str] = set()
    refs = [ref for ref in scan_shard(path) if ref.video_extension is not None]
    if refs and not any(ref.is_block for ref in refs):
        try:
            # What a run does first of all.
            assert len(open_catalog([str(path)], 4, 8.0, measure)[0]) <= len(refs)
        except InputError as error:
            failed["all"] = str(error)
            assert "none of the" in str(error), error
    for with_truth in (False, True):
        chosen = [ref for ref in refs if not with_truth or "state.npz" in ref.members]
        dataset = ClipDataset(chosen, num_frames=4, fps=8.0, size=SIZE, with_truth=with_truth)
        requests = [ClipRequest(0, number) for number in range(len(chosen))]
        for number, item in enumerate(dataset.__getitems__(requests)):
            if isinstance(item, ClipBatch):
                clips.add(item.keys[0])
            else:
                failed[chosen[number].key] = item.reason
        if clips and not failed and chosen:
            loader = ClipLoader(dataset, FixedSampler(len(dataset), 2))
            assert sum(len(batch) for batch in loader) == len(chosen)
    for ref in refs:
        try:
            read_metadata(ref)
            read_members(ref)
        except InputError as error:
            failed[ref.key] = str(error)
    return failed, clips


def exercise(seed: int, folder: Path) -> str:
    """Read and verify the shard of a seed; returns how it ended.

    Raises:
        AssertionError: something else happened than an error that names what is broken.
    """
    name, shard = harmed(seed)
    path = folder / "shard.tar"
    path.write_bytes(shard.content)
    start = time.process_time()
    failed: dict[str, str] = {}
    scanned = True
    with watched():
        try:
            failed, _ = train_on(path)
        except InputError as error:
            assert "shard.tar" in str(error), error
            scanned = False
        report = verify_shards([str(path)], processes=0, quiet=True)
    seconds = time.process_time() - start
    assert seconds < MAX_CPU_SECONDS, f"{name} (seed {seed}) took {seconds:.1f} s"
    assert os.listdir(folder) == ["shard.tar"], "something was written"
    reasons = "\n".join(map(str, report.broken))
    assert "cannot be verified" not in reasons, f"{name} (seed {seed}): {reasons}"
    assert all(str(item).isprintable() for item in report.broken)
    named = {item.key for item in report.broken}
    assert (None in named) == (not scanned or not report.num_samples), f"{name} ({seed}): {reasons}"
    if None in named:
        return "shard refused"
    # A clip that is too short for training is no defect of its shard.
    unusable = {key for key, reason in failed.items() if "a clip needs" not in reason}
    assert unusable <= named, f"{name} (seed {seed}): not named {unusable - named}, {failed}"
    assert shard.must_break <= named, f"{name} (seed {seed}): not named {shard.must_break}"
    if shard.may_break is not None:
        assert named <= shard.may_break, f"{name} (seed {seed}): {reasons}"
    return "sample named" if named else "nothing wrong"


def run_batch(first: int, count: int, folder: Path, log: Path) -> None:
    """In a process of its own: the log's last line says where it ended."""
    with log.open("a") as file:
        for seed in range(first, first + count):
            file.write(f"seed {seed}\n")
            file.flush()
            file.write(f"{HARMS[seed % len(HARMS)].__name__}: {exercise(seed, folder)}\n")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        file.write(f"memory {memory} MB\n")


def test_good_shard__is_read_and_verified(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(to_tar(good_members()))
    failed, clips = train_on(path)
    assert (failed, clips) == ({}, set(good_samples()))
    report = verify_shards([str(path)], processes=0, quiet=True)
    assert report.summary() == "5 samples in 1 shards: all good"


def test_hostile_shards__are_refused_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends = Counter(exercise(seed, folder) for seed in range(4 * len(HARMS) + 8))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 600, f"memory grew by {grown:.0f} MB"
    assert sum(ends.values()) == 100 and min(ends.values()) > 5, ends
    assert [path for path in tmp_path.rglob("*") if "evil" in path.name] == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_hostile_shards__a_thousand_crash_nothing(tmp_path: Path) -> None:
    here = Path(__file__).parent
    ends: Counter[str] = Counter()
    for first in range(1000, 2000, 50):
        folder, log = tmp_path / f"{first}", tmp_path / f"{first}.log"
        folder.mkdir()
        code = (
            "import sys; from pathlib import Path; import test_hostile as t; "
            f"t.run_batch({first}, 50, Path({str(folder)!r}), Path({str(log)!r}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        lines = log.read_text().splitlines()
        assert done.returncode == 0, f"{lines[-1]}: exit {done.returncode}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        assert int(lines[-1].split()[1]) < 1500, lines[-1]
        ends.update(line.partition(": ")[2] for line in lines if ": " in line)
    assert sum(ends.values()) == 1000
