"""Small videos of many kinds made on the spot, and what is in a packed set."""

import os
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from worldmodel.data.journal import Packed, Source
from worldmodel.data.pieces import cut_video
from worldmodel.data.video import open_video


def refs_of(out: Path) -> list[Any]:
    """All samples, by key."""
    # Imported here, since it brings torch, and workers import this module.
    from worldmodel.data.shards import scan_shard

    refs = [ref for path in sorted(out.glob("*/*.tar")) for ref in scan_shard(path)]
    return sorted(refs, key=lambda ref: ref.key)


def waves(num_frames: int, height: int = 32, width: int = 48, phase: float = 0.0) -> np.ndarray:
    """uint8 `(T, H, W, 3)`: waves that move, and nothing that jumps."""
    y, x = np.mgrid[:height, :width]
    frames = [
        np.stack(
            [
                np.sin((x + 2 * t + phase) / 5) * 60 + 128,
                np.cos((y - t + phase) / 7) * 60 + 128,
                np.full_like(x, 90.0),
            ],
            axis=-1,
        )
        for t in range(num_frames)
    ]
    return np.stack(frames).astype(np.uint8)


def times_of(data: bytes) -> np.ndarray:
    video = open_video(data)
    return video.pts_seconds(range(video.num_frames))


def write_video(
    path: Path,
    times: list[int],
    container: str = "mp4",
    codec: str = "libx264",
    rotation: int | None = None,
    frames: np.ndarray | None = None,
    clock: int = 1000,
) -> None:
    """A video of 48x32 pixels whose frames are shown at these times, in units of the clock."""
    frames = waves(len(times)) if frames is None else frames
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, 25, options={"g": "8"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, clock)
        stream.codec_context.thread_count = 1
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for time, picture in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, clock)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def two_scenes(num_first: int = 40, num_second: int = 30) -> np.ndarray:
    """A bright scene of waves, then a dark one of squares that move."""
    first = waves(num_first)
    second = np.full((num_second, 32, 48, 3), 20, np.uint8)
    for time, picture in enumerate(second):
        picture[8:20, time % 36 : time % 36 + 12] = (230, 40, 10)
        picture[::4, 44:] = (0, 200, 0)
    return np.concatenate([first, second])


def die_on_tall(source: Source, folder: Path, size: int, scene_cuts: bool) -> Packed:
    """Stands in for a decoder that takes its process down."""
    if source.name.startswith("tall"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return cut_video(source, folder, size, scene_cuts)
