"""Optical flow from what is known: depth, ids, and the motion of the camera and of each thing."""

from __future__ import annotations

import numpy as np

from worldmodel.clips import Truth
from worldmodel.data.truth import SLAB_ID
from worldmodel.world.forms import Quaternion
from worldmodel.world.visibility import rotation

# A point is still seen if what its pixel shows next is this near to it in depth.
SEEN_METRES = 0.03


def optical_flow(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface that each pixel shows is one frame later.

    Args:
        truth: of a clip of the physics world, all its frames in a row.

    Returns:
        The flow, float32 `(T - 1, H, W, 2)`, pixels to the right and downwards from each pixel's
        centre, 0 where the pixel shows nothing; and whether that point can still be seen then,
        bool `(T - 1, H, W)`: neither covered, nor outside of the image.
    """
    frames, height, width = truth.depth.shape
    state = {name: np.asarray(value, np.float64) for name, value in truth.state.items()}
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = np.stack([columns, rows, np.ones_like(rows)], -1)
    rays = centres @ np.linalg.inv(state["intrinsics"]).T
    flow = np.zeros((frames - 1, height, width, 2), np.float32)
    seen = np.zeros((frames - 1, height, width), bool)
    for frame in range(frames - 1):
        camera = state["camera_pose"][frame]
        points = (rays * truth.depth[frame][..., None]) @ camera[:, :3].T + camera[:, 3]
        moved = _carried(points, truth.ids[frame], state, frame)
        later = state["camera_pose"][frame + 1]
        local = (moved - later[:, 3]) @ later[:, :3]
        pixels = local @ state["intrinsics"].T
        place = pixels[..., :2] / np.where(local[..., 2:] > 0, local[..., 2:], np.inf)
        hit = (truth.depth[frame] > 0) & (local[..., 2] > 0)
        flow[frame] = np.where(hit[..., None], place - centres[..., :2], 0)
        column, row = np.floor(place[..., 0]).astype(int), np.floor(place[..., 1]).astype(int)
        inside = hit & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        at = (row.clip(0, height - 1), column.clip(0, width - 1))
        near = np.abs(truth.depth[frame + 1][at] - local[..., 2]) < SEEN_METRES
        seen[frame] = inside & near & (truth.ids[frame + 1][at] == truth.ids[frame])
    return flow, seen


def _carried(
    points: np.ndarray, ids: np.ndarray, state: dict[str, np.ndarray], frame: int
) -> np.ndarray:
    """World points `(H, W, 3)` one frame later, each on the thing with its id."""
    moved = points.copy()
    for identity in np.unique(ids[ids > 0]):
        slab = int(identity) >= SLAB_ID
        slot = int(identity) - (SLAB_ID if slab else 1)  # bodies count from 1
        before, after = state["slab_pose" if slab else "pose"][frame : frame + 2, slot]
        mine = ids == identity
        turn = _rotation(after) @ _rotation(before).T
        moved[mine] = (points[mine] - before[:3]) @ turn.T + after[:3]
    return moved


def _rotation(pose: np.ndarray) -> np.ndarray:
    w, x, y, z = (float(part) for part in pose[3:])
    quaternion: Quaternion = (w, x, y, z)
    return rotation(quaternion)
