"""Matched clips of events in open view: gravity, inertia and collision.

Nothing is hidden here. The two worlds A and B bring a body to the same place in the same frame, at
different velocities; the impossible clips change worlds in that frame. Each picture of them, and
each pair of pictures but the one at the change, also stands in a possible clip, and nothing jumps:
what is wrong is how the motion goes on. Whoever compares three frames in a row can notice it, so
these kinds are a tier of their own.
"""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np

from worldmodel.world.blocks import HIDDEN_KINDS, Concept, WorldPair
from worldmodel.world.forms import EXTENTS, LYING, SLIDING_CATEGORIES, UPRIGHT
from worldmodel.world.scenes import FPS, NUM_FRAMES, Body, Scene
from worldmodel.world.simulate import STEPS_PER_FRAME, build_model
from worldmodel.world.stage import Stage, draw_stage, passer
from worldmodel.world.style import Style, turned_about_y

# The change happens in one of these frames: what came before has been seen for a second, and what
# follows is seen for another. An even one, so that it is a frame of clips at half the rate as well.
SPLICE_FRAMES = (18, 44)
# Half the distance in frames from rising to falling through the same height.
HALF_HOPS = (4, 3, 2)
HOP_DAMPING = 6.0
TOUCHING_METRES = 0.002


def gravity(rng: np.random.Generator, style: Style) -> WorldPair:
    """What rises in the air slows down and falls, and what falls goes on falling.

    A and B: the same thing hops across the view, out of step, so that at the change one is rising
    and the other falling at the same height. AB and BA: a rising thing falls at once at full speed;
    a falling thing rises again in mid-air. There is no far-fetched reading.
    """
    stage = draw_stage(rng, style, spread=0.5)
    category = style.draw_category(rng)
    size = float(rng.uniform(0.2, 0.26))
    stands = category in SLIDING_CATEGORIES
    start = Body(
        category=category,
        size=size,
        colour=stage.colours[0],
        position=(
            0.0,
            float(rng.uniform(0.0, 1.0)),
            size * EXTENTS[category][2 if stands else 0] + float(rng.uniform(0.7, 1.2)),
        ),
        quaternion=UPRIGHT if stands else LYING,
        velocity=(float(rng.choice([-1.0, 1.0]) * rng.uniform(0.1, 1.1)), 0.0, 0.0),
        material=style.draw_body_material(rng, size),
        friction=(0.0, 0.0),
        damping=HOP_DAMPING,
    )
    flight = _flight(stage.scene("gravity", start, ()), 2 * NUM_FRAMES)
    splice, first, shift = _out_of_step(rng, flight)
    bodies = []
    for step in (first, first + shift):
        state = flight[step]
        # Sideways it moves at constant speed, so it can be set to be at the centre at the change.
        x = stage.centre_x - start.velocity[0] * splice / FPS
        bodies.append(
            replace(
                start,
                position=(x, float(state[1]), float(state[2])),
                velocity=(start.velocity[0], 0.0, float(state[3])),
            )
        )
    return _in_any_order(rng, stage, "gravity", bodies, splice)


def _flight(scene: Scene, num_frames: int) -> np.ndarray:
    """Place (x, y, z) and upward speed of the protagonist at each step of physics."""
    model = build_model(scene)
    data = mujoco.MjData(model)
    data.qvel[:3] = scene.bodies[0].velocity
    states = np.empty((num_frames * STEPS_PER_FRAME, 4))
    for state in states:
        state[:3], state[3] = data.qpos[:3], data.qvel[2]
        mujoco.mj_step(model, data)
    return states


