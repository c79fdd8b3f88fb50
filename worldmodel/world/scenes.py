"""What a scene is: bodies, slabs (screens, walls, platforms), room, light and camera path.

Axes of the world: x to the right, y away from the camera, z up, metres; the floor is z = 0. Every
scene has the same fixed slots for bodies and slabs, so that ids mean the same in all clips; a slot
that is not used is parked under the floor.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from worldmodel.world.forms import (
    PARKED_HEIGHT,
    UPRIGHT,
    Part,
    Quaternion,
    Vector,
    body_extents,
    body_parts,
    body_reach,
    slab_crest,
    slab_parts,
)

FPS = 16
NUM_FRAMES = 64
NUM_BODIES = 5
NUM_SLABS = 5
FIELD_OF_VIEW_DEGREES = 38.0
# A solid pattern of the surface; the index is what the renderer reads.
PATTERNS = ("plain", "halves", "bands", "chequer", "noise")

Colour = tuple[float, float, float]  # RGB in 0..1
Path = tuple[tuple[float, Vector], ...]  # (seconds, place) pairs in order of time


def places_along(path: Path, seconds: np.ndarray) -> np.ndarray:
    """Places on a path that eases in and out between two of its points, metres, `(T, 3)`."""
    places = np.tile(np.array(path[0][1], float), (len(seconds), 1))
    for (start, before), (stop, after) in itertools.pairwise(path):
        share = np.clip((seconds - start) / (stop - start), 0, 1)
        share = (share * share * (3 - 2 * share))[:, None]
        later = seconds >= start
        places[later] = (np.array(before) * (1 - share) + np.array(after) * share)[later]
    return places


@dataclass(frozen=True)
class Material:
    """What a surface looks like in white light, beside its colour.

    Attributes:
        pattern: one of `PATTERNS`, in the axes of the thing itself (of the world, for a room).
        period: metres from one stripe, square or grain to the next equal one.
        contrast: how far the second colour is from the first, 0 to 1; its share of black in the
            dark half, or of white where the colour itself is dark.
    """

    pattern: str = "plain"
    period: float = 0.2
    contrast: float = 0.6


PLAIN = Material()


@dataclass(frozen=True, kw_only=True)
class Body:
    """One thing that physics moves, or, if it is animate, that moves itself.

    Attributes:
        category: one of `forms.CATEGORIES`.
        size: metres; a sphere's radius, for other categories see `forms.EXTENTS`.
        position: metres, at the first frame.
        quaternion: w, x, y, z.
        velocity: m/s.
        spin: rad/s, in world axes.
        friction: sliding and rolling; the second in metres (MuJoCo's coefficient).
        damping: of contacts, 1/s; about 8 bounces well, 60 hardly.
        fixed: does not move whatever happens.
        walk: of an animate body, which has eyes and changes its course by itself; nothing that
            it meets can stop it.
        present: False parks it under the floor.
    """

    category: str
    size: float
    colour: Colour
    position: Vector
    quaternion: Quaternion = UPRIGHT
    velocity: Vector = (0.0, 0.0, 0.0)
    spin: Vector = (0.0, 0.0, 0.0)
    material: Material = PLAIN
    friction: tuple[float, float] = (0.6, 0.0)
    damping: float = 8.0
    fixed: bool = False
    walk: Path = ()
    present: bool = True

    @property
    def animate(self) -> bool:
        """Whether it moves by itself."""
        return bool(self.walk)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The primitives it is made of, in its own axes."""
        return body_parts(self.category, self.size, self.animate)

    @property
    def extents(self) -> np.ndarray:
        """Half-extents along the body's own axes, metres."""
        return body_extents(self.category, self.size)

    @property
    def reach(self) -> float:
        """Radius of a sphere around the centre that holds the body, metres."""
        return body_reach(self.parts)


@dataclass(frozen=True, kw_only=True)
class Slab:
    """A thing that stands, or follows a path whatever happens around it.

    Attributes:
        half: half-extents, metres; what a form adds on top of them is its crest.
        form: one of `forms.SLAB_FORMS`.
        quaternion: how it is turned, for ever.
        screen: it is there to hide things.
        inelastic: things that hit it stay where they hit it.
    """

    half: Vector
    colour: Colour
    path: Path
    form: str = "plain"
    material: Material = PLAIN
    quaternion: Quaternion = UPRIGHT
    screen: bool = False
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

    @property
    def parts(self) -> tuple[Part, ...]:
        """The primitives it is made of, in its own axes."""
        return slab_parts(self.form, self.half)

    @property
    def crest(self) -> float:
        """How far its form reaches above `half`, metres."""
        return slab_crest(self.form, self.half)

    def places(self, seconds: np.ndarray) -> np.ndarray:
        """Centres at these times, metres, `(T, 3)`; parked if absent."""
        if not self.present:
            return np.tile([0.0, 0.0, PARKED_HEIGHT], (len(seconds), 1))
        return places_along(self.path, seconds)


@dataclass(frozen=True)
class Light:
    """A point light: where it is (metres) and its share of all direct light."""

    position: Vector
    share: float


@dataclass(frozen=True, kw_only=True)
class Room:
    """Floor, back wall, lights and exposure.

    Attributes:
        lights: their shares add up to 1.
        exposure: `(swing, hertz, phase)` of a soft variation of brightness; the swing is a share of
            the mean, the phase in radians.
    """

    floor_colour: Colour
    wall_colour: Colour
    floor: Material = PLAIN
    wall: Material = PLAIN
    lights: tuple[Light, ...]
    exposure: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def gains(self, num_frames: int) -> np.ndarray:
        """Factor of each frame's brightness, `(T,)`."""
        swing, hertz, phase = self.exposure
        return 1 + swing * np.sin(2 * np.pi * hertz * np.arange(num_frames) / FPS + phase)


@dataclass(frozen=True)
class Camera:
    """Camera-to-world poses `[R|t]`, `(T, 3, 4)`: x right, y down, z forward (OpenCV's axes)."""

    poses: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """Where the camera is, `(T, 3)` metres."""
        return self.poses[:, :, 3]

    @property
    def moving(self) -> bool:
        """Whether its pose ever changes."""
        return bool((self.poses != self.poses[0]).any())

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
        tracked: slot of the body the event is about (0), -1 where there is no such one: in free
            scenes, and where two collide.
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
