"""Whether shards are what their index says, and whether every sample in them can be used.

Of each shard the size and SHA-256 are held against the `index.json` of its set. Of each sample
every member is read, the videos are decoded frame by frame and then as training reads them, at
random places, which must give the same pictures to the bit; the truth must fit its video. Bytes
come from anywhere: whatever is wrong with them ends in a line that names the sample.
"""

import contextlib
import fnmatch
import glob
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from tqdm import tqdm

from worldmodel.data.index import INDEX_NAME, lengths_of, read_index
from worldmodel.data.packets import SUFFIX
from worldmodel.data.planned_video import PlannedVideo
from worldmodel.data.pyav_video import MAX_WALKED_PIXELS, PyavVideo, to_rgb
from worldmodel.data.quarantine import Broken, printable
from worldmodel.data.sampling import hash_words
from worldmodel.data.shards import (
    VIDEO_EXTENSIONS,
    SampleRef,
    file_sha256,
    names_of,
    read_members,
    read_metadata,
    resolve_shards,
    scan_shard,
    video_members,
)
from worldmodel.data.transforms import scaled_size
from worldmodel.data.truth import MEMBERS as TRUTH_MEMBERS
from worldmodel.data.truth import decode_truth
from worldmodel.data.video import VideoDecoder, reason_of
from worldmodel.errors import InputError

NUM_PLANS = 8  # random clips that are read of each video
_MAX_CLIP_FRAMES = 32
_MAX_STRIDE = 6
_SAMPLES_PER_JOB = 16
_MAX_BYTES_AT_ONCE = 1 << 28  # of decoded frames
_PHYSICS = "physics-world"


@dataclass(frozen=True)
class VerifyReport:
    """What was verified.

    Attributes:
        num_samples: samples that were found.
        num_shards: shards that were asked for.
        num_bytes: of the shards.
        broken: everything that is wrong, in the order of the shards.
        warnings: what is unusual and no error.
    """

    num_samples: int
    num_shards: int
    num_bytes: int
    broken: tuple[Broken, ...]
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """One line for all."""
        found = f"{self.num_samples} samples in {self.num_shards} shards"
        if not self.broken:
            return f"{found}: all good"
        samples = {(item.shard, item.key) for item in self.broken if item.key is not None}
        shards = {item.shard for item in self.broken if item.key is None}
        parts = [
            f"{len(places)} broken {name}{'s' * (len(places) > 1)}"
            for places, name in ((samples, "sample"), (shards, "shard"))
            if places
        ]
        return f"{' and '.join(parts)} of {found}; copy or make them again"


@dataclass(frozen=True)
class _Job:
    """A part of the work: samples of one shard, or the shard's own size and checksum."""

    shard: str
    refs: tuple[SampleRef, ...] = ()
    entry: dict[str, Any] | None = None


def verify_shards(
    shards: Sequence[str], processes: int | None = None, quiet: bool = False
) -> VerifyReport:
    """Verify shards; names what is broken as it is found.

    Args:
        shards: tars, globs, or folders (a set's folder stands for all its splits).
        processes: how many to work with, each of its own, so that a decoder that crashes costs one
            sample; one per core by default; 0 works in this process.
        quiet: print nothing.

    Raises:
        InputError: a pattern matches nothing.
    """
    if processes is not None and processes < 0:
        raise InputError(f"processes must be at least 1, got {processes}")
    plan = _Plan(shards)
    broken = list(plan.broken)
    with tqdm(
        total=plan.num_samples, unit="sample", desc="verify", dynamic_ncols=True, disable=quiet
    ) as bar:
        for line in (*(f"broken: {item}" for item in broken), *plan.warnings):
            _tell(bar, line, quiet)
        workers = os.cpu_count() if processes is None else processes
        with contextlib.closing(_results(plan.jobs, workers, _run)) as results:
            for job, found in results:
                broken += found
                for item in found:
                    _tell(bar, f"broken: {item}", quiet)
                bar.update(len(job.refs))
    order = {plan.name(path): number for number, path in enumerate(plan.paths)}
    broken.sort(key=lambda item: order.get(item.shard, -1))
    return VerifyReport(
        plan.num_samples, len(plan.paths), plan.num_bytes, tuple(broken), tuple(plan.warnings)
    )


