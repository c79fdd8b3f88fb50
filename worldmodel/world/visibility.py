"""What of a scene can be seen, where and how much of it: ids, depth and states of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from worldmodel.data.truth import SLAB_ID
from worldmodel.world import tracer
from worldmodel.world.forms import CATEGORIES, PRIMITIVES, Part, Quaternion
from worldmodel.world.scenes import (
    FIELD_OF_VIEW_DEGREES,
    NUM_BODIES,
    NUM_SLABS,
    Body,
    Scene,
    Slab,
)
from worldmodel.world.simulate import Motion

IDS = np.array([*range(1, NUM_BODIES + 1), *range(SLAB_ID, SLAB_ID + NUM_SLABS)], np.uint8)


@dataclass(frozen=True)
class Sight:
    """What a clip's pixels show.

    Attributes:
        ids: uint8 `(T, H, W)`.
        depth: float32 `(T, H, W)`, z-depth in metres at the pixel's centre; 0 where nothing is met.
        visible: `(T, K)`, in how many pixels each body is seen.
        amodal: `(T, K)`, in how many it would be seen if it were alone.
    """

    ids: np.ndarray
    depth: np.ndarray
    visible: np.ndarray
    amodal: np.ndarray


def focal_length(size: int) -> float:
    """In pixels, of an image of `size` by `size`."""
    return size / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEGREES) / 2)


def see(scene: Scene, motion: Motion, size: int) -> Sight:
    """Geometry alone, which takes a tenth of the time that pictures take, or less."""
    return trace_clip(
        scene,
        motion,
        np.empty((0, size, size, 3), np.uint8),
        np.empty(0, tracer.SURFACE),
        np.empty(0, tracer.LIGHT),
    )


def trace_clip(
    scene: Scene,
    motion: Motion,
    frames: np.ndarray,
    surfaces: np.ndarray,
    lights: np.ndarray,
    reuse: bool = True,
) -> Sight:
    """Trace a clip, with or without its pictures.

    Args:
        scene: what is there.
        motion: where it is.
        frames: receives uint8 `(T, H, W, 3)`; no frames are made if T is 0.
        surfaces: what floor, wall and `parts_of` look like, of dtype `tracer.SURFACE`.
        lights: of dtype `tracer.LIGHT`.
        reuse: draw only once what stands still; never changes a bit.
    """
    num_frames = scene.num_frames
    poses = np.empty((num_frames, NUM_BODIES + NUM_SLABS, 7))
    poses[:, :NUM_BODIES] = motion.pose
    poses[:, NUM_BODIES:, :3] = motion.slabs
    poses[:, NUM_BODIES:, 3:] = [slab.quaternion for slab in scene.slabs]
    size = frames.shape[1]
    output = tracer.trace(
        scene.camera.poses,
        focal_length(size),
        poses,
        _solids(scene),
        surfaces,
        lights,
        scene.room.gains(num_frames),
        IDS,
        frames,
        size,
        reuse,
    )
    return Sight(
        output.ids, output.depth, output.visible[:, :NUM_BODIES], output.amodal[:, :NUM_BODIES]
    )


def parts_of(scene: Scene) -> list[tuple[int, Part]]:
    """Number of the owner, bodies before slabs, and primitive, of all things that are present."""
    things: tuple[Body | Slab, ...] = (*scene.bodies, *scene.slabs)
    return [
        (owner, part) for owner, thing in enumerate(things) if thing.present for part in thing.parts
    ]


def _solids(scene: Scene) -> np.ndarray:
    parts = parts_of(scene)
    solids = np.zeros(len(parts), tracer.SOLID)
    for solid, (owner, part) in zip(solids, parts, strict=True):
        solid["shape"] = PRIMITIVES.index(part.shape)
        solid["owner"] = owner
        solid["half"] = part.half
        solid["offset"] = part.offset
        solid["tilt"] = rotation(part.quaternion)
    return solids


def rotation(quaternion: Quaternion) -> np.ndarray:
    """Matrix `(3, 3)` of a quaternion w, x, y, z."""
    w, x, y, z = quaternion
    scale = 2 / (w * w + x * x + y * y + z * z)
    return np.array(
        [
            [1 - scale * (y * y + z * z), scale * (x * y - w * z), scale * (x * z + w * y)],
            [scale * (x * y + w * z), 1 - scale * (x * x + z * z), scale * (y * z - w * x)],
            [scale * (x * z - w * y), scale * (y * z + w * x), 1 - scale * (x * x + y * y)],
        ]
    )


def project(scene: Scene, points: np.ndarray, focal: float, size: int) -> np.ndarray:
    """World points `(T, N, 3)` to pixels and z-depth `(T, N, 3)`; (0, 0) is the image's corner."""
    poses = scene.camera.poses
    offset = points - poses[:, None, :, 3]
    local = np.einsum("tnw,twc->tnc", offset, poses[:, :, :3])
    pixels = local[..., :2] / local[..., 2:] * focal + size / 2
    return np.concatenate([pixels, local[..., 2:]], 2)


