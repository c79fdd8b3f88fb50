"""Shards to batches of clips: shuffled, split over ranks and workers, resumable, elastic.

1. `Catalog`        which samples there are, and where (catalog.py)
2. `StreamSampler`  the order of samples -> global batches -> this rank's share (order.py)
3. `ClipDataset`    a request (epoch, sample) -> its clips; a pure function of it and the seed
4. `ClipLoader`     runs these in worker processes, counts what has been handed out, drops what is
                    broken
"""

import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from threading import Thread
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from worldmodel.clips import ClipBatch, Truth
from worldmodel.data import sampling, transforms
from worldmodel.data.catalog import Catalog
from worldmodel.data.handover import FrameRing, LoadedBatch, SlotBatch
from worldmodel.data.order import ClipRequest, FixedSampler, StreamSampler, this_rank
from worldmodel.data.packets import SUFFIX
from worldmodel.data.quarantine import Broken, Quarantine
from worldmodel.data.shards import (
    SampleRef,
    check_metadata_size,
    parse_metadata,
    read_members,
    scene_cuts,
)
from worldmodel.data.truth import MEMBERS as TRUTH_MEMBERS
from worldmodel.data.truth import decode_truth, take_frames
from worldmodel.data.video import Backend, VideoDecoder, open_video
from worldmodel.errors import InputError
from worldmodel.memory import keep_freed_memory

# Batches that a worker may be ahead.
PREFETCH_FACTOR = 2


