"""Free scenes: everyday life, in which nothing is staged and nothing is impossible.

Things roll, slide, hop, drop, bounce, collide and lie about; some stand on each other, some lie in
an open box, some come down a ramp or steps; something alive may walk through. Up to two screens
play peekaboo: they stand, or come and go again and again. What lay behind is still there, a screen
with nothing behind it uncovers nothing, and some things come to a stop while they are covered. So
each half of an event is also an everyday sight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from worldmodel.world.forms import EXTENTS, LYING, SLIDING_CATEGORIES, UPRIGHT
from worldmodel.world.scenes import FPS, NUM_BODIES, NUM_FRAMES, Body, Camera, Colour, Scene, Slab
from worldmodel.world.style import (
    Style,
    away_from,
    draw_camera,
    draw_room,
    turned_about_y,
    turned_at_random,
)

# A screen is high enough to hide a point so far back (y) and so high (z), metres.
SCREEN_HIDES = (0.5, 0.5)
# Walkers keep to the back, where nothing stands that could pin what they push.
WALKERS_Y = (1.3, 1.6)
SECONDS = NUM_FRAMES / FPS


def free_scene(rng: np.random.Generator, style: Style) -> Scene:
    """A scene of everyday life."""
    mix = style.mix
    camera = draw_camera(rng, mix)
    colours = style.draw_colours(rng, NUM_BODIES + 3)
    num_screens = int(rng.choice([0, 1, 2], p=[0.1, 0.5, 0.4]))
    sides = (0.0,) if num_screens == 1 else (-0.7, 0.7)
    screens = [
        _screen(rng, style, camera, sides[i] + rng.uniform(-0.35, 0.35), colours.pop())
        for i in range(num_screens)
    ]
    bodies: list[Body] = []
    slabs: list[Slab] = list(screens)
    shares = [mix.ramp, mix.steps, mix.stack, mix.container]
    what = str(
        rng.choice(["ramp", "steps", "stack", "container", "none"], p=[*shares, 1 - sum(shares)])
    )
    if what == "stack":
        bodies += _stack(rng, style, colours)
    elif what != "none":
        furniture, body = _FURNITURE[what](rng, style, colours)
        slabs.append(furniture)
        bodies.append(body)
    if rng.random() < mix.animate:
        bodies.append(_walker(rng, style, colours.pop()))
    num_bodies = max(int(rng.integers(3, NUM_BODIES + 1)), len(bodies) + 1)
    while len(bodies) < min(num_bodies, NUM_BODIES):
        bodies.append(_body(rng, style, bodies, slabs[num_screens:], screens, colours.pop()))
    order = rng.permutation(len(bodies))
    return Scene(
        room=draw_room(rng, style),
        camera=camera,
        bodies=tuple(bodies[i] for i in order),
        slabs=tuple(slabs),
    )


def _body(
    rng: np.random.Generator,
    style: Style,
    others: Sequence[Body],
    furniture: Sequence[Slab],
    screens: Sequence[Slab],
    colour: Colour,
) -> Body:
    """A body away from the others: sent across the view, let fall, or left lying."""
    category = style.draw_category(rng)
    size = float(rng.uniform(0.19, 0.28))
    launched = rng.random() < 0.5
    hops = launched and rng.random() < style.mix.hopping
    behind = bool(screens) and not launched and rng.random() < 0.6
    for _ in range(50):
        y = rng.uniform(-0.5, 1.0)
        if launched:
            x = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 2.6)
        elif behind:
            screen = screens[int(rng.integers(len(screens)))]
            # Where a screen can hide it: as far out as its half-width, and not far back.
            x = screen.stand[0] + rng.uniform(-1.0, 1.0) * screen.half[0]
            y = rng.uniform(-0.5, SCREEN_HIDES[0])
        else:
            x = rng.uniform(-1.7, 1.7)
        apart = [math.hypot(x - b.position[0], y - b.position[1]) > 0.75 for b in others]
        apart += [abs(x - s.stand[0]) > s.half[0] + 0.4 or abs(y - s.stand[1]) > s.half[1] + 0.4
                  for s in furniture]  # fmt: skip
        if all(apart):
            break
    speed = float(np.exp(rng.uniform(np.log(0.5), np.log(2.2))))
    slides = category in SLIDING_CATEGORIES
    upright = slides and (launched or rng.random() < 0.6)
    rolls = launched and not slides and not hops
    height = size * EXTENTS[category][2 if upright else 0]
    if not (rolls or upright):
        height = 1.3 * size
    if hops:
        height += float(rng.uniform(0.3, 0.9))
    elif not launched and not behind:
        height += float(rng.uniform(0.2, 1.3) * (rng.random() < 0.5))
    heading = float(-np.sign(x) * speed * launched)
    lies = rolls or hops or upright
    if rolls:
        spin = (0.0, heading / height, 0.0)
    elif behind or lies:
        spin = (0.0, 0.0, 0.0)
    else:
        a, b, c = (float(part) for part in rng.normal(0, 2, 3))
        spin = (a, b, c)
    slick = hops or (slides and launched)
    return Body(
        category=category,
        size=size,
        colour=colour,
        position=(float(x), float(y), height + 0.005),
        quaternion=(UPRIGHT if slides else LYING) if lies else turned_at_random(rng),
        velocity=(heading, float(rng.normal() * 0.15 * launched), 0.0),
        spin=spin,
        material=style.draw_body_material(rng, size),
        friction=(0.0 if slick else 0.6, float(rng.uniform(0.005, 0.03) * (rng.random() < 0.5))),
        damping=float(rng.uniform(5, 9) if hops else rng.uniform(6, 40)),
    )


def _screen(
    rng: np.random.Generator, style: Style, camera: Camera, x: float, colour: Colour
) -> Slab:
    """A screen that stands (one in four), or comes and goes every second or so."""
    y = float(rng.uniform(-1.15, -0.9))
    half_height = 0.5 * camera.height_to_cover(SCREEN_HIDES, y) * float(rng.uniform(0.85, 1.1))
    # In front of every body's starting place, so that nothing starts inside a screen.
    stand = (float(x), y, half_height)
    screen = Slab(
        half=(float(rng.uniform(0.3, 0.5)), 0.03, half_height),
        colour=colour,
        path=((0.0, stand),),
        form=style.draw_screen_form(rng),
        material=style.draw_slab_material(rng),
        screen=True,
    )
    if rng.random() < 0.25:
        return screen
    away = away_from(rng, screen)
    now, there = (stand, away) if rng.random() < 0.5 else (away, stand)
    path = []
    seconds = float(rng.uniform(0.2, 1.2))
    while seconds < SECONDS - 0.5:
        moved = seconds + float(rng.uniform(0.3, 0.7))
        path += [(seconds, now), (moved, there)]
        now, there = there, now
        seconds = moved + float(rng.uniform(0.3, 1.2))
    return Slab(
        half=screen.half,
        colour=colour,
        path=tuple(path),
        form=screen.form,
        material=screen.material,
        screen=True,
    )


def _ramp(rng: np.random.Generator, style: Style, colours: list[Colour]) -> tuple[Slab, Body]:
    """A tilted plank, and something that rolls (or slides) down it."""
    down = float(rng.choice([-1.0, 1.0]))
    tilt = float(np.deg2rad(rng.uniform(10, 20)))
    half = (float(rng.uniform(0.5, 0.7)), float(rng.uniform(0.22, 0.32)), 0.025)
    x, y = float(-down * rng.uniform(0.2, 0.7)), float(rng.uniform(0.1, 0.9))
    centre = (x, y, half[0] * math.sin(tilt) + 0.025)
    turned = turned_about_y(UPRIGHT, down * tilt)
    ramp = Slab(
        half=half,
        colour=colours.pop(),
        path=((0.0, centre),),
        material=style.draw_slab_material(rng),
        quaternion=turned,
    )
    category = style.draw_category(rng)
    size = float(rng.uniform(0.17, 0.22))
    slides = category in SLIDING_CATEGORIES
    above = size * EXTENTS[category][2 if slides else 0] + half[2] + 0.003
    along = -0.7 * half[0]
    body = Body(
        category=category,
        size=size,
        colour=colours.pop(),
        position=(
            x + down * (along * math.cos(tilt) + above * math.sin(tilt)),
            y,
            centre[2] - along * math.sin(tilt) + above * math.cos(tilt),
        ),
        quaternion=turned_about_y(UPRIGHT if slides else LYING, down * tilt),
        material=style.draw_body_material(rng, size),
        friction=(0.05 if slides else 0.6, 0.0),
        damping=30.0,
    )
    return ramp, body


def _steps(rng: np.random.Generator, style: Style, colours: list[Colour]) -> tuple[Slab, Body]:
    """A flight of steps, and something that rolls off its top."""
    down = float(rng.choice([-1.0, 1.0]))
    half = (float(rng.uniform(0.4, 0.5)), float(rng.uniform(0.25, 0.35)), 0.24)
    x, y = float(-down * rng.uniform(0.2, 0.7)), float(rng.uniform(0.1, 0.9))
    steps = Slab(
        half=half,
        colour=colours.pop(),
        path=((0.0, (x, y, half[2])),),
        form="steps",
        material=style.draw_slab_material(rng),
        # They rise towards their own x axis.
        quaternion=UPRIGHT if down < 0 else (0.0, 0.0, 0.0, 1.0),
    )
    size = float(rng.uniform(0.15, 0.19))
    category = style.draw_category(rng, slides=False)
    radius = size * EXTENTS[category][0]
    speed = down * float(rng.uniform(0.2, 0.6))
    body = Body(
        category=category,
        size=size,
        colour=colours.pop(),
        position=(x - down * half[0] * 0.8, y, 2 * half[2] + radius + 0.003),
        quaternion=LYING,
        velocity=(speed, 0.0, 0.0),
        spin=(0.0, speed / radius, 0.0),
        material=style.draw_body_material(rng, size),
        damping=float(rng.uniform(10, 30)),
    )
    return steps, body


def _container(rng: np.random.Generator, style: Style, colours: list[Colour]) -> tuple[Slab, Body]:
    """An open box, and something that falls into it."""
    half = (float(rng.uniform(0.3, 0.4)), float(rng.uniform(0.28, 0.35)), 0.2)
    x, y = float(rng.uniform(-0.9, 0.9)), float(rng.uniform(0.1, 0.9))
    box = Slab(
        half=half,
        colour=colours.pop(),
        path=((0.0, (x, y, half[2] + 0.002)),),
        form="container",
        material=style.draw_slab_material(rng),
    )
    size = float(rng.uniform(0.15, 0.2))
    body = Body(
        category=style.draw_category(rng),
        size=size,
        colour=colours.pop(),
        position=(x + float(rng.uniform(-0.05, 0.05)), y, float(rng.uniform(0.8, 1.6))),
        quaternion=turned_at_random(rng),
        material=style.draw_body_material(rng, size),
        damping=float(rng.uniform(20, 50)),
    )
    return box, body


_FURNITURE = {"ramp": _ramp, "steps": _steps, "container": _container}


def _stack(rng: np.random.Generator, style: Style, colours: list[Colour]) -> list[Body]:
    """Two or three things with flat sides on top of each other."""
    x, y = float(rng.uniform(-0.9, 0.9)), float(rng.uniform(0.0, 0.9))
    size, top, pile = float(rng.uniform(0.22, 0.27)), 0.0, []
    for _ in range(int(rng.integers(2, 4))):
        category = str(rng.choice(["box", "cylinder"]))
        half = size * EXTENTS[category][2]
        pile.append(
            Body(
                category=category,
                size=size,
                colour=colours.pop(),
                position=(x + float(rng.uniform(-0.02, 0.02)), y, top + half + 0.001),
                material=style.draw_body_material(rng, size),
                damping=60.0,
            )
        )
        top += 2 * half
        size *= 0.85
    return pile


def _walker(rng: np.random.Generator, style: Style, colour: Colour) -> Body:
    """Something alive: it has eyes, sets off, stops and turns round by itself."""
    category = str(rng.choice(["sphere", "capsule", "box", "ellipsoid"]))
    size = float(rng.uniform(0.18, 0.24))
    z = size * EXTENTS[category][2] + 0.002
    x, y = float(rng.uniform(-1.2, 1.2)), float(rng.uniform(*WALKERS_Y))
    seconds = float(rng.uniform(0.0, 0.6))
    walk = [(0.0, (x, y, z)), (seconds + 0.01, (x, y, z))]
    while seconds < SECONDS:
        goal = float(np.clip(x + rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.2), -1.5, 1.5))
        sideways = float(np.clip(y + rng.uniform(-0.2, 0.2), *WALKERS_Y))
        takes = math.hypot(goal - x, sideways - y) / float(rng.uniform(0.4, 1.2)) + 0.1
        x, y = goal, sideways
        seconds = walk[-1][0] + takes
        walk.append((seconds, (x, y, z)))
        if rng.random() < 0.6:
            seconds += float(rng.uniform(0.1, 0.7))
            walk.append((seconds, (x, y, z)))
    return Body(
        category=category,
        size=size,
        colour=colour,
        position=walk[0][1],
        material=style.draw_body_material(rng, size),
        walk=tuple(walk),
    )
