"""Physics does what is expected of it, and the same each time."""

from dataclasses import replace

import numpy as np
import pytest

from worldmodel.world.forms import CATEGORIES, EXTENTS, PARKED_HEIGHT, SLIDING_CATEGORIES
from worldmodel.world.free import free_scene
from worldmodel.world.scenes import FPS, NUM_BODIES, PLAIN, Body, Scene, Slab
from worldmodel.world.simulate import GROUND, UnstableSceneError, simulate
from worldmodel.world.stage import passer
from worldmodel.world.style import Mix, draw_camera, training_style


def scene_of(room, *bodies, slabs=(), num_frames=32) -> Scene:
    camera = draw_camera(np.random.default_rng(0), Mix(), num_frames)
    return Scene(room=room, camera=camera, bodies=bodies, slabs=slabs, num_frames=num_frames)


def test_same_scene_same_motion_to_the_bit():
    scene = free_scene(np.random.default_rng(5), training_style(Mix()))
    first, second = simulate(scene), simulate(scene)
    for name in ("pose", "velocity", "slabs", "contact", "support"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_a_body_falls_by_half_g_t_squared(plain_room):
    body = Body(category="box", size=0.2, colour=(1.0, 0.0, 0.0), position=(0.0, 0.0, 2.0))
    motion = simulate(scene_of(plain_room, body, num_frames=8))
    seconds = np.arange(8) / FPS
    np.testing.assert_allclose(motion.pose[:, 0, 2], 2 - 9.81 * seconds**2 / 2, atol=0.015)
    np.testing.assert_allclose(motion.velocity[:, 0, 2], -9.81 * seconds, atol=1e-3)


@pytest.mark.parametrize("category", CATEGORIES)
def test_passers_keep_their_speed_and_lane(plain_room, category):
    body = passer(category, 0.25, (1.0, 0.0, 0.0), PLAIN, (-1.5, 0.5), 1.3)
    motion = simulate(scene_of(plain_room, body))
    np.testing.assert_allclose(motion.pose[:, 0, 0], -1.5 + 1.3 * np.arange(32) / FPS, atol=0.02)
    assert np.abs(motion.pose[:, 0, 1] - 0.5).max() < 0.05


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_spin_is_told_in_world_axes(plain_room, direction):
    body = passer("cylinder", 0.25, (1.0, 0.0, 0.0), PLAIN, (-direction, 0.5), direction * 1.2)
    spin = simulate(scene_of(plain_room, body)).velocity[:, 0, 3:]
    np.testing.assert_allclose(spin[:, 1], direction * 1.2 / body.extents[0], rtol=0.02)
    np.testing.assert_allclose(spin[:, [0, 2]], 0, atol=0.05)


@pytest.mark.parametrize(("inelastic", "returns"), [(False, True), (True, False)])
def test_walls_send_back_and_stoppers_stop(plain_room, inelastic, returns):
    slab = Slab(
        half=(0.05, 0.3, 0.2),
        colour=(0.0, 0.0, 1.0),
        path=((0.0, (0.5, 0.5, 0.2)),),
        inelastic=inelastic,
    )
    body = passer("sphere", 0.25, (1.0, 0.0, 0.0), PLAIN, (-0.8, 0.5), 1.5)
    motion = simulate(scene_of(plain_room, body, slabs=(slab,)))
    x = motion.pose[:, 0, 0]
    assert x.max() == pytest.approx(0.2, abs=0.06), "it goes as far as the wall"
    assert (x[-1] < -0.1) == returns


def test_what_is_absent_stays_parked_and_touches_nothing(plain_room):
    body = passer("sphere", 0.25, (1.0, 0.0, 0.0), PLAIN, (-0.8, 0.5), 1.5)
    wall = Slab(
        half=(0.05, 0.3, 0.2),
        colour=(0.0, 0.0, 1.0),
        path=((0.0, (0.5, 0.5, 0.2)),),
        present=False,
    )
    gone = replace(body, present=False, fixed=True, position=(0.0, 0.5, PARKED_HEIGHT))
    motion = simulate(scene_of(plain_room, body, gone, slabs=(wall,)))
    assert motion.pose[-1, 0, 0] > 1.5
    assert (motion.pose[:, 1, 2] == PARKED_HEIGHT).all()
    assert (motion.velocity[:, 1] == 0).all()


def test_warnings_of_the_simulator_refuse_the_scene_and_leave_no_log(
    plain_room, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    body = Body(
        category="sphere",
        size=0.2,
        colour=(1.0, 0.0, 0.0),
        position=(0.0, 0.0, 1.0),
        velocity=(1e9, 0.0, 0.0),
        spin=(1e12, 0.0, 0.0),
    )
    with pytest.raises(UnstableSceneError, match="MuJoCo warned"):
        simulate(scene_of(plain_room, body))
    assert not list(tmp_path.iterdir())


def test_a_body_that_leaves_the_world_refuses_the_scene(plain_room):
    body = Body(
        category="sphere",
        size=0.2,
        colour=(1.0, 0.0, 0.0),
        position=(0.0, 0.0, 1.0),
        velocity=(9.0, 0.0, 0.0),
    )
    with pytest.raises(UnstableSceneError, match="left the world"):
        simulate(scene_of(plain_room, body))


def test_contacts_and_what_carries_what(plain_room):
    """A box on a box on a table, and one that falls onto the floor beside them."""
    table = Slab(half=(0.3, 0.3, 0.2), colour=(0.0, 0.0, 1.0), path=((0.0, (0.0, 0.5, 0.2)),))
    half = 0.2 * EXTENTS["box"][2]
    lower = Body(
        category="box",
        size=0.2,
        colour=(1.0, 0.0, 0.0),
        position=(0.0, 0.5, 0.4 + half),
        damping=60.0,
    )
    upper = replace(lower, position=(0.02, 0.5, 0.4 + 3 * half))
    falling = replace(lower, position=(1.0, 0.5, 1.0))
    motion = simulate(scene_of(plain_room, lower, upper, falling, slabs=(table,)))
    last, at_first = motion.support[-1], motion.support[1]
    slab = NUM_BODIES  # bodies come first
    assert last[0, slab] and last[1, 0] and last[2, GROUND]
    assert not last[0, 1], "what lies on top carries nothing"
    assert not last[0, GROUND] and not last[1, slab] and not last[2, 0]
    assert not at_first[2].any() and not motion.contact[1, 2].any(), "nothing in mid-air"
    np.testing.assert_array_equal(
        motion.contact[..., :NUM_BODIES], motion.contact[..., :NUM_BODIES].transpose(0, 2, 1)
    )
    assert (motion.support <= motion.contact).all()
    assert at_first[0, slab] and not motion.contact[0].any(), "known from frame 1 on"


def test_what_is_alive_follows_its_walk_and_looks_where_it_goes(plain_room):
    walk = ((0.0, (0.0, 1.4, 0.2)), (0.5, (0.6, 1.4, 0.2)), (1.0, (0.6, 1.4, 0.2)),
            (1.8, (-0.4, 1.4, 0.2)))  # fmt: skip
    body = Body(category="sphere", size=0.2, colour=(1.0, 0.0, 0.0), position=walk[0][1], walk=walk)
    motion = simulate(scene_of(plain_room, body))
    np.testing.assert_allclose(motion.pose[8, 0, :3], walk[1][1], atol=1e-5)
    np.testing.assert_allclose(motion.pose[31, 0, :3], walk[3][1], atol=1e-5)
    assert motion.velocity[4, 0, 0] > 0.5 and motion.velocity[22, 0, 0] < -0.5
    yaw = 2 * np.arctan2(motion.pose[:, 0, 6], motion.pose[:, 0, 3])
    assert abs(yaw[4]) < 0.1 and abs(abs(yaw[30]) - np.pi) < 0.1


def test_sliding_things_stand_and_rolling_ones_lie(plain_room):
    for category in CATEGORIES:
        body = passer(category, 0.25, (1.0, 0.0, 0.0), PLAIN, (0.0, 0.5), 0.5)
        assert (body.spin[1] == 0) == (category in SLIDING_CATEGORIES)
        bottom = simulate(scene_of(plain_room, body, num_frames=16)).pose[:, 0, 2]
        np.testing.assert_allclose(bottom, body.position[2], atol=0.01)