class ClipDataset(Dataset[ClipBatch]):
    """The clips of each sample, decoded on demand; holds no open file, so it may cross a fork.

    All clips wanted of one video come from one decode.

    Args:
        refs: the samples, each with one video.
        num_frames: frames of a clip.
        fps: frames per second of a clip, met as nearly as a whole frame stride allows, and within
            10 % where frames are unevenly spaced and not slower. Several rates give as many clips,
            which start at the same frame.
        size: pixels a side of a clip.
        flip: mirror half of the clips.
        zoom: most that a clip is magnified, at least 1: how much is drawn, and where the square is
            cut out.
        color_jitter: share of clips whose red, green and blue are exchanged and whose brightness
            is changed.
        seed: of everything that is drawn.
        decoder: which library decodes.
        random_start: draw start and crop anew in each epoch; else the middle, never mirrored.
        with_truth: read depth, ids and states too; only for videos that are already `size` a side.
        clips_per_video: how many starts are drawn of a sample at once.

    Raises:
        ValueError: truth is asked for together with drawn crops or mirrors or several clips.
    """

    def __init__(
        self,
        refs: Sequence[SampleRef] | Catalog,
        num_frames: int,
        fps: float | Sequence[float],
        size: int,
        flip: bool = False,
        zoom: float = 1.0,
        color_jitter: float = 0.0,
        seed: int = 0,
        decoder: Backend = "auto",
        random_start: bool = False,
        with_truth: bool = False,
        clips_per_video: int = 1,
    ) -> None:
        self.rates = tuple(fps) if isinstance(fps, Sequence) else (float(fps),)
        varied = flip or color_jitter > 0 or random_start or zoom > 1
        if with_truth and (varied or clips_per_video * len(self.rates) > 1):
            raise ValueError("truth belongs to frames as they are: with_truth needs fixed clips")
        self.refs = refs
        self.num_frames = num_frames
        self.size = size
        self.flip = flip
        self.zoom = zoom
        self.color_jitter = color_jitter
        self.seed = seed
        self.decoder = decoder
        self.random_start = random_start
        self.with_truth = with_truth
        self.clips_per_video = clips_per_video

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def clips_per_visit(self) -> int:
        """Clips that one request gives."""
        return self.clips_per_video * len(self.rates)

    def __getitem__(self, request: ClipRequest | tuple[int, int] | int) -> ClipBatch:
        """Load the clips of one sample: `clips_per_video` times the number of rates.

        Raises:
            InputError: the sample is broken or shorter than a clip.
        """
        epoch, sample, is_pad = _as_request(request)
        ref = self.refs[sample]
        extension = ref.video_extension
        if extension is None:
            raise InputError(f"sample {ref.key} of {ref.shard} has no video")
        names = [extension, *(TRUTH_MEMBERS if self.with_truth else ())]
        packets = f"{extension}.{SUFFIX}"
        names += [name for name in (packets, "json") if name in ref.members]
        if "json" in names:
            check_metadata_size(ref)
        members = read_members(ref, names)
        metadata = parse_metadata(members["json"], ref) if "json" in members else {}
        video = open_video(members[extension], self.decoder, members.get(packets))
        try:
            draws = self._draws(epoch, ref.key)
            clips = self._choose(video, scene_cuts(metadata), draws)
            indices = [frame for clip in clips for frame in clip]
            # One for all clips of the video, which are scaled as they are decoded.
            side = round(self.size * (1 + draws[0].zoom * (self.zoom - 1)))
            size = transforms.scaled_size(video.width, video.height, side, video.pixel_aspect)
            frames = video.get_frames(indices, size)
            times = video.pts_seconds(indices)
            truth = (self._truth(members, ref, indices),) if self.with_truth else None
        finally:
            video.close()
        per_draw = self.num_frames * len(self.rates)
        pixels = [
            transforms.crop_clip(
                frames[number * per_draw : (number + 1) * per_draw],
                self.size,
                draw.crop,
                self.flip and draw.flip,
            )
            for number, draw in enumerate(draws)
        ]
        pixels = [
            transforms.color_clip(each, draw.channels, draw.gamma)
            if draw.colored < self.color_jitter
            else each
            for each, draw in zip(pixels, draws, strict=True)
        ]
        shape = (len(clips), self.num_frames, self.size, self.size, 3)
        joined = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
        return ClipBatch(
            torch.from_numpy(joined.reshape(shape)).permute(0, 1, 4, 2, 3),
            torch.from_numpy(times.astype(np.float32).reshape(shape[:2])),
            (ref.key,) * len(clips),
            truth=truth,
            is_pad=(is_pad,) * len(clips),
        )

    def __getitems__(self, requests: Sequence[ClipRequest]) -> list[ClipBatch | Broken]:
        """Load a batch's clips; a sample that fails takes its place as `Broken`."""
        items: list[ClipBatch | Broken] = []
        for request in requests:
            try:
                items.append(self._load(request))
            except InputError as error:
                items.append(self._broken(_as_request(request).sample, error))
        return items

    def _load(self, request: ClipRequest) -> ClipBatch:
        try:
            return self[request]
        except InputError:
            if not (isinstance(self.refs, Catalog) and self.refs.is_remote):
                raise
            # Its shard may have had to make room for another one since it was fetched.
            return self[request]

    def _broken(self, sample: int, error: InputError) -> Broken:
        if isinstance(self.refs, Catalog):
            name = self.refs.shard_name(sample)
            if self.refs.is_unreadable(sample):
                return Broken.of(name, None, error)
        try:
            ref = self.refs[sample]
        except InputError:
            return Broken.of(name, None, error)
        if not isinstance(self.refs, Catalog):
            name = str(ref.shard)
        return Broken.of(name, ref.key, error)

    def _draws(self, epoch: int, key: str) -> list[sampling.Draw]:
        if not self.random_start:
            return [sampling.CENTRE] * self.clips_per_video
        visits = range(self.clips_per_video)
        return [sampling.draw_clip(self.seed, epoch, key, visit) for visit in visits]

    def _choose(
        self, video: VideoDecoder, cuts: Sequence[int], draws: Sequence[sampling.Draw]
    ) -> list[list[int]]:
        """The frames of each clip, draw after draw, and within a draw rate after rate."""
        times = video.pts_seconds(range(video.num_frames))
        clips: list[list[int]] = []
        for draw in draws:
            found = sampling.choose_clips(draw, times, cuts, self.num_frames, video.fps, self.rates)
            if found is None:
                raise InputError(self._why_none(video.fps, times, cuts))
            clips += found
        return clips

    def _why_none(self, source_fps: float, times: np.ndarray, cuts: Sequence[int]) -> str:
        """Why a video gives no clip."""
        slowest = min(self.rates)
        if not sampling.is_even(times):
            return sampling.too_uneven(self.num_frames, self.rates)
        longest = max(end - first for first, end in sampling.scenes_of(len(times), cuts))
        stride = sampling.frame_stride_for(source_fps, slowest)
        return sampling.too_short(longest, self.num_frames, stride)

    def _truth(self, members: dict[str, bytes], ref: SampleRef, indices: list[int]) -> Truth:
        truth = take_frames(decode_truth(members), indices)
        if truth.depth.shape[1:] != (self.size, self.size):
            raise InputError(
                f"truth of {ref.key} in {ref.shard} is {truth.depth.shape[1:]} pixels and cannot "
                f"follow frames scaled to {self.size}; use size={truth.depth.shape[1]}"
            )
        return truth


def _as_request(request: ClipRequest | tuple[int, int] | int) -> ClipRequest:
    return ClipRequest(0, request) if isinstance(request, int) else ClipRequest(*request)


class _Endless:
    """A stream's batches without end, so that workers go on loading from one pass to the next."""

    def __init__(self, place: StreamSampler) -> None:
        self._place = place

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        return self._place.requests()

    def __len__(self) -> int:
        return len(self._place)


