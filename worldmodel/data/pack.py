"""A folder of any videos to shards that are cheap to read.

Each video is scaled so that its short side is small, turned upright, freed of its sound and cut
into consecutive pieces of at most 10 seconds, each a sample of its own. Small H.264 with a keyframe
in every twelfth frame is what makes reading fast: from 128 pixels a clip of 16 frames costs about a
sixth of what it costs from 640.

The pictures keep the order and the average rate of their video; where its frames are unevenly
spaced in time (a phone in the dark) they become evenly spaced.
"""

import glob
import itertools
import json
import math
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from worldmodel.data import sampling, transforms
from worldmodel.data.encode import encode_video
from worldmodel.data.shards import write_index, write_shard
from worldmodel.data.video import VideoDecoder, open_video
from worldmodel.errors import InputError

MAX_SECONDS = 10.0
# 10 s at 60 frames a second; slow motion is cut into shorter pieces, to bound the memory of one.
MAX_FRAMES = 600
# A clip of 16 frames at every second one: what is shorter serves nobody.
MIN_FRAMES = 16
MAX_MISSING_SHARE = 0.05
SAMPLES_PER_SHARD = 256  # about 80 MB at 128 pixels
QUALITY = 20
# fmt: off
EXTENSIONS = frozenset((
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "asf",
    "flv", "ogv", "ogg", "3gp", "3g2", "ivf", "y4m",
))
# fmt: on


@dataclass(frozen=True)
class PackSummary:
    """What became of the videos.

    Attributes:
        num_videos: videos of which at least one piece was packed.
        num_samples: pieces for training.
        num_val_samples: pieces for validation.
        skipped: file name -> why it was left out.
    """

    num_videos: int
    num_samples: int
    num_val_samples: int
    skipped: dict[str, str]


@dataclass(frozen=True)
class _Piece:
    key: str
    metadata: dict[str, object]
    video: Path  # lies in the temporary folder until its shard is written


@dataclass(frozen=True)
class _Packed:
    """One video's pieces, or why there are none."""

    name: str
    pieces: tuple[_Piece, ...]
    reason: str | None = None


def pack(
    videos: Sequence[str], out: Path, size: int = 128, processes: int | None = None
) -> PackSummary:
    """Pack videos into `out/train/` and, 5 % of the pieces by key, `out/val/`.

    The result depends on the videos and on `size` alone, not on the number of processes.

    Args:
        videos: folders (searched to the bottom), files or globs.
        out: the set's folder; shards of an earlier packing in it are replaced.
        size: pixels of the short side.
        processes: how many videos to work on at once; one per core by default.

    Returns:
        What was packed and what was skipped; both are printed too.

    Raises:
        InputError: a folder is missing or empty, a file named by itself is no video, nothing at
            all could be packed, or `out` cannot be written or holds another kind of set.
    """
    if size < 16 or size % 2:
        raise InputError(f"size must be an even number of at least 16 pixels, got {size}")
    if processes is not None and processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")
    out = Path(out)
    files, named = find_videos(videos)
    for path in named:
        _check_named(path)
    _check_out(out)
    keys = unique_keys([name for name, _ in files])
    with TemporaryDirectory(prefix=".pack-", dir=out) as folder:
        work = partial(_pack_one, size=size, folder=Path(folder))
        jobs = [(path, name, key) for (name, path), key in zip(files, keys, strict=True)]
        packed = _run(work, jobs, processes)
        skipped = {item.name: item.reason for item in packed if item.reason is not None}
        pieces = sorted((piece for item in packed for piece in item.pieces), key=lambda p: p.key)
        if not pieces:
            raise InputError(f"none of {len(files)} videos could be packed; {_listed(skipped)}")
        num_train, num_val = _write_set(out, pieces, size)
    summary = PackSummary(len(packed) - len(skipped), num_train, num_val, skipped)
    print(
        f"packed {summary.num_videos} of {len(files)} videos into {num_train} samples for training "
        f"and {num_val} for validation in {out}"
    )
    return summary


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
            inside = sorted(file for file in path.rglob("*") if _looks_like_video(file))
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


