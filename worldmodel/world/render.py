"""Ray casting: poses become rgb, depth and ids; no GL, no display, no root.

Frames of two scenes that differ in something hidden are equal to the bit. Three things see to it:
bodies that are absent are skipped by the rays, every pixel is computed from its own ray alone, and
the colours use only + - * / sqrt and comparisons, whose results do not depend on which other
pixels are computed beside them (those of sin, exp or a matrix product may).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from worldmodel.clips import Truth
from worldmodel.world.scenes import FIELD_OF_VIEW_DEGREES, NUM_BODIES, NUM_SLABS, Body, Room, Scene
from worldmodel.world.simulate import Motion, build_model
from worldmodel.world.visibility import state_of

# Geometry in the model: floor, wall, the slabs, the bodies.
FIRST_SLAB = 2
FIRST_BODY = FIRST_SLAB + NUM_SLABS
SLAB_ID = 100
FAR_METRES = 100.0
SKY = (0.70, 0.80, 0.90)
AMBIENT = 0.38
# A surface shadows a point if it is met this much (relative) before it: 1 cm at 6 m.
SHADOW_SLACK = 2e-3
# Four rays per pixel on a rotated grid, in pixels from its centre.
SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]])
# Change of the normal (sum of its three parts) from which a pixel lies on a crease.
CREASE = 0.5


@dataclass(frozen=True)
class Footage:
    """A rendered clip: frames uint8 `(T, H, W, 3)` and what is really there."""

    frames: np.ndarray
    truth: Truth


@dataclass(frozen=True)
class Hits:
    """What N rays met: geometry (-1 nothing), z-depth in metres, unit normals `(3, N)`."""

    geometry: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def focal_length(size: int) -> float:
    """In pixels, of an image of `size` by `size`."""
    return size / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEGREES) / 2)


class RayCaster:
    """Casts rays into one scene at one frame at a time.

    Args:
        scene: what is there.
        motion: where it is in each frame.
        size: height and width in pixels.
    """

    def __init__(self, scene: Scene, motion: Motion, size: int) -> None:
        self.scene, self.motion, self.size = scene, motion, size
        self.focal = focal_length(size)
        self._model = build_model(scene, posed=True)
        self._data = mujoco.MjData(self._model)
        middles = (np.arange(size) + 0.5 - size / 2) / self.focal
        x, y = np.meshgrid(middles, middles)
        self._grid = np.stack([x.ravel(), y.ravel(), np.ones(size * size)], 1)
        self.ids_of_geometry = np.zeros(self._model.ngeom + 1, np.uint8)  # last one: nothing met
        self.ids_of_geometry[FIRST_SLAB:FIRST_BODY] = SLAB_ID + np.arange(NUM_SLABS)
        self.ids_of_geometry[FIRST_BODY:-1] = 1 + np.arange(NUM_BODIES)

    def set_frame(self, frame: int) -> None:
        """Put everything where it is in this frame."""
        self._data.mocap_pos[:NUM_SLABS] = self.motion.slabs[frame]
        self._data.mocap_pos[NUM_SLABS:] = self.motion.pose[frame, :, :3]
        self._data.mocap_quat[NUM_SLABS:] = self.motion.pose[frame, :, 3:]
        mujoco.mj_kinematics(self._model, self._data)

    def directions(self, frame: int) -> np.ndarray:
        """One ray through each pixel's centre, `(H*W, 3)`; its length along the view axis is 1."""
        return self._grid @ self.scene.camera.poses[frame, :, :3].T

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> Hits:
        """First surface that each ray meets; depth in units of the direction's length."""
        count = len(directions)
        geometry = np.empty(count, np.int32)
        depth, normal = np.empty(count), np.empty(3 * count)
        rays = directions.reshape(-1)
        mujoco.mj_multiRay(
            self._model, self._data, origin, rays, None, 1, -1, geometry, depth, normal, count,
            FAR_METRES,
        )  # fmt: skip
        return Hits(geometry, depth, normal.reshape(-1, 3).T.astype(np.float32))

    def distances(
        self, origin: np.ndarray, directions: np.ndarray, body: int | None = None
    ) -> np.ndarray:
        """How far each ray goes, -1 for ever; with `body`, as if only that slot existed."""
        count = len(directions)
        geometry, depth = np.empty(count, np.int32), np.empty(count)
        groups = None
        if body is not None:
            groups = np.zeros(6, np.uint8)
            groups[body + 1] = 1
        rays = directions.reshape(-1)
        mujoco.mj_multiRay(
            self._model, self._data, origin, rays, groups, 1, -1, geometry, depth, None, count,
            FAR_METRES,
        )  # fmt: skip
        return depth