class ClipLoader(DataLoader[ClipBatch]):
    """A DataLoader of `ClipBatch` that knows its place and survives broken samples.

    A pass reads its place when its first batch is asked for, not when the iterator is made:
    Lightning makes the iterator first and loads a checkpoint's state afterwards. From one pass to
    the next the workers go on without a pause.

    A sample that cannot be loaded is left out of its batch, which says how many clips it lacks. A
    batch of which nothing is left is passed over; among several ranks, which must keep step, this
    one has a batch that does not count (`ClipBatch.filler`).

    Args:
        dataset: the clips.
        batch_sampler: a `StreamSampler` or `FixedSampler`.
        num_workers: processes that decode, one thread each; 0 decodes in this process.
        pin_memory: hand over batches in page-locked memory.
        quarantine: takes in what is broken; one that writes no file by default.

    Attributes:
        waited_seconds: how long training batches were waited for so far; without workers, that is
            how long decoding took.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_sampler: StreamSampler | FixedSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.place = batch_sampler if isinstance(batch_sampler, StreamSampler) else None
        self.quarantine = quarantine or Quarantine()
        self.ring = _ring(dataset, batch_sampler.batch_size, num_workers)
        self.waited_seconds = 0.0
        self._batches: Iterator[Any] | None = None
        super().__init__(
            dataset,
            batch_sampler=_Endless(batch_sampler)
            if isinstance(batch_sampler, StreamSampler)
            else batch_sampler,
            num_workers=num_workers,
            collate_fn=LoadedBatch.collate if self.ring is None else self.ring.collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            prefetch_factor=PREFETCH_FACTOR if num_workers else None,
            worker_init_fn=_begin_worker,
            # Of its own: a pass draws a number, and drawing it from torch's would make the model's
            # random numbers depend on how often the loader was started, that is, on interruptions.
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]  # no need of more
        """The batches of a pass from the place on.

        Raises:
            InputError: too many samples are broken, or all of a pass over fixed clips.
        """
        if self.place is None:
            yield from self._fixed_clips()
            return
        num_batches = 0
        while num_batches < len(self):
            if self._batches is None:
                self.place.begin()
                self._batches = super().__iter__()
            asked = time.perf_counter()
            try:
                loaded = next(self._batches)
            except BaseException:
                self._batches = None
                raise
            self.waited_seconds += time.perf_counter() - asked
            batch = self._accept(loaded)
            self.place.advance()
            if batch is not None:
                num_batches += 1
                yield batch

    def _fixed_clips(self) -> Iterator[ClipBatch]:
        num_batches = 0
        for loaded in super().__iter__():
            if (batch := self._accept(loaded)) is not None:
                num_batches += 1
                yield batch
        if not num_batches:
            self.quarantine.stop()

    def _accept(self, loaded: LoadedBatch | SlotBatch) -> ClipBatch | None:
        """A batch that says what it lacks; None where it lacks all and no other rank waits."""
        if isinstance(loaded, SlotBatch):
            loaded = loaded.take()
        num_good = 0 if loaded.batch is None else len(set(loaded.batch.keys))
        self.quarantine.add(loaded.broken, num_good)
        if not loaded.broken:
            return loaded.batch
        dataset = cast(ClipDataset, self.dataset)
        num_missing = len(loaded.broken) * dataset.clips_per_visit
        if loaded.batch is not None:
            return replace(loaded.batch, num_missing=num_missing)
        if this_rank()[1] == 1:
            return None
        return ClipBatch.filler(num_missing, (dataset.num_frames, 3, dataset.size, dataset.size))

    def state_dict(self) -> dict[str, int | str]:
        """The place in the data after the last batch handed out; empty for fixed clips."""
        return self.place.state_dict() if self.place is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch at which `state` was taken."""
        if self.place is not None:
            self.place.load_state_dict(state)
            self._batches = None


def _ring(dataset: ClipDataset, num_videos: int, num_workers: int) -> FrameRing | None:
    """Slots for the batches of workers, where there are workers and room."""
    num_clips = num_videos * dataset.clips_per_visit
    shape = (dataset.num_frames, dataset.size, dataset.size, 3)
    num_bytes = num_workers * (PREFETCH_FACTOR + 1) * num_clips * math.prod(shape)
    if not num_workers or not FrameRing.fits(num_bytes):
        return None
    return FrameRing(num_workers, PREFETCH_FACTOR, num_clips, shape)


def _begin_worker(worker: int) -> None:
    # Ctrl-C reaches the whole group, and what a scheduler or `timeout` sends may as well; the
    # training process alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        parent = os.getppid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_for, args=(parent,), name="sigterm", daemon=True).start()
    # One process per core is meant; threads of several workers would only wait for each other.
    torch.set_num_threads(1)
    keep_freed_memory()


def _end_for(parent: int) -> None:
    """Ends this process when SIGTERM comes from its parent, as the DataLoader's does."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
