"""One sample of the physics world from its seed: what each worker process does."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.data.encode import encode_video
from worldmodel.data.packets import with_packets
from worldmodel.data.shards import SPLITS
from worldmodel.data.truth import encode_truth
from worldmodel.world.blocks import HIDDEN_KINDS, WorldPair
from worldmodel.world.free import free_scene
from worldmodel.world.open_blocks import KINDS, OPEN_KINDS
from worldmodel.world.render import Footage, Sight, render, see
from worldmodel.world.scenes import FPS, Scene
from worldmodel.world.simulate import Motion, UnstableSceneError, simulate
from worldmodel.world.style import Mix, Style, training_style, unseen_style
from worldmodel.world.visibility import covered_frames, longest_run, runs_of

Members = dict[str, bytes]

UNSEEN_SPLIT = "ood"
# `reveal` is drawn twice as often as any other kind: memory is asked for in its last second alone.
HIDDEN_WEIGHTS = {kind: 2.0 if kind == "reveal" else 1.0 for kind in HIDDEN_KINDS}
# What differs must be seen in this many frames before, between and after the hidings ...
MIN_FRAMES_SEEN = 5
# ... and this many frames (3/4 s) must remain after the last one.
MIN_FRAMES_AFTER = 12
# In open view, how far apart the same body may be in both worlds at the change: less than a pixel
# of 64, and a turn that cannot be seen.
MAX_JUMP_METRES, MAX_JUMP_QUATERNION = 0.02, 0.02
# ... and the least share of it that must be in sight then.
MIN_SEEN_AT_SPLICE = 0.6
# Nine of ten draws of a kind are accepted: a hundred failures are a defect, not chance.
MAX_ATTEMPTS = 100


class RejectedError(Exception):
    """A drawn scene that is not what it was meant to be; the message says in what way."""


@dataclass(frozen=True)
class Task:
    """Which sample to make.

    Attributes:
        split: one of `SPLITS`.
        stream: "clip", or the kind of a block.
        index: within split and stream.
        size: pixels.
        mix: shares of what scenes show.
        leave_out: kinds whose worlds are not shown in training and validation clips.
    """

    seed: int
    split: str
    stream: str
    index: int
    size: int
    mix: Mix = field(default_factory=Mix)
    leave_out: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the sample, unique within the set."""
        if self.stream == "clip":
            return f"{self.split}-{self.index:06d}"
        return f"{self.split}-{self.stream}-{self.index:04d}"

    @property
    def style(self) -> Style:
        """What its scenes are made of."""
        return (unseen_style if self.split == UNSEEN_SPLIT else training_style)(self.mix)

    def generator(self, attempt: int) -> np.random.Generator:
        """Source of chance for one attempt; no other task or attempt shares it."""
        stream = ("clip", *KINDS).index(self.stream)
        spawn_key = (SPLITS.index(self.split), stream, self.index, attempt)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=spawn_key))


def make_sample(task: Task) -> Members:
    """Draw scenes until one is sound, and encode it; its `json` says what was rejected, and why."""
    rejected: Counter[str] = Counter()
    for attempt in range(MAX_ATTEMPTS):
        rng = task.generator(attempt)
        try:
            members, metadata = _clip(task, rng) if task.stream == "clip" else _block(task, rng)
        except (UnstableSceneError, RejectedError) as error:
            rejected[str(error)] += 1
            continue
        text = json.dumps(metadata | {"rejected": dict(rejected)}, sort_keys=True)
        return members | {"json": text.encode()}
    raise AssertionError(f"no sound scene for {task} in {MAX_ATTEMPTS} attempts: {rejected}")


def draw_kind(rng: np.random.Generator, task: Task) -> str:
    """Which kind of event a clip shows a world of, or "free"."""
    left_out = task.leave_out if task.split in ("train", "val") else ()
    weights = {kind: weight for kind, weight in HIDDEN_WEIGHTS.items() if kind not in left_out}
    open_kinds = [kind for kind in OPEN_KINDS if kind not in left_out]
    mix = task.mix
    event, in_view = rng.random() < mix.event, rng.random() < mix.open_event
    if event and in_view and open_kinds:
        return str(rng.choice(open_kinds))
    if event and not in_view and weights:
        shares = np.array(list(weights.values()))
        return str(rng.choice(list(weights), p=shares / shares.sum()))
    return "free"


def _clip(task: Task, rng: np.random.Generator) -> tuple[Members, dict[str, Any]]:
    """A free scene, or one world of an event."""
    kind = draw_kind(rng, task)
    more: dict[str, Any] = {}
    if kind == "free":
        scene = free_scene(rng, task.style)
        footage = render(scene, simulate(scene), task.size)
    else:
        pair = KINDS[kind](rng, task.style)
        world = "ab"[rng.integers(2)]
        scene = pair.a if world == "a" else pair.b
        footage = render(scene, simulate(scene), task.size)
        present = scene.bodies[0].present
        more = {"present": present, "world": world, "hidden_frames": [0, 0]} | _variant(pair)
        if kind in HIDDEN_KINDS:
            if present:
                state = footage.truth.state
                amodal, visible = state["amodal_area"], state["visible_fraction"]
                covered = (amodal[:, 0] > 0) & (visible[:, 0] == 0)
            else:  # the other world tells when it would be hidden
                covered = covered_frames(pair.a, simulate(pair.a), 0, task.size)
            more["hidden_frames"] = list(longest_run(covered))
    video = encode_video(footage.frames, float(FPS))
    members = {**with_packets(video), **encode_truth(footage.truth)}
    return members, _metadata(task, scene) | more


