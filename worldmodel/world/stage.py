"""What the events of all kinds share: a stage, and a body that passes behind a screen.

Times are source frames (16 per second). The body's way is planned from the frames in which it shall
be hidden; where the screen's edges stand follows from it by the camera's lines of sight, which also
holds for a camera that moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from worldmodel.world.forms import (
    EXTENTS,
    LYING,
    SLIDING_CATEGORIES,
    UPRIGHT,
    Vector,
)
from worldmodel.world.scenes import (
    FPS,
    NUM_FRAMES,
    PLAIN,
    Body,
    Camera,
    Colour,
    Material,
    Room,
    Scene,
    Slab,
)
from worldmodel.world.style import Style, away_from, draw_camera, draw_room

# Frames that must remain after the last hiding, so that the outcome is seen (0.9 s).
FRAMES_AFTER = 14
# Frames before the first hiding, so that what is hidden has been seen (0.6 s).
FRAMES_BEFORE = 10
# Hidings are planned this much longer than wanted: a frame at either end may show a sliver.
LONG_HIDING = 18
# Widest stretch of a lane that one screen hides, metres; 0.6 of what the camera sees of a lane.
MAX_HIDDEN_WIDTH = 1.75
BOUNCE_DAMPING = 8.0
# Slope of the line of sight at a screen's edge: the corner of a box peeks out by this much of its
# depth before its side does.
SIGHT_SLOPE = 0.35


@dataclass(frozen=True)
class Stage:
    """Room, camera, bystanders and colours of a scene that has no event yet.

    Attributes:
        style: what its things may be made of.
        bystanders: bodies in the background.
        centre_x: about where the event shall be, metres.
        colours: five, far apart: of the protagonist, the screen, another thing, and two spares.
        screen_form, screen_material: of its screens.
        decoy_slot: -1, or the slot among the screens (0 or 1) of one that hides nothing.
    """

    style: Style
    room: Room
    camera: Camera
    bystanders: tuple[Body, ...]
    centre_x: float
    colours: list[Colour]
    screen_form: str
    screen_material: Material
    decoy_slot: int

    def scene(
        self, kind: str, protagonist: Body, slabs: tuple[Slab, ...], others: tuple[Body, ...] = ()
    ) -> Scene:
        """The stage with its protagonist in slot 0."""
        return Scene(
            room=self.room,
            camera=self.camera,
            bodies=(protagonist, *others, *self.bystanders),
            slabs=slabs,
            tracked=0,
            kind=kind,
        )

    def screen(self, half: Vector, place: Vector, colour: Colour) -> Slab:
        """A screen of the stage's form and material that stands."""
        return Slab(
            half=half,
            colour=colour,
            path=((0.0, place),),
            form=self.screen_form,
            material=self.screen_material,
            screen=True,
        )

    def with_decoy(self, rng: np.random.Generator, screen: Slab, lane_y: float) -> tuple[Slab, ...]:
        """The screen, and where the stage has one beside it another that hides nothing.

        The decoy stands behind the lane, on the other side; where the screen comes and goes, half
        of the decoys do so at the same time. So to know that there is a screen somewhere is not to
        know where something is hidden.
        """
        if self.decoy_slot < 0:
            return (screen,)
        half = (float(rng.uniform(0.35, 0.75)), 0.03, screen.half[2] * float(rng.uniform(0.8, 1.1)))
        side = -1.0 if screen.stand[0] > 0 else 1.0
        far = lane_y + rng.uniform(0.4, 0.75)
        x = screen.stand[0] + side * (screen.half[0] + half[0] * rng.uniform(0.3, 1.2))
        stand = (float(x), float(far), half[2])
        decoy = self.screen(half, stand, self.colours[4])
        if rng.random() < 0.5:
            away = away_from(rng, decoy)
            path = tuple((t, stand if at == screen.stand else away) for t, at in screen.path)
            decoy = replace(decoy, path=path)
        return (decoy, screen) if self.decoy_slot == 0 else (screen, decoy)


