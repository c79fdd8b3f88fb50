"""A folder of any videos to shards that are cheap to read.

Each video is scaled so that its short side is small, turned upright, freed of its sound and cut
into pieces of at most 10 seconds within its scenes (`worldmodel.data.pieces`), each a sample of its
own. Small H.264 with a keyframe in every twelfth frame is what makes reading fast: from 128 pixels
a clip of 16 frames costs about a sixth of what it costs from 640. With `keep` a video becomes one
sample as it is (`worldmodel.data.remux`).

The pictures keep their times: a constant rate stays exactly what it was, NTSC's too, and frames
that are unevenly spaced (a phone in the dark) stay so.

Videos go in by name. A shard is written as soon as its samples are there, so neither memory nor the
space for what waits grows with their number. A packing can be killed at any moment: again with the
same arguments it goes on, and the bytes are those of one that was never stopped
(`worldmodel.data.journal`).
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.data import sampling
from worldmodel.data.engine import Crashed, Engine, run_jobs
from worldmodel.data.index import INDEX_NAME, has_all_shards, read_index, write_index
from worldmodel.data.journal import (
    STAGING_NAME,
    Journal,
    Packed,
    Piece,
    Record,
    Source,
    read_json,
    record_video,
    refuse_other_arguments,
    sole_writer,
    sources_sha256,
    write_json,
)
from worldmodel.data.pieces import MIN_FRAMES, cut_video
from worldmodel.data.quarantine import printable
from worldmodel.data.remux import keep_video
from worldmodel.data.shards import SPLITS, make_folder, scan_shard, write_shard
from worldmodel.data.sources import find_sources
from worldmodel.data.video import open_video
from worldmodel.errors import InputError

SAMPLES_PER_SHARD = 256  # about 80 MB at 128 pixels
# Whole videos are larger: a shard is closed before it exceeds this.
MAX_SHARD_BYTES = 1 << 30
PLACING_NAME = "placing.json"


@dataclass
class PackSummary:
    """What became of the videos.

    Attributes:
        num_videos: videos of which at least one piece was packed.
        num_samples: pieces for training.
        num_val_samples: pieces for validation.
        skipped: file name -> why it was left out, or its path where an earlier one has that name;
            empty where the set was complete already.
        num_cuts: scene cuts that were found; 0 where the set was complete already.
        num_dropped: frames of scenes too short to be kept; 0 where the set was complete already.
    """

    num_videos: int = 0
    num_samples: int = 0
    num_val_samples: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    num_cuts: int = 0
    num_dropped: int = 0


def pack(
    videos: Sequence[str],
    out: Path,
    size: int = 128,
    processes: int | None = None,
    *,
    engine: Engine = "processes",
    keep: bool = False,
    scene_cuts: bool = True,
) -> PackSummary:
    """Pack videos into `out/train/` and, 5 % of the pieces by key, `out/val/`.

    The result depends on the videos, `size`, `keep` and `scene_cuts` alone, not on the engine, the
    number of processes or interruptions. Where it is there already, nothing is done. Where it is of
    other videos, or some were changed after it was packed, it is packed again.

    Args:
        videos: folders (searched to the bottom, through links too), files or globs.
        out: the set's folder; shards of other videos in it, packed with the same options, are
            replaced at the very end.
        size: pixels of the short side; of no effect with `keep`.
        processes: how many videos to work on at once; one per core by default. With 1 that is this
            process, which a decoder that crashes takes along; else only its own is lost.
        engine: `processes` of this machine, or a `ray` cluster, all of whose nodes must see the
            videos and `out` under the same paths (a shared file system).
        keep: do not encode anew: the picture stream as it is, one sample per video.
        scene_cuts: look for scene cuts.

    Returns:
        What was packed and what was skipped; both are printed too.

    Raises:
        InputError: a folder is missing or empty, a file named by itself is no video, nothing at
            all could be packed, `out` cannot be written or holds another kind of set or one packed
            with other options, a packing with others was interrupted there, or another process is
            at work there.
    """
    if size < 16 or size % 2:
        raise InputError(f"size must be an even number of at least 16 pixels, got {size}")
    if processes is not None and processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")
    out = Path(out)
    sources, named = find_sources(videos)
    for path in named:
        _check_named(path)
    _check_out(out)
    arguments: dict[str, Any] = {
        "command": "pack",
        "size": None if keep else size,
        "keep": keep,
        "scene_cuts": scene_cuts,
    }
    work = partial(keep_video if keep else partial(cut_video, size=size), scene_cuts=scene_cuts)
    run = partial(run_jobs, engine=engine, processes=processes)
    try:
        return _pack(out, sources, arguments, work, run)
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror or error}; what is done is kept, "
            "the same command goes on with it"
        ) from error


def _pack(
    out: Path,
    sources: Sequence[Source],
    arguments: Mapping[str, Any],
    work: Callable[[Source, Path], Packed],
    run: Callable[..., Generator[Record | Crashed, None, None]],
) -> PackSummary:
    """Pack what is not packed yet."""
    journal = Journal(out.resolve())
    whole = {**arguments, "sources_sha256": sources_sha256(sources)}
    with sole_writer(out):
        _place(journal)  # of a run that was killed while it did so
        if (out / INDEX_NAME).is_file():
            index = read_index(out)
            refuse_other_arguments(out, index.get("arguments"), arguments)
            if index["arguments"] == whole and has_all_shards(out, index):
                changed = _changed_since_packed(out, sources)
                if not changed:
                    print(f"{out} is complete: nothing to do")
                    return _summary_of(out)
                print(f"{changed[0]} has changed since {out} was packed: it is packed again")
        journal.begin(arguments, sources)
        summary = PackSummary()
        splits = _Splits(journal)
        for source, record in _records(journal, sources, work, run):
            summary.num_cuts += record.packed.num_cuts
            summary.num_dropped += record.packed.num_dropped
            if record.reason is not None:
                name = str(source.path) if record.name in summary.skipped else record.name
                summary.skipped[name] = record.reason
            for piece in record.packed.pieces:
                splits.add(source, piece)
        shards = splits.close()
        if not shards:
            journal.remove()
            raise InputError(
                f"none of {len(sources)} videos could be packed; {_listed(summary.skipped)}"
            )
        write_json(journal.root / PLACING_NAME, {"arguments": whole, "shards": shards})
        _place(journal)
    summary.num_videos = len(sources) - len(summary.skipped)
    summary.num_samples, summary.num_val_samples = splits.num_samples()
    _print_summary(summary, len(sources), out)
    return summary


def _records(
    journal: Journal,
    sources: Sequence[Source],
    work: Callable[[Source, Path], Packed],
    run: Callable[..., Generator[Record | Crashed, None, None]],
) -> Iterator[tuple[Source, Record]]:
    """What became of each video, with a progress bar; names what is skipped as it happens."""
    done = _finished(journal, sources)
    left = [source for source, is_done in zip(sources, done, strict=True) if not is_done]
    job = partial(record_video, pack_video=work, journal=journal)
    bar = tqdm(total=len(sources), initial=sum(done), unit="video", desc="pack", dynamic_ncols=True)
    with contextlib.closing(run(job, left)) as results, bar:
        for source, is_done in zip(sources, done, strict=True):
            record = journal.record(source) if is_done else next(results)
            if record is None or isinstance(record, Crashed):
                how = f" ({record.reason})" if record is not None else ""
                record = Record.of(source, Packed(()), f"its decoder crashed{how}")
                journal.write_record(source, record)
            if record.reason is not None:
                bar.write(printable(f"skipped {record.name}: {record.reason}"))
            yield source, record
            bar.update(not is_done)


def _finished(journal: Journal, sources: Sequence[Source]) -> list[bool]:
    """Which videos need not be decoded: their pieces are in a shard, or wait to be."""
    # Shards are filled in the order of the videos, so those that are written hold the first pieces.
    num_written = {
        split: sum(len(scan_shard(path)) for path in (journal.root / split).glob("*.tar"))
        for split in ("train", "val")
    }
    done = []
    for source in sources:
        record = journal.record(source)
        is_done = record is not None
        for piece in record.packed.pieces if record is not None else ():
            split = "val" if _for_validation(piece.key) else "train"
            if num_written[split]:
                num_written[split] -= 1
            else:
                is_done &= journal.is_staged(source, piece)
        done.append(is_done)
    return done


class _Split:
    """Fills the shards of one split, one after another."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name
        self._pending: list[tuple[Source, Piece]] = []
        self._num_bytes = 0
        self.shards: list[str] = []
        self.num_samples = 0

    def add(self, source: Source, piece: Piece) -> None:
        if self._pending and self._num_bytes + piece.num_bytes > MAX_SHARD_BYTES:
            self.flush()
        self._pending.append((source, piece))
        self._num_bytes += piece.num_bytes
        if len(self._pending) == SAMPLES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a shard, unless an earlier run has, and remove it."""
        if not self._pending:
            return
        shard = f"{self._name}/clips-{len(self.shards):06d}.tar"
        path = self._journal.root / shard
        keys = [piece.key for _, piece in self._pending]
        if not path.exists() or [ref.key for ref in scan_shard(path)] != keys:
            write_shard(path, self._samples())
        for source, piece in self._pending:
            folder = self._journal.folder_of(source.key)
            for name in piece.files.values():
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other pieces wait there still
                folder.rmdir()
        self.shards.append(shard)
        self.num_samples += len(self._pending)
        self._pending, self._num_bytes = [], 0

    def _samples(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        for source, piece in self._pending:
            folder = self._journal.folder_of(source.key)
            metadata = json.dumps({**piece.metadata, "split": self._name}, sort_keys=True)
            files = {name: (folder / file).read_bytes() for name, file in piece.files.items()}
            yield piece.key, {**files, "json": metadata.encode()}


class _Splits:
    """Training and validation side by side."""

    def __init__(self, journal: Journal) -> None:
        self._train, self._val = _Split(journal, "train"), _Split(journal, "val")
        # Validation waits for the first piece that is for training: should none come, all are.
        self._held: list[tuple[Source, Piece]] = []
        self._is_training = False

    def add(self, source: Source, piece: Piece) -> None:
        if not _for_validation(piece.key):
            self._is_training = True
            self._train.add(source, piece)
        else:
            self._held.append((source, piece))
        if self._is_training:
            for held in self._held:
                self._val.add(*held)
            self._held = []

    def close(self) -> list[str]:
        """Write what waits; returns all shards."""
        for held in self._held:
            self._train.add(*held)
        self._train.flush()
        self._val.flush()
        return [*self._train.shards, *self._val.shards]

    def num_samples(self) -> tuple[int, int]:
        """Of training and of validation."""
        return self._train.num_samples, self._val.num_samples


def _for_validation(key: str) -> bool:
    return sampling.validation_rank(key) < sampling.VALIDATION_SHARE


def _place(journal: Journal) -> None:
    """Move the finished shards to where they belong, if all are finished."""
    plan = read_json(journal.root / PLACING_NAME)
    if plan is None:
        return
    # First of all, so that no index ever names shards that are gone.
    (journal.out / INDEX_NAME).unlink(missing_ok=True)
    for split in SPLITS:
        for old in (journal.out / split).glob("clips-*.tar"):
            if f"{split}/{old.name}" not in plan["shards"]:
                old.unlink()
    for shard in plan["shards"]:
        if (journal.root / shard).exists():
            (journal.out / shard).parent.mkdir(exist_ok=True)
            os.replace(journal.root / shard, journal.out / shard)
    for leftover in journal.out.glob(f"{INDEX_NAME}.*.part"):
        leftover.unlink()
    write_index(journal.out, plan["arguments"])
    journal.remove()


def _changed_since_packed(out: Path, sources: Sequence[Source]) -> list[str]:
    """Names of the videos that were changed after the set's index was written.

    The index knows names and sizes only, since equal videos must give an equal index. A time in
    the future says nothing.
    """
    packed_ns, now_ns = (out / INDEX_NAME).stat().st_mtime_ns, time.time_ns()
    return [source.name for source in sources if packed_ns < source.mtime_ns <= now_ns]


def _summary_of(out: Path) -> PackSummary:
    """What a complete set says of itself."""
    index = read_index(out)
    summary = PackSummary()
    videos: set[str] = set()
    for shard in index["shards"]:
        keys = [ref.key for ref in scan_shard(out / shard["path"])]
        if Path(shard["path"]).parent.name == "val":
            summary.num_val_samples += len(keys)
        else:
            summary.num_samples += len(keys)
        videos.update(key if index["arguments"]["keep"] else key.rpartition("-")[0] for key in keys)
    summary.num_videos = len(videos)
    return summary


def _check_named(path: Path) -> None:
    try:
        open_video(path).close()
    except InputError as error:
        raise InputError(f"{path} is no video that can be read ({error})") from error


def _check_out(out: Path) -> None:
    """Make the folder, and refuse to write among the shards of something else."""
    make_folder(out)
    index = out / INDEX_NAME
    if not index.exists() and not (out / STAGING_NAME).exists() and any(out.glob("*/*.tar")):
        raise InputError(
            f"{out} holds shards that this command did not make (no {INDEX_NAME}); "
            "choose another folder"
        )
    try:
        # An index that does not say who made it is somebody else's, and so are its shards.
        known = not index.exists() or (
            json.loads(index.read_bytes())["arguments"].get("command") == "pack"
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise InputError(f"{out} holds a set that was not made by pack; choose another folder")


def _print_summary(summary: PackSummary, num_found: int, out: Path) -> None:
    text = (
        f"packed {summary.num_videos} of {num_found} videos into {summary.num_samples} samples "
        f"for training and {summary.num_val_samples} for validation in {out}; "
        f"{summary.num_cuts} scene cuts found"
    )
    if summary.num_dropped:
        text += f", {summary.num_dropped} frames of scenes shorter than {MIN_FRAMES} left out"
    print(text)


def _listed(skipped: dict[str, str]) -> str:
    some = list(skipped.items())[:3]
    shown = "; ".join(printable(f"{name}: {reason}") for name, reason in some)
    return shown + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")
