"""Which videos are meant: folders, files and globs to files with names, keys and sizes."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from worldmodel.data.journal import Source
from worldmodel.errors import InputError

# fmt: off
EXTENSIONS = frozenset((
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "asf",
    "flv", "ogv", "ogg", "3gp", "3g2", "ivf", "y4m",
))
# fmt: on


def find_sources(videos: Sequence[str]) -> tuple[list[Source], list[Path]]:
    """The videos that were meant, by name, and the files that were named one by one.

    Raises:
        InputError: a folder is missing or holds no video, or a glob matches nothing.
    """
    files, named = find_videos(videos)
    keys = unique_keys([name for name, _ in files])
    sources = []
    for (name, path), key in zip(files, keys, strict=True):
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        sources.append(Source(name, path, key, status.st_size, status.st_mtime_ns))
    return sources, named


def find_videos(videos: Sequence[str]) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The files that were meant, as (name, path) by name, and those that were named one by one.

    A name is the path within the folder that was given, or the file's own name.

    Raises:
        InputError: a folder is missing or holds no video, or a glob matches nothing.
    """
    found: dict[Path, str] = {}
    named: list[Path] = []
    for given in videos:
        path = Path(given)
        if path.is_dir():
            inside = sorted(file for file in _files_in(path) if _looks_like_video(file, path))
            if not inside:
                raise InputError(
                    f"folder {given} holds no video; looked for files ending in "
                    f"{', '.join(sorted(EXTENSIONS))}"
                )
            for file in inside:
                found.setdefault(file.resolve(), file.relative_to(path).as_posix())
        elif path.is_file():
            named.append(path)
            found.setdefault(path.resolve(), path.name)
        else:
            matches = sorted(Path(match) for match in glob.glob(given, recursive=True))
            matches = [match for match in matches if match.is_file()]
            if not matches:
                raise InputError(f"{given} does not exist; name a folder, a video or a glob")
            for match in matches:
                found.setdefault(match.resolve(), match.name)
    if not found:
        raise InputError("no videos given; name a folder, a video or a glob")
    return sorted((name, path) for path, name in found.items()), named


def _files_in(folder: Path) -> Iterator[Path]:
    """All files to the bottom, also through links to folders, each folder once."""
    seen: set[str] = set()
    # Links last, so that a folder which is also here itself goes by its own name.
    waiting = [str(folder)]
    while waiting:
        for root, folders, files in os.walk(waiting.pop(0)):
            if (real := os.path.realpath(root)) in seen:
                folders.clear()
                continue
            seen.add(real)
            # What is hidden is no source, nor may it stand for a folder that is also linked openly.
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [os.path.join(root, name) for name in folders]
            waiting += [path for path in paths if os.path.islink(path)]
            yield from (Path(root, name) for name in files)


def _looks_like_video(path: Path, folder: Path) -> bool:
    # Hidden folders too: what waits in one of ours to be put into shards is no source.
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix[1:].lower() in EXTENSIONS and not hidden and path.is_file()


def unique_keys(names: Sequence[str]) -> list[str]:
    """A key for each file: its name without what a key cannot hold, and no two alike.

    `holiday/day 1.mp4` -> `holiday_day_1`; where two files would share a key, those after the
    first get a number.
    """
    keys: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem = name.rpartition(".")[0] or name
        base = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_")[-80:] or "video"
        key, number = base, 1
        # Without regard to case: some file systems would write one over the other.
        while key.lower() in taken:
            number += 1
            key = f"{base}_{number}"
        taken.add(key.lower())
        keys.append(key)
    return keys
