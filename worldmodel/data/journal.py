"""What a packing that is under way leaves on the disk, so that it can be killed and continued.

    OUT/.packing/
      run.json                 the arguments, and a digest over the sources with their times
      videos/KEY.json          what became of one video: its pieces, or why it was skipped
      videos/KEY/0000.mp4      its pieces, until the shard that they belong into is written
      {train,val}/clips-….tar  shards that are written
      placing.json             all shards are written and are being moved to their place

Each file is written whole or not at all. A video whose record is there is not decoded again; one
whose file has changed since, or whose pieces are gone, is.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av

from worldmodel.data.video import reason_of
from worldmodel.errors import InputError

STAGING_NAME = ".packing"
# Of many arguments that differ, an error names the first few.
MAX_NAMED = 4


@dataclass(frozen=True)
class Source:
    """A video to be packed.

    Attributes:
        name: path within the folder that was given, or the file's own name.
        path: the file, absolute.
        key: what its samples are called.
        num_bytes: its size.
        mtime_ns: when it was last changed.
    """

    name: str
    path: Path
    key: str
    num_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Piece:
    """One sample that waits for its shard.

    Attributes:
        key: the sample's.
        files: member's extension -> name of the file within the video's folder.
        num_bytes: of all files together.
        metadata: the sample's `json`, without its split.
    """

    key: str
    files: dict[str, str]
    num_bytes: int
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Packed:
    """What a video gave.

    Attributes:
        pieces: its samples, in order.
        num_cuts: scene cuts that were found.
        num_dropped: frames of scenes that are too short to be kept.
    """

    pieces: tuple[Piece, ...]
    num_cuts: int = 0
    num_dropped: int = 0


@dataclass(frozen=True)
class Record:
    """What became of a video: what it gave, or the reason why it was skipped."""

    name: str
    num_bytes: int
    mtime_ns: int
    packed: Packed
    reason: str | None = None

    @classmethod
    def of(cls, source: Source, packed: Packed, reason: str | None = None) -> "Record":
        """The record of a source as it was when it was found."""
        return cls(source.name, source.num_bytes, source.mtime_ns, packed, reason)

    @classmethod
    def from_json(cls, text: bytes) -> "Record":
        """Read what `asdict` has written."""
        fields = json.loads(text)
        packed = fields.pop("packed")
        pieces = tuple(Piece(**piece) for piece in packed.pop("pieces"))
        return cls(packed=Packed(pieces, **packed), **fields)

    def is_of(self, source: Source) -> bool:
        """Whether the source is still what it was."""
        return (self.name, self.num_bytes, self.mtime_ns) == (
            source.name,
            source.num_bytes,
            source.mtime_ns,
        )


@contextlib.contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Refuse to write a set where another process does; gives way when that has ended, or died.

    Raises:
        InputError: another process writes there, or the folder cannot be opened.
    """
    try:
        handle = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InputError(
            f"another process writes a set into {out}; wait for it, or choose another folder"
        ) from error
    except OSError:
        pass  # some network file systems have no locks; it is a courtesy
    try:
        yield
    finally:
        os.close(handle)


class Journal:
    """The staging folder of one packing.

    Args:
        out: the set's folder, absolute, since workers may be on other machines.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.root = out / STAGING_NAME
        self._videos = self.root / "videos"

    def begin(self, arguments: Mapping[str, Any], sources: Sequence[Source]) -> None:
        """Go on with an earlier run that was cut short, or begin anew.

        Raises:
            InputError: that run was one with other arguments.
        """
        note = self.root / "run.json"
        found = read_json(note)
        if found is None:
            self.remove()
        else:
            hint = f"choose another folder or remove {self.root}"
            refuse_other_arguments(self.out, found["arguments"], arguments, hint)
        for folder in (self._videos, self.root):
            folder.mkdir(parents=True, exist_ok=True)
        digest = sources_sha256(sources, with_times=True)
        if found is not None and found["sources"] != digest:
            # Some shard may hold what is no longer there. What still fits is kept: videos whose
            # pieces wait here.
            for shard in self.root.glob("*/*.tar"):
                shard.unlink()
        for leftover in self.root.glob("*/*.part"):
            leftover.unlink()
        write_json(note, {"arguments": dict(arguments), "sources": digest})

    def record(self, source: Source) -> Record | None:
        """What became of a video, if that is known and the file has not changed since."""
        try:
            record = Record.from_json(self._record_path(source.key).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            return None  # of another version
        return record if record.is_of(source) else None

    def write_record(self, source: Source, record: Record) -> None:
        """Note what became of a video."""
        write_json(self._record_path(source.key), asdict(record))

    def _record_path(self, key: str) -> Path:
        return self._videos / f"{key}.json"

    def folder_of(self, key: str) -> Path:
        """Where a video's pieces wait."""
        return self._videos / key

    def is_staged(self, source: Source, piece: Piece) -> bool:
        """Whether a piece waits here, whole."""
        folder = self.folder_of(source.key)
        try:
            sizes = [(folder / name).stat().st_size for name in piece.files.values()]
        except OSError:
            return False
        return sum(sizes) == piece.num_bytes

    def remove(self) -> None:
        """Remove the staging folder."""
        # By another name first: a worker of a run that was killed lives half a second longer, and
        # what it still writes must not be found.
        gone = self.root.with_name(f"{STAGING_NAME}-done")
        shutil.rmtree(gone, ignore_errors=True)
        if self.root.exists():
            os.replace(self.root, gone)
        shutil.rmtree(gone, ignore_errors=True)


