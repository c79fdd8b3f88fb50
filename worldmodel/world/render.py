"""Ray tracing: scenes in motion become frames, depth and ids; no GL, no display, no root.

Frames of two scenes that differ in something hidden are equal to the bit: see `tracer`, which gets
only what is present.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.clips import Truth
from worldmodel.data.truth import SLAB_ID
from worldmodel.world import tracer
from worldmodel.world.scenes import PATTERNS, PLAIN, Body, Colour, Light, Material, Scene, Slab
from worldmodel.world.simulate import Motion
from worldmodel.world.visibility import (
    Sight,
    focal_length,
    parts_of,
    see,
    state_of,
    trace_clip,
)

__all__ = ["SLAB_ID", "Footage", "Sight", "focal_length", "render", "see"]

# A colour whose parts add up to more than this has a dark second colour, others a light one.
LIGHT_COLOUR = 1.35
# Lights look towards the middle of the room; any other point would do as well.
MIDDLE = (0.0, 0.5, 0.3)


@dataclass(frozen=True)
class Footage:
    """A rendered clip: frames uint8 `(T, H, W, 3)` and what is really there."""

    frames: np.ndarray
    truth: Truth


def render(scene: Scene, motion: Motion, size: int, reuse: bool = True) -> Footage:
    """Render a clip.

    Args:
        scene: what is there.
        motion: where it is.
        size: height and width in pixels.
        reuse: see `trace_clip`.
    """
    frames = np.empty((scene.num_frames, size, size, 3), np.uint8)
    sight = trace_clip(scene, motion, frames, _surfaces(scene), _lights(scene), reuse)
    truth = Truth(sight.depth, sight.ids, state_of(scene, motion, sight, size))
    return Footage(frames, truth)


def _surfaces(scene: Scene) -> np.ndarray:
    """Sky, floor, wall, then the parts of all things, in the order that `tracer` counts them."""
    room = scene.room
    things: tuple[Body | Slab, ...] = (*scene.bodies, *scene.slabs)
    surfaces = [_surface(PLAIN, tracer.SKY, tracer.SKY)]
    for colour, material in ((room.floor_colour, room.floor), (room.wall_colour, room.wall)):
        surfaces.append(_surface(material, colour, (0.0, 0.0, 0.0)))
    for owner, part in parts_of(scene):
        if part.paint is not None:
            grey = (part.paint,) * 3
            surfaces.append(_surface(PLAIN, grey, grey))
        else:
            thing = things[owner]
            surfaces.append(
                _surface(
                    thing.material,
                    thing.colour,
                    _second_colour(thing.colour),
                    band_axis=0 if isinstance(thing, Slab) else 2,
                )
            )
    return np.array(surfaces, tracer.SURFACE)


def _surface(
    material: Material, colour: Colour, other: Colour, band_axis: int = 0
) -> tuple[Any, ...]:
    mixed = tuple(
        one + (two - one) * material.contrast for one, two in zip(colour, other, strict=True)
    )
    return (PATTERNS.index(material.pattern), band_axis, 1 / material.period, colour, mixed)


def _second_colour(colour: Colour) -> Colour:
    """Darker for a light colour, lighter for a dark one."""
    red, green, blue = colour
    if red + green + blue > LIGHT_COLOUR:
        return (0.4 * red, 0.4 * green, 0.4 * blue)
    return (0.55 + 0.45 * red, 0.55 + 0.45 * green, 0.55 + 0.45 * blue)


def _lights(scene: Scene) -> np.ndarray:
    lights = scene.room.lights
    assert len(lights) <= tracer.MAX_LIGHTS
    return np.array(
        [(light.position, light.share, _light_axes(light)) for light in lights], tracer.LIGHT
    )


def _light_axes(light: Light) -> np.ndarray:
    """Axes of a view from a light, as columns right, down, forward."""
    forward = np.subtract(MIDDLE, light.position)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, np.eye(3)[np.abs(forward).argmin()])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], 1)
