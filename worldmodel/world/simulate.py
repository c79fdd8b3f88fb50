"""MuJoCo: a scene becomes poses over time, and what touches and carries what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import mujoco
import numpy as np

from worldmodel.world.forms import Part
from worldmodel.world.scenes import (
    FPS,
    NUM_BODIES,
    NUM_SLABS,
    Body,
    Scene,
    Slab,
    places_along,
)

# 10 steps of 6.2 ms a frame: contacts of stiffness 4000 have a period of 100 ms, 16 steps long.
STEPS_PER_FRAME = 10
TIMESTEP_SECONDS = 1 / FPS / STEPS_PER_FRAME
FLOOR_DAMPING = 8.0
STIFFNESS = 4000.0
# Critically damped: what hits a stopper neither bounces off nor sinks in for long.
STOPPER = 'solref="-4000 -130" friction="0.02 0 0" priority="2"'
MASS_KG = 0.3
GRAVITY = 9.81
# Beyond this box (metres, low and high) nothing is ever seen: a body there has left the world.
WORLD_BOUNDS = np.array([[-12.0, -3.5, -0.5], [12.0, 6.0, 6.0]])
# A thing carries a body if it bears this share of its weight, upwards.
SUPPORTING_SHARE = 0.2
# The last slot of `Motion.contact` and `support`; before it come the bodies and the slabs.
GROUND = NUM_BODIES + NUM_SLABS

# Otherwise each warning is written to MUJOCO_LOG.TXT in whatever folder the user stands in;
# `simulate` reads the simulator's own counts instead.
mujoco.set_mju_user_warning(lambda message: None)


class UnstableSceneError(Exception):
    """This scene's motion cannot be trusted: the simulator warned, or a body left the world."""


@dataclass(frozen=True)
class Motion:
    """Where everything is in each frame; float32, so that what is stored is what is rendered.

    Attributes:
        pose: `(T, K, 7)`, position in metres and quaternion w, x, y, z of each body.
        velocity: `(T, K, 6)`, m/s and rad/s in world axes.
        slabs: `(T, S, 3)`, centre of each slab in metres.
        contact: `(T, K, K + S + 1)`, 1 where a body touches another body, a slab, or (last) floor
            or wall. Taken from the last step before a frame, so frame 0 has none.
        support: like `contact`, 1 where it is carried by that.
    """

    pose: np.ndarray
    velocity: np.ndarray
    slabs: np.ndarray
    contact: np.ndarray
    support: np.ndarray


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _shape(part: Part) -> str:
    a, b, c = part.half
    sizes = {
        "sphere": (a,),
        "box": (a, b, c),
        "cylinder": (a, c),
        "capsule": (a, c - a),
        "ellipsoid": (a, b, c),
    }
    place = f'pos="{_numbers(part.offset)}" quat="{_numbers(part.quaternion)}"'
    return f'type="{part.shape}" size="{_numbers(sizes[part.shape])}" {place}'


def _body_xml(body: Body) -> str:
    place = f'pos="{_numbers(body.position)}" quat="{_numbers(body.quaternion)}"'
    slide, roll = body.friction
    solid = [part for part in body.parts if part.solid]
    # Without friction there is nothing for the solver to do but to push: one dimension, not six.
    dimensions = 6 if slide else 1
    contact = (
        f'mass="{MASS_KG / len(solid):.9g}" condim="{dimensions}" '
        f'friction="{slide:.9g} 0.003 {roll:.9g}" '
        f'priority="1" solref="{-STIFFNESS} {-body.damping:.9g}"'
    )
    if not body.present:
        contact += ' contype="0" conaffinity="0"'
    geoms = "".join(f"<geom {_shape(part)} {contact}/>" for part in solid)
    if body.animate:
        return f'<body mocap="true" {place}>{geoms}</body>'
    joint = "" if body.fixed else "<freejoint/>"
    return f"<body {place}>{joint}{geoms}</body>"