def _tell(bar: "tqdm[Any]", line: str, quiet: bool) -> None:
    if not quiet:
        bar.write(line)


class _Plan:
    """What there is to do, from the shards' headers and indices alone.

    Args:
        shards: as `verify_shards` has them.

    Attributes:
        paths: of all shards, absolute, so that a set's folder is found from anywhere within it.
    """

    def __init__(self, shards: Sequence[str]) -> None:
        self.broken: list[Broken] = []
        self.warnings: list[str] = []
        self.jobs: list[_Job] = []
        self.num_samples = 0
        self.num_bytes = 0
        self._is_relative = not any(os.path.isabs(pattern) for pattern in shards)
        self._entries: dict[Path, dict[Path, dict[str, Any]]] = {}
        self._without_index: set[Path] = set()
        self.paths = sorted({path for pattern in shards for path in self._find(pattern)})
        for path in self.paths:
            self._add(path)
        for root in sorted({path.parent.parent for path in self.paths} & self._without_index):
            name = self.name(root)
            self._warn(f"{name} has no {INDEX_NAME}: only the contents of its shards are verified")

    def name(self, path: Path) -> str:
        """A shard's or folder's name as it is shown: from where the user stands, if so asked."""
        return os.path.relpath(path) if self._is_relative else str(path)

    def _warn(self, text: str) -> None:
        self.warnings.append(f"warning: {printable(text)}")

    def _find(self, pattern: str) -> set[Path]:
        """The shards that are there, and those that an index names in what was asked for."""
        if Path(pattern).is_dir():
            folder = _absolute(pattern)
            named = {path for root in (folder, folder.parent) for path in self._index(root)}
            found = {path for path in folder.rglob("*.tar") if path.is_file()}
            found |= {path for path in named if folder in path.parents}
            return found or set(map(_absolute, resolve_shards(pattern)))
        found = set(map(_absolute, resolve_shards(pattern)))
        # What the working folder is called is no pattern.
        here = glob.escape(os.getcwd())
        names = [os.path.normpath(os.path.join(here, name)) for name in names_of(pattern)]
        named = {
            path for root in {path.parent.parent for path in found} for path in self._index(root)
        }
        return found | {
            path for path in named if any(fnmatch.fnmatch(str(path), name) for name in names)
        }

    def _index(self, root: Path) -> dict[Path, dict[str, Any]]:
        """Shard -> what the set's index says of it."""
        if root not in self._entries:
            self._entries[root] = {}
            try:
                if (root / INDEX_NAME).exists():
                    self._entries[root] = _read_entries(root)
                else:
                    self._without_index.add(root)
            except InputError as error:
                self.broken.append(Broken(self.name(root / INDEX_NAME), None, str(error)))
        return self._entries[root]

    def _add(self, path: Path) -> None:
        name = self.name(path)
        if not path.is_file():
            self.broken.append(Broken(name, None, "the index names it, but it is missing"))
            return
        self.num_bytes += path.stat().st_size
        entries = self._index(path.parent.parent)
        if entries and path not in entries:
            self._warn(f"{name} is not in the index of its set")
        try:
            refs = scan_shard(Path(name))
        except InputError as error:
            reason = str(error).removeprefix(f"shard {name} ")
            self.broken.append(Broken(name, None, reason))
            refs = []
        else:
            if not refs:
                self.broken.append(Broken(name, None, "it holds no samples"))
            said = entries[path].get("num_samples") if path in entries else len(refs)
            if said != len(refs):
                reason = f"it has {len(refs)} samples but its index says {said}"
                self.broken.append(Broken(name, None, reason))
        self.num_samples += len(refs)
        if path in entries:
            self.jobs.append(_Job(name, entry=entries[path]))
        for first in range(0, len(refs), _SAMPLES_PER_JOB):
            self.jobs.append(_Job(name, tuple(refs[first : first + _SAMPLES_PER_JOB])))


