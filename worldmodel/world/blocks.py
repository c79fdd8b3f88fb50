"""Matched possible and impossible clips: one function per physical concept.

Each function draws two worlds A and B that differ in one thing. Both are possible. While that thing
is hidden their frames are equal to the bit, and a splice there of A's beginning and B's end (or the
other way round) is impossible, although each of its frames, and each short stretch of frames, also
stands in a possible clip. So no cue within a frame, and no memory shorter than the hiding, can tell
AB and BA from AA and BB.

Everything that would let a clock tell where the hidden thing is gets drawn afresh: the side from
which it comes, its lane, its delay and speed (three to one), where the screen stands and its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from worldmodel.world.forms import EXTENTS, PARKED_HEIGHT, SLIDING_CATEGORIES
from worldmodel.world.scenes import FPS, NUM_FRAMES, Body, Scene, Slab
from worldmodel.world.stage import (
    FRAMES_AFTER,
    draw_passage,
    draw_stage,
    passer,
)
from worldmodel.world.style import Style, away_from

SCREEN_MOVES_FRAMES = (6, 10)
HAND_COLOUR = (0.9, 0.75, 0.6)


@dataclass(frozen=True)
class WorldPair:
    """Two possible worlds that differ in one thing.

    Attributes:
        a, b: the worlds; `a` always has the tracked body.
        num_windows: how many hidings the splices need.
        min_frames: how long each must last.
        splice_frame: of a kind in open view, where nothing is hidden: the frame in which the bodies
            of both worlds are at the same places. Then there are no windows.
        variant: in which of several ways the worlds differ, where a kind has several.
    """

    a: Scene
    b: Scene
    num_windows: int = 1
    min_frames: int = 7
    splice_frame: int | None = None
    variant: str = ""


Concept = Callable[[np.random.Generator, Style], WorldPair]


def reveal(rng: np.random.Generator, style: Style) -> WorldPair:
    """Something goes behind a screen and stops there; the screen leaves: it must be there.

    A: a body comes, is hidden, stops; when the screen has gone it lies there. B: no body at all.
    AB: it went in, and nothing is there. BA: nothing went in, and there it is. The screen comes
    after the clip has begun, on a stage that was seen to be empty, so BA has no other reading.
    """
    stage = draw_stage(rng, style)
    arrived = int(rng.integers(9, 15))
    passage = draw_passage(
        rng, stage, size=(0.22, 0.3), first_hidden=(arrived + 2, 26), num_hidden=(9, 22)
    )
    # It stops anywhere behind the screen, some frames before the screen leaves.
    stops = passage.first_hidden + rng.uniform(0.12, 0.88) * passage.num_hidden
    waits = int(rng.integers(4, 20))
    leaves = min(round(stops) + waits, NUM_FRAMES - FRAMES_AFTER - 5)
    stopper_x = passage.x_at(stops) + passage.direction * (passage.reach_x + 0.04)
    stopper = Slab(
        half=(0.04, 0.2, 0.11),
        colour=stage.colours[2],
        path=((0.0, (stopper_x, passage.lane_y, 0.11)),),
        inelastic=True,
    )
    screen = _visiting(rng, passage.screen(stage, stage.colours[1]), arrived, leaves)
    screens = stage.with_decoy(rng, screen, passage.lane_y)
    a = stage.scene("reveal", passage.body, (*screens, stopper))
    return WorldPair(a, _without_body(a))


def permanence(rng: np.random.Generator, style: Style) -> WorldPair:
    """Something passes behind a screen: what went in must come out.

    A: a body passes. B: no body at all. AB: it goes in and never comes out; BA: it comes out and
    never went in. The far-fetched reading: it stopped behind the screen, or had waited there.
    """
    stage = draw_stage(rng, style)
    passage = draw_passage(rng, stage, long_share=0.65)
    screen = passage.screen(stage, stage.colours[1])
    a = stage.scene("permanence", passage.body, stage.with_decoy(rng, screen, passage.lane_y))
    return WorldPair(a, _without_body(a))


def constancy(rng: np.random.Generator, style: Style) -> WorldPair:
    """What comes out from behind a screen has the colour, shape and size of what went in.

    A and B: bodies that differ in one of the three pass in the same way. AB and BA: it changes
    while hidden. The far-fetched reading: the first stopped there, and another went on.
    """
    stage = draw_stage(rng, style)
    aspect = str(rng.choice(["colour", "shape", "size"]))
    sizes = (0.27, 0.3) if aspect == "size" else (0.22, 0.28)
    passage = draw_passage(rng, stage, size=sizes, long_share=0.65)
    body = passage.body
    category, size, colour = body.category, body.size, body.colour
    if aspect == "colour":
        colour = stage.colours[2]
    elif aspect == "size":
        size = 0.6 * size
    else:
        # A rolling cylinder and a ball look alike from the front; what slides looks unlike either.
        category = style.draw_category(rng, slides=category not in SLIDING_CATEGORIES)
    other = passer(category, size, colour, body.material, body.position[:2], body.velocity[0])
    # The screen must hide whichever is larger.
    screens = [
        replace(passage, body=each).screen(stage, stage.colours[1]) for each in (body, other)
    ]
    screen = max(screens, key=lambda slab: slab.half[0])
    tallest = max(slab.half[2] for slab in screens)
    x, y, _ = screen.path[0][1]
    screen = replace(screen, half=(screen.half[0], 0.03, tallest), path=((0.0, (x, y, tallest)),))
    slabs = stage.with_decoy(rng, screen, passage.lane_y)
    worlds = [stage.scene("constancy", each, slabs) for each in (body, other)]
    first = int(rng.integers(2))
    return WorldPair(worlds[first], worlds[1 - first], variant=aspect)


def continuity(rng: np.random.Generator, style: Style) -> WorldPair:
    """Something passes behind two screens: it must cross the gap between them.

    A: a body passes behind both. B: no body. ABA: seen before and after, never between; BAB: in
    the gap alone. The far-fetched reading: two bodies, one of which stopped at each screen.
    """
    stage = draw_stage(rng, style, spread=0.12)
    passage = draw_passage(
        rng,
        stage,
        speed=(0.58, 1.74),
        size=(0.2, 0.24),
        first_hidden=(8, 20),
        num_hidden=(6, 10),
        max_width=1.05,
    )
    metres_per_frame = passage.body.velocity[0] / FPS
    # The gap shows all of the body, and a little more.
    gap = 2 * passage.reach_x + rng.uniform(0.0, 0.2)
    frames_between = (gap + 2 * passage.outline_x) / abs(metres_per_frame)
    all_frames = 2 * passage.num_hidden + frames_between
    first = np.clip(NUM_FRAMES - FRAMES_AFTER - all_frames, 8, passage.first_hidden)
    # Centre the two screens and their gap on the stage.
    middle = passage.x_at(first + all_frames / 2)
    passage = replace(passage, first_hidden=first).moved(stage.centre_x - middle)
    later = replace(
        passage, first_hidden=passage.first_hidden + passage.num_hidden + frames_between
    )
    screens = (passage.screen(stage, stage.colours[1]), later.screen(stage, stage.colours[3]))
    # Slots must not tell which screen comes first.
    shuffled = tuple(screens[i] for i in rng.permutation(2))
    a = stage.scene("continuity", passage.body, shuffled)
    return WorldPair(a, _without_body(a), num_windows=2, min_frames=5)


def solidity(rng: np.random.Generator, style: Style) -> WorldPair:
    """A wall stands in the way, or not; a screen covers it: nothing passes through a wall.

    A: there is a wall and the body comes back. B: no wall and the body passes. AB: a wall was seen
    and the body passes it; BA: it turns round where nothing stood. The far-fetched reading: the
    wall was taken away, or put there, behind the screen.
    """
    stage = draw_stage(rng, style, light_x=0.3)
    arrived = int(rng.integers(11, 17))
    passage = draw_passage(
        rng,
        stage,
        speed=(0.8, 2.2),
        first_hidden=(arrived + 2, 32),
        num_hidden=(10, 20),
        gap=0.37,
    )
    hidden_way = abs(passage.body.velocity[0]) * passage.num_hidden / FPS
    # Far enough from the screen's other edge that the wall's own edge is hidden too.
    latest = np.clip(1 - 0.36 / hidden_way, 0.2, 0.6)
    meets = passage.first_hidden + rng.uniform(0.12, latest) * passage.num_hidden
    wall_x = passage.x_at(meets) + passage.direction * (passage.reach_x + 0.09)
    half_height = rng.uniform(0.19, 0.26)
    wall = Slab(
        half=(0.09, 0.3, half_height),
        colour=stage.colours[2],
        path=((0.0, (wall_x, passage.lane_y, half_height)),),
    )
    screen = passage.screen(stage, stage.colours[1], cover=(passage.lane_y + 0.3, 2 * half_height))
    screens = stage.with_decoy(rng, _visiting(rng, screen, arrived), passage.lane_y)
    a = stage.scene("solidity", passage.body, (*screens, wall))
    return WorldPair(a, _without_slab(a, wall))


def support(rng: np.random.Generator, style: Style) -> WorldPair:
    """A platform stands under a box, or not; a screen covers it and the hand lets go.

    A: the box comes to rest on the platform, in sight above the screen. B: no platform, it falls
    out of sight. AB: it falls through a platform that was seen; BA: it hovers over nothing. The
    far-fetched reading: the platform was taken away, or put there, behind the screen.
    """
    stage = draw_stage(rng, style, light_x=0.3)
    # Near the middle: what falls behind the screen lies in its midst, and a screen that may stand
    # anywhere would tell where (frame number and screens then explained 0.84 of the place).
    x, y = rng.uniform(-0.35, 0.35), rng.uniform(0.1, 0.5)
    arrived = int(rng.integers(11, 18))
    released = int(rng.integers(arrived + 7, 42))
    half_width, half_height = rng.uniform(0.24, 0.3), rng.uniform(0.18, 0.28)
    platform = Slab(
        half=(half_width, 0.24, half_height),
        colour=stage.colours[2],
        path=((0.0, (x, y, half_height)),),
        inelastic=True,
    )
    hand_z = 2 * half_height + rng.uniform(0.25, 0.45)
    aside = x + float(rng.choice([-1.0, 1.0])) * 3.0
    hand = Slab(
        half=(0.25, 0.22, 0.02),
        colour=HAND_COLOUR,
        path=(
            (released / FPS, (x, y, hand_z)),
            # Two frames: slower, and the box would topple over the edge of the hand.
            ((released + 2) / FPS, (aside, y, hand_z)),
        ),
    )
    size = float(rng.uniform(0.25, 0.31))
    category = style.draw_category(rng, slides=True)
    box = Body(
        category=category,
        size=size,
        colour=stage.colours[0],
        position=(x, y, hand_z + 0.02 + EXTENTS[category][2] * size),
        material=style.draw_body_material(rng, size),
        damping=60.0,
    )
    screen_y = y - rng.uniform(0.38, 0.55)
    half_screen = stage.camera.height_to_cover((y + 0.25, 2 * half_height), screen_y) * 0.51
    middle = stage.camera.seen_at(released, (x, y), screen_y)
    spare = rng.uniform(0.3, 0.6)
    screen = stage.screen(
        (half_width + spare, 0.03, half_screen),
        (middle + rng.uniform(-0.6, 0.6) * spare, screen_y, half_screen),
        stage.colours[1],
    )
    screens = stage.with_decoy(rng, _visiting(rng, screen, arrived), y)
    a = stage.scene("support", box, (*screens, platform, hand))
    return WorldPair(a, _without_slab(a, platform))


HIDDEN_KINDS: dict[str, Concept] = {
    concept.__name__: concept
    for concept in (reveal, permanence, constancy, continuity, solidity, support)
}


def _visiting(
    rng: np.random.Generator, screen: Slab, arrived: int, leaves: int | None = None
) -> Slab:
    """A screen that has come by the frame `arrived`, and goes from frame `leaves` on."""
    stand = screen.path[0][1]
    comes = arrived - int(rng.integers(*SCREEN_MOVES_FRAMES))
    path = [(comes / FPS, away_from(rng, screen)), (arrived / FPS, stand)]
    if leaves is not None:
        gone = leaves + int(rng.integers(*SCREEN_MOVES_FRAMES))
        path += [(leaves / FPS, stand), (gone / FPS, away_from(rng, screen))]
    return replace(screen, path=tuple(path))


def _without_body(scene: Scene) -> Scene:
    """The same scene, with its protagonist parked."""
    x, y, _ = scene.bodies[0].position
    absent = replace(scene.bodies[0], present=False, fixed=True, position=(x, y, PARKED_HEIGHT))
    return replace(scene, bodies=(absent, *scene.bodies[1:]))


def _without_slab(scene: Scene, slab: Slab) -> Scene:
    """The same scene, with one slab parked."""
    slabs = tuple(replace(s, present=False) if s is slab else s for s in scene.slabs)
    return replace(scene, slabs=slabs)
