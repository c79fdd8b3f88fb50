"""Which primitives bodies and slabs are made of.

A primitive is a sphere, box, cylinder, capsule or ellipsoid, given by its half-extents along its
own axes (a cylinder or capsule stands along its z axis). Physics and the renderer read these parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]  # w, x, y, z
LYING = (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0)  # turns the own z axis to the world's y
UPRIGHT = (1.0, 0.0, 0.0, 0.0)
PARKED_HEIGHT = -3.0

PRIMITIVES = ("sphere", "box", "cylinder", "capsule", "ellipsoid")
# What training scenes hold, and what only the `ood` split holds.
TRAINING_CATEGORIES = ("sphere", "box", "cylinder", "capsule", "ellipsoid", "cone")
UNSEEN_CATEGORIES = ("dumbbell", "spool", "pyramid")
CATEGORIES = TRAINING_CATEGORIES + UNSEEN_CATEGORIES
# These slide where the others roll.
SLIDING_CATEGORIES = ("box", "cone", "pyramid")
# Half-extents along the body's own axes per metre of size; rolling bodies roll about their z axis.
EXTENTS = {
    "sphere": (1.0, 1.0, 1.0),
    "box": (0.85, 0.85, 0.85),
    "cylinder": (0.95, 0.95, 0.75),
    "capsule": (0.75, 0.75, 1.3),
    "ellipsoid": (0.8, 0.8, 1.25),
    "cone": (0.9, 0.9, 0.95),
    "dumbbell": (0.8, 0.8, 1.3),
    "spool": (0.95, 0.95, 0.8),
    "pyramid": (0.95, 0.95, 0.85),
}

TRAINING_SCREENS = ("plain", "arch", "gable")
UNSEEN_SCREENS = ("battlements", "knobs")
SLAB_FORMS = TRAINING_SCREENS + UNSEEN_SCREENS + ("steps", "container")
CREST = 0.22  # metres that a screen's form adds on top
WALL = 0.03  # metres, half the thickness of a container's walls
NUM_STEPS = 3


@dataclass(frozen=True)
class Part:
    """One primitive in the axes of the thing it belongs to.

    Attributes:
        shape: one of `PRIMITIVES`.
        half: half-extents along its own axes, metres.
        offset: of its centre, metres.
        quaternion: how it is turned.
        paint: grey level of a part that has a colour of its own (eyes); None takes the thing's.
        solid: things can touch it.
    """

    shape: str
    half: Vector
    offset: Vector = (0.0, 0.0, 0.0)
    quaternion: Quaternion = UPRIGHT
    paint: float | None = None
    solid: bool = True


def body_extents(category: str, size: float) -> np.ndarray:
    """Half-extents along the body's own axes, metres."""
    return size * np.array(EXTENTS[category])


@cache
def body_parts(category: str, size: float, animate: bool = False) -> tuple[Part, ...]:
    """Primitives of a body; an animate one has eyes, which look along its own x axis."""
    a, b, c = (float(extent) for extent in body_extents(category, size))
    parts: tuple[Part, ...]
    if category == "cone":
        parts = tuple(_tier("cylinder", level, 5, (a, b, c)) for level in range(5))
    elif category == "pyramid":
        parts = tuple(_tier("box", level, 3, (a, b, c)) for level in range(3))
    elif category == "dumbbell":
        ends = [Part("sphere", (a, a, a), (0.0, 0.0, side * (c - a))) for side in (-1.0, 1.0)]
        parts = (*ends, Part("cylinder", (0.4 * a, 0.4 * a, c - a)))
    elif category == "spool":
        rim = 0.18 * c
        rims = [Part("cylinder", (a, a, rim), (0.0, 0.0, side * (c - rim))) for side in (-1.0, 1.0)]
        parts = (*rims, Part("cylinder", (0.5 * a, 0.5 * a, c - 2 * rim)))
    else:
        parts = (Part(category, (a, b, c)),)
    return parts + (_eyes(a, b, c) if animate else ())


