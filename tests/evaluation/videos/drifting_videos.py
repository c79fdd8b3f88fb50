"""Videos of a pattern that drifts: cheap, and no two moments of one are alike."""

from pathlib import Path

import numpy as np

from worldmodel.data.encode import encode_video


def drifting(num_frames: int, seed: int = 0) -> np.ndarray:
    """uint8 `(T, 32, 48, 3)`: a pattern that moves at a speed of its own."""
    generator = np.random.default_rng(seed)
    speed, turn = generator.uniform(0.5, 1.5, 2)
    y, x = np.mgrid[:32, :48]
    frames = [
        np.stack(
            [
                128 + 60 * np.sin((x + speed * t) / 5 + turn),
                128 + 60 * np.cos((y - speed * t * (1 + 0.3 * np.sin(t / 6))) / 7),
                np.full(x.shape, 90.0),
            ],
            axis=-1,
        )
        for t in range(num_frames)
    ]
    return np.stack(frames).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, lossless: bool = False) -> Path:
    """A video of 16 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_video(frames, 16.0, lossless))
    return path
