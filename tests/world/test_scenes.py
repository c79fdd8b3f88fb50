"""Scenes fit their slots, cameras look where they should, slabs follow their paths."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from worldmodel.errors import InputError
from worldmodel.world.forms import (
    CATEGORIES,
    PARKED_HEIGHT,
    SLAB_FORMS,
    TRAINING_CATEGORIES,
    TRAINING_SCREENS,
    UNSEEN_CATEGORIES,
    UNSEEN_SCREENS,
    body_extents,
    body_parts,
    slab_parts,
)
from worldmodel.world.free import free_scene
from worldmodel.world.open_blocks import KINDS
from worldmodel.world.scenes import NUM_BODIES, NUM_SLABS, Slab, absent_slab
from worldmodel.world.simulate import UnstableSceneError, simulate
from worldmodel.world.style import (
    COLOUR_SPREAD,
    LOOK_AT,
    PALETTE,
    UNSEEN_PALETTE,
    Mix,
    draw_camera,
    draw_room,
    training_style,
    unseen_style,
)
from worldmodel.world.visibility import covered_frames, runs_of

STYLE = training_style(Mix())
STANDING = Mix(pan=0.0, dolly=0.0, orbit=0.0, handheld=0.0)


@pytest.mark.parametrize("way", ["static", "pan", "dolly", "orbit", "handheld"])
def test_cameras_look_at_the_stage_whichever_way_they_move(way):
    mix = STANDING if way == "static" else replace(STANDING, **{way: 1.0})
    for seed in range(5):
        poses = draw_camera(np.random.default_rng(seed), mix).poses
        rotation = poses[:, :, :3]
        np.testing.assert_allclose(
            rotation @ rotation.transpose(0, 2, 1), [np.eye(3)] * 64, atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(rotation), 1)
        local = np.einsum("twc,tw->tc", rotation, LOOK_AT - poses[:, :, 3])
        assert np.abs(local[:, :2]).max() < 0.4
        assert (local[:, 2] > 3.3).all()
        assert (rotation[:, 2, 1] < 0).all(), "y of the image must point down"
        moved, turned = np.ptp(poses[:, :, 3], axis=0).max(), np.ptp(rotation, axis=0).max()
        assert (moved > 0.01) == (way in ("dolly", "orbit", "handheld"))
        if way != "dolly":  # which may turn a little, or not
            assert (turned > 0.01) == (way != "static")


def test_a_quarter_of_the_cameras_move_by_default():
    cameras = [draw_camera(np.random.default_rng(seed), Mix()) for seed in range(300)]
    assert 0.15 < np.mean([camera.moving for camera in cameras]) < 0.3


def test_a_mix_of_shares_that_cannot_be_is_named():
    with pytest.raises(InputError, match=r"mix\.decoy is a share from 0 to 1, got 1\.5"):
        Mix(decoy=1.5)
    with pytest.raises(InputError, match=r"mix\.pan, mix\.dolly.*at most 1, got 1\."):
        Mix(pan=0.9, dolly=0.08)
    with pytest.raises(InputError, match=r"mix\.ramp, mix\.steps"):
        Mix(ramp=0.9, steps=0.2)


def test_the_mix_decides_what_rooms_show():
    plain = Mix(patterned_floor=0.0, patterned_wall=0.0, second_light=0.0, exposure=0.0)
    rich = Mix(patterned_floor=1.0, patterned_wall=1.0, second_light=1.0, exposure=1.0)
    for seed in range(10):
        room = draw_room(np.random.default_rng(seed), training_style(plain))
        assert room.floor.pattern == room.wall.pattern == "plain" and len(room.lights) == 1
        assert (room.gains(64) == 1).all()
        room = draw_room(np.random.default_rng(seed), training_style(rich))
        assert "plain" not in (room.floor.pattern, room.wall.pattern) and len(room.lights) == 2
        assert sum(light.share for light in room.lights) == pytest.approx(1)
        assert 0.85 < room.gains(64).min() < 0.99 and room.gains(64).max() < 1.13


def test_the_mix_decides_what_free_scenes_hold():
    for name in ("ramp", "steps", "container"):
        others = dict.fromkeys(("ramp", "steps", "container", "stack"), 0.0)
        style = training_style(Mix(**(others | {name: 1.0, "animate": 0.0})))
        scene = free_scene(np.random.default_rng(1), style)
        furniture = [slab for slab in scene.slabs if slab.present and not slab.screen]
        assert len(furniture) == 1
        tilted = furniture[0].quaternion[2] != 0
        assert tilted if name == "ramp" else furniture[0].form == name
        assert not any(body.animate for body in scene.bodies)
    style = training_style(Mix(animate=1.0))
    assert sum(body.animate for body in free_scene(np.random.default_rng(2), style).bodies) == 1


def test_nothing_of_the_unseen_split_occurs_in_training():
    training, unseen = STYLE, unseen_style(Mix())
    assert set(training.passers) == set(TRAINING_CATEGORIES)
    assert set(unseen.passers) == set(UNSEEN_CATEGORIES)
    assert not set(TRAINING_CATEGORIES) & set(UNSEEN_CATEGORIES)
    assert not set(TRAINING_SCREENS) & set(UNSEEN_SCREENS)
    apart = np.abs(PALETTE[:, None] - UNSEEN_PALETTE[None]).max(2).min()
    assert apart > 2 * COLOUR_SPREAD, "even where both are a little off"
    for kind, concept in KINDS.items():
        for seed in range(4):
            pair = concept(np.random.default_rng(seed), unseen)
            for scene in (pair.a, pair.b):
                present = [body for body in scene.bodies if body.present]
                assert {body.category for body in present} <= set(UNSEEN_CATEGORIES), kind
                screens = [slab for slab in scene.slabs if slab.screen]
                assert {screen.form for screen in screens} <= set(UNSEEN_SCREENS), kind


@pytest.mark.parametrize("category", CATEGORIES)
def test_parts_fill_the_extents_of_their_body(category):
    half = np.zeros(3)
    for part in body_parts(category, 0.5):
        half = np.maximum(half, np.abs(part.offset) + part.half)
    np.testing.assert_allclose(half, body_extents(category, 0.5), rtol=1e-6)
    eyes = [part for part in body_parts(category, 0.5, True) if part.paint is not None]
    assert len(eyes) == 4 and not any(eye.solid for eye in eyes)


@pytest.mark.parametrize("form", SLAB_FORMS)
def test_screens_fill_their_rectangle_and_add_a_crest(form):
    slab = Slab(
        half=(0.5, 0.03, 0.4), colour=(1.0, 0.0, 0.0), path=((0.0, (0.0, 0.0, 0.4)),), form=form
    )
    if form in TRAINING_SCREENS + UNSEEN_SCREENS:
        assert slab.parts[0].half == slab.half
        assert (slab.crest > 0.05) == (form != "plain")
    else:
        assert slab.crest == pytest.approx(0, abs=1e-9)
    assert slab_parts(form, slab.half) is slab.parts, "worked out once"


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
    scenes = [free_scene(np.random.default_rng(seed), STYLE) for seed in range(80)]
    assert {len(scene.bodies) for scene in scenes} == {NUM_BODIES}
    assert {len(scene.slabs) for scene in scenes} == {NUM_SLABS}
    assert {sum(body.present for body in scene.bodies) for scene in scenes} == {3, 4, 5}
    slabs = [slab for scene in scenes for slab in scene.slabs if slab.present]
    assert 0.6 < np.mean([slab.moving for slab in slabs if slab.screen]) < 0.9
    assert {"container", "steps"} <= {slab.form for slab in slabs}
    bodies = [body for scene in scenes for body in scene.bodies if body.present]
    assert {body.category for body in bodies} == set(TRAINING_CATEGORIES)
    assert 0.2 < np.mean([body.friction[1] > 0 for body in bodies]) < 0.8, "some roll to a stop"
    assert 0.1 < np.mean([any(b.animate for b in scene.bodies) for scene in scenes]) < 0.4
    patterns = Counter(body.material.pattern for body in bodies)
    assert set(patterns) == {"plain", "halves", "bands", "chequer", "noise"}


def test_free_scenes_play_peekaboo():
    hidden_and_back = 0
    for seed in range(14):
        scene = free_scene(np.random.default_rng(seed), STYLE)
        try:
            motion = simulate(scene)
        except UnstableSceneError:
            continue
        for slot, body in enumerate(scene.bodies):
            if not body.present:
                continue
            hidden = runs_of(covered_frames(scene, motion, slot, 32))
            hidden_and_back += sum(stop - start >= 4 and stop < 64 for start, stop in hidden)
    assert hidden_and_back >= 10, "less than one body a scene vanishes and comes back"


def test_colours_of_one_scene_are_told_apart():
    for seed in range(20):
        for style in (STYLE, unseen_style(Mix())):
            colours = np.array(style.draw_colours(np.random.default_rng(seed), 7))
            distance = np.abs(colours[:, None] - colours[None]).max(2) + np.eye(7)
            assert distance.min() > 0.1
