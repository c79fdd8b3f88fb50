"""What is measured on: the videos, the windows that are wanted of them, and the sets of shards."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.encode import encode_video
from worldmodel.data.loader_bench.footage import FPS, encode_as_found, make_footage, windows
from worldmodel.data.packets import SUFFIX, with_packets
from worldmodel.data.shards import write_shard
from worldmodel.data.video import open_video
from worldmodel.errors import InputError

ACCESSES: dict[str, tuple[int, ...]] = {"w16s1": (1,), "w16s4": (4,), "ms": (1, 4, 16)}
PACKED_CRF = 20  # as `pack` has it
NUM_SHARDS = 2  # one per worker
MAX_JOBS = 64  # different windows of a pattern


@dataclass(frozen=True, kw_only=True)
class LoaderBench:
    """How much is measured; by default 6 minutes on two idle cores.

    Attributes:
        sizes: width and height of the videos; the packed set is made of those of the first size.
        gops: the most frames from one keyframe to the next.
        num_videos: of each source.
        num_frames: of each video.
        rounds: turns of each subject.
        seconds: how long one turn of ours takes.
        clip_frames: frames of a clip.
        size: pixels of the short side that is wanted.
        num_samples: videos in the sets that whole pipelines read; the packed one has 6 times as
            many.
    """

    sizes: tuple[tuple[int, int], ...] = ((320, 240), (640, 360))
    gops: tuple[int, ...] = (12, 250)
    num_videos: int = 3
    num_frames: int = 300
    rounds: int = 5
    seconds: float = 0.25
    clip_frames: int = 16
    size: int = 128
    num_samples: int = 48

    def __post_init__(self) -> None:
        span = (self.clip_frames - 1) * max(map(max, ACCESSES.values())) + 1
        if self.num_frames < span:
            raise InputError(f"num_frames must be at least {span}, got {self.num_frames}")
        if self.rounds < 1 or self.num_samples < NUM_SHARDS:
            raise InputError("rounds and samples must be at least 1 and 2")

    @property
    def originals(self) -> dict[str, tuple[int, int]]:
        """Name -> size of the sources that are not packed."""
        return {f"{w}x{h}-g{gop}": (w, h) for w, h in self.sizes for gop in self.gops}

    @property
    def packed_size(self) -> tuple[int, int]:
        """As `pack` would scale videos of the first size."""
        width, height = self.sizes[0]
        return max(self.size, 2 * round(self.size * width / height / 2)), self.size


def make_videos(folder: Path, settings: LoaderBench) -> None:
    """Write `{source}-{number}.mp4` and its packet index for every source and the packed set."""

    def make(task: tuple[tuple[int, int], int]) -> None:
        (width, height), number = task
        frames = make_footage(width, height, settings.num_frames, seed=number)
        for gop in settings.gops:
            video = encode_as_found(frames, gop)
            _write_video(folder / f"{width}x{height}-g{gop}-{number}.mp4", video)
        if (width, height) == settings.sizes[0]:
            # From the file, as packing would.
            found = open_video(video)
            small = found.get_frames(range(found.num_frames), settings.packed_size)
            packed = encode_video(small, float(FPS), crf=PACKED_CRF)
            _write_video(folder / f"packed-{number}.mp4", packed)

    tasks = [(size, number) for size in settings.sizes for number in range(settings.num_videos)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, tasks))


def _write_video(path: Path, video: bytes) -> None:
    members = with_packets(video)
    path.write_bytes(video)
    path.with_suffix(".packets").write_bytes(members[f"mp4.{SUFFIX}"])


def make_plan(settings: LoaderBench) -> dict[str, dict[str, Any]]:
    """What is decoded in each pattern: `size`, and `jobs` of a video's name and its frames."""
    squeezed = (settings.size, settings.size)
    sizes = dict.fromkeys(settings.originals, squeezed) | {"packed": settings.packed_size}
    plan: dict[str, dict[str, Any]] = {}
    for source, size in sizes.items():
        for access, strides in ACCESSES.items():
            rng = np.random.default_rng(len(plan))
            jobs = []
            for number in range(MAX_JOBS):
                name = f"{source}-{number % settings.num_videos}"
                wanted = windows(rng, settings.num_frames, settings.clip_frames, strides)
                jobs.append((name, wanted))
            plan[f"{source}-{access}"] = {"size": size, "jobs": jobs}
        every = list(range(settings.num_frames))
        jobs = [(f"{source}-{number}", every) for number in range(settings.num_videos)]
        plan[f"{source}-all"] = {"size": size, "jobs": jobs}
    return plan


def make_sets(
    folder: Path, videos: Path, settings: LoaderBench, small_sources: Sequence[str]
) -> None:
    """Write shards of each small source, with packet indices and plain, and of the packed set."""
    counts = dict.fromkeys(small_sources, settings.num_samples)
    counts |= {"packed": 6 * settings.num_samples}
    for source, count in counts.items():
        samples = []
        for number in range(count):
            path = videos / f"{source}-{number % settings.num_videos}.mp4"
            members = {"mp4": path.read_bytes()}
            members[f"mp4.{SUFFIX}"] = path.with_suffix(".packets").read_bytes()
            samples.append((f"video-{number:04d}", members))
        for number in range(NUM_SHARDS):
            share = samples[number::NUM_SHARDS]
            write_shard(folder / source / f"set-{number:06d}.tar", share)
            if source != "packed":
                plain = [(key, {"mp4": members["mp4"]}) for key, members in share]
                write_shard(folder / f"plain-{source}" / f"set-{number:06d}.tar", plain)