def _slab_xml(slab: Slab) -> str:
    contact = STOPPER if slab.inelastic else f'solref="{-STIFFNESS} {-FLOOR_DAMPING}"'
    if not slab.present:
        contact = 'contype="0" conaffinity="0"'
    place = f'pos="{_numbers(slab.path[0][1])}" quat="{_numbers(slab.quaternion)}"'
    geoms = "".join(f"<geom {_shape(part)} {contact}/>" for part in slab.parts)
    return f'<body mocap="true" {place}>{geoms}</body>'


def build_model(scene: Scene) -> mujoco.MjModel:
    """Compile a scene; bodies of the model are the world, the slabs, then the bodies."""
    slabs = "".join(_slab_xml(slab) for slab in scene.slabs)
    bodies = "".join(_body_xml(body) for body in scene.bodies)
    return mujoco.MjModel.from_xml_string(
        f'<mujoco><option timestep="{TIMESTEP_SECONDS:.17g}" integrator="implicitfast" '
        f'gravity="0 0 {-GRAVITY}"/>'
        '<worldbody><geom type="plane" size="20 20 .1" friction=".6 .003 0"/>'
        '<geom type="box" pos="0 3.2 2" size="20 .1 2.5"/>'
        f"{slabs}{bodies}</worldbody></mujoco>"
    )


def simulate(scene: Scene) -> Motion:
    """Run physics and note where everything is at each frame.

    Raises:
        UnstableSceneError: MuJoCo warned, a number is not finite, or a body left the world; draw
            another scene.
    """
    model = build_model(scene)
    data = mujoco.MjData(model)
    bodies = np.arange(NUM_BODIES) + 1 + NUM_SLABS
    free = [slot for slot, body in enumerate(scene.bodies) if not body.fixed and not body.animate]
    mujoco.mj_kinematics(model, data)
    for row, slot in enumerate(free):
        data.qvel[6 * row : 6 * row + 3] = scene.bodies[slot].velocity
        # A free joint counts its turning in the body's own axes.
        own_axes = data.xmat[bodies[slot]].reshape(3, 3).T
        data.qvel[6 * row + 3 : 6 * row + 6] = own_axes @ np.array(scene.bodies[slot].spin)
    steps = np.arange(scene.num_frames * STEPS_PER_FRAME + 1) * TIMESTEP_SECONDS
    guided = _guided_poses(scene, steps)
    touches = _Touches(scene, model)
    pose = np.empty((scene.num_frames, NUM_BODIES, 7), np.float32)
    velocity = np.zeros((scene.num_frames, NUM_BODIES, 6), np.float32)
    for frame in range(scene.num_frames):
        step = frame * STEPS_PER_FRAME
        data.mocap_pos[:] = guided[step, :, :3]
        data.mocap_quat[:] = guided[step, :, 3:]
        mujoco.mj_kinematics(model, data)
        pose[frame, :, :3] = data.xpos[bodies]
        pose[frame, :, 3:] = data.xquat[bodies]
        moved = data.qvel.reshape(-1, 6)
        for row, slot in enumerate(free):
            velocity[frame, slot, :3] = moved[row, :3]
            velocity[frame, slot, 3:] = data.xmat[bodies[slot]].reshape(3, 3) @ moved[row, 3:]
        touches.note(frame, data)
        _advance(model, data, guided[step : step + STEPS_PER_FRAME + 1])
    for slot, body in enumerate(scene.bodies):
        if body.animate:
            velocity[:, slot, :3] = np.gradient(pose[:, slot, :3], 1 / FPS, axis=0)
    _check(scene, data, pose, free)
    slabs = guided[: scene.num_frames * STEPS_PER_FRAME : STEPS_PER_FRAME, :NUM_SLABS, :3]
    return Motion(pose, velocity, slabs.astype(np.float32), touches.contact, touches.support)


