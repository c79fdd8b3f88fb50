"""Shards to batches of clips: shuffled, split over ranks and workers, resumable, elastic.

1. `ClipDataset`    a request (epoch, sample, visit) -> one clip; a pure function of it and the seed
2. `EpochSampler`   epoch -> order of samples -> global batches -> this rank's share (order.py)
3. `ClipLoader`     runs both in worker processes, counts what has been handed out, drops what is
                    broken
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from worldmodel.clips import ClipBatch, Truth
from worldmodel.data import sampling, transforms
from worldmodel.data.order import ClipRequest, EpochSampler, FixedSampler
from worldmodel.data.shards import SampleRef, read_members
from worldmodel.data.truth import MEMBERS as TRUTH_MEMBERS
from worldmodel.data.truth import decode_truth, take_frames
from worldmodel.data.video import Backend, open_video
from worldmodel.errors import InputError

logger = logging.getLogger(__name__)

# Below this many broken samples the share says little: one of three videos is 33 %.
MIN_BROKEN = 10


@dataclass(frozen=True)
class BrokenSample:
    """A sample that could not be turned into a clip, and why."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True)
class LoadedBatch:
    """What a worker hands over: the clips that could be loaded and those that could not."""

    batch: ClipBatch | None
    broken: tuple[BrokenSample, ...]

    @classmethod
    def collate(cls, items: Sequence[ClipBatch | BrokenSample]) -> "LoadedBatch":
        """Stack the clips and set the broken samples apart."""
        clips = [item for item in items if isinstance(item, ClipBatch)]
        broken = tuple(item for item in items if isinstance(item, BrokenSample))
        return cls(ClipBatch.stack(clips) if clips else None, broken)

    def pin_memory(self) -> "LoadedBatch":
        """The same with its clips in page-locked memory."""
        return LoadedBatch(self.batch and self.batch.pin_memory(), self.broken)


class ClipDataset(Dataset[ClipBatch]):
    """One clip of each sample, decoded on demand; holds no open file, so it may cross a fork.

    Args:
        refs: the samples, each with one video.
        num_frames: frames of a clip.
        fps: frames per second of a clip, met as nearly as a whole frame stride allows.
        size: pixels a side of a clip.
        flip: mirror half of the clips.
        seed: of everything that is drawn.
        decoder: which library decodes.
        random_start: draw start and crop anew in each epoch; else the middle, never mirrored.
        with_truth: read depth, ids and states too; only for videos that are already `size` a side.

    Raises:
        ValueError: truth is asked for together with drawn crops or mirrors.
    """

    def __init__(
        self,
        refs: Sequence[SampleRef],
        num_frames: int,
        fps: float,
        size: int,
        flip: bool = False,
        seed: int = 0,
        decoder: Backend = "pyav",
        random_start: bool = False,
        with_truth: bool = False,
    ) -> None:
        if with_truth and (flip or random_start):
            raise ValueError("truth belongs to frames as they are: with_truth needs fixed clips")
        self.refs = list(refs)
        self.num_frames = num_frames
        self.fps = fps
        self.size = size
        self.flip = flip
        self.seed = seed
        self.decoder = decoder
        self.random_start = random_start
        self.with_truth = with_truth

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, request: ClipRequest | tuple[int, ...] | int) -> ClipBatch:
        """Load one clip.

        Raises:
            InputError: the sample is broken or shorter than a clip.
        """
        epoch, sample, visit = _as_request(request)
        ref = self.refs[sample]
        draw = sampling.CENTRE
        if self.random_start:
            draw = sampling.draw_clip(self.seed, epoch, ref.key, visit)
        extension = ref.video_extension
        if extension is None:
            raise InputError(f"sample {ref.key} of {ref.shard} has no video")
        names = [extension, *(TRUTH_MEMBERS if self.with_truth else ())]
        members = read_members(ref, names)
        video = open_video(members[extension], self.decoder)
        try:
            stride = sampling.frame_stride_for(video.fps, self.fps)
            starts = sampling.count_starts(video.num_frames, self.num_frames, stride)
            if not starts:
                raise InputError(too_short(video.num_frames, self.num_frames, stride))
            first = sampling.pick_start(draw, starts)
            indices = sampling.clip_indices(first, self.num_frames, stride)
            size = transforms.scaled_size(video.width, video.height, self.size, video.pixel_aspect)
            frames = video.get_frames(indices, size)
            times = video.pts_seconds(indices)
            truth = (self._truth(members, ref, indices),) if self.with_truth else None
        finally:
            video.close()
        pixels = transforms.crop_clip(frames, self.size, draw.crop, self.flip and draw.flip)
        return ClipBatch(
            torch.from_numpy(pixels)[None],
            torch.from_numpy(times.astype(np.float32))[None],
            (ref.key,),
            truth=truth,
        )

    def __getitems__(self, requests: Sequence[ClipRequest]) -> list[ClipBatch | BrokenSample]:
        """Load a batch's clips; a sample that fails takes its place as `BrokenSample`."""
        items: list[ClipBatch | BrokenSample] = []
        for request in requests:
            try:
                items.append(self[request])
            except InputError as error:
                ref = self.refs[_as_request(request).sample]
                items.append(BrokenSample(str(ref.shard), ref.key, " ".join(str(error).split())))
        return items

    def _truth(self, members: dict[str, bytes], ref: SampleRef, indices: list[int]) -> Truth:
        truth = take_frames(decode_truth(members), indices)
        if truth.depth.shape[1:] != (self.size, self.size):
            raise InputError(
                f"truth of {ref.key} in {ref.shard} is {truth.depth.shape[1:]} pixels and cannot "
                f"follow frames scaled to {self.size}; use size={truth.depth.shape[1]}"
            )
        return truth


