"""Pixels agree with geometry."""

from dataclasses import replace

import numpy as np
import pytest

from worldmodel.world.render import (
    FIRST_BODY,
    SLAB_ID,
    RayCaster,
    first_hits,
    render,
)
from worldmodel.world.scenes import Scene
from worldmodel.world.simulate import simulate
from worldmodel.world.visibility import covered_frames, longest_run, runs_of

SIZE = 48


def footage_of(scene: Scene, size: int = SIZE):
    return render(RayCaster(scene, simulate(scene), size))


def rays_of(state, size: int = SIZE) -> np.ndarray:
    """World directions through the pixels' centres, `(T, H, W, 3)`, from the stored state alone."""
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    local = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(state["intrinsics"]).T
    return np.einsum("twc,hvc->thvw", state["camera_pose"][:, :, :3], local)


def test_depth_of_a_sphere_is_analytic(ball_and_screen):
    truth = footage_of(ball_and_screen).truth
    ids, depth = truth.ids, truth.depth
    origin = truth.state["camera_pose"][:, None, None, :, 3]
    direction = rays_of(truth.state)
    centre = truth.state["pose"][:, 0, :3][:, None, None]
    offset = origin - centre
    a, b = (direction**2).sum(-1), (direction * offset).sum(-1)
    root = b**2 - a * ((offset**2).sum(-1) - 0.3**2)
    wanted = (-b - np.sqrt(np.maximum(root, 0))) / a
    ball = ids == 1
    assert ball.sum() > 20
    np.testing.assert_allclose(depth[ball], wanted[ball], atol=1e-3)


def test_depth_of_the_floor_is_analytic(ball_and_screen):
    truth = footage_of(ball_and_screen).truth
    direction = rays_of(truth.state)
    height = truth.state["camera_pose"][:, 2, 3][:, None, None]
    wanted = -height / np.minimum(direction[..., 2], -1e-9)
    lowest_rows = np.s_[:, -6:]
    assert (truth.ids[lowest_rows] == 0).all()
    np.testing.assert_allclose(truth.depth[lowest_rows], wanted[lowest_rows], rtol=1e-4)


def test_image_position_is_the_projected_pose(ball_and_screen):
    state = footage_of(ball_and_screen).truth.state
    pose, camera = state["pose"][..., :3], state["camera_pose"]
    local = np.einsum("twc,tkw->tkc", camera[:, :, :3], pose - camera[:, None, :, 3])
    pixels = local @ state["intrinsics"].T
    np.testing.assert_allclose(state["distance"], local[..., 2], rtol=1e-5)
    np.testing.assert_allclose(
        state["image_position"], pixels[..., :2] / pixels[..., 2:], rtol=1e-3, atol=1e-2
    )


def test_ids_lie_where_the_states_say(ball_and_screen):
    truth = footage_of(ball_and_screen).truth
    assert set(np.unique(truth.ids)) == {0, 1, 2, SLAB_ID}
    for frame in range(len(truth.ids)):
        rows, columns = np.nonzero(truth.ids[frame] == 2)
        middle = np.array([columns.mean(), rows.mean()]) + 0.5
        assert np.abs(middle - truth.state["image_position"][frame, 1]).max() < 1.5
        rows, columns = np.nonzero(truth.ids[frame] == SLAB_ID)
        x0, y0, x1, y1 = truth.state["screen_box"][frame, 0]
        assert abs(columns.min() - x0) < 1.5 and abs(columns.max() + 1 - x1) < 1.5
        assert abs(rows.min() - y0) < 1.5 and abs(rows.max() + 1 - y1) < 1.5


