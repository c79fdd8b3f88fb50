"""A clip's way through the stream, and the stream's own way on after a stop.

Nothing here is computed that the stream does not compute: where the way of a clip is taken apart,
it is by the functions that the stream itself calls, and its last picture is the stream's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.clips import ClipBatch
from worldmodel.data import sampling, transforms
from worldmodel.data.packets import SUFFIX, PacketIndex
from worldmodel.data.planned_video import PlannedVideo
from worldmodel.data.shards import SampleRef, read_members, read_metadata, scene_cuts
from worldmodel.data.stream import ClipDataset, ClipLoader
from worldmodel.errors import InputError


@dataclass(frozen=True)
class Journey:
    """How one sample of a shard became clips of a batch, step by step.

    Attributes:
        ref: where its members lie in the shard.
        metadata: its `json`.
        decoded: `(P,)` per packet of the video in order of its frames: 2 where its frame is wanted,
            1 where a wanted one refers to it, 0 where it is never decoded.
        packet_bytes: `(P,)`.
        is_start: `(P,)`, a group of pictures begins.
        draw: what chance said.
        frames: source frames of the clip.
        pts_seconds: `(P,)`, when each frame of the video is shown.
        source: uint8 `(T, H, W, 3)`, those frames as stored.
        scaled: uint8 `(T, h, w, 3)`, as the decoder gave them.
        corner: (left, top) of the square within `scaled`, pixels.
        clip: what the stream gives.
    """

    ref: SampleRef
    metadata: dict[str, Any]
    decoded: np.ndarray
    packet_bytes: np.ndarray
    is_start: np.ndarray
    draw: sampling.Draw
    frames: list[int]
    pts_seconds: np.ndarray
    source: np.ndarray
    scaled: np.ndarray
    corner: tuple[int, int]
    clip: ClipBatch


def follow_clip(dataset: ClipDataset, sample: int, epoch: int = 0) -> Journey:
    """Take the way of one training clip apart, by the functions that the stream calls.

    Args:
        dataset: of training: its starts, crops, mirrors and colours are drawn.
        sample: number of the sample; its video must have an index of packets.
        epoch: in which it is drawn.

    Raises:
        InputError: the sample has no packet index, or is shorter than a clip.
    """
    ref = dataset.refs[sample]
    extension = ref.video_extension
    packets = f"{extension}.{SUFFIX}"
    if extension is None or packets not in ref.members:
        raise InputError(f"{ref.key} of {ref.shard} has no index of packets; pack the video anew")
    members, metadata = read_members(ref, [extension, packets]), read_metadata(ref)
    video = PlannedVideo(members[extension], members[packets])
    index = PacketIndex.from_bytes(members[packets])
    draw = sampling.draw_clip(dataset.seed, epoch, ref.key)
    times = video.pts_seconds(range(video.num_frames))
    cuts, rates = scene_cuts(metadata), dataset.rates[:1]
    found = sampling.choose_clips(draw, times, cuts, dataset.num_frames, video.fps, rates)
    if found is None:
        raise InputError(f"{ref.key} is shorter than a clip of {dataset.num_frames} frames")
    side = round(dataset.size * (1 + draw.zoom * (dataset.zoom - 1)))
    size = transforms.scaled_size(video.width, video.height, side, video.pixel_aspect)
    order = np.argsort(index.pts, kind="stable")  # packets lie in the order of decoding
    wanted = order[found[0]]
    decoded = np.zeros(len(order), int)
    decoded[video.plan(np.sort(wanted))] = 1
    decoded[wanted] = 2
    # The square's own corner, by the function that cuts it.
    places = np.moveaxis(np.indices(size[::-1]), 0, -1)[None]
    top, left = transforms.crop_clip(places, dataset.size, draw.crop, flip=False)[0, 0, 0]
    return Journey(
        ref,
        metadata,
        decoded[order],
        index.size[order].astype(int),
        (index.flags[order] & 1) > 0,
        draw,
        found[0],
        times,
        video.get_frames(found[0]),
        video.get_frames(found[0], size),
        (int(left), int(top)),
        dataset[(epoch, sample)],
    )


@dataclass(frozen=True)
class Resumed:
    """The next batch of a run that was never stopped, of one that went on, and of a new one.

    Attributes:
        state: what a checkpoint keeps of the place in the data.
        unbroken: the batch after the place, of the loader that handed out all before it.
        resumed: the first of a new loader that was given `state`.
        afresh: the first of a new loader that was given nothing.
    """

    state: dict[str, int | str]
    unbroken: ClipBatch
    resumed: ClipBatch
    afresh: ClipBatch

    @property
    def is_equal(self) -> bool:
        """Whether who went on sees what an unbroken run sees: samples, times, and every pixel."""
        return _equal(self.unbroken, self.resumed)

    @property
    def is_afresh_equal(self) -> bool:
        """The same of a loader that begins anew; true would mean that the question is empty."""
        return _equal(self.unbroken, self.afresh)


def stop_and_go(make_loader: Callable[[], ClipLoader], after: int = 3) -> Resumed:
    """Stop a stream after some batches, and let another loader go on.

    Args:
        make_loader: gives a new loader at the beginning of its stream.
        after: batches handed out before the stop.
    """
    first = make_loader()
    batches = iter(first)
    for _ in range(after):
        next(batches)
    state = first.state_dict()
    unbroken = next(batches)
    other = make_loader()
    other.load_state_dict(state)
    return Resumed(state, unbroken, next(iter(other)), next(iter(make_loader())))


def _equal(one: ClipBatch, other: ClipBatch) -> bool:
    return one.keys == other.keys and all(
        torch.equal(a, b)
        for a, b in ((one.frames, other.frames), (one.pts_seconds, other.pts_seconds))
    )