def first_hits(caster: RayCaster) -> list[Hits]:
    """The hits through all pixel centres, one item per frame."""
    hits = []
    for frame, place in enumerate(caster.scene.camera.places):
        caster.set_frame(frame)
        hits.append(caster.cast(place, caster.directions(frame)))
    return hits


def render(caster: RayCaster, hits: list[Hits] | None = None) -> Footage:
    """Render a clip.

    Args:
        caster: the scene and its motion.
        hits: from `first_hits`, if they are known already.
    """
    hits = first_hits(caster) if hits is None else hits
    size, num_frames = caster.size, len(hits)
    painter = Painter(caster)
    frames = np.stack([painter.paint(frame, hit) for frame, hit in enumerate(hits)])
    geometry = np.stack([hit.geometry for hit in hits]).reshape(num_frames, size, size)
    depth = np.stack([hit.depth for hit in hits]).reshape(geometry.shape).astype(np.float32)
    ids = caster.ids_of_geometry[geometry]
    truth = Truth(np.maximum(depth, 0), ids, state_of(caster, ids))
    return Footage(frames, truth)


class Painter:
    """Colours of the surfaces that rays meet, with one point light and its shadows."""

    def __init__(self, caster: RayCaster) -> None:
        self._caster = caster
        scene = caster.scene
        self._light = np.array(scene.room.light)
        colours = [scene.room.floor_colour, scene.room.wall_colour]
        colours += [slab.colour for slab in scene.slabs] + [body.colour for body in scene.bodies]
        self._colours = np.array([*colours, SKY], np.float32).T.copy()
        self._pixel = np.float32(1 / caster.focal)

    def paint(self, frame: int, hits: Hits) -> np.ndarray:
        """One frame, uint8 `(H, W, 3)`; pixels on an edge are the mean of four rays."""
        size = self._caster.size
        self._caster.set_frame(frame)
        directions = self._caster.directions(frame)
        lit, colour = self._shade(frame, directions, hits)
        edges = _edges(hits, lit, size)
        if len(edges):
            axes = self._caster.scene.camera.poses[frame, :, :2] * float(self._pixel)
            offsets = (SUBPIXELS[:, None, :] * axes).sum(2)
            finer = (directions[edges][:, None, :] + offsets).reshape(-1, 3)
            place = self._caster.scene.camera.places[frame]
            _, fine = self._shade(frame, finer, self._caster.cast(place, finer))
            fine = fine.reshape(3, -1, 4)
            colour[:, edges] = (fine[..., 0] + fine[..., 1] + fine[..., 2] + fine[..., 3]) / 4
        # Square root stands for the display's gamma of 2.2, whose power is not exact.
        shown = np.sqrt(np.clip(colour, 0, 1)) * np.float32(255) + np.float32(0.5)
        return shown.astype(np.uint8).T.reshape(size, size, 3)

    def _shade(
        self, frame: int, directions: np.ndarray, hits: Hits
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether the light reaches each hit, `(N,)`, and its colour, `(3, N)` before gamma."""
        place = self._caster.scene.camera.places[frame]
        points = place[:, None] + directions.T * hits.depth
        from_light = points - self._light[:, None]
        towards = from_light.astype(np.float32)
        normal = hits.normal
        facing = -(normal[0] * towards[0] + normal[1] * towards[1] + normal[2] * towards[2])
        exposed = np.flatnonzero((facing > 0) & (hits.geometry >= 0))
        rays = np.ascontiguousarray(from_light[:, exposed].T)
        met = self._caster.distances(self._light, rays)
        lit = np.zeros(len(facing), bool)
        lit[exposed] = (met <= 0) | (met >= 1 - SHADOW_SLACK)
        length = np.sqrt(towards[0] ** 2 + towards[1] ** 2 + towards[2] ** 2)
        light = (AMBIENT + (1 - AMBIENT) * facing * lit / length) * (0.92 + 0.08 * normal[2])
        light = np.where(hits.geometry < 0, np.float32(1), light)
        return lit, self._surface(frame, points.astype(np.float32), hits) * light

    def _surface(self, frame: int, points: np.ndarray, hits: Hits) -> np.ndarray:
        """Colour of the surfaces in white light, `(3, N)`."""
        scene = self._caster.scene
        colour = self._colours[:, hits.geometry]
        footprint = hits.depth.astype(np.float32) * self._pixel
        if scene.room.contrast:
            floor = np.flatnonzero(hits.geometry == 0)
            colour[:, floor] *= _chequer(points[:2, floor], footprint[floor], scene.room)
        if scene.room.bands_per_metre:
            wall = np.flatnonzero(hits.geometry == 1)
            bands = np.float32(scene.room.bands_per_metre)
            wave = _soft_sign(_wave(points[0, wall] * bands), footprint[wall] * bands * 4)
            colour[:, wall] *= np.float32(0.9) + np.float32(0.1) * wave
        for slot, body in enumerate(scene.bodies):
            if body.pattern and body.present:
                mine = np.flatnonzero(hits.geometry == FIRST_BODY + slot)
                if len(mine):
                    pose = self._caster.motion.pose[frame, slot]
                    share = _marking(points[:, mine], pose, body, footprint[mine])
                    other = _second_colour(self._colours[:, FIRST_BODY + slot])[:, None]
                    colour[:, mine] += (other - colour[:, mine]) * share
        return colour


def _edges(hits: Hits, lit: np.ndarray, size: int) -> np.ndarray:
    """Indices of pixels that differ from a neighbour in surface, shadow or crease."""
    kind = (hits.geometry * 2 + lit).reshape(size, size)
    normal = hits.normal.reshape(3, size, size)
    edge = np.zeros((size, size), bool)
    for axis, before, after in (
        (0, np.s_[:-1], np.s_[1:]),
        (1, np.s_[:, :-1], np.s_[:, 1:]),
    ):
        crease = np.abs(np.diff(normal, axis=axis + 1)).sum(0) > CREASE
        change = (np.diff(kind, axis=axis) != 0) | crease
        edge[before] |= change
        edge[after] |= change
    return np.flatnonzero(edge)


def _wave(position: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1: -1 at whole numbers, 1 half way."""
    return np.abs(position - np.floor(position + np.float32(0.5))) * 4 - 1


def _soft_sign(value: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Sign of a wave, smooth over the width of a pixel, so that textures need no extra rays."""
    return np.clip(value / np.maximum(width, np.float32(0.05)), -1, 1)


def _chequer(points: np.ndarray, footprint: np.ndarray, room: Room) -> np.ndarray:
    tiles = np.float32(room.tiles_per_metre / 2)
    wave = _wave(points[0] * tiles) * _wave(points[1] * tiles)
    sign = _soft_sign(wave, footprint * tiles * 6)
    return 1 - np.float32(room.contrast / 2) * (1 - sign)


def _marking(points: np.ndarray, pose: np.ndarray, body: Body, footprint: np.ndarray) -> np.ndarray:
    """Share of the second colour at points on a body, 0..1: turning becomes visible."""
    axis = np.zeros(9)
    mujoco.mju_quat2Mat(axis, pose[3:].astype(float))
    x, y, z = axis.reshape(3, 3)[:, 0 if body.pattern == 1 else 2].astype(np.float32)
    offset = points - pose[:3, None]
    along = offset[0] * x + offset[1] * y + offset[2] * z
    if body.pattern == 1:
        sign = _soft_sign(along / np.float32(body.size), footprint / np.float32(body.size))
    else:
        period = np.float32(body.size * 0.9)
        sign = _soft_sign(_wave(along / period), footprint / period * 4)
    return np.float32(0.5) + np.float32(0.5) * sign


def _second_colour(colour: np.ndarray) -> np.ndarray:
    """Darker for a light colour, lighter for a dark one."""
    light = colour[0] + colour[1] + colour[2] > 1.35
    return colour * np.float32(0.4) if light else np.float32(0.55) + np.float32(0.45) * colour
