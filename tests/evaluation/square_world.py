"""A world of grey squares whose truth is plain, and models that are known to be right or wrong."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from worldmodel.clips import Truth
from worldmodel.data.encode import encode_video
from worldmodel.data.index import write_index
from worldmodel.data.shards import write_shard
from worldmodel.data.truth import encode_truth
from worldmodel.evaluation.footage import Block, Footage
from worldmodel.models.hierarchy import LevelPrediction

FRAMES, SIZE = 16, 16
WINDOW = (5, 11)
FPS = 8.0
KINDS = ("reveal", "permanence")


def square_clip(present: bool, seed: int, window: tuple[int, int] = WINDOW) -> tuple[Tensor, Truth]:
    """A square crosses the frame at its own speed and cannot be seen within the window.

    Returns:
        uint8 `(T, 3, SIZE, SIZE)` and truth; the square is slot 0.
    """
    generator = np.random.default_rng(seed)
    speed, row = generator.uniform(0.6, 0.9), int(generator.integers(3, 12))
    x = 1.5 + speed * np.arange(FRAMES)
    frames = np.full((FRAMES, 3, SIZE, SIZE), 60, dtype=np.uint8)
    frames += generator.integers(0, 20, (1, 3, SIZE, SIZE), dtype=np.uint8)
    depth = np.full((FRAMES, SIZE, SIZE), 6.0, dtype=np.float32)
    depth += np.linspace(0, 3, SIZE, dtype=np.float32)[:, None] + np.float32(
        generator.uniform(0, 1)
    )
    ids = np.zeros((FRAMES, SIZE, SIZE), dtype=np.uint8)
    hidden = (np.arange(FRAMES) >= window[0]) & (np.arange(FRAMES) < window[1])
    for frame in np.flatnonzero(~hidden) if present else []:
        place = np.s_[row - 1 : row + 2, max(int(x[frame]) - 1, 0) : int(x[frame]) + 2]
        frames[(frame, slice(None), *place)] = 220
        depth[(frame, *place)] = 3.0
        ids[(frame, *place)] = 1
    state = {
        "camera_pose": np.tile(np.eye(4, dtype=np.float32)[:3], (FRAMES, 1, 1)),
        "tracked": np.array(0, dtype=np.float32),
        "present": np.array([present], dtype=np.float32),
        "image_position": np.stack([x, np.full(FRAMES, row)], -1)[:, None].astype(np.float32),
        "visible_fraction": (~hidden)[:, None].astype(np.float32) * present,
        "amodal_area": np.full((FRAMES, 1), 9.0 * present, dtype=np.float32),
        "slab_screen": np.ones(1, np.float32),
        # Bright squares are of one category, dim ones of another.
        "category": np.array([seed % 2], dtype=np.float32),
        "animate": np.zeros(1, np.float32),
        # One object, one slab, and the floor, which carries it.
        "contact": np.tile(np.float32([0, 0, 1]), (FRAMES, 1, 1)),
        "support": np.tile(np.float32([0, 0, 1]), (FRAMES, 1, 1)),
        "slab_box": np.tile(np.float32([4, 2, 9, 14]), (FRAMES, 1, 1)),
    }
    return torch.from_numpy(frames), Truth(depth, ids, state)


def block(
    seed: int, kind: str = "reveal", windows: tuple[tuple[int, int], ...] = (WINDOW,)
) -> Block:
    """World A with the square, world B without; equal to the bit within the windows."""
    worlds = [
        square_clip(present, seed, (windows[0][0], windows[-1][1])) for present in (True, False)
    ]
    frames = torch.stack([frames for frames, _ in worlds])
    if len(windows) == 2:  # seen in the gap between two screens
        gap = slice(windows[0][1], windows[1][0])
        frames[0, gap, :, 6:9, 6:9] = 220
    return Block(f"{kind}-{seed:03d}", kind, frames, (worlds[0][1], worlds[1][1]), windows, FPS)


def footage(seed: int, present: bool = True, kind: str = "permanence") -> Footage:
    """One event clip of the squares' world."""
    frames, truth = square_clip(present, seed)
    metadata = {"kind": kind, "present": present, "hidden_frames": list(WINDOW)}
    return Footage(f"clip-{seed:03d}", frames, truth, metadata, 1)


class Planted:
    """A model whose only token is how much bright square a step shows.

    Args:
        remembers: predict that a square seen before the window is back after it, and that one not
            seen stays away; without memory the prediction is a constant.
    """

    steps_are_local = True

    def __init__(self, remembers: bool) -> None:
        self.remembers = remembers
        self.levels = [
            SimpleNamespace(span=span, dim=1, width=1, num_tokens=1, grid=(1, 1), horizons=(1, 2))
            for span in (1, 2)
        ]

    def to(self, device: torch.device) -> "Planted":
        """It has no weights to move."""
        return self

    def encode(self, frames: Tensor) -> list[Tensor]:
        shown = (frames > 200).float().flatten(2).mean(2)
        pairs = shown.unflatten(1, (-1, 2)).mean(2)
        return [values[:, :, None, None] for values in (shown, pairs)]

    def predict(self, tokens: list[Tensor]) -> list[LevelPrediction]:
        predictions = []
        for level, values in zip(self.levels, tokens, strict=True):
            steps = torch.arange(values.shape[1]).view(1, -1, 1, 1) * level.span
            predicted = {}
            for horizon in level.horizons:
                ahead = steps + horizon * level.span
                due = (ahead < WINDOW[0]) | (ahead >= WINDOW[1])
                seen = values.cummax(1).values if self.remembers else torch.full_like(values, 0.02)
                predicted[horizon] = seen * due
            predictions.append(LevelPrediction(values.cummax(1).values, predicted))
        return predictions


def _metadata(kind: str, **more: object) -> dict[str, bytes]:
    shape = {"fps": FPS, "num_frames": FRAMES, "width": SIZE, "height": SIZE}
    return {"json": json.dumps({"kind": kind, **shape, **more}).encode()}


def _world(frames: torch.Tensor, truth: object, prefix: str) -> dict[str, bytes]:
    pixels = frames.permute(0, 2, 3, 1).contiguous().numpy()
    members = {"mp4": encode_video(pixels, FPS, lossless=True), **encode_truth(truth)}
    return {f"{prefix}{name}": content for name, content in members.items()}


def write_squares(root: Path, clips: dict[str, int], blocks: dict[str, int]) -> None:
    """A set with some clips and some blocks of each kind per split."""
    for number, (split, count) in enumerate(clips.items()):
        samples = []
        for index in range(count):
            present, kind = index % 2 == 0, KINDS[index % 3 % 2]
            seed = 1000 * number + index
            more = _metadata(kind, present=present, hidden_frames=list(WINDOW))
            samples.append((f"{split}-{index:06d}", _world(*square_clip(present, seed), "") | more))
        write_shard(root / split / "clips-000000.tar", samples)
    for split, count in blocks.items():
        samples = []
        for kind in KINDS:
            for index in range(count):
                one = block(5000 + index + 100 * (split == "test"), kind)
                members = _metadata(kind, hidden_windows=[list(WINDOW)], splice_frames=[8])
                for world, name in enumerate("ab"):
                    members |= _world(one.frames[world], one.truth[world], f"{name}.")
                samples.append((f"{split}-{kind}-{index:04d}", members))
        write_shard(root / split / "blocks-000000.tar", samples)
    write_index(root, {"source": "squares"})
