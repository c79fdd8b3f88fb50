"""Pixels agree with geometry, with MuJoCo's own rays, and with themselves to the bit."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from worldmodel.world import tracer
from worldmodel.world.forms import CATEGORIES, SLAB_FORMS
from worldmodel.world.render import SLAB_ID, focal_length, render, see
from worldmodel.world.scenes import (
    NUM_BODIES,
    NUM_SLABS,
    PATTERNS,
    PLAIN,
    Body,
    Camera,
    Light,
    Material,
    Room,
    Scene,
    Slab,
)
from worldmodel.world.simulate import Motion, simulate
from worldmodel.world.visibility import covered_frames, longest_run, parts_of, runs_of

SIZE = 48
STATE = {
    "camera_pose", "intrinsics", "light", "pose", "velocity", "image_position", "distance",
    "visible_fraction", "amodal_area", "category", "present", "animate", "tracked", "colour",
    "size", "slab_pose", "slab_box", "slab_moving", "slab_screen", "contact", "support",
}  # fmt: skip


def placed(scene: Scene) -> Motion:
    """Each thing where its scene puts it at first; slabs follow their paths."""
    shape = (scene.num_frames, NUM_BODIES)
    pose = np.zeros((*shape, 7), np.float32)
    for slot, body in enumerate(scene.bodies):
        pose[:, slot] = [*body.position, *body.quaternion]
    seconds = np.arange(scene.num_frames) / 16
    slabs = np.stack([slab.places(seconds) for slab in scene.slabs], 1).astype(np.float32)
    touches = np.zeros((*shape, NUM_BODIES + NUM_SLABS + 1), np.float32)
    return Motion(pose, np.zeros((*shape, 6), np.float32), slabs, touches, touches)


def footage_of(scene: Scene, size: int = SIZE, reuse: bool = True):
    return render(scene, simulate(scene), size, reuse=reuse)


def standing(camera: Camera, num_frames: int = 4) -> Camera:
    return Camera(np.repeat(camera.poses[:1], num_frames, 0))


def directions_of(camera: Camera, frame: int, size: int = SIZE) -> np.ndarray:
    """World directions through the pixels' centres, `(H * W, 3)`, of z-depth 1."""
    middles = (np.arange(size) + 0.5 - size / 2) / focal_length(size)
    x, y = np.meshgrid(middles, middles)
    local = np.stack([x.ravel(), y.ravel(), np.ones(size * size)], 1)
    return local @ camera.poses[frame, :, :3].T


def turned_at_random(rng: np.random.Generator) -> tuple[float, float, float, float]:
    w, x, y, z = (float(part) for part in rng.normal(size=4))
    norm = float(np.linalg.norm([w, x, y, z]))
    return (w / norm, x / norm, y / norm, z / norm)


def crowd(room: Room, camera: Camera, seed: int) -> Scene:
    """Five bodies and five slabs in random poses; over four seeds, of every category and form."""
    rng = np.random.default_rng(seed)
    bodies, slabs = [], []
    for place in range(NUM_BODIES):
        x, y, z = -1.2 + 0.6 * place, float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.2, 1.0))
        bodies.append(
            Body(
                category=CATEGORIES[(5 * seed + place) % len(CATEGORIES)],
                size=float(rng.uniform(0.2, 0.35)),
                colour=tuple(float(part) for part in rng.uniform(0.1, 0.9, 3)),
                position=(x, y, z),
                quaternion=turned_at_random(rng),
                walk=((0.0, (x, y, z)),) if place == 2 else (),
            )
        )
    for place in range(NUM_SLABS):
        x, y, z = (float(part) for part in rng.uniform([-1.5, 0.3, 0.0], [1.5, 2.0, 1.2]))
        slabs.append(
            Slab(
                half=(0.3, float(rng.uniform(0.05, 0.3)), 0.25),
                colour=tuple(float(part) for part in rng.uniform(0.1, 0.9, 3)),
                path=((0.0, (x, y, z)),),
                form=SLAB_FORMS[(5 * seed + place) % len(SLAB_FORMS)],
                quaternion=turned_at_random(rng),
            )
        )
    lights = (Light((1.0, -2.5, 5.5), 0.6), Light((-2.0, -2.0, 4.0), 0.4))
    room = replace(room, lights=lights)
    return Scene(room=room, camera=camera, bodies=tuple(bodies), slabs=tuple(slabs), num_frames=4)


