"""Frames from workers to the training process through memory that is used again and again.

A DataLoader hands a tensor over in shared memory that is new for each batch. Its pages have to be
made, zeroed and mapped in two processes: 0.65 ms for a clip of 0.8 MB, a fifth of what decoding it
costs. Here each worker writes its batches into slots of its own, in turns, and only the number of
the slot is sent; copying a clip out of one takes 0.02 ms.

A worker works at no more than `prefetch_factor` batches that have not been asked for yet, so with
one slot more than these none is written to before it has been copied out.
"""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from worldmodel.clips import ClipBatch, Truth
from worldmodel.data.quarantine import Broken

SHARED_MEMORY = Path("/dev/shm")
# Of what is free, the most that slots may take: others share it too.
MAX_SHARE = 0.5


@dataclass(frozen=True)
class LoadedBatch:
    """The clips that could be loaded and what could not."""

    batch: ClipBatch | None
    broken: tuple[Broken, ...]

    @classmethod
    def collate(cls, items: Sequence[ClipBatch | Broken]) -> "LoadedBatch":
        """Stack the clips and set the broken samples apart."""
        clips = [item for item in items if isinstance(item, ClipBatch)]
        broken = tuple(item for item in items if isinstance(item, Broken))
        return cls(ClipBatch.stack(clips) if clips else None, broken)

    def pin_memory(self) -> "LoadedBatch":
        """The same with its clips in page-locked memory."""
        return LoadedBatch(self.batch and self.batch.pin_memory(), self.broken)


@dataclass(frozen=True)
class SlotBatch:
    """What is sent of a batch whose frames lie in a slot; small, and pickled as it is."""

    ring: int
    slot: int
    pts_seconds: np.ndarray
    keys: tuple[str, ...]
    is_pad: tuple[bool, ...]
    truth: tuple[Truth, ...] | None
    broken: tuple[Broken, ...]

    def take(self) -> LoadedBatch:
        """Copy the frames out of the slot; in the process that made the ring."""
        return self._taken(torch.empty)

    def pin_memory(self) -> LoadedBatch:
        """Copy the frames out into page-locked memory; what a DataLoader's pinning calls."""
        return self._taken(lambda shape, dtype: torch.empty(shape, dtype=dtype, pin_memory=True))

    def _taken(self, allocate: object) -> LoadedBatch:
        slot = _rings[self.ring].slots[self.slot, : len(self.keys)]
        frames: Tensor = allocate(tuple(slot.shape), dtype=torch.uint8)  # type: ignore[operator]
        # By numpy: torch's copy wakes its threads, which then wait awake beside the decoders.
        np.copyto(frames.numpy(), slot.numpy())
        batch = ClipBatch(
            frames.permute(0, 1, 4, 2, 3),
            torch.from_numpy(self.pts_seconds),
            self.keys,
            truth=self.truth,
            is_pad=self.is_pad,
        )
        return LoadedBatch(batch, self.broken)


class FrameRing:
    """Slots for the frames of batches, shared by this process and its workers.

    Made before the workers are started. As a collate function it fills the next slot.

    Args:
        num_workers: processes, each with slots of its own.
        prefetch_factor: batches a worker may be ahead.
        num_clips: most clips of a batch.
        clip_shape: (time, height, width, channels) of one clip.
    """

    def __init__(
        self, num_workers: int, prefetch_factor: int, num_clips: int, clip_shape: Sequence[int]
    ) -> None:
        self.number = next(_numbers)
        self.slots_per_worker = prefetch_factor + 1
        shape = (num_workers * self.slots_per_worker, num_clips, *clip_shape)
        self.slots = torch.empty(shape, dtype=torch.uint8).share_memory_()
        self._turn = 0
        _rings[self.number] = self

    @staticmethod
    def fits(num_bytes: int) -> bool:
        """Whether there is room for so much shared memory; too much of it ends a process."""
        if not SHARED_MEMORY.is_dir():
            return False
        return num_bytes < MAX_SHARE * shutil.disk_usage(SHARED_MEMORY).free

    def collate(self, items: Sequence[ClipBatch | Broken]) -> LoadedBatch | SlotBatch:
        """Write the clips of a batch into this worker's next slot."""
        clips = [item for item in items if isinstance(item, ClipBatch)]
        worker = get_worker_info()
        if worker is None or not clips:
            return LoadedBatch.collate(items)
        number = worker.id * self.slots_per_worker + self._turn % self.slots_per_worker
        self._turn += 1
        slot, row = self.slots[number].numpy(), 0
        for clip in clips:
            slot[row : row + len(clip)] = clip.frames.permute(0, 1, 3, 4, 2).numpy()
            row += len(clip)
        truth = [item for clip in clips for item in clip.truth or ()]
        return SlotBatch(
            self.number,
            number,
            np.concatenate([clip.pts_seconds.numpy() for clip in clips]),
            tuple(key for clip in clips for key in clip.keys),
            tuple(is_pad for clip in clips for is_pad in clip.is_pad),
            tuple(truth) or None,
            tuple(item for item in items if isinstance(item, Broken)),
        )


_numbers = itertools.count()
# A slot is known by numbers alone: the rings of this process, as long as their loaders live.
_rings: WeakValueDictionary[int, FrameRing] = WeakValueDictionary()
