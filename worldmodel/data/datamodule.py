"""Clips for Lightning: which samples train, which validate, and the loaders of both."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule

from worldmodel.data import sampling
from worldmodel.data.shards import (
    SampleRef,
    read_members,
    read_metadata,
    resolve_shards,
    scan_shard,
)
from worldmodel.data.stream import ClipDataset, ClipLoader, EpochSampler, FixedSampler, too_short
from worldmodel.data.video import Backend, open_video
from worldmodel.errors import InputError

logger = logging.getLogger(__name__)

# Opening a video to count its frames takes about 2 ms. Beyond this many without metadata the count
# is left to loading, where a video that is too short is skipped like a broken one.
MAX_PROBED = 2000
MAX_BROKEN_SHARD_SHARE = 0.05


class ClipDataModule(LightningDataModule):
    """Training and validation clips out of shards.

    Validation sees one fixed clip of each sample: the middle of the video, never mirrored. Without
    `val_shards` it takes `clips-*.tar` of the folder `val` beside the training shards' folder if
    that is called `train`, or else sets a fixed 5 % of the samples apart, chosen by key.

    Args:
        shards: training shards: names, globs, folders, or a list of them.
        val_shards: validation shards, likewise.
        batch_size: clips per process and step.
        num_frames: frames of a clip.
        fps: frames per second of a clip, met as nearly as a whole frame stride allows.
        size: pixels a side.
        flip: mirror half of the training clips left to right.
        num_workers: processes that decode; 0 decodes in the training process.
        seed: of order, starts and mirrors; by default that of `--seed_everything`, or else 0.
        decoder: which library decodes.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self,
        shards: str | list[str] = "data/physics/train/*.tar",
        val_shards: str | list[str] | None = None,
        batch_size: int = 8,
        num_frames: int = 32,
        fps: float = 8.0,
        size: int = 64,
        flip: bool = True,
        num_workers: int = 0,
        seed: int | None = None,
        decoder: Backend = "pyav",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_frames", num_frames, 1),
            ("size", size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise InputError(f"data.{name} must be at least {least}, got {value}")
        if not fps > 0:
            raise InputError(f"data.fps must be above 0, got {fps}")
        self.shards = shards
        self.val_shards = val_shards
        self.batch_size = batch_size
        self.num_frames = num_frames
        self.fps = fps
        self.size = size
        self.flip = flip
        self.num_workers = num_workers
        # Not torch.initial_seed(): it differs in each process where nobody has set it, and then
        # neither ranks nor a resumed run would agree on the order.
        self.seed = seed if seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self.decoder = decoder
        self.train_refs: list[SampleRef] = []
        self.val_refs: list[SampleRef] = []

    def setup(self, stage: str | None = None) -> None:
        """List the samples and split them; reads headers and metadata, no video.

        Raises:
            InputError: no shard or no usable sample is found, or a shard holds blocks.
        """
        if self.train_refs:
            return
        paths = resolve_shards(self.shards)
        refs = self._usable(paths, str(self.shards))
        if self.val_shards is not None:
            val_paths = resolve_shards(self.val_shards)
        else:
            val_paths = sibling_validation(paths)
        if val_paths:
            self.train_refs, self.val_refs = refs, self._usable(val_paths, str(val_paths[0].parent))
        else:
            self.train_refs, self.val_refs = hold_out(refs)

    def _usable(self, paths: Sequence[Path], name: str) -> list[SampleRef]:
        refs = list_clips(paths)
        return drop_short(refs, self.num_frames, self.fps, self.decoder, name)

    def train_dataloader(self) -> ClipLoader:
        """Shuffled clips, drawn anew in each epoch; carries its place into checkpoints."""
        dataset = self._dataset(self.train_refs, flip=self.flip, random_start=True)
        return self._loader(dataset, EpochSampler(len(dataset), self.batch_size, self.seed))

    def val_dataloader(self) -> ClipLoader:
        """The same clips each time, in the same order."""
        dataset = self._dataset(self.val_refs, flip=False, random_start=False)
        return self._loader(dataset, FixedSampler(len(dataset), self.batch_size))

    def _dataset(self, refs: list[SampleRef], flip: bool, random_start: bool) -> ClipDataset:
        return ClipDataset(
            refs,
            self.num_frames,
            self.fps,
            self.size,
            flip=flip,
            seed=self.seed,
            decoder=self.decoder,
            random_start=random_start,
        )

    def _loader(self, dataset: ClipDataset, sampler: EpochSampler | FixedSampler) -> ClipLoader:
        return ClipLoader(dataset, sampler, self.num_workers, pin_memory=torch.cuda.is_available())


def list_clips(paths: Sequence[Path]) -> list[SampleRef]:
    """The samples of shards that hold one video each.

    A shard that cannot be read is named and left out, up to 5 % of them.

    Raises:
        InputError: more shards than that are broken, a shard holds blocks, or none holds a video.
    """
    refs: list[SampleRef] = []
    broken: list[InputError] = []
    for path in paths:
        try:
            refs += scan_shard(path)
        except InputError as error:
            broken.append(error)
    if len(broken) > MAX_BROKEN_SHARD_SHARE * len(paths):
        raise InputError(f"{len(broken)} of {len(paths)} shards are broken: {broken[0]}")
    for reason in broken:
        logger.warning("skipped a shard: %s", reason)
    block = next((ref for ref in refs if ref.is_block), None)
    if block is not None:
        raise InputError(
            f"shard {block.shard} holds blocks (pairs of worlds from which impossible clips are "
            "made) and is for evaluation only; name the clips alone, such as 'train/clips-*.tar'"
        )
    clips = [ref for ref in refs if ref.video_extension is not None]
    if not clips:
        found = sorted({name for ref in refs for name in ref.members})
        raise InputError(
            f"no video in {len(paths)} shards such as {paths[0]}: members must end in mp4, mov, "
            f"mkv, webm or avi, found {', '.join(found[:8]) or 'no samples'}"
        )
    return clips


def drop_short(
    refs: Sequence[SampleRef], num_frames: int, fps: float, decoder: Backend, name: str
) -> list[SampleRef]:
    """Leave out the videos that are shorter than a clip, or of which it is known they are broken.

    Lengths come from the metadata; samples without are opened, the first 2000 of them.

    Raises:
        InputError: nothing is left.
    """
    usable: list[SampleRef] = []
    reasons: list[str] = []
    probed = 0
    for ref in refs:
        try:
            length = known_length(read_metadata(ref))
            if length is None and probed < MAX_PROBED:
                probed += 1
                length = _probe(ref, decoder)
        except InputError as error:
            reasons.append(f"{ref.key} of {ref.shard}: {error}")
            continue
        if length is not None:
            found, source_fps = length
            stride = sampling.frame_stride_for(source_fps, fps)
            if not sampling.count_starts(found, num_frames, stride):
                reasons.append(f"{ref.key} of {ref.shard}: {too_short(found, num_frames, stride)}")
                continue
        usable.append(ref)
    if not usable:
        raise InputError(f"none of the {len(refs)} samples of {name} can be used; {reasons[0]}")
    if reasons:
        logger.warning(
            "left out %d of %d samples of %s; the first: %s",
            len(reasons),
            len(refs),
            name,
            reasons[0],
        )
    return usable


def known_length(metadata: dict[str, Any]) -> tuple[int, float] | None:
    """(frames, frames per second) if the metadata gives both as sensible numbers."""
    frames, fps = metadata.get("num_frames"), metadata.get("fps")
    if not isinstance(frames, int) or not isinstance(fps, int | float):
        return None
    return (frames, float(fps)) if frames > 0 and 0 < fps < math.inf else None


def _probe(ref: SampleRef, decoder: Backend) -> tuple[int, float]:
    extension = ref.video_extension
    assert extension is not None
    video = open_video(read_members(ref, [extension])[extension], decoder)
    try:
        return video.num_frames, video.fps
    finally:
        video.close()


def sibling_validation(paths: Sequence[Path]) -> list[Path]:
    """`val/clips-*.tar` of the set whose `train/` all these shards come from; else nothing."""
    folders = {path.resolve().parent for path in paths}
    if len(folders) != 1 or (folder := folders.pop()).name != "train":
        return []
    return sorted((folder.parent / "val").glob("clips-*.tar"))


def hold_out(refs: Sequence[SampleRef]) -> tuple[list[SampleRef], list[SampleRef]]:
    """Split samples into training and validation, 5 % by key and at least one of each.

    A single sample serves both, with a warning.
    """
    if len({ref.key for ref in refs}) == 1:
        logger.warning("only %s to learn from: it serves training and validation", refs[0].key)
        return list(refs), list(refs)
    lowest = min(refs, key=lambda ref: sampling.validation_rank(ref.key)).key
    held = {
        ref.key for ref in refs if sampling.validation_rank(ref.key) < sampling.VALIDATION_SHARE
    }
    if not held or len(held) == len({ref.key for ref in refs}):
        held = {lowest}
    return [ref for ref in refs if ref.key not in held], [ref for ref in refs if ref.key in held]
