"""Clips and blocks of the physics world with their truth, in the order of their keys."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.clips import Truth
from worldmodel.data.sampling import frame_stride_for
from worldmodel.data.shards import (
    SampleRef,
    read_members,
    read_metadata,
    resolve_shards,
    scan_shard,
)
from worldmodel.data.truth import decode_truth, take_frames
from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.models.checkpoint import ClipSpec

TRUTH_MEMBERS = ("depth.png", "ids.png", "state.npz")
# Arrays of the state that evaluation reads of every clip.
STATE_ARRAYS = (
    "tracked",
    "present",
    "image_position",
    "visible_fraction",
    "amodal_area",
    "slab_box",
    "slab_screen",
    "category",
    "animate",
    "contact",
    "support",
    "camera_pose",
)


@dataclass(frozen=True)
class Footage:
    """One clip of the physics world with everything that is known about it.

    Attributes:
        key: name of its sample.
        frames: uint8 `(T, C, H, W)`.
        truth: depth, ids and state at those frames.
        metadata: the sample's `json`.
        frame_stride: source frames from one frame of the clip to the next.
    """

    key: str
    frames: Tensor
    truth: Truth
    metadata: dict[str, Any]
    frame_stride: int


@dataclass(frozen=True)
class Block:
    """Two valid worlds that are equal to the bit while something is hidden.

    Attributes:
        key: name of its sample.
        kind: physical concept, such as `reveal`.
        frames: uint8 `(2, T, C, H, W)`, worlds A and B.
        truth: of A and of B.
        windows: per violation the frames `(start, stop)` of the clip, stop excluded, in which A
            and B are equal to the bit. Changing worlds at any frame of `start..stop` gives the
            same clip. In open view the two are the same: the frame of the change.
        fps: frames of the clip per second.
        metadata: the sample's `json`.
    """

    key: str
    kind: str
    frames: Tensor
    truth: tuple[Truth, Truth]
    windows: tuple[tuple[int, int], ...]
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict)


def find_samples(root: Path, split: str, kind: str) -> list[SampleRef]:
    """All samples of one split of a set, by key.

    Args:
        root: folder of the set.
        split: train, val or test.
        kind: clips or blocks.

    Raises:
        InputError: the set has no such shards.
    """
    pattern = f"{split}/{kind}-*.tar"
    if not any(root.glob(pattern)):
        raise InputError(
            f"{root} has no {pattern}: evaluation needs clips and blocks of the physics world for "
            f"{split}; make a set with `worldmodel generate --out {root} --num_clips 2000 "
            "--num_blocks 20`"
        )
    refs = [ref for shard in resolve_shards([str(root / pattern)]) for ref in scan_shard(shard)]
    return sorted(refs, key=lambda ref: ref.key)


def block_metadata(ref: SampleRef) -> dict[str, Any]:
    """A block's metadata, with its kind and the frames where something is hidden or changes.

    Raises:
        InputError: one of these is missing.
    """
    metadata = read_metadata(ref)
    needed = ["kind", "hidden_windows"]
    needed += ["splice_frames"] * (not metadata.get("hidden_windows"))
    _demand(metadata, needed, f"sample {ref.key} of {ref.shard}")
    return metadata


def _demand(metadata: dict[str, Any], names: Sequence[str], sample: str) -> None:
    if missing := [name for name in names if name not in metadata]:
        raise InputError(
            f"the metadata of {sample} has no {', '.join(missing)}, which evaluation needs; "
            "make the set with `worldmodel generate`"
        )


@contextmanager
def _named(ref: SampleRef) -> Iterator[None]:
    """Errors about a sample's content say which one it is."""
    try:
        yield
    except (InputError, IndexError) as error:  # an index: fewer frames than its metadata says
        raise InputError(f"sample {ref.key} of {ref.shard} cannot be read: {error}") from error


def sampled_frames(metadata: dict[str, Any], clip: ClipSpec, key: str) -> tuple[range, int]:
    """Source frames of a clip that starts with its video, and the frame stride.

    Raises:
        InputError: the video is shorter than a clip, or its length or rate is not known.
    """
    _demand(metadata, ("fps", "num_frames"), key)
    stride = frame_stride_for(float(metadata["fps"]), clip.fps)
    needed = (clip.num_frames - 1) * stride + 1
    if metadata["num_frames"] < needed:
        raise InputError(
            f"the model sees clips of {clip.num_frames} frames at {clip.fps:g} fps, "
            f"{needed} source frames, but {key} has {metadata['num_frames']}; "
            "evaluate on a set with longer videos"
        )
    return range(0, needed, stride), stride