class MujocoRays:
    """The scene at its first frame as MuJoCo's rays see it; geometry 0 is the floor, 1 the wall."""

    def __init__(self, scene: Scene) -> None:
        def numbers(values: object) -> str:
            return " ".join(f"{value:.9g}" for value in np.asarray(values, float).ravel())

        things, bodies = (*scene.bodies, *scene.slabs), ""
        self.owners = [-1, -1] + [owner for owner, _ in parts_of(scene)]
        for owner, part in parts_of(scene):
            thing = things[owner]
            place = thing.position if isinstance(thing, Body) else thing.path[0][1]
            a, b, c = part.half
            sizes = {"cylinder": (a, c), "capsule": (a, c - a)}.get(part.shape, (a, b, c))
            bodies += (
                f'<body pos="{numbers(place)}" quat="{numbers(thing.quaternion)}">'
                f'<geom type="{part.shape}" size="{numbers(sizes)}" pos="{numbers(part.offset)}" '
                f'quat="{numbers(part.quaternion)}"/></body>'
            )
        self._model = mujoco.MjModel.from_xml_string(
            '<mujoco><worldbody><geom type="plane" size="20 20 .1"/>'
            f'<geom type="box" pos="0 3.2 2" size="20 .1 2.5"/>{bodies}</worldbody></mujoco>'
        )
        self._data = mujoco.MjData(self._model)
        mujoco.mj_kinematics(self._model, self._data)

    def cast(self, origin: np.ndarray, rays: np.ndarray):
        """Geometry (-1 nothing), distance in rays (-1 nothing) and normal `(N, 3)`."""
        count = len(rays)
        geometry, distance = np.empty(count, np.int32), np.empty(count)
        normal = np.empty(3 * count)
        mujoco.mj_multiRay(
            self._model, self._data, np.ascontiguousarray(origin), rays.ravel(), None, 1, -1,
            geometry, distance, normal, count, 100.0,
        )  # fmt: skip
        return geometry, distance, normal.reshape(-1, 3)


# Against closed forms and MuJoCo.


def test_depth_and_outline_of_a_sphere_are_analytic(ball_and_screen):
    scene = replace(ball_and_screen, slabs=())
    truth = footage_of(scene).truth
    for frame in range(scene.num_frames):
        direction = directions_of(scene.camera, frame).reshape(SIZE, SIZE, 3)
        offset = scene.camera.places[frame] - np.array(scene.bodies[0].position)
        a, b = (direction**2).sum(-1), (direction * offset).sum(-1)
        root = b**2 - a * ((offset**2).sum(-1) - 0.3**2)
        ball = truth.ids[frame] == 1
        assert ball.sum() > 40
        assert (ball != (root > 0)).sum() <= 1
        wanted = (-b[ball] - np.sqrt(root[ball])) / a[ball]
        np.testing.assert_allclose(truth.depth[frame][ball], wanted, atol=1e-3)


