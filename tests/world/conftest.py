"""Scenes that several of the world's tests look at."""

import numpy as np
import pytest

from worldmodel.world.scenes import Body, Camera, Light, Room, Scene, Slab
from worldmodel.world.style import Mix, draw_camera


@pytest.fixture
def plain_room() -> Room:
    return Room(
        floor_colour=(0.6, 0.6, 0.6),
        wall_colour=(0.5, 0.5, 0.6),
        lights=(Light((0.3, -2.5, 6.0), 1.0),),
    )


@pytest.fixture
def camera() -> Camera:
    """It circles the scene for four frames."""
    circling = Mix(pan=0.0, dolly=0.0, orbit=1.0, handheld=0.0)
    return draw_camera(np.random.default_rng(3), circling, num_frames=4)


@pytest.fixture
def ball_and_screen(plain_room: Room, camera: Camera) -> Scene:
    """A resting ball half covered by a screen, a box in the open; four frames."""
    ball = Body(
        category="sphere", size=0.3, colour=(0.9, 0.2, 0.2), position=(0.0, 0.4, 0.3), fixed=True
    )
    box = Body(
        category="box", size=0.2, colour=(0.2, 0.9, 0.2), position=(0.9, 0.8, 0.17), fixed=True
    )
    edge = camera.seen_at(0, (0.0, 0.4), 0.0)
    screen = Slab(
        half=(0.4, 0.03, 0.4),
        colour=(0.2, 0.3, 0.9),
        path=((0.0, (edge - 0.4, 0.0, 0.4)),),
        screen=True,
    )
    return Scene(
        room=plain_room,
        camera=camera,
        bodies=(ball, box),
        slabs=(screen,),
        tracked=0,
        num_frames=4,
    )