def _tier(shape: str, level: int, count: int, half: Vector) -> Part:
    """One layer of a heap that narrows towards its top."""
    a, b, c = half
    narrower = 1 - level / count
    return Part(
        shape, (a * narrower, b * narrower, c / count), (0.0, 0.0, c * (2 * level + 1) / count - c)
    )


def _eyes(a: float, b: float, c: float) -> tuple[Part, ...]:
    """White balls with dark ones in front, a little above the middle of the front."""
    eyes = []
    for side in (-1.0, 1.0):
        place = (0.72 * a, side * 0.42 * b, 0.5 * c)
        pupil = (place[0] + 0.17 * a, place[1] * 1.02, place[2])
        eyes.append(Part("sphere", (0.3 * a,) * 3, place, paint=0.95, solid=False))
        eyes.append(Part("sphere", (0.18 * a,) * 3, pupil, paint=0.03, solid=False))
    return tuple(eyes)


def body_reach(parts: tuple[Part, ...]) -> float:
    """Radius of a sphere around the centre that holds all parts, metres."""
    return max(float(np.linalg.norm(part.offset)) + part_reach(part) for part in parts)


def part_reach(part: Part) -> float:
    """Radius of the smallest sphere around the part's own centre that holds it, metres."""
    a, b, c = part.half
    if part.shape == "box":
        return math.sqrt(a * a + b * b + c * c)
    if part.shape == "cylinder":
        return math.hypot(a, c)
    return max(a, b, c)


def slab_crest(form: str, half: Vector) -> float:
    """How far a slab of this form reaches above its half-extents, metres."""
    return max(
        (part.offset[2] + _height(part) - half[2] for part in slab_parts(form, half)), default=0.0
    )


def _height(part: Part) -> float:
    return part.half[0] if part.quaternion == LYING else part.half[2]


@cache
def slab_parts(form: str, half: Vector) -> tuple[Part, ...]:
    """Primitives of a slab; screens of every form fill the rectangle of `half` and add a crest."""
    x, y, z = half
    plain = Part("box", half)
    if form == "arch":
        # A disc that stands on the rectangle's top with its centre in it.
        return (plain, Part("cylinder", (min(x, CREST),) * 2 + (y,), (0.0, 0.0, z), LYING))
    if form == "gable":
        tiers = [(0.75, 0.0), (0.5, 1.0), (0.25, 2.0)]
        tall = CREST / 6
        return (
            plain,
            *(Part("box", (w * x, y, tall), (0.0, 0.0, z + tall * (2 * n + 1))) for w, n in tiers),
        )
    if form == "battlements":
        tall, teeth = CREST / 4, 4
        wide = x / (2 * teeth - 1)
        return (
            plain,
            *(
                Part("box", (wide, y, tall), (wide * (4 * n) + wide - x, 0.0, z + tall))
                for n in range(teeth)
            ),
        )
    if form == "knobs":
        ball = 0.3 * CREST
        return (
            plain,
            *(
                Part("sphere", (ball,) * 3, (side * (x - ball), 0.0, z + ball))
                for side in (-1.0, 1.0)
            ),
        )
    if form == "steps":
        return tuple(
            Part(
                "box",
                (x / NUM_STEPS, y, z * (n + 1) / NUM_STEPS),
                (x * (2 * n + 1) / NUM_STEPS - x, 0.0, z * (n + 1) / NUM_STEPS - z),
            )
            for n in range(NUM_STEPS)
        )
    if form == "container":
        return (
            Part("box", (x, y, WALL), (0.0, 0.0, WALL - z)),
            *(Part("box", (WALL, y, z), (side * (x - WALL), 0.0, 0.0)) for side in (-1.0, 1.0)),
            *(
                Part("box", (x - 2 * WALL, WALL, z), (0.0, side * (y - WALL), 0.0))
                for side in (-1.0, 1.0)
            ),
        )
    assert form == "plain", form
    return (plain,)