def seen_fps(ref: SampleRef, clip: ClipSpec) -> float:
    """Frames per second at which a model really sees a video.

    Not what it was trained for where no whole frame stride gives that: 10 a second of 16 are 8.
    """
    metadata = read_metadata(ref)
    return float(metadata["fps"]) / frame_stride_for(float(metadata["fps"]), clip.fps)


def _read_world(
    members: dict[str, bytes], prefix: str, indices: range, size: int, maps: bool = True
) -> tuple[Tensor, Truth]:
    video = open_video(members[f"{prefix}mp4"], packets=members.get(f"{prefix}mp4.packets"))
    frames = video.get_frames(list(indices), size=(size, size))
    truth = take_frames(decode_truth(members, prefix, maps=maps), list(indices))
    missing = [name for name in STATE_ARRAYS if name not in truth.state]
    if missing:
        raise InputError(
            f"{prefix}state.npz has no {', '.join(missing)}: an earlier version made the set; "
            "make it anew with `worldmodel generate`"
        )
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous(), truth


def read_footage(ref: SampleRef, clip: ClipSpec) -> Footage:
    """Decode one clip sample.

    Raises:
        InputError: it is damaged, lacks something, or is shorter than a clip; it is named.
    """
    metadata = read_metadata(ref)
    indices, stride = sampled_frames(metadata, clip, ref.key)
    members = read_members(ref, ("mp4", *TRUTH_MEMBERS))
    with _named(ref):
        frames, truth = _read_world(members, "", indices, clip.size)
    return Footage(ref.key, frames, truth, metadata, stride)


def read_block(ref: SampleRef, clip: ClipSpec, maps: bool = True) -> Block:
    """Decode both worlds of one block sample.

    Args:
        ref: where it lies.
        clip: frames, rate and size of the clip.
        maps: False leaves depth and ids of its truth unread, all zero.

    Raises:
        InputError: as `read_footage`.
    """
    metadata = block_metadata(ref)
    indices, stride = sampled_frames(metadata, clip, ref.key)
    names = [f"{world}.{name}" for world in "ab" for name in ("mp4", *TRUTH_MEMBERS)]
    members = read_members(ref, names)
    with _named(ref):
        worlds = [_read_world(members, f"{world}.", indices, clip.size, maps) for world in "ab"]
    # In open view nothing is hidden, and worlds change in one frame.
    edges = metadata["hidden_windows"] or [[frame] * 2 for frame in metadata["splice_frames"]]
    windows = tuple((-(-start // stride), -(-stop // stride)) for start, stop in edges)
    frames = torch.stack([frames for frames, _ in worlds])
    truth = (worlds[0][1], worlds[1][1])
    fps = float(metadata["fps"]) / stride
    return Block(ref.key, metadata["kind"], frames, truth, windows, fps, metadata)


def read_samples(refs: Iterable[SampleRef], clip: ClipSpec, blocks: bool) -> Iterator[Any]:
    """Footage, or blocks, one by one in the order of `refs`; `run_pass` reads in many processes.

    Args:
        refs: which samples.
        clip: frames, rate and size of the clips the model sees.
        blocks: the samples are blocks.
    """
    for ref in refs:
        yield read_block(ref, clip) if blocks else read_footage(ref, clip)


def is_event(metadata: dict[str, Any]) -> bool:
    """Whether a clip follows one object through an event; free scenes do not."""
    return metadata.get("kind", "free") != "free"


def mirror(clip: Footage) -> Footage:
    """The clip as seen in a mirror: what is left becomes right.

    Only the parts of the state that say where something is in the image are mirrored.
    """
    truth, width = clip.truth, clip.truth.depth.shape[2]
    state = dict(truth.state)
    # Pixel i reaches from i to i + 1, so the frame's edges are at 0 and at its width.
    place = state["image_position"].copy()
    place[..., 0] = width - place[..., 0]
    box = state["slab_box"]
    state |= {
        "image_position": place,
        "slab_box": np.stack(
            [width - box[..., 2], box[..., 1], width - box[..., 0], box[..., 3]], axis=-1
        ),
    }
    flipped = Truth(truth.depth[:, :, ::-1], truth.ids[:, :, ::-1], state)
    return replace(
        clip,
        key=f"{clip.key}-mirrored",
        frames=clip.frames.flip(-1),
        truth=flipped,
        metadata=clip.metadata | {"mirrored": not clip.metadata.get("mirrored", False)},
    )


def mirrored_too(clips: Iterable[Footage]) -> Iterator[Footage]:
    """The clips, each event clip followed by its mirror image.

    Few clips follow an object, and a probe of a few thousand weights is short of them: mirrored
    ones raised r2 of visible positions by 0.03 to 0.11, for an untrained network too.
    """
    for clip in clips:
        yield clip
        if is_event(clip.metadata):
            yield mirror(clip)
