"""What the events of all kinds share: a stage, and a body that passes behind a screen.

Times are source frames (16 per second). The body's way is planned from the frames in which it shall
be hidden; where the screen's edges stand follows from it by the camera's lines of sight, which also
holds for a camera that moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from worldmodel.world.scenes import (
    EXTENTS,
    FPS,
    LYING,
    NUM_FRAMES,
    UPRIGHT,
    Body,
    Camera,
    Colour,
    Room,
    Scene,
    Slab,
    draw_camera,
    draw_colours,
    draw_room,
)

# Frames that must remain after the last hiding, so that the outcome is seen (0.9 s).
FRAMES_AFTER = 14
# Frames before the first hiding, so that what is hidden has been seen (0.6 s).
FRAMES_BEFORE = 10
# Widest stretch of a lane that one screen hides, metres; half of what the camera sees of a lane.
MAX_HIDDEN_WIDTH = 1.75
PASSER_SHARES = {"sphere": 0.4, "box": 0.25, "cylinder": 0.15, "capsule": 0.1, "ellipsoid": 0.1}
BOUNCE_DAMPING = 8.0
# Slope of the line of sight at a screen's edge: the corner of a box peeks out by this much of its
# depth before its side does.
SIGHT_SLOPE = 0.35


@dataclass(frozen=True)
class Stage:
    """Room, camera, bystanders and colours of a scene that has no event yet.

    Attributes:
        centre_x: about where the event shall be, metres.
        colours: four, far apart: of the protagonist, the screen, another thing, and a spare.
    """

    room: Room
    camera: Camera
    bystanders: tuple[Body, ...]
    centre_x: float
    colours: list[Colour]

    def scene(self, kind: str, protagonist: Body, slabs: tuple[Slab, ...]) -> Scene:
        """The stage with its protagonist in slot 0."""
        return Scene(
            room=self.room,
            camera=self.camera,
            bodies=(protagonist, *self.bystanders),
            slabs=slabs,
            tracked=0,
            kind=kind,
        )


def draw_stage(rng: np.random.Generator, light_x: float = 1.2, spread: float = 0.4) -> Stage:
    """A stage, in three of ten scenes with a bystander in the background.

    Bystanders are fixed: a solver that also moved the protagonist might place them a rounding error
    apart in the two worlds, and frames would no longer be equal to the bit.
    """
    colours = draw_colours(rng, 6)
    room, camera = draw_room(rng, light_x), draw_camera(rng)
    sides = rng.permutation([-1.0, 1.0])[: int(rng.random() < 0.3)]
    bystanders = tuple(
        _bystander(rng, side, colour) for side, colour in zip(sides, colours[4:], strict=False)
    )
    return Stage(room, camera, bystanders, rng.uniform(-spread, spread), colours[:4])


def _bystander(rng: np.random.Generator, side: float, colour: Colour) -> Body:
    category = str(rng.choice(["box", "cylinder", "ellipsoid", "sphere"]))
    size = rng.uniform(0.16, 0.26)
    stands = category in ("box", "cylinder")
    height = size * EXTENTS[category][2 if stands else 0]
    return Body(
        category=category,
        size=size,
        colour=colour,
        position=(side * rng.uniform(0.3, 2.0), rng.uniform(1.7, 2.5), height),
        quaternion=UPRIGHT if stands else LYING,
        pattern=int(rng.integers(3)),
        fixed=True,
    )


@dataclass(frozen=True)
class Passage:
    """A body that crosses the view at constant speed, hidden for some frames on its way.

    Attributes:
        body: at the start of its way.
        screen_y: where the screen stands, metres.
        first_hidden: frame from which it shall be wholly hidden.
        num_hidden: for how many frames.
        height_factor: height of the screen over the least that hides the body.
    """

    body: Body
    screen_y: float
    first_hidden: float
    num_hidden: float
    height_factor: float

    @property
    def direction(self) -> float:
        """1 to the right, -1 to the left."""
        return float(np.sign(self.body.velocity[0]))

    @property
    def lane_y(self) -> float:
        """How far back the body runs, metres."""
        return self.body.position[1]

    @property
    def reach_x(self) -> float:
        """From the body's centre to its foremost point, metres."""
        return float(self.body.extents[0])

    @property
    def outline_x(self) -> float:
        """From the body's centre to its outline as the camera sees it along the lane, metres."""
        return _outline(self.body)

    def x_at(self, frame: float) -> float:
        """Where the body's centre is at a frame, metres."""
        return self.body.position[0] + self.body.velocity[0] * frame / FPS

    def moved(self, offset: float) -> Passage:
        """The same passage so many metres further right."""
        x, y, z = self.body.position
        return replace(self, body=replace(self.body, position=(x + offset, y, z)))

    def screen(
        self, stage: Stage, colour: Colour, cover: tuple[float, float] | None = None
    ) -> Slab:
        """A screen that hides the body in just the frames that are planned.

        Args:
            stage: whose camera looks at it.
            colour: of the screen.
            cover: another point (y, z) that it must hide too, such as a wall's top.
        """
        edges = []
        for frame, side in (
            (self.first_hidden, -self.direction),
            (self.first_hidden + self.num_hidden, self.direction),
        ):
            point = (self.x_at(frame) + side * self.outline_x, self.lane_y)
            edges.append(stage.camera.seen_at(round(frame), point, self.screen_y))
        depth = _depth(self.body) * (0.4 if self.body.category == "sphere" else 1.0)
        tops = [(self.lane_y + depth, 2 * self.reach_x), *([cover] if cover else [])]
        least = max(stage.camera.height_to_cover(top, self.screen_y) for top in tops)
        height = least * self.height_factor
        return Slab(
            half=(abs(edges[1] - edges[0]) / 2, 0.03, height / 2),
            colour=colour,
            path=((0.0, (sum(edges) / 2, self.screen_y, height / 2)),),
        )