def _absolute(path: str | Path) -> Path:
    """Without `..`, and links left as they are: the folder above is the one that is written."""
    return Path(os.path.abspath(path))


def _read_entries(root: Path) -> dict[Path, dict[str, Any]]:
    entries: dict[Path, dict[str, Any]] = {}
    for entry in read_index(root)["shards"]:
        name = entry.get("path") if isinstance(entry, dict) else None
        # A split and a tar in it; nothing that leads elsewhere.
        parts = Path(name).parts if isinstance(name, str) and "\0" not in name else ()
        if len(parts) != 2 or parts[0] in ("/", "..", ".") or not parts[1].endswith(".tar"):
            raise InputError(f"it names {name!r}, which is no shard of the set")
        entries[root / parts[0] / parts[1]] = entry
    return entries


def _results(
    jobs: Sequence[_Job], processes: int | None, run: Callable[[_Job], list[Broken]]
) -> Generator[tuple[_Job, list[Broken]], None, None]:
    if not processes:
        yield from ((job, run(job)) for job in jobs)
        return
    # Spawned, not forked: the decoders of this process have threads of their own.
    context = multiprocessing.get_context("spawn")
    left = list(jobs)
    while left:
        num_done = 0
        try:
            with _pool(min(processes, len(left)), context) as pool:
                with _ctrl_c_waits():
                    results = pool.map(run, left)
                for job, found in zip(left, results, strict=True):
                    num_done += 1
                    yield job, found
        except BrokenProcessPool:
            # A decoder took its process down, and the pool with it: the first job that is not done
            # is looked at sample by sample. Where it was another one, that comes next.
            yield left[num_done], _run_apart(left[num_done], context, run)
            num_done += 1
        left = left[num_done:]