def _block(task: Task, rng: np.random.Generator) -> tuple[Members, dict[str, Any]]:
    """Two worlds and where to splice them."""
    pair = KINDS[task.stream](rng, task.style)
    scenes = (pair.a, pair.b)
    motions = [simulate(scene) for scene in scenes]
    sights = [see(*each, task.size) for each in zip(scenes, motions, strict=True)]
    if pair.splice_frame is None:
        # Seeing costs a tenth of a picture; most bad draws end here.
        same_surfaces = _same_surfaces(pair, sights)
        hidden_windows(same_surfaces, pair)
    else:
        _check_splice(pair.splice_frame, motions, sights)
    a, b = (render(*each, task.size) for each in zip(scenes, motions, strict=True))
    windows = []
    if pair.splice_frame is None:
        # A sliver of the body may have the colour of what lies behind it: neither pictures alone
        # nor surfaces alone tell.
        windows = hidden_windows(same_surfaces & _same_frames(a, b), pair)
    members: Members = {}
    for name, world in (("a", a), ("b", b)):
        video = encode_video(world.frames, float(FPS), lossless=True)
        parts = {**with_packets(video), **encode_truth(world.truth)}
        members |= {f"{name}.{extension}": content for extension, content in parts.items()}
    splices = [(start + stop) // 2 for start, stop in windows]
    if pair.splice_frame is not None:
        splices = [pair.splice_frame]
    more = {"splice_frames": splices, "hidden_windows": [list(window) for window in windows]}
    return members, _metadata(task, pair.a) | more | _variant(pair)


def _variant(pair: WorldPair) -> dict[str, str]:
    return {"variant": pair.variant} if pair.variant else {}


def _metadata(task: Task, scene: Scene) -> dict[str, Any]:
    return {
        "source": "physics-world",
        "fps": FPS,
        "num_frames": scene.num_frames,
        "width": task.size,
        "height": task.size,
        "split": task.split,
        "seed": task.seed,
        "kind": scene.kind,
        "moving_camera": scene.camera.moving,
    }


def _check_splice(frame: int, motions: list[Motion], sights: list[Sight]) -> None:
    """See that nothing jumps at the change, and that the protagonist is in sight.

    Raises:
        RejectedError: it does, or is not.
    """
    a, b = (motion.pose[frame] for motion in motions)
    turned = np.minimum(np.abs(a - b)[:, 3:].max(1), np.abs(a + b)[:, 3:].max(1))
    if np.abs(a - b)[:, :3].max() > MAX_JUMP_METRES or turned.max() > MAX_JUMP_QUATERNION:
        raise RejectedError("the worlds do not meet at the change")
    for sight in sights:
        if sight.visible[frame, 0] < max(MIN_SEEN_AT_SPLICE * sight.amodal[frame, 0], 1):
            raise RejectedError("out of sight at the change")


def _same_surfaces(pair: WorldPair, sights: list[Sight]) -> np.ndarray:
    """In which frames all rays meet equal surfaces at equal depth in both worlds, `(T,)`."""
    a, b = sights
    bodies = enumerate(zip(pair.a.bodies, pair.b.bodies, strict=True))
    unequal = [slot for slot, (before, after) in bodies if before != after]
    same = (a.ids == b.ids) & (a.depth == b.depth)
    seen = a.visible[:, unequal].any(1) | b.visible[:, unequal].any(1)
    return same.reshape(len(same), -1).all(1) & ~seen


def _same_frames(a: Footage, b: Footage) -> np.ndarray:
    """In which frames the pictures are equal to the bit, `(T,)`."""
    return (a.frames == b.frames).reshape(len(a.frames), -1).all(1)


def hidden_windows(same: np.ndarray, pair: WorldPair) -> list[tuple[int, int]]:
    """The stretches `[start, stop)` of equal frames in which the difference is hidden.

    Args:
        same: in which frames the worlds look the same, `(T,)`.
        pair: which tells how many there must be, and how long.

    Returns:
        As many as the pair needs, in order of time.

    Raises:
        RejectedError: one is too short, or the difference is not seen well before, between and
            after them.
    """
    inner = [(start, stop) for start, stop in runs_of(same) if start > 0 and stop < len(same)]
    windows = sorted(sorted(inner, key=lambda run: run[0] - run[1])[: pair.num_windows])
    if len(windows) < pair.num_windows:
        raise RejectedError("not hidden")
    if any(stop - start < pair.min_frames for start, stop in windows):
        raise RejectedError("hidden too shortly")
    if len(same) - windows[-1][1] < MIN_FRAMES_AFTER:
        raise RejectedError("too little remains after the hiding")
    edges = [0, *(edge for window in windows for edge in window), len(same)]
    seen = [(~same[start:stop]).sum() for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    if min(seen) < MIN_FRAMES_SEEN:
        raise RejectedError("the difference is seen too shortly")
    return windows
