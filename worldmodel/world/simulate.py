"""MuJoCo: a scene becomes poses over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import mujoco
import numpy as np

from worldmodel.world.scenes import FPS, Body, Scene, Slab

# 15 steps of 4.2 ms a frame: contacts of stiffness 4000 have a period of 100 ms, 24 steps long.
STEPS_PER_FRAME = 15
TIMESTEP_SECONDS = 1 / FPS / STEPS_PER_FRAME
FLOOR_DAMPING = 8.0
STIFFNESS = 4000.0
# Critically damped: what hits a stopper neither bounces off nor sinks in for long.
STOPPER = 'solref="-4000 -130" friction="0.02 0 0" priority="2"'
MASS_KG = 0.3

# Otherwise each warning is written to MUJOCO_LOG.TXT in whatever folder the user stands in;
# `simulate` reads the simulator's own counts instead.
mujoco.set_mju_user_warning(lambda message: None)


class UnstableSceneError(Exception):
    """The simulator warned about this scene, so its motion cannot be trusted."""


@dataclass(frozen=True)
class Motion:
    """Where everything is in each frame; float32, so that what is stored is what is rendered.

    Attributes:
        pose: `(T, K, 7)`, position in metres and quaternion w, x, y, z of each body.
        velocity: `(T, K, 6)`, m/s and rad/s in world axes.
        slabs: `(T, S, 3)`, centre of each slab in metres.
    """

    pose: np.ndarray
    velocity: np.ndarray
    slabs: np.ndarray


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _shape(body: Body) -> str:
    a, b, c = body.extents
    sizes = {
        "sphere": (a,),
        "box": (a, b, c),
        "cylinder": (a, c),
        "capsule": (a, c - a),
        "ellipsoid": (a, b, c),
    }
    return f'type="{body.category}" size="{_numbers(sizes[body.category])}"'


def _body_xml(body: Body, group: int, posed: bool) -> str:
    """One body; `posed` bodies follow poses given from outside and touch nothing."""
    place = f'pos="{_numbers(body.position)}" quat="{_numbers(body.quaternion)}"'
    # Rays skip geometry with alpha 0: a body that is absent has no effect on any pixel.
    look = f'group="{group}" rgba="{_numbers(body.colour)} {int(body.present)}"'
    if posed:
        return f'<body mocap="true" {place}><geom {_shape(body)} {look}/></body>'
    slide, roll = body.friction
    # Without friction there is nothing for the solver to do but to push: one dimension, not six.
    dimensions = 6 if slide else 1
    contact = (
        f'mass="{MASS_KG}" condim="{dimensions}" friction="{slide:.9g} 0.003 {roll:.9g}" '
        f'priority="1" solref="{-STIFFNESS} {-body.damping:.9g}"'
    )
    if not body.present:
        contact += ' contype="0" conaffinity="0"'
    joint = "" if body.fixed else "<freejoint/>"
    return f"<body {place}>{joint}<geom {_shape(body)} {look} {contact}/></body>"


def _slab_xml(slab: Slab) -> str:
    x, y, z = slab.path[0][1]
    contact = STOPPER if slab.inelastic else f'solref="{-STIFFNESS} {-FLOOR_DAMPING}"'
    if not slab.present:
        contact = 'contype="0" conaffinity="0"'
    return (
        f'<body mocap="true" pos="{x:.9g} {y:.9g} {z:.9g}"><geom type="box" '
        f'size="{_numbers(slab.half)}" rgba="{_numbers(slab.colour)} {int(slab.present)}" '
        f"{contact}/></body>"
    )


def build_model(scene: Scene, posed: bool = False) -> mujoco.MjModel:
    """Compile a scene: geometry 0 is the floor, 1 the wall, then the slabs, then the bodies.

    Args:
        scene: the scene.
        posed: bodies follow given poses (to render) instead of physics (to simulate).
    """
    slabs = "".join(_slab_xml(slab) for slab in scene.slabs)
    bodies = "".join(_body_xml(b, slot + 1, posed) for slot, b in enumerate(scene.bodies))
    return mujoco.MjModel.from_xml_string(
        f'<mujoco><option timestep="{TIMESTEP_SECONDS:.17g}" integrator="implicitfast"/>'
        '<worldbody><geom type="plane" size="20 20 .1" friction=".6 .003 0"/>'
        '<geom type="box" pos="0 3.2 2" size="20 .1 2.5"/>'
        f"{slabs}{bodies}</worldbody></mujoco>"
    )


def simulate(scene: Scene) -> Motion:
    """Run physics and note where everything is at each frame.

    Raises:
        UnstableSceneError: MuJoCo warned; draw another scene.
    """
    model = build_model(scene)
    data = mujoco.MjData(model)
    bodies = np.arange(len(scene.bodies)) + 1 + len(scene.slabs)
    free = [slot for slot, body in enumerate(scene.bodies) if not body.fixed]
    mujoco.mj_kinematics(model, data)
    for row, slot in enumerate(free):
        data.qvel[6 * row : 6 * row + 3] = scene.bodies[slot].velocity
        # A free joint counts its turning in the body's own axes.
        own_axes = data.xmat[bodies[slot]].reshape(3, 3).T
        data.qvel[6 * row + 3 : 6 * row + 6] = own_axes @ np.array(scene.bodies[slot].spin)
    steps = np.arange(scene.num_frames * STEPS_PER_FRAME) * TIMESTEP_SECONDS
    places = np.stack([slab.places(steps) for slab in scene.slabs], 1)
    pose = np.empty((scene.num_frames, len(bodies), 7), np.float32)
    velocity = np.zeros((scene.num_frames, len(bodies), 6), np.float32)
    for frame in range(scene.num_frames):
        data.mocap_pos[:] = places[frame * STEPS_PER_FRAME]
        mujoco.mj_kinematics(model, data)
        pose[frame, :, :3] = data.xpos[bodies]
        pose[frame, :, 3:] = data.xquat[bodies]
        moved = data.qvel.reshape(-1, 6)
        for row, slot in enumerate(free):
            velocity[frame, slot, :3] = moved[row, :3]
            velocity[frame, slot, 3:] = data.xmat[bodies[slot]].reshape(3, 3) @ moved[row, 3:]
        _advance(model, data, places[frame * STEPS_PER_FRAME :][: STEPS_PER_FRAME + 1])
    if any(warning.number for warning in data.warning):
        raise UnstableSceneError("MuJoCo warned while this scene was simulated")
    return Motion(pose, velocity, places[::STEPS_PER_FRAME].astype(np.float32))


def _advance(model: mujoco.MjModel, data: mujoco.MjData, places: np.ndarray) -> None:
    """One frame of physics; step by step only while a slab moves."""
    if (places == places[0]).all():
        mujoco.mj_step(model, data, STEPS_PER_FRAME)
        return
    for place in places[1:]:
        data.mocap_pos[:] = place
        mujoco.mj_step(model, data)
