"""One sample of the physics world from its seed: what each worker process does."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.data.shards import SPLITS
from worldmodel.data.truth import encode_truth
from worldmodel.data.video import encode_video
from worldmodel.world.blocks import HIDDEN_KINDS, WorldPair
from worldmodel.world.render import FIRST_BODY, Footage, Hits, RayCaster, first_hits, render
from worldmodel.world.scenes import FPS, Scene, free_scene
from worldmodel.world.simulate import UnstableSceneError, simulate
from worldmodel.world.visibility import covered_frames, longest_run, runs_of

Members = dict[str, bytes]

FREE_SHARE = 0.3
# `reveal` is drawn twice as often as any other kind: memory is asked for in its last second alone.
KIND_WEIGHTS = np.array([2.0 if kind == "reveal" else 1.0 for kind in HIDDEN_KINDS])
# What differs must be seen in this many frames before, between and after the hidings ...
MIN_FRAMES_SEEN = 5
# ... and this many frames (3/4 s) must remain after the last one.
MIN_FRAMES_AFTER = 12
# Nine of ten draws of a kind are accepted: a hundred failures are a defect, not chance.
MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class Task:
    """Which sample to make.

    Attributes:
        split: one of `SPLITS`.
        stream: "clip", or the kind of a block.
        index: within split and stream.
        size: pixels.
    """

    seed: int
    split: str
    stream: str
    index: int
    size: int

    @property
    def key(self) -> str:
        """Name of the sample, unique within the set."""
        if self.stream == "clip":
            return f"{self.split}-{self.index:06d}"
        return f"{self.split}-{self.stream}-{self.index:04d}"

    def generator(self, attempt: int) -> np.random.Generator:
        """Source of chance for one attempt; no other task or attempt shares it."""
        stream = ("clip", *HIDDEN_KINDS).index(self.stream)
        spawn_key = (SPLITS.index(self.split), stream, self.index, attempt)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=spawn_key))


def make_sample(task: Task) -> Members:
    """Draw scenes until one is sound, and encode it."""
    for attempt in range(MAX_ATTEMPTS):
        rng = task.generator(attempt)
        try:
            sample = _clip(task, rng) if task.stream == "clip" else _block(task, rng)
        except UnstableSceneError:
            continue
        if sample is not None:
            return sample
    raise AssertionError(f"no sound scene for {task} in {MAX_ATTEMPTS} attempts")


def _clip(task: Task, rng: np.random.Generator) -> Members:
    """A free scene, or one world of an event."""
    if rng.random() < FREE_SHARE:
        scene = free_scene(rng)
        footage = render(RayCaster(scene, simulate(scene), task.size))
        metadata: dict[str, Any] = {}
    else:
        kind = str(rng.choice(list(HIDDEN_KINDS), p=KIND_WEIGHTS / KIND_WEIGHTS.sum()))
        pair = HIDDEN_KINDS[kind](rng)
        world = "ab"[rng.integers(2)]
        scene = pair.a if world == "a" else pair.b
        caster = RayCaster(scene, simulate(scene), task.size)
        footage = render(caster)
        present = scene.bodies[scene.tracked].present
        # Where this world lacks the body, the other one tells when it would be hidden.
        with_body = caster if present else RayCaster(pair.a, simulate(pair.a), task.size)
        hidden = longest_run(covered_frames(with_body, scene.tracked))
        metadata = {"present": present, "hidden_frames": list(hidden), "world": world}
    members = {"mp4": encode_video(footage.frames, float(FPS)), **encode_truth(footage.truth)}
    return members | _json(task, scene, metadata)


def _block(task: Task, rng: np.random.Generator) -> Members | None:
    """Two worlds and where to splice them; None if they are not equal for long enough."""
    pair = HIDDEN_KINDS[task.stream](rng)
    casters = [RayCaster(scene, simulate(scene), task.size) for scene in (pair.a, pair.b)]
    hits = [first_hits(caster) for caster in casters]
    # Rays through the pixels' centres cost a fifth of a picture; most bad draws end here.
    same_surfaces = _same_surfaces(pair, hits)
    if hidden_windows(same_surfaces, pair) is None:
        return None
    a, b = (render(caster, hit) for caster, hit in zip(casters, hits, strict=True))
    # A sliver of the body may have the colour of what lies behind it: pictures alone do not tell.
    windows = hidden_windows(same_surfaces & _same_frames(a, b), pair)
    if windows is None:
        return None
    members: Members = {}
    for name, world in (("a", a), ("b", b)):
        parts = {
            "mp4": encode_video(world.frames, float(FPS), lossless=True),
            **encode_truth(world.truth),
        }
        members |= {f"{name}.{extension}": content for extension, content in parts.items()}
    splices = [(start + stop) // 2 for start, stop in windows]
    metadata = {"splice_frames": splices, "hidden_windows": [list(window) for window in windows]}
    return members | _json(task, pair.a, metadata)


def _json(task: Task, scene: Scene, more: dict[str, Any]) -> Members:
    metadata = {
        "source": "physics-world",
        "fps": FPS,
        "num_frames": scene.num_frames,
        "width": task.size,
        "height": task.size,
        "split": task.split,
        "seed": task.seed,
        "kind": scene.kind,
        **more,
    }
    return {"json": json.dumps(metadata, sort_keys=True).encode()}


def _same_surfaces(pair: WorldPair, hits: list[list[Hits]]) -> np.ndarray:
    """In which frames all rays meet equal surfaces at equal depth in both worlds, `(T,)`."""
    bodies = enumerate(zip(pair.a.bodies, pair.b.bodies, strict=True))
    unequal = [FIRST_BODY + slot for slot, (before, after) in bodies if before != after]
    return np.array(
        [
            np.array_equal(a.geometry, b.geometry)
            and np.array_equal(a.depth, b.depth)
            and not np.isin(a.geometry, unequal).any()
            for a, b in zip(*hits, strict=True)
        ]
    )


def _same_frames(a: Footage, b: Footage) -> np.ndarray:
    """In which frames the pictures are equal to the bit, `(T,)`."""
    return (a.frames == b.frames).reshape(len(a.frames), -1).all(1)


def hidden_windows(same: np.ndarray, pair: WorldPair) -> list[tuple[int, int]] | None:
    """The stretches `[start, stop)` of equal frames in which the difference is hidden.

    Args:
        same: in which frames the worlds look the same, `(T,)`.
        pair: which tells how many there must be, and how long.

    Returns:
        As many as the pair needs, in order of time; None unless each is long enough and the
        difference is seen well before, between and after them.
    """
    inner = [(start, stop) for start, stop in runs_of(same) if start > 0 and stop < len(same)]
    windows = sorted(sorted(inner, key=lambda run: run[0] - run[1])[: pair.num_windows])
    if len(windows) < pair.num_windows or len(same) - windows[-1][1] < MIN_FRAMES_AFTER:
        return None
    edges = [0, *(edge for window in windows for edge in window), len(same)]
    seen = [(~same[start:stop]).sum() for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    long_enough = all(stop - start >= pair.min_frames for start, stop in windows)
    return windows if long_enough and min(seen) >= MIN_FRAMES_SEEN else None