def test_depth_of_the_floor_is_analytic(ball_and_screen):
    truth = footage_of(ball_and_screen).truth
    lowest = np.s_[-6 * SIZE :]
    for frame in range(ball_and_screen.num_frames):
        direction = directions_of(ball_and_screen.camera, frame)[lowest]
        wanted = -ball_and_screen.camera.places[frame, 2] / direction[:, 2]
        assert (truth.ids[frame].ravel()[lowest] == 0).all()
        np.testing.assert_allclose(truth.depth[frame].ravel()[lowest], wanted, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_every_shape_is_where_mujoco_sees_it(plain_room, camera, seed):
    scene = crowd(plain_room, standing(camera), seed)
    rays = MujocoRays(scene)
    sight = see(scene, placed(scene), 2 * SIZE)
    geometry, distance, _ = rays.cast(
        scene.camera.places[0], directions_of(scene.camera, 0, 2 * SIZE)
    )
    ids = np.array([*range(1, 6), *range(SLAB_ID, SLAB_ID + 5), 0, 0], np.uint8)
    wanted = ids[np.array([*rays.owners, -1])[geometry]]
    same = sight.ids[0].ravel() == wanted
    assert (~same).sum() <= 8
    assert set(wanted) >= {1, 2, 3, 4, 5}
    depth = sight.depth[0].ravel()[same]
    np.testing.assert_allclose(depth, np.maximum(distance, 0)[same], atol=1e-3)


@pytest.mark.parametrize("seed", range(2))
def test_light_and_shadow_are_those_of_mujocos_rays(plain_room, camera, seed):
    scene = crowd(plain_room, standing(camera), seed)
    rays, room = MujocoRays(scene), scene.room
    place, direction = scene.camera.places[0], directions_of(scene.camera, 0)
    geometry, distance, normal = rays.cast(place, direction)
    assert (geometry >= 0).all()
    points = place + direction * distance[:, None]
    light, kinds = np.zeros(len(points)), geometry * 4
    for number, lamp in enumerate(room.lights):
        towards = points - np.array(lamp.position)
        _, met, _ = rays.cast(np.array(lamp.position), towards)
        facing = -(normal * towards).sum(1) / np.linalg.norm(towards, axis=1)
        lit = (facing > 0) & (met > 1 - tracer.SHADOW_SLACK)
        light += lamp.share * facing * lit
        kinds += lit << number
    light = (tracer.AMBIENT + (1 - tracer.AMBIENT) * light) * (0.92 + 0.08 * normal[:, 2])
    things = (*scene.bodies, *scene.slabs)
    colours = [room.floor_colour, room.wall_colour]
    for owner, part in parts_of(scene):
        colours.append(things[owner].colour if part.paint is None else (part.paint,) * 3)
    wanted = np.sqrt(np.clip(np.array(colours)[geometry] * light[:, None], 0, 1)) * 255
    inside = np.zeros((SIZE, SIZE), bool)
    flat = [np.abs(np.diff(normal.reshape(SIZE, SIZE, 3), axis=a)).sum(2) < 0.4 for a in (0, 1)]
    like = [np.diff(kinds.reshape(SIZE, SIZE), axis=axis) == 0 for axis in (0, 1)]
    across, along = like[0] & flat[0], like[1] & flat[1]
    inside[1:-1, 1:-1] = (across[:-1] & across[1:])[:, 1:-1] & (along[:, :-1] & along[:, 1:])[1:-1]
    frame = render(scene, placed(scene), SIZE).frames[0]
    off = np.abs(frame - wanted.reshape(SIZE, SIZE, 3)).max(2)[inside]
    assert len(off) > 0.5 * SIZE * SIZE
    assert (off > 1).mean() < 0.005


# To the bit.


def busy_scene(room: Room, camera: Camera, num_frames: int = 16) -> Scene:
    """Things that roll, walk, fall and slide among others that stand, under changing light."""
    marked = Material("chequer", 0.2, 0.8)
    bodies = (
        Body(
            category="capsule", size=0.25, colour=(0.9, 0.2, 0.2), position=(-0.9, 0.5, 0.3),
            quaternion=(0.7071, -0.7071, 0.0, 0.0), velocity=(1.5, 0.0, 0.0), spin=(0.0, 6.0, 0.0),
            material=Material("bands", 0.2, 0.8),
        ),
        Body(
            category="spool", size=0.2, colour=(0.2, 0.2, 0.9), position=(0.7, 0.2, 0.3),
            walk=((0.0, (0.7, 0.2, 0.3)), (1.0, (-0.3, -0.4, 0.3))),
        ),
        Body(
            category="cone", size=0.25, colour=(0.8, 0.7, 0.1), position=(0.4, 1.2, 0.24),
            fixed=True, material=Material("noise", 0.1, 0.8),
        ),
        Body(category="box", size=0.2, colour=(0.5, 0.9, 0.9), position=(-0.5, 1.3, 0.9)),
    )  # fmt: skip
    slabs = (
        Slab(
            half=(0.3, 0.03, 0.3), colour=(0.2, 0.5, 0.4), form="arch", material=marked,
            path=((0.2, (0.0, -0.6, 0.3)), (0.8, (0.5, -0.6, -0.4))),
        ),
        Slab(half=(0.1, 0.1, 0.4), colour=(0.6, 0.5, 0.4), path=((0.0, (-0.9, 0.0, 0.4)),)),
    )  # fmt: skip
    room = replace(
        room,
        floor=Material("chequer", 0.7, 0.4),
        wall=Material("noise", 0.5, 0.4),
        lights=(Light((1.0, -2.5, 5.5), 0.6), Light((-2.0, -2.0, 4.0), 0.4)),
        exposure=(0.1, 1.0, 0.0),
    )
    return Scene(
        room=room,
        camera=standing(camera, num_frames),
        bodies=bodies,
        slabs=slabs,
        num_frames=num_frames,
    )


def test_drawing_only_what_changes_changes_no_bit(plain_room, camera):
    scene = busy_scene(plain_room, camera)
    motion = simulate(scene)
    quick, slow = (render(scene, motion, SIZE, reuse=reuse) for reuse in (True, False))
    np.testing.assert_array_equal(quick.frames, slow.frames)
    np.testing.assert_array_equal(quick.truth.ids, slow.truth.ids)
    np.testing.assert_array_equal(quick.truth.depth, slow.truth.depth)
    for name, values in quick.truth.state.items():
        np.testing.assert_array_equal(values, slow.truth.state[name])
    moved = (quick.frames != quick.frames[0]).any(3)
    assert moved.any(0).mean() > 0.3 and set(np.unique(quick.truth.ids)) == {
        0,
        1,
        2,
        3,
        4,
        100,
        101,
    }


def test_seeing_is_rendering_without_pictures(plain_room, camera):
    scene = busy_scene(plain_room, camera)
    motion = simulate(scene)
    sight, truth = see(scene, motion, SIZE), render(scene, motion, SIZE).truth
    np.testing.assert_array_equal(sight.ids, truth.ids)
    np.testing.assert_array_equal(sight.depth, truth.depth)
    np.testing.assert_array_equal(sight.amodal, truth.state["amodal_area"])
    np.testing.assert_array_equal(
        sight.visible, [[(frame == slot).sum() for slot in range(1, 6)] for frame in sight.ids]
    )


def test_kernels_are_compiled_once_for_all_clips(ball_and_screen, plain_room, camera):
    scene = busy_scene(plain_room, camera)
    see(scene, placed(scene), 24)
    footage_of(ball_and_screen)
    assert len(tracer.trace_frames.signatures) == 1


def test_absent_things_change_no_bit(ball_and_screen):
    ball, box = ball_and_screen.bodies[:2]
    without = replace(ball_and_screen, bodies=(ball, replace(box, present=False)))
    never = replace(ball_and_screen, bodies=(ball,))
    first, second = footage_of(without), footage_of(never)
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.truth.depth, second.truth.depth)
    assert not (first.truth.ids == 2).any()