def _out_of_step(rng: np.random.Generator, flight: np.ndarray) -> tuple[int, int, int]:
    """The frame of the change, A's first step, and how many steps B is ahead.

    Around the top of a hop rising and falling are mirror images: as many steps before it as after
    it the height is the same.
    """
    speed, height = flight[:, 3], flight[:, 2]
    tops = np.flatnonzero((speed[:-1] > 0) & (speed[1:] <= 0))
    floor = height.min()
    earliest = SPLICE_FRAMES[0] * STEPS_PER_FRAME
    # It must have been in the air for that long, and the pictures of both worlds must be known.
    tops = tops[
        (tops > earliest + HALF_HOPS[0] * STEPS_PER_FRAME)
        & (tops < len(flight) - NUM_FRAMES * STEPS_PER_FRAME)
    ]
    # Hops get lower; those of less than 0.25 m show little.
    tops = tops[height[tops] > floor + 0.25]
    if not len(tops):
        tops = np.flatnonzero((speed[:-1] > 0) & (speed[1:] <= 0))[:1]
    top = int(tops[rng.integers(len(tops))])
    half = next(
        (n for n in HALF_HOPS if height[top - n * STEPS_PER_FRAME] > floor + 0.1), HALF_HOPS[-1]
    )
    rising = top - half * STEPS_PER_FRAME
    splice = _splice_frame(rng, rising // STEPS_PER_FRAME)
    return splice, rising - splice * STEPS_PER_FRAME, 2 * half * STEPS_PER_FRAME


def _splice_frame(rng: np.random.Generator, latest: int = SPLICE_FRAMES[1]) -> int:
    latest = min(latest, SPLICE_FRAMES[1])
    return 2 * int(rng.integers(min(SPLICE_FRAMES[0], latest) // 2, latest // 2 + 1))


def inertia(rng: np.random.Generator, style: Style) -> WorldPair:
    """What rolls goes on rolling, and what lies still stays: nothing turns or stops by itself.

    A: a body rolls through a place. B: it rolls through the same place the other way, or lies
    there. AB and BA: it turns round, stops dead, or sets off, with nothing touching it. The
    far-fetched reading: it is alive; but what is alive has eyes here.
    """
    stage = draw_stage(rng, style, spread=0.6)
    moving = _roller(rng, stage, (0.5, 1.5))
    splice = _splice_frame(rng)
    speed = moving.velocity[0]
    x, y, z = stage.centre_x, moving.position[1], moving.position[2]
    moving = replace(moving, position=(x - speed * splice / FPS, y, z))
    turned = moving.spin[1] * splice / FPS
    if rng.random() < 0.5:
        # The other way: it has turned as far the other way when they meet.
        variant = "turns"
        other = replace(
            moving,
            position=(x + speed * splice / FPS, y, z),
            velocity=(-speed, 0.0, 0.0),
            spin=(0.0, -moving.spin[1], 0.0),
            quaternion=turned_about_y(moving.quaternion, 2 * turned),
        )
    else:
        variant = "stops"
        other = replace(
            moving,
            position=(x, y, z),
            velocity=(0.0, 0.0, 0.0),
            spin=(0.0, 0.0, 0.0),
            quaternion=turned_about_y(moving.quaternion, turned),
        )
    pair = _in_any_order(rng, stage, "inertia", [moving, other], splice)
    return replace(pair, variant=variant)


def collision(rng: np.random.Generator, style: Style) -> WorldPair:
    """What is struck moves, and what nothing strikes stays.

    A: a body rolls into another, which moves off. B: the two lie side by side. AB: it arrives and
    all stands still at once; BA: they lie there, and one moves off by itself. The far-fetched
    reading of AB: the struck body is stuck to the floor, and what struck it does not bounce.
    """
    stage = draw_stage(rng, style, spread=0.5)
    striker = _roller(rng, stage, (0.7, 1.7))
    splice = _splice_frame(rng)
    speed = striker.velocity[0]
    y, z = striker.position[1], striker.position[2]
    target = passer(
        style.draw_category(rng),
        striker.size * float(rng.uniform(0.85, 1.1)),
        stage.colours[2],
        style.draw_body_material(rng, striker.size),
        (0.0, y),
        0.0,
    )
    touching = _touching_distance(striker, target)
    x = stage.centre_x - np.sign(speed) * touching / 2
    target = replace(
        target,
        position=(
            float(x + np.sign(speed) * (touching + TOUCHING_METRES)),
            y,
            target.position[2],
        ),
    )
    resting = replace(
        striker,
        position=(float(x), y, z),
        velocity=(0.0, 0.0, 0.0),
        spin=(0.0, 0.0, 0.0),
        quaternion=turned_about_y(striker.quaternion, striker.spin[1] * splice / FPS),
    )
    striker = replace(striker, position=(float(x - speed * splice / FPS), y, z))
    return _in_any_order(rng, stage, "collision", [striker, resting], splice, (target,))


def _touching_distance(first: Body, second: Body) -> float:
    """How far apart along x the centres of two bodies on the floor are when they touch."""
    apart = float(first.extents[0] + second.extents[0])
    if not {first.category, second.category} & set(SLIDING_CATEGORIES):
        # Round things of unequal height meet above or below their middles.
        rise = first.position[2] - second.position[2]
        return float(np.sqrt(max(apart**2 - rise**2, 0.0)))
    return apart


def _roller(rng: np.random.Generator, stage: Stage, speed: tuple[float, float]) -> Body:
    """A body that rolls or slides along x, at a speed drawn evenly on a logarithmic scale."""
    category = stage.style.draw_category(rng)
    size = float(rng.uniform(0.21, 0.28))
    velocity = float(rng.choice([-1.0, 1.0]) * np.exp(rng.uniform(*np.log(speed))))
    material = stage.style.draw_body_material(rng, size)
    place = (0.0, float(rng.uniform(0.0, 0.9)))
    return passer(category, size, stage.colours[0], material, place, velocity)


def _in_any_order(
    rng: np.random.Generator,
    stage: Stage,
    kind: str,
    protagonists: list[Body],
    splice: int,
    others: tuple[Body, ...] = (),
) -> WorldPair:
    worlds = [stage.scene(kind, body, (), others) for body in protagonists]
    if others:  # two bodies are what it is about, and neither alone
        worlds = [replace(world, tracked=-1) for world in worlds]
    first = int(rng.integers(2))
    return WorldPair(worlds[first], worlds[1 - first], num_windows=0, splice_frame=splice)


OPEN_KINDS: dict[str, Concept] = {
    concept.__name__: concept for concept in (gravity, inertia, collision)
}
KINDS: dict[str, Concept] = HIDDEN_KINDS | OPEN_KINDS