@contextlib.contextmanager
def _pool(processes: int, context: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool that is not waited for where we are interrupted."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=context)
    is_done = False
    try:
        yield pool
        is_done = True
    finally:
        for worker in set() if is_done else set(multiprocessing.active_children()) - others:
            worker.kill()
        pool.shutdown(cancel_futures=not is_done)


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Processes begun in here never hear of Ctrl-C, which reaches the whole group; we do, after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_apart(job: _Job, context: Any, run: Callable[[_Job], list[Broken]]) -> list[Broken]:
    """Sample by sample, so that only the culprit is lost."""
    parts = [_Job(job.shard, (ref,)) for ref in job.refs] or [job]
    broken: list[Broken] = []
    while parts:
        num_done = 0
        try:
            with _pool(1, context) as pool:
                for part in parts:
                    with _ctrl_c_waits():
                        future = pool.submit(run, part)
                    broken += future.result()
                    num_done += 1
        except BrokenProcessPool:
            refs = parts[num_done].refs
            reason = "reading it ended the process: its decoder crashed"
            broken.append(Broken(job.shard, refs[0].key if refs else None, reason))
            num_done += 1
        parts = parts[num_done:]
    return broken


def _run(job: _Job) -> list[Broken]:
    """What is wrong with the samples of a job, or with its shard."""
    if job.entry is not None:
        return [Broken(job.shard, None, reason) for reason in _check_shard(job.shard, job.entry)]
    return [Broken(job.shard, ref.key, reason) for ref in job.refs for reason in check_sample(ref)]


def _check_shard(shard: str, entry: dict[str, Any]) -> list[str]:
    try:
        size, said = os.stat(shard).st_size, entry.get("bytes")
        if size != said:
            return [f"it has {size} bytes but its index says {said}"]
        found, said = file_sha256(Path(shard)), entry.get("sha256")
    except OSError as error:
        return [f"it cannot be read: {reason_of(error)}"]
    if found != said:
        return [f"its SHA-256 is {found} but its index says {said}"]
    return _check_lengths(shard, entry)


def _check_lengths(shard: str, entry: dict[str, Any]) -> list[str]:
    """By these a reader leaves out samples that are too short, without opening them."""
    named = [name for name in ("num_frames", "fps") if name in entry]
    try:
        found = lengths_of(scan_shard(Path(shard))) if named else {}
    except InputError:
        return []  # said of the sample
    return [
        f"its samples have {name} {found.get(name)} but its index says {entry[name]}"
        for name in named
        if found.get(name) != entry[name]
    ]


def check_sample(ref: SampleRef) -> list[str]:
    """What is wrong with a sample: a reason for each part of it that cannot be used."""
    metadata: dict[str, Any] = {}
    reasons: list[str] = []

    def attempt(name: str, check: Callable[[], None]) -> None:
        try:
            check()
        except InputError as error:
            reasons.append(f"{name}: {error}")
        except MemoryError:
            reasons.append(f"{name}: takes more memory than there is")
        except (
            Exception
        ) as error:  # ours to mend, but the next sample must be verified all the same
            reasons.append(f"{name}: cannot be verified ({type(error).__name__}: {error})")

    videos = video_members(ref)
    attempt("json", lambda: metadata.update(read_metadata(ref)))
    attempt("sample", partial(_check_videos, ref, videos))
    attempt("sample", partial(_check_others, ref, videos))
    for name in videos:
        attempt(name, partial(_check_scene, ref, name, metadata))
    return reasons


def _check_videos(ref: SampleRef, videos: Sequence[str]) -> None:
    if not videos:
        raise InputError(f"it has no video; it has {', '.join(sorted(ref.members)) or 'nothing'}")
    if ref.is_block and not {"a.mp4", "b.mp4"} <= set(videos):
        raise InputError("it is a block and lacks the video of one of its worlds")


def _check_others(ref: SampleRef, videos: Sequence[str]) -> None:
    """Whether each index belongs to a video, and whether what nothing else reads can be read."""
    for name in sorted(set(ref.members) - set(videos) - {"json"}):
        video, _, ending = name.rpartition(".")
        is_index = ending == SUFFIX and video.rpartition(".")[2] in VIDEO_EXTENSIONS
        if is_index and video not in ref.members:
            raise InputError(f"it has {name} but no {video}")
        read_members(ref, [name])


def _check_scene(ref: SampleRef, name: str, metadata: dict[str, Any]) -> None:
    """A video, its index and its truth."""
    members = read_members(ref, [name, *({f"{name}.{SUFFIX}"} & set(ref.members))])
    shape = check_video(
        members[name], members.get(f"{name}.{SUFFIX}"), hash_words(f"{ref.key}/{name}")[0]
    )
    for at, word in enumerate(("num_frames", "height", "width")):
        if isinstance(metadata.get(word), int) and metadata[word] != shape[at]:
            raise InputError(f"it has {word} {shape[at]} but its json says {metadata[word]}")
    prefix = name.rpartition(".")[0]
    prefix = f"{prefix}." if prefix else ""
    truth = [prefix + member for member in TRUTH_MEMBERS]
    # Other people's samples may have a `depth.png` of their own.
    has_truth = any(prefix + member in ref.members for member in TRUTH_MEMBERS[1:])
    if has_truth or metadata.get("source") == _PHYSICS:
        found = read_members(ref, [member for member in truth if member in ref.members])
        decode_truth(found, prefix, shape)


def check_video(data: bytes, packets: bytes | None, seed: int) -> tuple[int, int, int]:
    """Decode a video in sequence, and then clips of it at random places, which must be equal.

    Args:
        data: the file's bytes.
        packets: the stored index of its packets, if it has one.
        seed: of the places.

    Returns:
        (frames, height, width).

    Raises:
        InputError: it is damaged, or its frames depend on how they are read.
    """
    seeking = PyavVideo(data)
    try:
        digests, shape = _decode_in_sequence(seeking)
        # Training refuses what is far from a square.
        scaled_size(shape[1], shape[0], 64, seeking.pixel_aspect)
        if len(digests) != seeking.num_frames:
            raise InputError(
                f"it claims {seeking.num_frames} frames but {len(digests)} can be decoded"
            )
        if packets is None:
            _check_clips(seeking, digests, shape, seed, "seeking")
        else:
            planned = PlannedVideo(data, packets)
            _compare(planned, seeking, shape)
            _check_clips(planned, digests, shape, seed, "planned decoding")
            _check_all(planned, digests, shape)
    finally:
        seeking.close()
    return (len(digests), *shape)


def _decode_in_sequence(video: PyavVideo) -> tuple[list[bytes], tuple[int, int]]:
    """A digest of each picture, and the (height, width) of all."""
    reformatter = VideoReformatter()
    digests: list[bytes] = []
    shape: tuple[int, int] | None = None
    pixels = 0
    try:
        for number, frame in enumerate(video.decode_from_start()):
            pixels += frame.width * frame.height
            if pixels > MAX_WALKED_PIXELS:
                raise InputError(f"its frames have more than {MAX_WALKED_PIXELS} pixels together")
            picture = to_rgb(reformatter, frame, None, round(frame.rotation / 90) * 90 % 360)
            if shape not in (None, picture.shape[:2]):
                raise InputError(f"it changes its size at frame {number}; cut it there")
            shape = (picture.shape[0], picture.shape[1])
            digests.append(_digest(picture))
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"it cannot be decoded: {reason_of(error)}") from error
    if shape is None:
        raise InputError("it holds no frame")
    return digests, shape


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(picture).data).digest()