def slab_boxes(scene: Scene, motion: Motion, size: int) -> np.ndarray:
    """Pixel bounds x0, y0, x1, y1 of each slab, `(T, S, 4)`, not clipped; zeros if absent."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
    boxes = np.zeros((*motion.slabs.shape[:2], 4))
    for slot, slab in enumerate(scene.slabs):
        if slab.present:
            corners = np.concatenate(
                [
                    signs * np.array(part.half) @ rotation(part.quaternion).T + part.offset
                    for part in slab.parts
                ]
            )
            corners = motion.slabs[:, slot, None] + corners @ rotation(slab.quaternion).T
            pixels = project(scene, corners, focal_length(size), size)[..., :2]
            boxes[:, slot] = np.concatenate([pixels.min(1), pixels.max(1)], 1)
    return boxes


def state_of(scene: Scene, motion: Motion, sight: Sight, size: int) -> dict[str, np.ndarray]:
    """Every array of `state.npz` (`docs/formats.md`), float32, of a clip seen like this."""
    focal = focal_length(size)
    centres = project(scene, motion.pose[..., :3], focal, size)
    state = {
        "camera_pose": scene.camera.poses,
        "intrinsics": [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]],
        "light": scene.room.lights[0].position,
        "pose": motion.pose,
        "velocity": motion.velocity,
        "image_position": centres[..., :2],
        "distance": centres[..., 2],
        "visible_fraction": sight.visible / np.maximum(sight.amodal, 1),
        "amodal_area": sight.amodal,
        "category": [CATEGORIES.index(body.category) for body in scene.bodies],
        "present": [body.present for body in scene.bodies],
        "animate": [body.animate for body in scene.bodies],
        "tracked": scene.tracked,
        "colour": [list(body.colour) for body in scene.bodies],
        "size": [body.size for body in scene.bodies],
        "slab_pose": np.concatenate(
            [
                motion.slabs,
                np.broadcast_to(
                    [slab.quaternion for slab in scene.slabs], (*motion.slabs.shape[:2], 4)
                ),
            ],
            2,
        ),
        "slab_box": slab_boxes(scene, motion, size),
        "slab_moving": [slab.moving and slab.present for slab in scene.slabs],
        "slab_screen": [slab.screen and slab.present for slab in scene.slabs],
        "contact": motion.contact,
        "support": motion.support,
    }
    return {name: np.asarray(value, np.float32) for name, value in state.items()}


def covered_frames(scene: Scene, motion: Motion, slot: int, size: int) -> np.ndarray:
    """In which frames a body is in view yet wholly covered, `(T,)`."""
    sight = see(scene, motion, size)
    return (sight.amodal[:, slot] > 0) & (sight.visible[:, slot] == 0)


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """The longest run `[start, stop)` of true values in a row; (0, 0) if there is none."""
    return max(runs_of(flags), key=lambda run: run[1] - run[0], default=(0, 0))


def runs_of(flags: np.ndarray) -> list[tuple[int, int]]:
    """All runs `[start, stop)` of true values in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