def record_video(
    source: Source, pack_video: Callable[[Source, Path], Packed], journal: Journal
) -> Record:
    """What a worker does with one video; a video that cannot be used is recorded with the reason.

    Args:
        source: the video.
        pack_video: writes its pieces into a folder.
        journal: where the result is noted.
    """
    folder = journal.folder_of(source.key)
    folder.mkdir(exist_ok=True)
    try:
        record = Record.of(source, pack_video(source, folder))
    except Exception as error:
        # A disk that is full would fail all others too; anything else is a matter of this video.
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise
        # Nothing of a damaged video is kept: what its end looks like cannot be trusted.
        shutil.rmtree(folder, ignore_errors=True)
        text = (str(error) or type(error).__name__).replace(str(source.path), "")
        if not isinstance(error, ValueError | MemoryError) or isinstance(error, av.FFmpegError):
            text = f"it cannot be packed ({type(error).__name__}: {reason_of(error)})"
        reason = " ".join(re.sub(re.escape(str(folder)) + r"\S*", "", text).split())
        record = Record.of(source, Packed(()), reason)
    journal.write_record(source, record)
    return record


def stage(folder: Path, stem: str, members: Mapping[str, bytes]) -> dict[str, str]:
    """Write a sample's members into its video's folder; returns `Piece.files`."""
    files: dict[str, str] = {}
    for extension, content in members.items():
        files[extension] = f"{stem}.{extension}"
        # Whole or not at all: a worker of a killed run may be writing the same bytes still.
        partial = folder / f"{files[extension]}.{os.getpid()}.part"
        partial.write_bytes(content)
        os.replace(partial, folder / files[extension])
    return files


def sources_sha256(sources: Sequence[Source], with_times: bool = False) -> str:
    """A digest over the names and sizes of all sources, and when they were changed if asked for."""
    digest = hashlib.sha256()
    for source in sources:
        facts = [source.name, source.num_bytes, *([source.mtime_ns] if with_times else [])]
        digest.update(json.dumps(facts).encode() + b"\n")
    return digest.hexdigest()


def refuse_other_arguments(
    out: Path,
    found: object,
    wanted: Mapping[str, Any],
    hint: str = "choose another folder or remove that one",
) -> None:
    """Refuse to continue, or to replace, what was made otherwise.

    Args:
        out: the set's folder.
        found: the arguments it was made with, as a file says.
        wanted: those that were given now.
        hint: what to do.

    Raises:
        InputError: it says what differs, and the hint.
    """
    known = found if isinstance(found, Mapping) else {}
    differing = [name for name in wanted if known.get(name) != wanted[name]]
    if differing:
        named = differing[:MAX_NAMED]
        was = ", ".join(f"{name} {known.get(name, 'unknown')}" for name in named)
        now = ", ".join(f"{name} {wanted[name]}" for name in named)
        more = f" (and {len(differing) - MAX_NAMED} more)" if len(differing) > MAX_NAMED else ""
        raise InputError(
            f"{out} holds a set made with {was}, but now asked for with {now}{more}; {hint}"
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """A file of this folder; None where it is missing."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove {path.parent}") from error
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(content, sort_keys=True) + "\n")
    os.replace(partial, path)
