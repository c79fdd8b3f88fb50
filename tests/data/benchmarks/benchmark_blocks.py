"""Two random worlds that are equal to the bit where something is hidden."""

import numpy as np
import torch

from worldmodel.clips import Truth
from worldmodel.evaluation.footage import Block

FRAMES, SIZE, FPS = 12, 16, 8.0


def random_block(
    key: str, kind: str, windows: tuple[tuple[int, int], ...] = ((4, 8),), seed: int = 0
) -> Block:
    generator = np.random.default_rng([seed, *key.encode()])
    frames = generator.integers(0, 256, (2, FRAMES, 3, SIZE, SIZE), dtype=np.uint8)
    depth = generator.integers(1, 20_000, (2, FRAMES, SIZE, SIZE)).astype(np.float32) / 1000
    depth[:, :, 0, 0] = 0  # nothing is hit
    ids = generator.choice(np.array([0, 1, 2, 100], np.uint8), (2, FRAMES, SIZE, SIZE))
    for start, stop in windows:
        for values in (frames, depth, ids):
            values[1, start:stop] = values[0, start:stop]
    truth = tuple(
        Truth(depth[n], ids[n], {"present": np.array([1.0, 1.0, 0.0], np.float32)})
        for n in range(2)
    )
    return Block(key, kind, torch.from_numpy(frames), truth, windows, FPS)