def _guided_poses(scene: Scene, seconds: np.ndarray) -> np.ndarray:
    """Poses of what follows a path: all slabs, then animate bodies; `(steps, S + animate, 7)`."""
    walkers = [body for body in scene.bodies if body.animate]
    poses = np.zeros((len(seconds), NUM_SLABS + len(walkers), 7))
    for slot, slab in enumerate(scene.slabs):
        poses[:, slot, :3] = slab.places(seconds)
        poses[:, slot, 3:] = slab.quaternion
    for slot, body in enumerate(walkers, NUM_SLABS):
        poses[:, slot, :3] = places_along(body.walk, seconds)
        yaw = _headings(poses[:, slot, :3])
        poses[:, slot, 3], poses[:, slot, 6] = np.cos(yaw / 2), np.sin(yaw / 2)
    return poses


def _headings(places: np.ndarray) -> np.ndarray:
    """Where a walker looks: slowly towards where it goes, so that it turns before it leaves."""
    yaw = np.zeros(len(places))
    way = np.diff(places[:, :2], axis=0, append=places[-1:, :2])
    moves = np.flatnonzero(np.hypot(way[:, 0], way[:, 1]) > 1e-5)
    wanted = np.arctan2(way[:, 1], way[:, 0])
    current = wanted[moves[0]] if len(moves) else 0.0
    # 6 rad/s: half a turn in half a second.
    most = 6.0 * TIMESTEP_SECONDS
    goal = current
    moving = np.zeros(len(places), bool)
    moving[moves] = True
    for step in range(len(places)):
        goal = wanted[step] if moving[step] else goal
        turn = (goal - current + np.pi) % (2 * np.pi) - np.pi
        current += min(max(turn, -most), most)
        yaw[step] = current
    return yaw


def _advance(model: mujoco.MjModel, data: mujoco.MjData, guided: np.ndarray) -> None:
    """One frame of physics; step by step only while something follows a path."""
    if (guided == guided[0]).all():
        mujoco.mj_step(model, data, STEPS_PER_FRAME)
        return
    for poses in guided[1:]:
        data.mocap_pos[:] = poses[:, :3]
        data.mocap_quat[:] = poses[:, 3:]
        mujoco.mj_step(model, data)


class _Touches:
    """Which bodies touch and carry each other, noted frame by frame."""

    def __init__(self, scene: Scene, model: mujoco.MjModel) -> None:
        shape = (scene.num_frames, NUM_BODIES, NUM_BODIES + NUM_SLABS + 1)
        self.contact = np.zeros(shape, np.float32)
        self.support = np.zeros(shape, np.float32)
        # Model bodies are world, slabs, bodies; slots here are bodies, slabs, ground.
        order = [GROUND, *range(NUM_BODIES, GROUND), *range(NUM_BODIES)]
        self._slots = np.array(order)[model.geom_bodyid]
        self._model = model

    def note(self, frame: int, data: mujoco.MjData) -> None:
        """Take in the contacts of the last step before this frame."""
        lift: dict[tuple[int, int], float] = {}
        force = np.zeros(6)
        for number in range(data.ncon):
            contact = data.contact[number]
            if contact.efc_address < 0:
                continue
            first, second = self._slots[contact.geom[0]], self._slots[contact.geom[1]]
            mujoco.mj_contactForce(self._model, data, number, force)
            # The contact's axes are rows; the force is that of the first geometry on the second.
            upward = float(contact.frame.reshape(3, 3)[:, 2] @ force[:3])
            for body, other, push in ((second, first, upward), (first, second, -upward)):
                if body < NUM_BODIES:
                    lift[body, other] = lift.get((body, other), 0.0) + push
        for (body, other), push in lift.items():
            self.contact[frame, body, other] = 1
            self.support[frame, body, other] = push > SUPPORTING_SHARE * MASS_KG * GRAVITY


def _check(scene: Scene, data: mujoco.MjData, pose: np.ndarray, free: list[int]) -> None:
    if any(warning.number for warning in data.warning):
        raise UnstableSceneError("MuJoCo warned while this scene was simulated")
    places = pose[:, [slot for slot in free if scene.bodies[slot].present], :3]
    if not np.isfinite(pose).all():
        raise UnstableSceneError("a pose is not finite")
    if (places < WORLD_BOUNDS[0]).any() or (places > WORLD_BOUNDS[1]).any():
        raise UnstableSceneError("a body left the world")
