"""Scenes fit their slots, cameras look where they should, slabs follow their paths."""

import numpy as np
import pytest

from worldmodel.world.render import RayCaster
from worldmodel.world.scenes import (
    LOOK_AT,
    NUM_BODIES,
    NUM_SLABS,
    PARKED_HEIGHT,
    Slab,
    absent_slab,
    draw_camera,
    draw_colours,
    free_scene,
)
from worldmodel.world.simulate import simulate
from worldmodel.world.visibility import covered_frames, runs_of


def test_camera_poses_are_rotations_that_look_at_the_stage():
    for seed in range(10):
        poses = draw_camera(np.random.default_rng(seed)).poses
        rotation = poses[:, :, :3]
        np.testing.assert_allclose(
            rotation @ rotation.transpose(0, 2, 1), [np.eye(3)] * 64, atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(rotation), 1)
        local = np.einsum("twc,tw->tc", rotation, LOOK_AT - poses[:, :, 3])
        np.testing.assert_allclose(local[:, :2], 0, atol=1e-12)
        assert (local[:, 2] > 3.5).all()
        assert (rotation[:, 2, 1] < 0).all(), "y of the image must point down"


def test_a_quarter_of_the_cameras_move():
    cameras = [draw_camera(np.random.default_rng(seed)) for seed in range(200)]
    moving = np.mean([np.ptp(camera.places, axis=0).max() > 0 for camera in cameras])
    assert 0.15 < moving < 0.35


def test_line_of_sight_meets_plane(camera):
    x = camera.seen_at(2, (0.7, 1.2), -0.5)
    place = camera.places[2]
    assert (x - place[0]) / (0.7 - place[0]) == pytest.approx((-0.5 - place[1]) / (1.2 - place[1]))
    height = camera.height_to_cover((1.2, 0.4), -0.5)
    assert 0.4 < height < place[2]


def test_slab_eases_from_place_to_place():
    slab = Slab(
        half=(0.4, 0.03, 0.4),
        colour=(1.0, 0.0, 0.0),
        path=((1.0, (0.0, 0.0, 0.4)), (2.0, (0.0, 0.0, -0.5)), (3.0, (1.0, 0.0, -0.5))),
    )
    places = slab.places(np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0]))
    np.testing.assert_allclose(places[:, 2], [0.4, 0.4, -0.05, -0.5, -0.5, -0.5, -0.5])
    np.testing.assert_allclose(places[:, 0], [0, 0, 0, 0, 0.5, 1, 1])
    assert slab.moving and not absent_slab().moving
    assert (absent_slab().places(np.zeros(2))[:, 2] == PARKED_HEIGHT).all()


def test_free_scenes_fill_every_slot_and_vary():
    scenes = [free_scene(np.random.default_rng(seed)) for seed in range(60)]
    assert {len(scene.bodies) for scene in scenes} == {NUM_BODIES}
    assert {len(scene.slabs) for scene in scenes} == {NUM_SLABS}
    assert {sum(body.present for body in scene.bodies) for scene in scenes} == {3, 4, 5}
    screens = [slab for scene in scenes for slab in scene.slabs if slab.present]
    assert 0.6 < np.mean([screen.moving for screen in screens]) < 0.9
    bodies = [body for scene in scenes for body in scene.bodies if body.present]
    assert len({body.category for body in bodies}) == 5
    assert 0.2 < np.mean([body.friction[1] > 0 for body in bodies]) < 0.8, "some roll to a stop"


def test_free_scenes_play_peekaboo():
    hidden_and_back = 0
    for seed in range(12):
        scene = free_scene(np.random.default_rng(seed))
        caster = RayCaster(scene, simulate(scene), 32)
        for slot, body in enumerate(scene.bodies):
            if not body.present:
                continue
            hidden = runs_of(covered_frames(caster, slot))
            hidden_and_back += sum(stop - start >= 4 and stop < 64 for start, stop in hidden)
    assert hidden_and_back >= 12, "less than one body a scene vanishes and comes back"


def test_colours_of_one_scene_are_told_apart():
    for seed in range(20):
        colours = np.array(draw_colours(np.random.default_rng(seed), 6))
        distance = np.abs(colours[:, None] - colours[None]).max(2) + np.eye(6)
        assert distance.min() > 0.1