def _as_request(request: ClipRequest | tuple[int, ...] | int) -> ClipRequest:
    return ClipRequest(0, request) if isinstance(request, int) else ClipRequest(*request)


def too_short(found: int, num_frames: int, frame_stride: int) -> str:
    """Why a video gives no clip, in words that say what to do."""
    return (
        f"a clip needs {sampling.clip_span(num_frames, frame_stride)} frames "
        f"(num_frames={num_frames}, frame_stride={frame_stride}) but the video has {found}; "
        "lower num_frames or raise fps"
    )


class ClipLoader(DataLoader[ClipBatch]):
    """A DataLoader of `ClipBatch` that knows its place and survives broken samples.

    A pass reads its epoch and place when its first batch is asked for, not when the iterator is
    made: Lightning makes the iterator first and sets the epoch afterwards.

    A sample that cannot be loaded is left out of its batch, named once in the log and kept in
    `broken`.

    Args:
        dataset: the clips.
        batch_sampler: an `EpochSampler` or `FixedSampler`.
        num_workers: processes that decode, one thread each; 0 decodes in this process.
        pin_memory: hand over batches in page-locked memory.
        max_broken_share: broken samples per sample seen above which to stop, once there are 10.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_sampler: EpochSampler | FixedSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        max_broken_share: float = 0.05,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=LoadedBatch.collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_use_one_thread,
            # Of its own: a pass draws a number, and drawing it from torch's would make the model's
            # random numbers depend on how often the loader was started, that is, on interruptions.
            generator=torch.Generator().manual_seed(0),
        )
        self.place = batch_sampler if isinstance(batch_sampler, EpochSampler) else None
        self.max_broken_share = max_broken_share
        self.broken: dict[tuple[str, str], BrokenSample] = {}
        self._num_seen = 0
        self._num_broken = 0

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]  # no need of more
        """The batches of the epoch from the place on.

        Raises:
            InputError: too many samples are broken, or all of one batch.
        """
        if self.place is not None:
            self.place.begin()
        for loaded in super().__iter__():
            batch = self._accept(cast(LoadedBatch, loaded))
            if self.place is not None:
                self.place.advance()
            yield batch

    def _accept(self, loaded: LoadedBatch) -> ClipBatch:
        for sample in loaded.broken:
            if (sample.shard, sample.key) not in self.broken:
                logger.warning("skipped %s of %s: %s", sample.key, sample.shard, sample.reason)
            self.broken[sample.shard, sample.key] = sample
        self._num_broken += len(loaded.broken)
        self._num_seen += len(loaded.broken) + (len(loaded.batch) if loaded.batch else 0)
        share = self._num_broken / max(1, self._num_seen)
        too_many = self._num_broken >= MIN_BROKEN and share > self.max_broken_share
        if too_many or loaded.batch is None:
            shards = sorted({sample.shard for sample in self.broken.values()})
            last = loaded.broken[-1] if loaded.broken else next(iter(self.broken.values()))
            raise InputError(
                f"{self._num_broken} of {self._num_seen} samples are broken, in "
                f"{', '.join(shards[:5])}{' and others' if len(shards) > 5 else ''} "
                f"(the last: {last.key}: {last.reason}); make these shards again"
            )
        return loaded.batch

    def state_dict(self) -> dict[str, int]:
        """The place in the data after the last batch handed out; empty for fixed clips."""
        return self.place.state_dict() if self.place is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch at which `state` was taken."""
        if self.place is not None:
            self.place.load_state_dict(state)


def _use_one_thread(worker: int) -> None:
    # One process per core is meant; threads of several workers would only wait for each other.
    torch.set_num_threads(1)
