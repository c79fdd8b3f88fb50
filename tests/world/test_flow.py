"""Flow carries the surfaces of one frame onto the next."""

import numpy as np
import pytest

from worldmodel.world.flow import optical_flow
from worldmodel.world.free import free_scene
from worldmodel.world.open_blocks import KINDS
from worldmodel.world.render import render
from worldmodel.world.simulate import simulate
from worldmodel.world.style import Mix, training_style

SIZE = 64
MOVING = {"pan": 0.25, "dolly": 0.25, "orbit": 0.25, "handheld": 0.25}


@pytest.fixture(scope="module", params=["static", "moving"])
def footage(request):
    ways = MOVING if request.param == "moving" else dict.fromkeys(MOVING, 0.0)
    style = training_style(Mix(**ways, exposure=0.0))
    scene = free_scene(np.random.default_rng(4), style)
    return render(scene, simulate(scene), SIZE)


def test_colours_travel_with_the_flow(footage):
    """The picture, read where the flow leads, is the one before; better than read in place."""
    flow, seen = optical_flow(footage.truth)
    frames = footage.frames.astype(float)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    carried, stayed = [], []
    for frame in range(0, 63, 7):
        moving = seen[frame] & (np.abs(flow[frame]).max(-1) > 1.0)
        x, y = columns + flow[frame, ..., 0], rows + flow[frame, ..., 1]
        nearest = (
            np.rint(y).clip(0, SIZE - 1).astype(int),
            np.rint(x).clip(0, SIZE - 1).astype(int),
        )
        carried.append(np.abs(frames[frame + 1][nearest] - frames[frame]).mean(-1)[moving])
        stayed.append(np.abs(frames[frame + 1] - frames[frame]).mean(-1)[moving])
    carried, stayed = np.concatenate(carried), np.concatenate(stayed)
    assert len(carried) > 100
    assert np.median(carried) < 6
    assert carried.mean() < 0.75 * stayed.mean()


def test_depth_and_ids_are_those_of_the_place_it_leads_to(footage):
    truth = footage.truth
    flow, seen = optical_flow(truth)
    assert 0.8 < seen.mean() < 1
    for frame in (3, 40):
        row, column = np.nonzero(seen[frame])
        x = np.floor(column + 0.5 + flow[frame, row, column, 0]).astype(int)
        y = np.floor(row + 0.5 + flow[frame, row, column, 1]).astype(int)
        np.testing.assert_array_equal(truth.ids[frame + 1, y, x], truth.ids[frame, row, column])


def test_the_centre_of_a_body_moves_as_its_image_position_does():
    style = training_style(Mix(**dict.fromkeys(MOVING, 0.0), decoy=0.0))
    scene = KINDS["inertia"](np.random.default_rng(2), style).a
    truth = render(scene, simulate(scene), SIZE).truth
    flow, _ = optical_flow(truth)
    position = truth.state["image_position"][:, 0]
    whole = (truth.state["visible_fraction"][:, 0] == 1) & (truth.ids == 1).any((1, 2))
    whole &= (position > 6).all(1) & (position < SIZE - 6).all(1)
    frames = np.flatnonzero(whole[:-1] & whole[1:])
    assert len(frames) > 5
    for frame in frames:
        mean = flow[frame][truth.ids[frame] == 1].mean(0)
        np.testing.assert_allclose(mean, position[frame + 1] - position[frame], atol=0.8)


def test_a_standing_world_does_not_flow():
    mix = Mix(**dict.fromkeys(MOVING, 0.0))
    scene = free_scene(np.random.default_rng(0), training_style(mix))
    truth = render(scene, simulate(scene), 32).truth
    flow, seen = optical_flow(truth)
    background = truth.ids[:-1] == 0
    assert np.abs(flow[background]).max() < 1e-3
    assert seen[background].mean() > 0.9
