"""Where each body is in the image and how much of it can be seen: the states of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.world.scenes import CATEGORIES, NUM_BODIES, Scene

if TYPE_CHECKING:
    from worldmodel.world.render import RayCaster


def project(scene: Scene, points: np.ndarray, focal: float, size: int) -> np.ndarray:
    """World points `(T, N, 3)` to pixels and z-depth `(T, N, 3)`; (0, 0) is the image's corner."""
    poses = scene.camera.poses
    offset = points - poses[:, None, :, 3]
    local = np.einsum("tnw,twc->tnc", offset, poses[:, :, :3])
    pixels = local[..., :2] / local[..., 2:] * focal + size / 2
    return np.concatenate([pixels, local[..., 2:]], 2)


def slab_boxes(caster: RayCaster, focal: float) -> np.ndarray:
    """Pixel bounds x0, y0, x1, y1 of each slab, `(T, S, 4)`, not clipped; zeros if absent."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
    boxes = np.zeros((*caster.motion.slabs.shape[:2], 4))
    for slot, slab in enumerate(caster.scene.slabs):
        if slab.present:
            corners = caster.motion.slabs[:, slot, None] + signs * np.array(slab.half)
            pixels = project(caster.scene, corners, focal, caster.size)[..., :2]
            boxes[:, slot] = np.concatenate([pixels.min(1), pixels.max(1)], 1)
    return boxes


def body_boxes(caster: RayCaster, centres: np.ndarray, focal: float) -> np.ndarray:
    """Pixel bounds of a sphere around each body, `(T, K, 4)`; empty (zeros) if absent."""
    reach = np.array([body.reach for body in caster.scene.bodies])
    depth = centres[..., 2]
    # A sphere's outline is wider than its radius over its depth, most so at the image's rim: the
    # factor covers spheres out to 30 degrees from the view axis.
    radius = focal * reach / np.sqrt(np.maximum(depth**2 - reach**2, 1e-4)) * 1.2 + 1
    low, high = centres[..., :2] - radius[..., None], centres[..., :2] + radius[..., None]
    boxes = np.concatenate([low, high], 2)
    boxes[:, [not body.present for body in caster.scene.bodies]] = 0
    return boxes


def amodal_areas(
    caster: RayCaster, visible: np.ndarray, centres: np.ndarray, slabs: np.ndarray, focal: float
) -> np.ndarray:
    """Pixels that each body would cover if nothing stood before it, `(T, K)`.

    Rays are cast only for bodies that overlap another thing's bounds; the others are seen whole.
    """
    size = caster.size
    boxes = body_boxes(caster, centres, focal)
    everything = np.concatenate([boxes, slabs], 1)
    areas = visible.astype(np.float32)
    low, high = everything[..., None, :2], everything[..., None, 2:]
    overlap = ((low < boxes[:, None, :, 2:]) & (high > boxes[:, None, :, :2])).all(3)
    crowded = overlap.sum(1) > 1
    inside = np.all(boxes[..., 2:] > 0, axis=2) & np.all(boxes[..., :2] < size, axis=2)
    looked_at = crowded & inside
    clipped = np.clip(np.stack([np.floor(boxes), np.ceil(boxes)]), 0, size).astype(int)
    for frame in np.flatnonzero(looked_at.any(1)):
        caster.set_frame(int(frame))
        rays = caster.directions(int(frame)).reshape(size, size, 3)
        place = caster.scene.camera.places[frame]
        for slot in np.flatnonzero(looked_at[frame]):
            x0, y0 = clipped[0, frame, slot, :2]
            x1, y1 = clipped[1, frame, slot, 2:]
            window = np.ascontiguousarray(rays[y0:y1, x0:x1]).reshape(-1, 3)
            if len(window):
                areas[frame, slot] = (caster.distances(place, window, int(slot)) > 0).sum()
    return areas


def state_of(caster: RayCaster, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every array of `state.npz` (`docs/formats.md`), float32, for a clip with these ids."""
    scene, motion, size = caster.scene, caster.motion, caster.size
    focal = caster.focal
    counts = np.stack([np.bincount(frame.ravel(), minlength=256) for frame in ids])
    visible = counts[:, 1 : 1 + NUM_BODIES]
    centres = project(scene, motion.pose[..., :3], focal, size)
    slabs = slab_boxes(caster, focal)
    amodal = amodal_areas(caster, visible, centres, slabs, focal)
    state = {
        "camera_pose": scene.camera.poses,
        "intrinsics": [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]],
        "light": scene.room.light,
        "pose": motion.pose,
        "velocity": motion.velocity,
        "image_position": centres[..., :2],
        "distance": centres[..., 2],
        "visible_fraction": visible / np.maximum(amodal, 1),
        "amodal_area": amodal,
        "category": [CATEGORIES.index(body.category) for body in scene.bodies],
        "present": [body.present for body in scene.bodies],
        "tracked": scene.tracked,
        "colour": [list(body.colour) for body in scene.bodies],
        "size": [body.size for body in scene.bodies],
        "screen_box": slabs,
        "screen_moving": [slab.moving and slab.present for slab in scene.slabs],
    }
    return {name: np.asarray(value, np.float32) for name, value in state.items()}


def covered_frames(caster: RayCaster, slot: int) -> np.ndarray:
    """In which frames a body is in view yet wholly covered, `(T,)`, without rendering them."""
    scene, size = caster.scene, caster.size
    centres = project(scene, caster.motion.pose[..., :3], caster.focal, size)
    boxes = body_boxes(caster, centres, caster.focal)[:, slot]
    clipped = np.clip(boxes, 0, size)
    covered = np.zeros(len(boxes), bool)
    for frame, (x0, y0, x1, y1) in enumerate(clipped):
        rows, columns = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        rays = caster.directions(frame).reshape(size, size, 3)[rows, columns]
        if rays.size:
            caster.set_frame(frame)
            place, window = scene.camera.places[frame], np.ascontiguousarray(rays).reshape(-1, 3)
            alone = caster.distances(place, window, slot)
            first = caster.distances(place, window)
            # Hidden if each ray that would meet the body meets something else before it.
            meets = alone > 0
            covered[frame] = meets.any() and not (meets & (first >= alone)).any()
    return covered


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """The longest run `[start, stop)` of true values in a row; (0, 0) if there is none."""
    return max(runs_of(flags), key=lambda run: run[1] - run[0], default=(0, 0))


def runs_of(flags: np.ndarray) -> list[tuple[int, int]]:
    """All runs `[start, stop)` of true values in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
