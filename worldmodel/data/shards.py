"""Write and read shards.

A shard is a plain tar in WebDataset's layout: members `KEY.EXTENSION`, a sample being the members
that share a key, where the key ends at the first dot after the last slash. Shards are read by byte
range from their headers alone, so any sample is one seek away and resuming costs nothing. Members
are never extracted to the disk, never unpickled and never handed to a shell.

A set is a folder of them (`worldmodel.data.index`).
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import webdataset
from braceexpand import braceexpand

from worldmodel.data import sampling
from worldmodel.errors import InputError

SPLITS = ("train", "val", "test", "ood")
VIDEO_EXTENSIONS = ("mp4", "mov", "mkv", "webm", "avi")

_BLOCK = 512  # bytes; every tar header and every padded member is a multiple of it
# 2 GiB: a member is read into memory whole, by every worker that loads a clip of it.
MAX_MEMBER_BYTES = 1 << 31
# A sample's metadata is some hundred bytes; 4 MiB is no metadata, and takes 100 MB once unpacked.
_MAX_JSON_BYTES = 1 << 22
_MAX_DIGITS = 100
# Longest name or record of a member that is read, and most records for all members.
_MAX_HEADER_BYTES = 1 << 16
_MAX_GLOBAL_RECORDS = 64
_MAX_LENGTH = 1e9  # frames, or frames per second; more is a mistake
_MAX_BRACES = 100_000  # names that one pattern with braces may stand for
_KEY_AND_EXTENSION = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$", re.DOTALL)


# (frames of the longest scene, frames per second), None where nobody has said
Length = tuple[int, float] | None


@dataclass(frozen=True)
class SampleRef:
    """Where the members of one sample lie.

    Attributes:
        key: the sample's name, unique within its shard.
        shard: the tar.
        members: extension (everything after the key's dot, lower case) -> (offset, size) in bytes.
    """

    key: str
    shard: Path
    members: dict[str, tuple[int, int]]

    @property
    def is_block(self) -> bool:
        """Whether this is a block of two worlds, which must never be trained on."""
        return "a.mp4" in self.members or "b.mp4" in self.members

    @property
    def video_extension(self) -> str | None:
        """Extension of the member that holds the video; None where there is none."""
        return next((name for name in VIDEO_EXTENSIONS if name in self.members), None)


def resolve_shards(patterns: str | Sequence[str]) -> list[Path]:
    """The shards that patterns stand for, sorted and without repetition.

    Args:
        patterns: names of tars, globs (`*`, `?`, `**`), braces (`{000..003}`) or folders. A folder
            stands for its own `*.tar`, or, where it has none, for those of its `train/`.

    Raises:
        InputError: a pattern matches nothing, or is a URL or a pipe.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given:
        raise InputError("no shards given; name tars, a glob such as 'folder/*.tar', or a folder")
    found: set[Path] = set()
    for pattern in given:
        matches = _matches(str(pattern))
        if not matches:
            raise InputError(
                f"no shards match {str(pattern)!r} (looked from {Path.cwd()}); "
                "check the spelling, or make them with 'generate' or 'pack'"
            )
        found.update(matches)
    return sorted(found)


def _matches(pattern: str) -> list[Path]:
    if pattern.lstrip().startswith("pipe:"):
        raise InputError(f"{pattern!r} would run a command; shards are only read from files")
    if "://" in pattern:
        raise InputError(f"{pattern!r} is a URL; copy the shards to a local folder first")
    found: list[Path] = []
    for name in names_of(pattern):
        path = Path(name)
        if path.is_dir():
            found += sorted(path.glob("*.tar")) or sorted((path / "train").glob("*.tar"))
        elif path.is_file():
            found.append(path)
        else:
            found += [Path(match) for match in glob.glob(name, recursive=True)]
    return [path for path in found if path.is_file()]


def names_of(pattern: str) -> list[str]:
    """The names and globs that a local pattern stands for; what exists has no braces to expand.

    Raises:
        InputError: braces are not balanced, or there are over 100,000 names.
    """
    return [pattern] if Path(pattern).exists() else expand_braces(pattern)


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with braces such as `{000..003}` or `{a,b}` stands for.

    Raises:
        InputError: braces are not balanced, or there are over 100,000 names.
    """
    # Counted beforehand, since the expansion itself makes all names before it gives the first.
    ranges = re.findall(r"\{(\d{1,18})\.\.(\d{1,18})", pattern)
    sizes = [abs(int(last) - int(first)) + 1 for first, last in ranges]
    lists = (pattern.count(",") + 1) ** max(0, pattern.count("{") - len(ranges))
    if math.prod(sizes) * lists > _MAX_BRACES:
        raise InputError(f"{pattern!r} stands for more than {_MAX_BRACES} names; use a glob")
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise InputError(f"braces in {pattern!r} are not balanced") from error


def scan_shard(path: Path) -> list[SampleRef]:
    """List the samples of a shard from its headers, in the order in which they stand.

    Folders, links, sparse files and names without a key (such as `.DS_Store`) are passed over.

    Raises:
        InputError: the file is missing, is no tar, is compressed, has been cut short (also where
            the cut falls between two members, which tar readers take for the end), or holds a
            member twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"shard {path} does not exist or is no file")
    members: dict[str, dict[str, tuple[int, int]]] = {}
    end = 0
    try:
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            if file.read(3) in (b"\x1f\x8b\x08", b"BZh", b"\xfd7z"):
                raise InputError(
                    f"shard {path} is compressed, so that no sample can be read by its place; "
                    "unpack it to a plain .tar"
                )
            file.seek(0)
            with tarfile.open(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r:") as tar:
                for info in tar:
                    if info.offset_data <= end or len(tar.pax_headers) > _MAX_GLOBAL_RECORDS:
                        raise tarfile.ReadError("its headers are forged")
                    end = info.offset_data
                    if not info.isfile() or info.issparse():
                        continue
                    if info.size < 0 or info.offset_data + info.size > file_size:
                        raise InputError(f"shard {path} has been cut short in {info.name!r}")
                    end += -(-info.size // _BLOCK) * _BLOCK
                    _add_member(members, path, info)
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise InputError(
                    f"shard {path} has been cut short after {len(members)} samples: "
                    "it lacks the mark that ends a tar; copy or make it again"
                )
    except InputError:
        raise
    except _FORGED_HEADER_ERRORS as error:
        raise InputError(f"shard {path} is no readable tar: {error}") from error
    return [SampleRef(key, path, places) for key, places in members.items()]


# What tarfile lets through of its own where numbers are none, too large, or nested without end.
_FORGED_HEADER_ERRORS = (
    tarfile.TarError,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    MemoryError,
    RecursionError,
)


class _HeaderReader:
    """A shard's file for tarfile, which believes what headers say of the lengths of names.

    It reads forwards only: a negative size would lead back, and round and round.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {count} bytes")
        return self._file.read(count)

    def seek(self, position: int) -> int:
        if position < self._file.tell() - _BLOCK:
            raise tarfile.ReadError("a header leads back")
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def _add_member(
    members: dict[str, dict[str, tuple[int, int]]], path: Path, info: tarfile.TarInfo
) -> None:
    match = _KEY_AND_EXTENSION.match(info.name)
    if match is None:
        return
    key, extension = match[1], match[2].lower()
    places = members.setdefault(key, {})
    if extension in places:
        raise InputError(f"shard {path} holds {info.name!r} twice; give samples unique keys")
    places[extension] = (info.offset_data, info.size)


def read_members(ref: SampleRef, extensions: Iterable[str] | None = None) -> dict[str, bytes]:
    """Read some members of a sample (all, by default) and no other byte of the shard.

    Raises:
        InputError: a member is missing or larger than 2 GiB, or the shard is gone or has become
            shorter.
    """
    wanted = list(ref.members) if extensions is None else list(extensions)
    missing = [name for name in wanted if name not in ref.members]
    if missing:
        raise InputError(
            f"sample {ref.key} of {ref.shard} has no member {', '.join(missing)}; "
            f"it has {', '.join(sorted(ref.members))}"
        )
    contents: dict[str, bytes] = {}
    try:
        with ref.shard.open("rb") as file:
            for name in wanted:
                offset, size = ref.members[name]
                if size > MAX_MEMBER_BYTES:
                    raise InputError(
                        f"{ref.key}.{name} of {ref.shard} has {size} bytes; at most "
                        f"{MAX_MEMBER_BYTES} are read; cut it into parts"
                    )
                file.seek(offset)
                contents[name] = file.read(size)
                if len(contents[name]) != size:
                    raise InputError(f"shard {ref.shard} ends within {ref.key}.{name}")
    except (OSError, MemoryError) as error:
        raise InputError(f"shard {ref.shard} cannot be read: {error}") from error
    return contents


def video_members(ref: SampleRef) -> list[str]:
    """Extensions of the members that are videos: one in a clip, `a.mp4` and `b.mp4` in a block."""
    return [name for name in ref.members if name.rpartition(".")[2] in VIDEO_EXTENSIONS]


def read_metadata(ref: SampleRef) -> dict[str, Any]:
    """The sample's `json` member; empty where it has none.

    Raises:
        InputError: the member is no JSON object or is larger than 4 MiB.
    """
    if "json" not in ref.members:
        return {}
    check_metadata_size(ref)
    return parse_metadata(read_members(ref, ["json"])["json"], ref)


def check_metadata_size(ref: SampleRef) -> None:
    """Refuse a `json` member that is too large to be read.

    Raises:
        InputError: it is larger than 4 MiB.
    """
    if ref.members["json"][1] > _MAX_JSON_BYTES:
        raise InputError(
            f"{ref.key}.json of {ref.shard} is larger than {_MAX_JSON_BYTES} bytes, which is no "
            "metadata"
        )


def parse_metadata(content: bytes, ref: SampleRef) -> dict[str, Any]:
    """A sample's metadata from the bytes of its `json` member.

    Raises:
        InputError: it is no JSON object.
    """
    place = f"{ref.key}.json of {ref.shard}"
    try:
        metadata = json.loads(content, parse_int=parse_int)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{place} must be a JSON object, found {type(metadata).__name__}")
    return metadata


def parse_int(text: str) -> int:
    """A whole number in JSON; a ValueError where it has over 100 digits."""
    # Larger ones fit no float and no array, and fail wherever they are used.
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def known_length(metadata: dict[str, Any]) -> Length:
    """(frames of the longest scene, frames per second) if the metadata gives sensible numbers."""
    frames, fps = metadata.get("num_frames"), metadata.get("fps")
    if not isinstance(frames, int) or not isinstance(fps, int | float):
        return None
    if not is_length(frames) or not is_length(fps):
        return None
    scenes = sampling.scenes_of(frames, scene_cuts(metadata))
    return max(end - first for first, end in scenes), float(fps)


def is_length(value: object) -> bool:
    """Whether this can be a number of frames or frames per second."""
    return isinstance(value, int | float) and 0 < value < _MAX_LENGTH


def scene_cuts(metadata: dict[str, Any]) -> list[int]:
    """Frames at which a new scene begins; none where the metadata names none."""
    cuts = metadata.get("scene_cuts")
    return [cut for cut in cuts if isinstance(cut, int)] if isinstance(cuts, list) else []


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
    """Write a shard whole or not at all; equal samples give equal bytes.

    Args:
        path: the tar; its folder is made.
        samples: (key, extension -> bytes) in the order in which they shall stand.

    Returns:
        How many samples were written.

    Raises:
        InputError: the place cannot be written to.
        ValueError: a key is empty, repeated, or has a dot, which would end it early.
    """
    path = Path(path)
    keys: set[str] = set()
    # Time 0 and no owner: the bytes depend on the samples alone.
    with (
        written_whole(path, "shard") as file,
        webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False) as tar,
    ):
        for key, members in samples:
            if not key or "." in key or key in keys:
                raise ValueError(f"key {key!r} of {path} is empty, repeated or has a dot")
            keys.add(key)
            tar.write({"__key__": key, **members})
    return len(keys)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(out: Path) -> None:
    """Make a folder where it is missing, and see that it can be written to, before long work.

    Raises:
        InputError: it cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error


@contextlib.contextmanager
def written_whole(path: Path, what: str) -> Iterator[BinaryIO]:
    """A file that takes its name when all of it has been written and lies on the disk.

    Args:
        path: the name; its folder is made.
        what: it is, for the error.

    Raises:
        InputError: the place cannot be written to.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            # Before the rename, or a power cut could leave the name on an empty file.
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {what} {path}: {error.strerror or error}") from error
    finally:
        # Gone after the rename; its folder may not even exist where that was the failure.
        with contextlib.suppress(OSError):
            partial.unlink()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
