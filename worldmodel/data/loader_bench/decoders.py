"""The decoders that are measured, each as its documentation shows, on one thread.

Each takes a whole video's bytes, its stored packet index, the wanted frames, ascending, and the
size to scale to, and gives uint8 RGB `(n, H, W, 3)`, in whichever layout it has it.
"""

import importlib.metadata
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Decode = Callable[[bytes, bytes, Sequence[int], tuple[int, int]], np.ndarray]


def planned() -> Decode:
    """Ours."""
    from worldmodel.data.video import open_video

    def decode(
        data: bytes, packets: bytes, indices: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        video = open_video(data, packets=packets)
        try:
            return video.get_frames(indices, size)
        finally:
            video.close()

    return decode


def pyav_seek() -> Decode:
    """Ours where there is no index: PyAV, seeking to keyframes."""
    from worldmodel.data.video import open_video

    def decode(
        data: bytes, packets: bytes, indices: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        video = open_video(data, "pyav")
        try:
            return video.get_frames(indices, size)
        finally:
            video.close()

    return decode


def pyav_raw() -> Decode:
    """PyAV, all frames in sequence and nothing made of them; the wanted frames are not heeded."""
    import av

    def decode(
        data: bytes, packets: bytes, indices: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            count = sum(1 for _ in container.decode(stream))
        return np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (count, 1, 1, 3))

    return decode


def decord() -> Decode:
    """Decord: one batch call, scaled while decoding."""
    import decord

    def decode(
        data: bytes, packets: bytes, indices: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        width, height = size
        reader = decord.VideoReader(
            io.BytesIO(data), decord.cpu(0), width=width, height=height, num_threads=1
        )
        return reader.get_batch(list(indices)).asnumpy()

    return decode


def torchcodec_resize() -> Decode:
    """TorchCodec, exact seeking, scaled by its decoder."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    def decode(
        data: bytes, packets: bytes, indices: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        resize = Resize((size[1], size[0]))
        decoder = VideoDecoder(data, num_ffmpeg_threads=1, seek_mode="exact", transforms=[resize])
        return decoder.get_frames_at(list(indices)).data.permute(0, 2, 3, 1).numpy()

    return decode


def torchcodec_full() -> Decode:
    """TorchCodec, exact seeking, scaled afterwards by torch."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)

    def decode(
        data: bytes, packets: bytes, indices: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        decoder = VideoDecoder(data, num_ffmpeg_threads=1, seek_mode="exact")
        return _scaled(decoder.get_frames_at(list(indices)).data, size)

    return decode


def torchcodec_mapped() -> Decode:
    """TorchCodec with its frame mappings made beforehand, as our index is; scaled by torch."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    mappings: dict[bytes, str] = {}

    def decode(
        data: bytes, packets: bytes, indices: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        if packets not in mappings:  # on the first turn, which is not counted
            mappings[packets] = _frame_mappings(data)
        decoder = VideoDecoder(data, num_ffmpeg_threads=1, custom_frame_mappings=mappings[packets])
        return _scaled(decoder.get_frames_at(list(indices)).data, size)

    return decode


def _scaled(frames: Any, size: tuple[int, int]) -> np.ndarray:
    from torch.nn.functional import interpolate

    width, height = size
    if tuple(frames.shape[2:]) != (height, width):
        # On uint8: 2 times as fast as on floats.
        frames = interpolate(frames, (height, width), mode="bilinear", antialias=True)
    return frames.permute(0, 2, 3, 1).numpy()


def _frame_mappings(data: bytes) -> str:
    """What `ffprobe -show_frames` would say, as far as torchcodec reads it."""
    import json

    import av

    with av.open(io.BytesIO(data), "r") as container:
        frames = [
            {"pts": packet.pts, "duration": packet.duration, "key_frame": int(packet.is_keyframe)}
            for packet in container.demux(video=0)
            if packet.pts is not None
        ]
    return json.dumps({"frames": sorted(frames, key=lambda frame: int(frame["pts"] or 0))})


# name -> what makes it, and the packages that it stands for
DECODERS: dict[str, tuple[Callable[[], Decode], tuple[str, ...]]] = {
    "planned": (planned, ("av", "numpy")),
    "pyav_seek": (pyav_seek, ("av", "numpy")),
    "pyav_raw": (pyav_raw, ("av",)),
    "decord": (decord, ("decord",)),
    "torchcodec_resize": (torchcodec_resize, ("torchcodec", "torch")),
    "torchcodec_full": (torchcodec_full, ("torchcodec", "torch")),
    "torchcodec_mapped": (torchcodec_mapped, ("torchcodec", "torch")),
}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Version of each package that is installed here."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
