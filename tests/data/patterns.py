"""Small videos made on the spot."""

import json

import numpy as np

from worldmodel.data.encode import encode_video


def moving_pattern(
    num_frames: int = 20, height: int = 32, width: int = 32, phase: float = 0.0
) -> np.ndarray:
    """uint8 `(T, H, W, 3)`: waves that move, and the frame's number as brightness of blue."""
    y, x = np.mgrid[:height, :width]
    frames = []
    for t in range(num_frames):
        red = np.sin((x + 2 * t + phase) / 5) * 60 + 128
        green = np.cos((y - t + phase) / 7) * 60 + 128
        blue = np.full_like(red, 10 * (t % 24))
        frames.append(np.stack([red, green, blue], axis=-1))
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def clip_members(
    num_frames: int = 20, fps: float = 16.0, size: int = 32, phase: float = 0.0
) -> dict[str, bytes]:
    """The members of a clip sample."""
    metadata = {"num_frames": num_frames, "fps": fps, "width": size, "height": size, "kind": "free"}
    frames = moving_pattern(num_frames, size, size, phase)
    return {"mp4": encode_video(frames, fps), "json": json.dumps(metadata).encode()}