@pytest.mark.parametrize("moves", [False, True])
def test_hidden_things_change_no_bit(plain_room, camera, moves):
    scene = busy_scene(plain_room, camera)
    wide = Slab(
        half=(1.4, 0.05, 0.7), colour=(0.3, 0.4, 0.5), path=((0.0, (0.0, -0.9, 0.7)),),
        material=Material("chequer", 0.3, 0.5),
    )  # fmt: skip
    scene = replace(scene, slabs=(wide, *scene.slabs[1:]))
    motion = simulate(scene)
    motion.pose[:, 0, 0] = np.linspace(-0.2, 0.2, scene.num_frames) if moves else 0.0
    motion.pose[:, 0, 1:3] = -0.5, 0.25
    gone = replace(scene, bodies=(replace(scene.bodies[0], present=False), *scene.bodies[1:]))
    with_it, without = render(scene, motion, SIZE), render(gone, motion, SIZE)
    assert not (with_it.truth.ids == 1).any()
    assert (with_it.truth.state["amodal_area"][:, 0] > 20).all()
    np.testing.assert_array_equal(with_it.frames, without.frames)
    np.testing.assert_array_equal(with_it.truth.depth, without.truth.depth)


def test_a_thing_bears_on_no_pixel_that_neither_it_nor_its_shadow_touches(plain_room, camera):
    scene = busy_scene(plain_room, camera)
    motion = simulate(scene)
    bodies = list(scene.bodies)
    bodies[1] = replace(bodies[1], present=False)
    gone = replace(scene, bodies=tuple(bodies))
    changed = render(scene, motion, SIZE).frames != render(gone, motion, SIZE).frames
    # It walks from the right to the middle.
    assert changed[:, :, SIZE // 2 :].any() and not changed[:, :, : SIZE // 6].any()


# What can be seen of whom.


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


def test_a_sphere_is_centred_on_its_image_position(ball_and_screen):
    truth = footage_of(replace(ball_and_screen, slabs=())).truth
    for frame in range(len(truth.ids)):
        rows, columns = np.nonzero(truth.ids[frame] == 1)
        middle = np.array([columns.mean(), rows.mean()]) + 0.5
        assert np.abs(middle - truth.state["image_position"][frame, 0]).max() < 0.4


@pytest.mark.parametrize("form", ["plain", "gable", "knobs", "container", "steps"])
def test_slab_boxes_hold_the_slab_closely(plain_room, camera, form):
    slab = Slab(
        half=(0.4, 0.25, 0.35), colour=(0.3, 0.6, 0.3), path=((0.0, (0.2, 0.3, 0.4)),), form=form,
        quaternion=(0.9689, 0.0, 0.0, 0.2474),
    )  # fmt: skip
    truth = footage_of(
        Scene(room=plain_room, camera=camera, bodies=(), slabs=(slab,), num_frames=4)
    ).truth
    for frame in range(len(truth.ids)):
        rows, columns = np.nonzero(truth.ids[frame] == SLAB_ID)
        x0, y0, x1, y1 = truth.state["slab_box"][frame, 0]
        near = 2.5 if form == "knobs" else 1.0  # bounds of a ball are those of its box
        for found, bound in (
            (columns.min(), x0), (-columns.max() - 1, -x1), (rows.min(), y0), (-rows.max() - 1, -y1)
        ):  # fmt: skip
            assert -0.5 <= found - bound < near


def test_state_has_every_array_in_single_precision(plain_room, camera):
    scene = busy_scene(plain_room, camera, num_frames=4)
    motion = simulate(scene)
    state = render(scene, motion, 24).truth.state
    assert set(state) == STATE
    assert all(values.dtype == np.float32 for values in state.values())
    assert state["slab_pose"].shape == (4, NUM_SLABS, 7)
    np.testing.assert_array_equal(state["slab_pose"][..., :3], motion.slabs)
    np.testing.assert_array_equal(state["animate"], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(state["slab_moving"], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(state["slab_box"][:, 2:], 0)
    for name in ("pose", "velocity", "contact", "support"):
        np.testing.assert_array_equal(state[name], getattr(motion, name))


def test_amodal_counts_are_those_of_each_body_alone(plain_room, camera):
    scene = busy_scene(plain_room, camera)
    motion = simulate(scene)
    together = see(scene, motion, SIZE)
    assert (together.visible < together.amodal).any()
    for slot in range(4):
        bodies = [replace(body, present=n == slot) for n, body in enumerate(scene.bodies)]
        slabs = [replace(slab, present=False) for slab in scene.slabs]
        alone = see(replace(scene, bodies=tuple(bodies), slabs=tuple(slabs)), motion, SIZE)
        np.testing.assert_array_equal(together.amodal[:, slot], alone.amodal[:, slot])
        # Nothing else is there, and no body reaches below the floor.
        np.testing.assert_allclose(alone.visible[:, slot], alone.amodal[:, slot], atol=1)
    np.testing.assert_array_equal(together.amodal[:, 4], 0)


def test_visible_fraction_is_visible_over_amodal_area(ball_and_screen):
    truth = footage_of(ball_and_screen).truth
    fraction, amodal = truth.state["visible_fraction"], truth.state["amodal_area"]
    visible = np.stack([(truth.ids == slot + 1).sum((1, 2)) for slot in range(2)], 1)
    np.testing.assert_allclose(fraction[:, :2], visible / amodal[:, :2], rtol=1e-6)
    assert (fraction[:, 0] < 0.9).all() and (fraction[:, 0] > 0.1).all()
    np.testing.assert_array_equal(fraction[:, 2:], 0)


def test_covered_frames_agree_with_the_rendered_ids(ball_and_screen):
    screen = ball_and_screen.slabs[0]
    x, y, z = screen.path[0][1]
    sliding = replace(screen, path=((0.0, (x - 0.5, y, z)), (0.18, (x + 0.45, y, z))))
    scene = replace(ball_and_screen, slabs=(sliding,))
    motion = simulate(scene)
    state = render(scene, motion, SIZE).truth.state
    covered = (state["amodal_area"][:, 0] > 0) & (state["visible_fraction"][:, 0] == 0)
    assert covered.any() and not covered.all()
    np.testing.assert_array_equal(covered_frames(scene, motion, 0, SIZE), covered)


# Looks.


def test_colours_are_those_of_the_things(ball_and_screen):
    footage = footage_of(ball_and_screen)
    for identity, channel in ((1, 0), (2, 1), (SLAB_ID, 2)):
        mean = footage.frames[footage.truth.ids == identity].mean(0)
        assert mean.argmax() == channel
    assert footage.frames.mean() > 80, "neither dark"
    assert footage.frames.mean() < 220, "nor washed out"


def test_eyes_are_black_and_white_on_the_front(plain_room, camera):
    body = Body(
        category="sphere", size=0.4, colour=(0.9, 0.2, 0.2), position=(0.0, 0.0, 0.4),
        walk=((0.0, (0.0, 0.0, 0.4)),),
    )  # fmt: skip
    counts = []
    for turn in (-0.7071, 0.7071):
        turned = replace(body, quaternion=(0.7071, 0.0, 0.0, turn))
        scene = Scene(room=plain_room, camera=camera, bodies=(turned,), slabs=(), num_frames=4)
        footage = render(scene, placed(scene), 96)
        pixels = footage.frames[footage.truth.ids == 1].astype(int)
        grey, bright = np.ptp(pixels, axis=1) < 12, pixels.mean(1)
        counts.append([(grey & (bright > 150)).sum(), (grey & (bright < 60)).sum()])
    front, back = counts
    assert front[0] > 20 + 3 * back[0] and front[1] > 20 + 3 * back[1]


def test_the_light_casts_shadows(ball_and_screen):
    footage = footage_of(ball_and_screen)
    floor = (footage.truth.ids == 0)[0, SIZE // 2 :]
    frame = footage.frames[0, SIZE // 2 :].astype(int).sum(-1)
    assert frame[floor].min() < 0.8 * np.median(frame[floor])


def test_each_light_casts_its_own_shadow(plain_room, camera):
    left, right = Light((-4.0, -1.0, 4.0), 0.5), Light((4.0, -1.0, 4.0), 0.5)
    ball = Body(
        category="sphere", size=0.3, colour=(0.9, 0.2, 0.2), position=(0.0, 0.3, 0.7), fixed=True
    )
    darker = []
    for lights in ((left,), (right,), (left, right)):
        room = replace(plain_room, lights=lights)
        scene = Scene(room=room, camera=camera, bodies=(ball,), slabs=(), num_frames=4)
        bare = replace(scene, bodies=(replace(ball, present=False),))
        with_ball, without = (render(each, placed(each), SIZE) for each in (scene, bare))
        loss = (without.frames.astype(int) - with_ball.frames).sum(-1)
        rim = np.abs(np.diff(with_ball.truth.ids, axis=2, prepend=0, append=0)) > 0
        floor = (with_ball.truth.ids == 0) & ~rim[:, :, 1:] & ~rim[:, :, :-1]
        darker.append((loss > 10) & floor & ~np.roll(~floor, 1, 1) & ~np.roll(~floor, -1, 1))
    by_left, by_right, by_both = darker
    assert by_left.sum() > 50 and by_right.sum() > 50
    assert not (by_left & by_right).any()
    assert (by_both == (by_left | by_right)).mean() > 0.99


def test_exposure_scales_brightness(ball_and_screen):
    camera = standing(ball_and_screen.camera)
    room = replace(ball_and_screen.room, exposure=(0.2, 4.0, 0.3))
    frames = footage_of(replace(ball_and_screen, room=room, camera=camera)).frames
    brightness = (frames / 255.0) ** 2
    unclipped = (frames < 250).all(0) & (frames > 60).all(0)
    ratio = np.array([frame[unclipped].mean() for frame in brightness])
    gains = room.gains(4)
    assert np.ptp(gains) > 0.2
    np.testing.assert_allclose(ratio / ratio[0], gains / gains[0], rtol=0.01)


def test_edges_are_smooth(ball_and_screen):
    """Pixels on the screen's upper edge mix its colour with what lies behind."""
    footage = footage_of(ball_and_screen)
    blue = footage.frames[0, :, :, 2].astype(int) - footage.frames[0, :, :, 0]
    inside = footage.truth.ids[0] == SLAB_ID
    pure = np.median(blue[inside])
    mixed = (blue > 0.15 * pure) & (blue < 0.85 * pure)
    assert mixed.sum() >= 10


def patterned(room: Room, camera: Camera, where: str, material: Material) -> tuple[Scene, object]:
    """A scene in which one surface has a pattern, and a test of the ids and rows that show it."""
    ball = Body(category="sphere", size=0.5, colour=(0.8, 0.6, 0.5), position=(-0.6, 0.0, 0.5))
    slab = Slab(half=(0.5, 0.1, 0.5), colour=(0.8, 0.6, 0.5), path=((0.0, (0.6, 0.0, 0.5)),))
    if where == "body":
        ball = replace(ball, material=material)
    elif where == "slab":
        slab = replace(slab, material=material)
    else:
        room = replace(room, **{where: material})
    scene = Scene(room=room, camera=camera, bodies=(ball,), slabs=(slab,), num_frames=1)
    return scene, {
        "body": lambda ids, rows: ids == 1,
        "slab": lambda ids, rows: ids == SLAB_ID,
        "floor": lambda ids, rows: (ids == 0) & (rows > 0.85 * SIZE),
        "wall": lambda ids, rows: (ids == 0) & (rows < 0.3 * SIZE),
    }[where]


@pytest.mark.parametrize("where", ["body", "slab", "floor", "wall"])
@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_patterns_show_near_and_fade_to_their_mean_far_away(plain_room, camera, where, pattern):
    camera = standing(camera, 1)
    lightness = {}
    for name, material in (
        ("plain", PLAIN),
        ("coarse", Material(pattern, 0.3, 0.8)),
        ("fine", Material(pattern, 0.01, 0.8)),
    ):
        scene, shows = patterned(plain_room, camera, where, material)
        footage = render(scene, placed(scene), SIZE)
        rows = np.arange(SIZE)[:, None]
        lightness[name] = ((footage.frames[0] / 255.0) ** 2).mean(2)[
            shows(footage.truth.ids[0], rows)
        ]
        assert len(lightness[name]) > 60
    plain, coarse, fine = lightness["plain"], lightness["coarse"], lightness["fine"]
    assert np.std(coarse / plain) > 0.1
    if pattern != "halves":
        share = fine / plain
        assert np.std(share) < 0.03
        assert coarse.min() < fine.mean() < coarse.max()
        # Half of it is the second colour, which is dark on such a light thing.
        second = 0.2 if where in ("floor", "wall") else 0.52
        assert np.mean(share) == pytest.approx((1 + second) / 2, abs=0.03)


def test_bands_follow_the_axes_of_their_thing(plain_room, camera):
    """On a body along its own z axis, on a slab along its own x axis."""
    scene, _ = patterned(plain_room, standing(camera, 1), "body", Material("bands", 0.25, 0.9))
    scene = replace(scene, slabs=(replace(scene.slabs[0], material=Material("bands", 0.25, 0.9)),))
    footage = render(scene, placed(scene), SIZE)
    grey, ids = footage.frames[0].astype(float).mean(2), footage.truth.ids[0]
    change = {
        identity: [
            np.abs(np.diff(grey, axis=axis))[(np.diff(ids, axis=axis) == 0) & mask].mean()
            for axis, mask in ((0, (ids == identity)[1:]), (1, (ids == identity)[:, 1:]))
        ]
        for identity in (1, SLAB_ID)
    }
    assert change[1][0] > 2 * change[1][1]
    assert change[SLAB_ID][1] > 2 * change[SLAB_ID][0]


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
