"""What is in a scene: bodies, slabs (screens, walls, platforms), room, light and camera path.

Axes of the world: x to the right, y away from the camera, z up, metres; the floor is z = 0. Every
scene has the same fixed slots for bodies and slabs, so that ids mean the same in all clips; a slot
that is not used is parked under the floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FPS = 16
NUM_FRAMES = 64
NUM_BODIES = 5  # ray casts can tell six groups of geometry apart: five bodies and the rest
NUM_SLABS = 3
CATEGORIES = ("sphere", "box", "cylinder", "capsule", "ellipsoid")
FIELD_OF_VIEW_DEGREES = 38.0
PARKED_HEIGHT = -3.0
# A free scene's screens are high enough to hide a point so far back (y) and so high (z), metres.
FREE_SCREEN_HIDES = (0.5, 0.5)
LOOK_AT = np.array([0.0, 0.0, 0.5])

# Colours far apart in hue, so that two of them can be told apart at 64 pixels and in any light.
PALETTE = np.array(
    [
        [0.86, 0.18, 0.16],
        [0.15, 0.35, 0.85],
        [0.16, 0.65, 0.25],
        [0.93, 0.70, 0.10],
        [0.60, 0.22, 0.70],
        [0.10, 0.70, 0.72],
        [0.95, 0.50, 0.66],
        [0.52, 0.33, 0.18],
    ]
)
# Half-extents along the body's own axes per metre of size; rolling bodies roll about their z axis.
EXTENTS = {
    "sphere": (1.0, 1.0, 1.0),
    "box": (0.85, 0.85, 0.85),
    "cylinder": (0.95, 0.95, 0.75),
    "capsule": (0.75, 0.75, 1.3),
    "ellipsoid": (0.8, 0.8, 1.25),
}

Vector = tuple[float, float, float]
Colour = tuple[float, float, float]  # RGB in 0..1
LYING = (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0)  # turns the own z axis to the world's y
UPRIGHT = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Body:
    """One thing that physics moves.

    Attributes:
        size: metres; a sphere's radius, for other categories see `EXTENTS`.
        position: metres, at the first frame.
        quaternion: w, x, y, z.
        velocity: m/s.
        spin: rad/s, in world axes.
        pattern: 0 plain, 1 two halves, 2 bands along the own z axis.
        friction: sliding and rolling; the second in metres (MuJoCo's coefficient).
        damping: of contacts, 1/s; about 8 bounces well, 60 hardly.
        fixed: does not move whatever happens.
        present: False parks it under the floor.
    """

    category: str
    size: float
    colour: Colour
    position: Vector
    quaternion: tuple[float, float, float, float] = UPRIGHT
    velocity: Vector = (0.0, 0.0, 0.0)
    spin: Vector = (0.0, 0.0, 0.0)
    pattern: int = 0
    friction: tuple[float, float] = (0.6, 0.0)
    damping: float = 8.0
    fixed: bool = False
    present: bool = True

    @property
    def extents(self) -> np.ndarray:
        """Half-extents along the body's own axes, metres."""
        return self.size * np.array(EXTENTS[self.category])

    @property
    def reach(self) -> float:
        """Radius of the smallest sphere around the centre that holds the body, metres."""
        extents = self.extents
        if self.category == "box":
            return float(np.linalg.norm(extents))
        if self.category == "cylinder":
            return float(np.hypot(extents[0], extents[2]))
        return float(extents.max())


@dataclass(frozen=True, kw_only=True)
class Slab:
    """A box that stands, or follows a path whatever happens around it.

    Attributes:
        half: half-extents, metres.
        path: (seconds, centre) pairs in order of time; between two of them it eases in and out.
        inelastic: things that hit it stay where they hit it.
    """

    half: Vector
    colour: Colour
    path: tuple[tuple[float, Vector], ...]
    inelastic: bool = False
    present: bool = True

    @property
    def moving(self) -> bool:
        """Whether it ever changes place."""
        return len({place for _, place in self.path}) > 1

    @property
    def stand(self) -> Vector:
        """Of the places on its path the highest and most central one, metres."""
        return max((place for _, place in self.path), key=lambda place: (place[2], -abs(place[0])))

    def places(self, seconds: np.ndarray) -> np.ndarray:
        """Centres at these times, metres, `(T, 3)`; parked if absent."""
        if not self.present:
            return np.tile([0.0, 0.0, PARKED_HEIGHT], (len(seconds), 1))
        places = np.tile(np.array(self.path[0][1], float), (len(seconds), 1))
        for (start, before), (stop, after) in zip(self.path, self.path[1:], strict=False):
            share = np.clip((seconds - start) / (stop - start), 0, 1)
            share = (share * share * (3 - 2 * share))[:, None]
            later = seconds >= start
            places[later] = (np.array(before) * (1 - share) + np.array(after) * share)[later]
        return places


@dataclass(frozen=True, kw_only=True)
class Room:
    """Floor, back wall and a point light.

    Attributes:
        floor_colour, wall_colour: RGB in 0..1.
        tiles_per_metre: of the floor's chequer.
        contrast: of the chequer, 0 for a plain floor.
        bands_per_metre: of the wall's stripes, 0 for a plain wall.
        light: position, metres.
    """

    floor_colour: Colour
    wall_colour: Colour
    tiles_per_metre: float
    contrast: float
    bands_per_metre: float
    light: Vector


@dataclass(frozen=True)
class Camera:
    """Camera-to-world poses `[R|t]`, `(T, 3, 4)`: x right, y down, z forward (OpenCV's axes)."""

    poses: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """Where the camera is, `(T, 3)` metres."""
        return self.poses[:, :, 3]

    def seen_at(self, frame: int, point: tuple[float, float], plane_y: float) -> float:
        """The x at which the line of sight to `(x, y)` crosses the plane y = `plane_y`, metres."""
        camera_x, camera_y, _ = self.places[frame]
        return camera_x + (point[0] - camera_x) * (plane_y - camera_y) / (point[1] - camera_y)

    def height_to_cover(self, point: tuple[float, float], plane_y: float) -> float:
        """How high a screen at y = `plane_y` must be to hide the point `(y, z)` in every frame."""
        y, z = point
        share = (y - plane_y) / (y - self.places[:, 1])
        return float((z + (self.places[:, 2] - z) * share).max())


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All there is to know about a clip before physics runs.

    Attributes:
        tracked: slot of the body the event is about, -1 in free scenes.
    """

    room: Room
    camera: Camera
    bodies: tuple[Body, ...]
    slabs: tuple[Slab, ...]
    tracked: int = -1
    kind: str = "free"
    num_frames: int = field(default=NUM_FRAMES)

    def __post_init__(self) -> None:
        assert len(self.bodies) <= NUM_BODIES and len(self.slabs) <= NUM_SLABS
        spare_bodies = (absent_body(),) * (NUM_BODIES - len(self.bodies))
        spare_slabs = (absent_slab(),) * (NUM_SLABS - len(self.slabs))
        object.__setattr__(self, "bodies", (*self.bodies, *spare_bodies))
        object.__setattr__(self, "slabs", (*self.slabs, *spare_slabs))


def absent_body() -> Body:
    """What fills a body's slot that is not used."""
    return Body(
        category="sphere",
        size=0.2,
        colour=(0.5, 0.5, 0.5),
        position=(0.0, 0.0, PARKED_HEIGHT),
        fixed=True,
        present=False,
    )


def absent_slab() -> Slab:
    """What fills a slab's slot that is not used."""
    parked = (0.0, (0.0, 0.0, PARKED_HEIGHT))
    return Slab(half=(0.2, 0.2, 0.2), colour=(0.5, 0.5, 0.5), path=(parked,), present=False)


def draw_room(rng: np.random.Generator, light_x: float = 1.6) -> Room:
    """A room; the light stands on the camera's side, so that shadows fall behind their screens.

    Four floors of five and two walls of five are patterned. On plain ones every edge belongs to a
    body or a screen, and random convolutions then tell depth as well as learned ones.
    """
    return Room(
        floor_colour=as_vector(rng.uniform(0.4, 0.75, 3) * [1.0, 0.97, 0.92]),
        wall_colour=as_vector(rng.uniform(0.35, 0.75, 3)),
        tiles_per_metre=rng.uniform(1.0, 2.4),
        contrast=rng.uniform(0.15, 0.45) * (rng.random() < 0.8),
        bands_per_metre=rng.uniform(0.6, 2.0) * (rng.random() < 0.4),
        light=(rng.uniform(-light_x, light_x), rng.uniform(-3.4, -1.8), rng.uniform(5.0, 7.0)),
    )


def draw_camera(
    rng: np.random.Generator, moving_share: float = 0.25, num_frames: int = NUM_FRAMES
) -> Camera:
    """A camera about 4 m away that circles and comes nearer a little, or stands still.

    Three of four stand: what a moving one changes everywhere in the picture is easier to predict
    than what bodies change in a few places, and with half of them moving a two-core budget went
    there (visible position r2 0.65 to 0.73 instead of 0.84, depth no better than untrained).
    """
    moving = rng.random() < moving_share
    sweep = np.linspace(-0.5, 0.5, num_frames) * moving
    azimuth = np.deg2rad(rng.uniform(-8, 8) + rng.uniform(-12, 12) * sweep)
    distance = rng.uniform(3.9, 4.3) + rng.uniform(-0.5, 0.5) * sweep
    height = rng.uniform(1.0, 1.6) + rng.uniform(-0.3, 0.3) * sweep
    places = LOOK_AT + np.stack(
        [np.sin(azimuth) * distance, -np.cos(azimuth) * distance, height], 1
    )
    forward = LOOK_AT - places
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    return Camera(np.stack([right, down, forward, places], 2))


def draw_colours(rng: np.random.Generator, count: int) -> list[Colour]:
    """So many different colours of the palette, each a little off."""
    chosen = PALETTE[rng.permutation(len(PALETTE))[:count]]
    return [as_vector(c) for c in np.clip(chosen + rng.uniform(-0.06, 0.06, chosen.shape), 0, 1)]


def as_vector(values: np.ndarray) -> Vector:
    """Three plain numbers, which compare and print as such."""
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def turned_at_random(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A quaternion drawn evenly from all rotations."""
    quaternion = rng.normal(size=4)
    w, x, y, z = (float(part) for part in quaternion / np.linalg.norm(quaternion))
    return (w, x, y, z)


def free_scene(rng: np.random.Generator) -> Scene:
    """Things that roll, drop, bounce, collide and lie about, with up to two screens at peekaboo.

    Screens stand, or come and go again and again: what lay behind is still there, a screen with
    nothing behind it uncovers nothing, and some things come to a stop while they are covered
    (rolling friction). Each half of an event is also an everyday sight.
    """
    num_bodies = int(rng.integers(3, NUM_BODIES + 1))
    colours = draw_colours(rng, num_bodies + 2)
    camera = draw_camera(rng)
    num_screens = int(rng.choice([0, 1, 2], p=[0.1, 0.5, 0.4]))
    sides = (0.0,) if num_screens == 1 else (-0.7, 0.7)
    screens = [
        _free_screen(rng, camera, sides[i] + rng.uniform(-0.35, 0.35), colours[num_bodies + i])
        for i in range(num_screens)
    ]
    bodies: list[Body] = []
    for colour in colours[:num_bodies]:
        bodies.append(_free_body(rng, bodies, screens, colour))
    return Scene(room=draw_room(rng), camera=camera, bodies=tuple(bodies), slabs=tuple(screens))


def _free_body(
    rng: np.random.Generator, others: Sequence[Body], screens: Sequence[Slab], colour: Colour
) -> Body:
    """A body away from the others: sent across the view, let fall, or left lying."""
    category = str(rng.choice(CATEGORIES))
    size = rng.uniform(0.19, 0.28)
    launched = rng.random() < 0.5
    behind = bool(screens) and not launched and rng.random() < 0.6
    for _ in range(50):
        y = rng.uniform(-0.5, 1.3)
        if launched:
            x = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 2.6)
        elif behind:
            screen = screens[int(rng.integers(len(screens)))]
            # Where a screen can hide it: as far out as its half-width, and not far back.
            x = screen.stand[0] + rng.uniform(-1.0, 1.0) * screen.half[0]
            y = rng.uniform(-0.5, FREE_SCREEN_HIDES[0])
        else:
            x = rng.uniform(-1.7, 1.7)
        if all(math.hypot(x - b.position[0], y - b.position[1]) > 0.75 for b in others):
            break
    speed = np.exp(rng.uniform(np.log(0.5), np.log(2.2)))
    rolls = launched and category != "box"
    height = size * EXTENTS[category][0] if rolls else 1.3 * size
    if not launched and not behind:
        height += rng.uniform(0.2, 1.3) * (rng.random() < 0.5)
    heading = -np.sign(x) * speed * launched
    if rolls:
        spin = (0.0, heading / height, 0.0)
    else:
        spin = (0.0, 0.0, 0.0) if behind else as_vector(rng.normal(0, 2, 3))
    return Body(
        category=category,
        size=size,
        colour=colour,
        position=(x, y, height + 0.005),
        quaternion=LYING if rolls else turned_at_random(rng),
        velocity=(heading, rng.normal() * 0.15 * launched, 0.0),
        spin=spin,
        pattern=int(rng.integers(3)),
        friction=(0.6, rng.uniform(0.005, 0.03) * (rng.random() < 0.5)),
        damping=rng.uniform(6, 40),
    )


def _free_screen(rng: np.random.Generator, camera: Camera, x: float, colour: Colour) -> Slab:
    """A screen that stands (one in four), or comes and goes every second or so."""
    y = rng.uniform(-1.15, -0.9)
    half_height = 0.5 * camera.height_to_cover(FREE_SCREEN_HIDES, y) * rng.uniform(0.85, 1.1)
    half = (rng.uniform(0.3, 0.5), 0.03, half_height)
    # In front of every body's starting place, so that nothing starts inside a screen.
    stand = (x, y, half[2])
    if rng.random() < 0.25:
        return Slab(half=half, colour=colour, path=((0.0, stand),))
    away = away_from(rng, stand, half)
    now, there = (stand, away) if rng.random() < 0.5 else (away, stand)
    path: list[tuple[float, Vector]] = []
    seconds = rng.uniform(0.2, 1.2)
    while seconds < NUM_FRAMES / FPS - 0.5:
        moved = seconds + rng.uniform(0.3, 0.7)
        path += [(seconds, now), (moved, there)]
        now, there = there, now
        seconds = moved + rng.uniform(0.3, 1.2)
    return Slab(half=half, colour=colour, path=tuple(path))


def away_from(rng: np.random.Generator, stand: Vector, half: Vector) -> Vector:
    """Where a screen that stands at `stand` goes to be out of sight: under the floor or aside."""
    x, y, z = stand
    if rng.random() < 0.7:
        return (x, y, -half[2] - 0.05)
    side = float(rng.choice([-1.0, 1.0]))
    return (side * (2.3 + half[0]), y, z)
