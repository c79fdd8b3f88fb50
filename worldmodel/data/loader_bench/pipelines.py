"""Whole pipelines from shards to batches, ours and others, each as its documentation shows.

All of them hand over batches of videos with the same clips of each: 16 frames at some strides from
one start drawn anew at each visit, uint8 pictures of 128 pixels a side.
"""

import io
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.loader_bench.footage import FPS

BATCH_SIZE = 8  # videos

# One pass over the set: the number of clips of each batch.
Pass = Callable[[], Iterator[int]]


@dataclass(frozen=True)
class Load:
    """What is to be loaded.

    Attributes:
        folder: of shards `*.tar`; others write what they make of them beside it.
        strides: source frames from one frame of a clip to the next, one clip for each.
        clip_frames: frames of a clip.
        size: pixels a side.
        num_workers: processes that decode.
    """

    folder: Path
    strides: tuple[int, ...]
    clip_frames: int
    size: int
    num_workers: int

    @property
    def shards(self) -> list[Path]:
        """The shards, in order."""
        return sorted(self.folder.glob("*.tar"))

    def draw(self, num_frames: int) -> list[list[int]]:
        """Frames of each clip of one visit, from a start drawn among all possible."""
        span = (self.clip_frames - 1) * max(self.strides) + 1
        start = random.randrange(num_frames - span + 1)
        return [[start + s * place for place in range(self.clip_frames)] for s in self.strides]


def stream(load: Load) -> Pass:
    """Ours."""
    from worldmodel.data.order import Mixture, SetOrder, StreamSampler
    from worldmodel.data.shards import scan_shard
    from worldmodel.data.stream import ClipDataset, ClipLoader

    shards = [scan_shard(path) for path in load.shards]
    refs = [ref for shard in shards for ref in shard]
    rates = [FPS / stride for stride in load.strides]
    dataset = ClipDataset(refs, load.clip_frames, rates, load.size, random_start=True)
    order = SetOrder(tuple(len(shard) for shard in shards), seed=0)
    loader = ClipLoader(dataset, StreamSampler(Mixture((order,)), BATCH_SIZE), load.num_workers)
    return lambda: (len(batch.keys) for batch in loader)


def bare(load: Load) -> Pass:
    """Our decoder alone, in a loop over the same videos in memory: what the stream could reach."""
    from worldmodel.data.shards import read_members, scan_shard
    from worldmodel.data.transforms import scaled_size
    from worldmodel.data.video import open_video

    videos = [read_members(ref) for path in load.shards for ref in scan_shard(path)]

    def decode() -> Iterator[int]:
        for members in videos:
            video = open_video(members["mp4"], packets=members["mp4.packets"])
            clips = load.draw(video.num_frames)
            size = scaled_size(video.width, video.height, load.size)
            video.get_frames([frame for clip in clips for frame in clip], size)
            yield len(clips)

    return decode


def webdataset_pyav(load: Load) -> Pass:
    """WebDataset, PyAV in its map: seek, decode what the clips span, scale what they want."""
    import webdataset

    dataset = (
        webdataset.WebDataset([str(path) for path in load.shards], shardshuffle=len(load.shards))
        .shuffle(100)
        .map(lambda sample: _decode(sample["mp4"], load))
        .batched(BATCH_SIZE, collation_fn=_stack)
    )
    loader = webdataset.WebLoader(
        dataset,
        batch_size=None,
        num_workers=load.num_workers,
        persistent_workers=load.num_workers > 0,
    )
    return lambda: (len(batch) for batch in loader)


def litdata_pyav(load: Load) -> Pass:
    """LitData: its chunks, made by `optimize`, its dataset and loader, the same PyAV code."""
    import litdata

    chunks = load.folder / "litdata"
    if not chunks.exists():
        # In one process: it starts its own afresh, which would take longer than the work.
        litdata.optimize(
            fn=_read_videos,
            inputs=[str(path) for path in load.shards],
            output_dir=str(chunks),
            chunk_bytes="64MB",
            num_workers=1,
            verbose=False,
        )
    dataset = litdata.StreamingDataset(
        str(chunks), shuffle=True, drop_last=False, transform=_Transform(load)
    )
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=BATCH_SIZE,
        num_workers=load.num_workers,
        persistent_workers=load.num_workers > 0,
        collate_fn=_stack,
    )
    return lambda: (len(batch) for batch in loader)


class _Transform:
    """Can be sent to a process that was started afresh, which a closure cannot."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def __call__(self, sample: dict[str, bytes]) -> Any:
        return _decode(sample["mp4"], self._load)


def _read_videos(path: str) -> Iterator[dict[str, bytes]]:
    import tarfile

    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.endswith(".mp4"):
                yield {"mp4": file.read()}


def energon_avdecoder(load: Load) -> Pass:
    """Megatron-Energon: `energon prepare`, its loader, its AVDecoder in a cooker."""
    # A module of its own: what its workers send must be a class that they can name.
    from worldmodel.data.loader_bench.energon_peer import make_pass

    return make_pass(load, BATCH_SIZE)


def _decode(data: bytes, load: Load) -> Any:
    """Clips of one video by plain PyAV: uint8 `(clips, T, 3, size, size)`."""
    import av
    import torch

    with av.open(io.BytesIO(data), "r") as container:
        video = container.streams.video[0]
        video.thread_type = "NONE"
        video.codec_context.thread_count = 1
        clips = load.draw(video.frames)
        wanted = {frame for clip in clips for frame in clip}
        per_frame = 1 / (video.average_rate * video.time_base)  # type: ignore[operator]
        container.seek(int(min(wanted) * per_frame), stream=video)
        pictures = {}
        for frame in container.decode(video):
            number = round((frame.pts or 0) / per_frame)
            if number in wanted:
                # One thread: PyAV's default, one per core, costs 7 times the scaling.
                small = frame.reformat(load.size, load.size, "rgb24", threads=1)
                pictures[number] = small.to_ndarray()
            if number >= max(wanted):
                break
    frames = np.stack([pictures[number] for clip in clips for number in clip])
    shape = (len(clips), load.clip_frames, load.size, load.size, 3)
    ordered = frames.reshape(shape).transpose(0, 1, 4, 2, 3)
    return torch.from_numpy(np.ascontiguousarray(ordered))


def _stack(samples: Sequence[Any]) -> Any:
    import torch

    return torch.cat(list(samples))


# name -> what makes it, and the packages that it stands for
PIPELINES: dict[str, tuple[Callable[[Load], Pass], tuple[str, ...]]] = {
    "stream": (stream, ("torch", "av")),
    "bare": (bare, ("av",)),
    "webdataset_pyav": (webdataset_pyav, ("webdataset", "torch", "av")),
    "litdata_pyav": (litdata_pyav, ("litdata", "torch", "av")),
    "energon_avdecoder": (energon_avdecoder, ("megatron-energon", "torch", "av")),
}


def processor_seconds() -> float:
    """Processor time of this process and all it has started, those still running included."""
    import multiprocessing
    import resource
    import time

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # no Linux: counted once it has ended
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