def _compare(planned: PlannedVideo, seeking: PyavVideo, shape: tuple[int, int]) -> None:
    """What the packet index says of a video against what its container says."""
    said = (planned.num_frames, planned.height, planned.width)
    if said != (seeking.num_frames, *shape):
        raise InputError(
            f"its packet index speaks of {said[0]} frames of {said[2]}x{said[1]} pixels, the video "
            f"has {seeking.num_frames} of {shape[1]}x{shape[0]}; pack it again"
        )
    if abs(planned.pixel_aspect - seeking.pixel_aspect) > 1e-6:
        raise InputError("its packet index gives another form of pixels; pack it again")
    every = range(planned.num_frames)
    times = np.abs(planned.pts_seconds(every) - seeking.pts_seconds(every)).max()
    if times > 1e-6 or abs(planned.fps - seeking.fps) > 1e-3 * seeking.fps:
        raise InputError("its packet index gives other times than the video; pack it again")


def _check_clips(
    video: VideoDecoder, digests: Sequence[bytes], shape: tuple[int, int], seed: int, way: str
) -> None:
    """Clips such as training reads, at random places and strides, and frames in no order."""
    generator = np.random.default_rng(seed)
    longest = min(_MAX_CLIP_FRAMES, max(1, _MAX_BYTES_AT_ONCE // (3 * shape[0] * shape[1])))
    for number in range(NUM_PLANS):
        stride = int(generator.integers(1, _MAX_STRIDE + 1))
        num_frames = min(int(generator.integers(1, longest + 1)), -(-len(digests) // stride))
        start = int(generator.integers(len(digests) - (num_frames - 1) * stride))
        indices = [start + stride * step for step in range(num_frames)]
        if number == 0:
            indices = [int(i) for i in generator.integers(len(digests), size=num_frames)]
        _check_frames(video, indices, digests, way)


def _check_all(video: PlannedVideo, digests: Sequence[bytes], shape: tuple[int, int]) -> None:
    """All frames by one plan, or, where that would be too many to hold, by few."""
    at_once = max(1, _MAX_BYTES_AT_ONCE // (3 * shape[0] * shape[1]))
    for first in range(0, len(digests), at_once):
        indices = range(first, min(first + at_once, len(digests)))
        _check_frames(video, indices, digests, "planned decoding")


def _check_frames(
    video: VideoDecoder, indices: Sequence[int], digests: Sequence[bytes], way: str
) -> None:
    for index, picture in zip(indices, video.get_frames(indices), strict=True):
        if _digest(picture) != digests[index]:
            raise InputError(f"{way} gives another picture than sequential decoding, frame {index}")
