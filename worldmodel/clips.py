"""The one type that crosses from data to model: a batch of clips that checks its own shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

# The key of a clip without content; no sample can have it, since it names a folder.
FILLER = "/"


@dataclass(frozen=True)
class Truth:
    """What is really in one clip of the physics world.

    Attributes:
        depth: float32 `(T, H, W)`, z-depth in metres at the pixel's centre; 0 where nothing is hit.
        ids: uint8 `(T, H, W)`, which object the pixel shows; 0 is background.
        state: named float32 arrays: camera, poses, velocities, visibility (`docs/formats.md`).
    """

    depth: np.ndarray
    ids: np.ndarray
    state: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        if self.depth.ndim != 3 or self.depth.shape != self.ids.shape:
            raise ValueError(
                "depth and ids must both be (time, height, width), "
                f"got {self.depth.shape} and {self.ids.shape}"
            )


@dataclass(frozen=True)
class ClipBatch:
    """Clips of equal length and size.

    Frames stay uint8 until they are on the device: a quarter of the bytes to copy.

    Attributes:
        frames: uint8 `(B, T, C, H, W)`, from the stream with channels last in memory.
        pts_seconds: float `(B, T)`, presentation time of each frame within its source video.
        keys: which sample each clip comes from, B names.
        actions: float `(B, T, A)` where the video has any.
        truth: B of them, only where evaluation asks.
        is_pad: B of them, true where a clip only fills up a batch, so that every rank has as many,
            and must not be counted; none by default.
        num_missing: clips that it was to have besides, and that could not be read. With them it has
            as many as every other rank's. Where a rank among others has none left, a clip without
            content stands in (`filler`).

    Raises:
        ValueError: the leading dimensions of the parts do not agree.
    """

    frames: Tensor
    pts_seconds: Tensor
    keys: tuple[str, ...]
    actions: Tensor | None = None
    truth: tuple[Truth, ...] | None = None
    is_pad: tuple[bool, ...] = ()
    num_missing: int = 0

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.frames.dtype != torch.uint8:
            raise ValueError(
                "frames must be uint8 (batch, time, channel, height, width), "
                f"got {self.frames.dtype} {tuple(self.frames.shape)}"
            )
        batch, time = self.frames.shape[:2]
        if tuple(self.pts_seconds.shape) != (batch, time):
            raise ValueError(
                f"pts_seconds must be {(batch, time)} like frames, "
                f"got {tuple(self.pts_seconds.shape)}"
            )
        if len(self.keys) != batch:
            raise ValueError(f"keys must be {batch} names, one per clip, got {len(self.keys)}")
        if self.actions is not None and tuple(self.actions.shape[:2]) != (batch, time):
            raise ValueError(
                f"actions must start with {(batch, time)}, got {tuple(self.actions.shape)}"
            )
        if self.truth is not None and len(self.truth) != batch:
            raise ValueError(f"truth must be {batch} items, one per clip, got {len(self.truth)}")
        if not self.is_pad:
            object.__setattr__(self, "is_pad", (False,) * batch)
        if len(self.is_pad) != batch:
            raise ValueError(f"is_pad must be {batch} flags, one per clip, got {len(self.is_pad)}")

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        parts = [
            f"{field.name}={tuple(value.shape) if isinstance(value, Tensor) else value!r}"
            for field in fields(self)
            if field.name not in ("truth", "is_pad", "num_missing")
            and (value := getattr(self, field.name)) is not None
        ]
        return f"ClipBatch({', '.join(parts)}{', with truth' if self.truth else ''})"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same batch with its tensors on `device`; truth stays where it is."""
        return ClipBatch(
            self.frames.to(device, non_blocking=non_blocking),
            self.pts_seconds.to(device, non_blocking=non_blocking),
            self.keys,
            None if self.actions is None else self.actions.to(device, non_blocking=non_blocking),
            self.truth,
            self.is_pad,
            self.num_missing,
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory, from which a copy to a GPU need not wait."""
        return ClipBatch(
            self.frames.pin_memory(),
            self.pts_seconds.pin_memory(),
            self.keys,
            None if self.actions is None else self.actions.pin_memory(),
            self.truth,
            self.is_pad,
            self.num_missing,
        )

    @classmethod
    def filler(cls, num_places: int, clip_shape: Sequence[int]) -> ClipBatch:
        """What a rank has where no clip of its batch could be read; the others need not wait.

        Args:
            num_places: clips that it was to have.
            clip_shape: (time, channel, height, width).
        """
        time, channels, height, width = clip_shape
        # Channels last in memory, like all others: one compiled step serves both.
        frames = torch.zeros(1, time, height, width, channels, dtype=torch.uint8)
        return cls(
            frames.permute(0, 1, 4, 2, 3),
            torch.zeros(1, time),
            (FILLER,),
            is_pad=(True,),
            num_missing=num_places,
        )

    @property
    def is_filler(self) -> bool:
        """Whether none of its clips could be read."""
        return self.keys == (FILLER,)

    @property
    def num_clips(self) -> int:
        """Clips that it has: 0 where one only stands in for those that could not be read."""
        return 0 if self.is_filler else len(self)

    @property
    def num_places(self) -> int:
        """Clips that it was to have, the same number on every rank."""
        return self.num_clips + self.num_missing

    @property
    def counted(self) -> list[int]:
        """Numbers of the clips that are not padding."""
        return [number for number, is_pad in enumerate(self.is_pad) if not is_pad]

    @classmethod
    def stack(cls, batches: Sequence[ClipBatch]) -> ClipBatch:
        """Join batches along the batch axis; the collate function of every loader.

        By numpy: torch.cat wakes torch's threads, and these wait awake for more work while the next
        clips are decoded. Without workers that took 2.5 times the processor time of the decoding.

        Raises:
            ValueError: no batch given, or only some of them carry actions or truth.
        """
        if not batches:
            raise ValueError("cannot stack an empty list of clips")
        actions = [batch.actions for batch in batches if batch.actions is not None]
        truth = [batch.truth for batch in batches if batch.truth is not None]
        for name, present in (("actions", actions), ("truth", truth)):
            if present and len(present) != len(batches):
                raise ValueError(
                    f"{len(present)} of {len(batches)} clips carry {name}: all or none"
                )
        return cls(
            # In the order in which they lie in memory: 4 times as fast as in that of their axes.
            _join([batch.frames.permute(0, 1, 3, 4, 2) for batch in batches]).permute(
                0, 1, 4, 2, 3
            ),
            _join([batch.pts_seconds for batch in batches]),
            tuple(key for batch in batches for key in batch.keys),
            _join(actions) if actions else None,
            tuple(item for items in truth for item in items) if truth else None,
            tuple(is_pad for batch in batches for is_pad in batch.is_pad),
            sum(batch.num_missing for batch in batches),
        )


def _join(parts: Sequence[Tensor]) -> Tensor:
    return torch.from_numpy(np.concatenate([part.numpy() for part in parts]))