def _looks_like_video(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix[1:].lower() in EXTENSIONS and path.is_file() and not hidden


def _check_named(path: Path) -> None:
    try:
        open_video(path).close()
    except InputError as error:
        raise InputError(f"{path} is no video that can be read ({error})") from error


def _check_out(out: Path) -> None:
    """Make the folder, and refuse to write among the shards of something else."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    index = out / "index.json"
    try:
        arguments = json.loads(index.read_bytes())["arguments"] if index.exists() else {}
        known = not arguments or arguments.get("command") == "pack"
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise InputError(f"{out} holds a set that was not made by pack; choose another folder")


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


def _run(
    work: "partial[_Packed]", jobs: Sequence[tuple[Path, str, str]], processes: int | None
) -> list[_Packed]:
    """Work through the videos with a progress bar; names what is skipped as it happens."""
    packed: list[_Packed] = []
    workers = min(processes or os.cpu_count() or 1, len(jobs))
    with tqdm(total=len(jobs), unit="video", desc="pack", dynamic_ncols=True) as bar:
        for item in _results(work, jobs, workers):
            packed.append(item)
            if item.reason is not None:
                bar.write(f"skipped {item.name}: {item.reason}")
            bar.update()
    return packed


def _results(
    work: "partial[_Packed]", jobs: Sequence[tuple[Path, str, str]], workers: int
) -> Iterator[_Packed]:
    if workers == 1:
        yield from map(work, jobs)
        return
    # Spawned, not forked: torch and the decoders of this process have threads of their own.
    context = multiprocessing.get_context("spawn")
    num_done = 0
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for item in pool.map(work, jobs):
                num_done += 1
                yield item
    except BrokenProcessPool:
        # A decoder took its process down, and the pool with it. The rest goes one by one, each in
        # a process of its own, so that only the culprit is lost.
        for job in jobs[num_done:]:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                try:
                    yield pool.submit(work, job).result()
                except BrokenProcessPool:
                    yield _Packed(job[1], (), "its decoder crashed")


def _pack_one(job: tuple[Path, str, str], size: int, folder: Path) -> _Packed:
    """Cut one video into encoded pieces, which are left in `folder`."""
    path, name, key = job
    pieces: list[_Piece] = []
    try:
        video = open_video(path)
        try:
            width, height = even_size(video.width, video.height, size, video.pixel_aspect)
            fps = video.fps
            _check_length(video)
            for number, (start, stop) in enumerate(cut(video.num_frames, fps)):
                frames = video.get_frames(range(start, stop), (width, height))
                piece_key = f"{key}-{number:04d}"
                metadata = {
                    "source": Path(name).name,
                    "fps": fps,
                    "num_frames": len(frames),
                    "width": width,
                    "height": height,
                    "start_seconds": float(video.pts_seconds([start])[0]),
                    "seed": None,
                    "kind": "video",
                }
                pieces.append(_Piece(piece_key, metadata, _store(folder, piece_key, frames, fps)))
        finally:
            video.close()
    except (InputError, ValueError, MemoryError) as error:
        # Nothing of a damaged video is kept: what its end looks like cannot be trusted.
        return _Packed(name, (), " ".join(str(error).replace(str(path), "").split()))
    return _Packed(name, tuple(pieces))


def _check_length(video: VideoDecoder) -> None:
    if video.num_missing > MAX_MISSING_SHARE * video.num_frames:
        raise InputError(
            f"it has been cut short: {video.num_missing} of "
            f"{video.num_frames + video.num_missing} frames are missing"
        )
    if video.num_frames < MIN_FRAMES:
        raise InputError(f"it has {video.num_frames} frames, at least {MIN_FRAMES} are needed")


def _store(folder: Path, key: str, frames: np.ndarray, fps: float) -> Path:
    path = folder / f"{key}.mp4"
    path.write_bytes(encode_video(frames, fps, crf=QUALITY))
    return path


def even_size(width: int, height: int, size: int, pixel_aspect: float) -> tuple[int, int]:
    """Scaled (width, height) with an even long side, which H.264's colours need.

    Raises:
        InputError: the video is more than 16 times as long as wide.
    """
    scaled = transforms.scaled_size(width, height, size, pixel_aspect)
    return scaled[0] + scaled[0] % 2, scaled[1] + scaled[1] % 2


def cut(num_frames: int, fps: float) -> list[tuple[int, int]]:
    """[start, stop) of consecutive pieces of nearly equal length, none longer than 10 seconds."""
    longest = max(MIN_FRAMES, min(MAX_FRAMES, int(MAX_SECONDS * fps)))
    count = math.ceil(num_frames / longest)
    borders = [num_frames * number // count for number in range(count + 1)]
    return list(itertools.pairwise(borders))


def _write_set(out: Path, pieces: Sequence[_Piece], size: int) -> tuple[int, int]:
    """Write both splits and the index; returns the numbers of samples."""
    (out / "index.json").unlink(missing_ok=True)
    held = [piece for piece in pieces if _for_validation(piece.key)]
    if len(held) == len(pieces):
        held = []
    splits = {"train": [piece for piece in pieces if piece not in held], "val": held}
    for split, chosen in splits.items():
        for old in (out / split).glob("clips-*.tar"):
            old.unlink()
        for number, first in enumerate(range(0, len(chosen), SAMPLES_PER_SHARD)):
            write_shard(
                out / split / f"clips-{number:06d}.tar",
                _members(chosen[first : first + SAMPLES_PER_SHARD], split),
            )
    write_index(out, {"command": "pack", "size": size})
    return len(splits["train"]), len(held)


def _for_validation(key: str) -> bool:
    return sampling.validation_rank(key) < sampling.VALIDATION_SHARE


def _members(pieces: Sequence[_Piece], split: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    for piece in pieces:
        metadata = json.dumps({**piece.metadata, "split": split}, sort_keys=True)
        yield piece.key, {"mp4": piece.video.read_bytes(), "json": metadata.encode()}


def _listed(skipped: dict[str, str]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
    return shown + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")