def draw_stage(
    rng: np.random.Generator, style: Style, light_x: float = 1.2, spread: float = 0.3
) -> Stage:
    """A stage, sometimes with a bystander in the background or a second screen.

    Bystanders are fixed: a solver that also moved the protagonist might place them a rounding error
    apart in the two worlds, and frames would no longer be equal to the bit.
    """
    colours = style.draw_colours(rng, 7)
    room, camera = draw_room(rng, style, light_x), draw_camera(rng, style.mix)
    sides = rng.permutation([-1.0, 1.0])[: int(rng.random() < style.mix.bystander)]
    bystanders = tuple(
        _bystander(rng, style, side, colour)
        for side, colour in zip(sides, colours[5:], strict=False)
    )
    decoy_slot = int(rng.integers(2)) if rng.random() < style.mix.decoy else -1
    return Stage(
        style=style,
        room=room,
        camera=camera,
        bystanders=bystanders,
        centre_x=float(rng.uniform(-spread, spread)),
        colours=colours[:5],
        screen_form=style.draw_screen_form(rng),
        screen_material=style.draw_slab_material(rng),
        decoy_slot=decoy_slot,
    )


def _bystander(rng: np.random.Generator, style: Style, side: float, colour: Colour) -> Body:
    category = style.draw_category(rng)
    size = float(rng.uniform(0.16, 0.26))
    stands = category in ("cylinder", *SLIDING_CATEGORIES)
    height = size * EXTENTS[category][2 if stands else 0]
    return Body(
        category=category,
        size=size,
        colour=colour,
        position=(float(side * rng.uniform(0.3, 2.0)), float(rng.uniform(1.9, 2.6)), height),
        quaternion=UPRIGHT if stands else LYING,
        material=style.draw_body_material(rng, size),
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
    def height(self) -> float:
        """Of the body above the floor, metres."""
        return 2 * self.body.position[2]

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
        tops = [(self.lane_y + depth, self.height), *([cover] if cover else [])]
        least = max(stage.camera.height_to_cover(top, self.screen_y) for top in tops)
        height = least * self.height_factor
        half = (abs(edges[1] - edges[0]) / 2, 0.03, height / 2)
        return stage.screen(half, (sum(edges) / 2, self.screen_y, height / 2), colour)


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
    material: Material,
    place: tuple[float, float],
    velocity: float,
) -> Body:
    """A body that rolls along x without slipping (a box slides), from `place` = (x, y)."""
    slides = category in SLIDING_CATEGORIES
    radius = size * EXTENTS[category][2 if slides else 0]
    return Body(
        category=category,
        size=size,
        colour=colour,
        position=(*place, radius),
        quaternion=UPRIGHT if slides else LYING,
        velocity=(velocity, 0.0, 0.0),
        spin=(0.0, 0.0 if slides else velocity / radius, 0.0),
        material=material,
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
    num_hidden: tuple[int, int] = (9, 30),
    long_share: float = 0.0,
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
        long_share: share of passages that are slow enough to be hidden for `LONG_HIDING` frames.
        max_width: see above.
        frames_after: frames that must remain after the hiding.
        gap: least distance from the lane to the screen, metres.
    """
    category = stage.style.draw_category(rng)
    radius = float(rng.uniform(*size))
    direction = float(rng.choice([-1.0, 1.0]))
    body = passer(category, radius, stage.colours[0], PLAIN, (0.0, 0.0), 1.0)
    way = max_width - 2 * _outline(body)
    shortest, fastest = num_hidden[0], speed[1]
    if rng.random() < long_share:
        shortest = LONG_HIDING
        fastest = min(fastest, way * FPS / (LONG_HIDING + 1))
    velocity = direction * float(np.exp(rng.uniform(np.log(speed[0]), np.log(fastest))))
    body = passer(
        category,
        radius,
        stage.colours[0],
        stage.style.draw_body_material(rng, radius),
        (0.0, 0.0),
        velocity,
    )
    room = way * FPS / abs(velocity)
    longest = max(min(num_hidden[1], room, NUM_FRAMES - frames_after - first_hidden[0] - 1), 1)
    frames = float(rng.uniform(min(shortest, longest), longest))
    latest = min(first_hidden[1], NUM_FRAMES - frames_after - frames)
    start = float(rng.uniform(first_hidden[0], latest))
    lane_y = float(rng.uniform(0.1, 0.8))
    start_x = stage.centre_x - velocity * (start + frames / 2) / FPS
    return Passage(
        body=replace(body, position=(start_x, lane_y, body.position[2])),
        screen_y=lane_y - max(_depth(body) + float(rng.uniform(0.08, 0.3)), gap),
        first_hidden=start,
        num_hidden=frames,
        height_factor=float(rng.uniform(1.03, 1.22)),
    )