def test_visible_fraction_is_visible_over_amodal_area(ball_and_screen):
    alone = replace(
        ball_and_screen, slabs=tuple(replace(s, present=False) for s in ball_and_screen.slabs)
    )
    truth, bare = footage_of(ball_and_screen).truth, footage_of(alone).truth
    state = truth.state
    visible = np.stack([(truth.ids == slot + 1).sum((1, 2)) for slot in range(2)], 1)
    amodal = np.stack([(bare.ids == slot + 1).sum((1, 2)) for slot in range(2)], 1)
    np.testing.assert_array_equal(state["amodal_area"][:, :2], amodal)
    np.testing.assert_allclose(state["visible_fraction"][:, :2], visible / amodal, rtol=1e-6)
    assert (state["visible_fraction"][:, 0] < 0.9).all() and (
        state["visible_fraction"][:, 0] > 0.1
    ).all()
    np.testing.assert_array_equal(state["visible_fraction"][:, 2:], 0)
    np.testing.assert_array_equal(state["amodal_area"][:, 2:], 0)


def test_covered_frames_agree_with_the_rendered_ids(ball_and_screen):
    screen = ball_and_screen.slabs[0]
    x, y, z = screen.path[0][1]
    sliding = replace(screen, path=((0.0, (x - 0.5, y, z)), (0.18, (x + 0.45, y, z))))
    scene = replace(ball_and_screen, slabs=(sliding,))
    caster = RayCaster(scene, simulate(scene), SIZE)
    state = render(caster).truth.state
    covered = (state["amodal_area"][:, 0] > 0) & (state["visible_fraction"][:, 0] == 0)
    assert covered.any() and not covered.all()
    np.testing.assert_array_equal(covered_frames(caster, 0), covered)


def test_colours_are_those_of_the_things(ball_and_screen):
    footage = footage_of(ball_and_screen)
    for identity, channel in ((1, 0), (2, 1), (SLAB_ID, 2)):
        mean = footage.frames[footage.truth.ids == identity].mean(0)
        assert mean.argmax() == channel
    assert footage.frames.mean() > 80, "neither dark"
    assert footage.frames.mean() < 220, "nor washed out"


def test_the_light_casts_shadows(ball_and_screen):
    floor = (footage_of(ball_and_screen).truth.ids == 0)[0, SIZE // 2 :]
    frame = footage_of(ball_and_screen).frames[0, SIZE // 2 :].astype(int).sum(-1)
    assert frame[floor].min() < 0.8 * np.median(frame[floor])


def test_edges_are_smooth(ball_and_screen):
    """Pixels on the screen's upper edge mix its colour with what lies behind."""
    footage = footage_of(ball_and_screen)
    blue = footage.frames[0, :, :, 2].astype(int) - footage.frames[0, :, :, 0]
    inside = footage.truth.ids[0] == SLAB_ID
    pure = np.median(blue[inside])
    mixed = (blue > 0.15 * pure) & (blue < 0.85 * pure)
    assert mixed.sum() >= 10


def test_absent_things_change_no_pixel(ball_and_screen):
    ball, box = ball_and_screen.bodies[:2]
    without = replace(ball_and_screen, bodies=(ball, replace(box, present=False)))
    never = replace(ball_and_screen, bodies=(ball,))
    first, second = footage_of(without), footage_of(never)
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.truth.depth, second.truth.depth)
    assert not (first.truth.ids == 2).any()


def test_known_hits_save_work_and_change_nothing(ball_and_screen):
    caster = RayCaster(ball_and_screen, simulate(ball_and_screen), SIZE)
    hits = first_hits(caster)
    assert set(np.unique(hits[0].geometry)) >= {0, 1, FIRST_BODY}
    np.testing.assert_array_equal(render(caster, hits).frames, render(caster).frames)


def test_intrinsics_scale_with_the_size(ball_and_screen):
    small = footage_of(ball_and_screen, 24).truth.state
    large = footage_of(ball_and_screen, 48).truth.state
    np.testing.assert_allclose(large["intrinsics"][:2], 2 * small["intrinsics"][:2])
    np.testing.assert_allclose(large["image_position"], 2 * small["image_position"], rtol=1e-5)


def test_runs():
    assert runs_of(np.array([1, 1, 0, 0, 1, 0, 1, 1, 1], bool)) == [(0, 2), (4, 5), (6, 9)]
    assert longest_run(np.array([1, 1, 0, 1], bool)) == (0, 2)
    assert longest_run(np.zeros(3, bool)) == (0, 0)
    assert pytest.approx(longest_run(np.ones(3, bool))) == (0, 3)