def _depth(body: Body) -> float:
    """Half-extent along y of a body that rolls or slides along x, metres."""
    return float(body.extents[2])


def _outline(body: Body) -> float:
    """How far the outline reaches to either side of the centre, as seen from the camera, metres."""
    if body.category == "sphere":
        return 1.07 * body.size
    return float(body.extents[0]) + SIGHT_SLOPE * _depth(body)


def passer(
    category: str,
    size: float,
    colour: Colour,
    pattern: int,
    place: tuple[float, float],
    velocity: float,
) -> Body:
    """A body that rolls along x without slipping (a box slides), from `place` = (x, y)."""
    radius = size * EXTENTS[category][0]
    slides = category == "box"
    return Body(
        category=category,
        size=size,
        colour=colour,
        position=(*place, radius),
        quaternion=UPRIGHT if slides else LYING,
        velocity=(velocity, 0.0, 0.0),
        spin=(0.0, 0.0 if slides else velocity / radius, 0.0),
        pattern=pattern,
        # On a slick floor a ball that a wall sends back keeps its speed although it spins against
        # it, and a box slides on as if on ice.
        friction=(0.0 if slides else 0.08, 0.0),
        damping=BOUNCE_DAMPING,
    )


def draw_passage(
    rng: np.random.Generator,
    stage: Stage,
    *,
    speed: tuple[float, float] = (0.55, 1.65),
    size: tuple[float, float] = (0.22, 0.29),
    first_hidden: tuple[int, int] = (FRAMES_BEFORE, NUM_FRAMES),
    num_hidden: tuple[int, int] = (9, 24),
    max_width: float = MAX_HIDDEN_WIDTH,
    frames_after: int = FRAMES_AFTER,
    gap: float = 0.0,
) -> Passage:
    """Draw who passes, from which side, in which lane, when, how fast and hidden for how long.

    Args:
        rng: source of chance.
        stage: whose centre the hiding lies at.
        speed: range in m/s, drawn evenly on a logarithmic scale.
        size: range in metres.
        first_hidden: range of the frame in which it is first wholly hidden.
        num_hidden: range of frames for which it is hidden, less where the screen would be wider
            than `max_width` metres (measured along the lane).
        max_width: see above.
        frames_after: frames that must remain after the hiding.
        gap: least distance from the lane to the screen, metres.
    """
    category = str(rng.choice(list(PASSER_SHARES), p=list(PASSER_SHARES.values())))
    radius = rng.uniform(*size)
    direction = float(rng.choice([-1.0, 1.0]))
    velocity = direction * np.exp(rng.uniform(*np.log(speed)))
    body = passer(category, radius, stage.colours[0], int(rng.integers(3)), (0.0, 0.0), velocity)
    room = (max_width - 2 * _outline(body)) * FPS / abs(velocity)
    longest = max(min(num_hidden[1], room, NUM_FRAMES - frames_after - first_hidden[0] - 1), 1)
    frames = rng.uniform(min(num_hidden[0], longest), longest)
    latest = min(first_hidden[1], NUM_FRAMES - frames_after - frames)
    start = rng.uniform(first_hidden[0], latest)
    lane_y = rng.uniform(0.1, 0.8)
    start_x = stage.centre_x - velocity * (start + frames / 2) / FPS
    return Passage(
        body=replace(body, position=(start_x, lane_y, body.position[2])),
        screen_y=lane_y - max(_depth(body) + rng.uniform(0.08, 0.3), gap),
        first_hidden=start,
        num_hidden=frames,
        height_factor=rng.uniform(1.03, 1.22),
    )
