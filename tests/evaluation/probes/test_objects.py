"""What is said to be in a clip is what is in it."""

import numpy as np
from square_world import FRAMES, SIZE, WINDOW, block, footage, square_clip

from worldmodel.clips import Truth
from worldmodel.evaluation.probes.objects import (
    Things,
    behind_screen,
    camera_velocity,
    hidden_windows,
    things_in_view,
    track_of,
)


def test_track_is_visible_or_hidden_where_the_square_is() -> None:
    track = track_of(square_clip(True, 0)[1])
    assert track.hidden.tolist() == [WINDOW[0] <= t < WINDOW[1] for t in range(FRAMES)]
    assert np.array_equal(track.visible, track.inside & ~track.hidden)
    gone = track_of(square_clip(False, 0)[1])
    assert not (gone.visible | gone.partly | gone.hidden | gone.inside).any()


def test_a_frame_is_one_of_visible_partly_and_hidden() -> None:
    truth = square_clip(True, 0)[1]
    truth.state["visible_fraction"][:4, 0] = [1.0, 0.9, 0.89, 0.01]
    track = track_of(truth)
    assert track.visible[:4].tolist() == [True, False, False, False]
    assert track.partly[:4].tolist() == [False, True, True, True]
    parts = np.stack([track.visible, track.partly, track.hidden])
    assert np.array_equal(parts.sum(0), track.inside.astype(int))


def test_frames_since_hiding_are_counted_from_one_and_start_anew() -> None:
    truth = square_clip(True, 0)[1]
    truth.state["visible_fraction"][:, 0] = [1, 0, 0, 1, 0] + [1] * (FRAMES - 5)
    assert track_of(truth).hidden_for[:6].tolist() == [0, 1, 2, 0, 1, 0]


def test_an_object_that_does_not_exist_is_behind_the_screen_when_it_would_be() -> None:
    for present in (True, False):
        behind = behind_screen(footage(1, present))
        assert np.flatnonzero(behind).tolist() == list(range(*WINDOW))
    assert not behind_screen(footage(1, kind="support")).any()


def test_windows_of_a_block_are_its_equal_frames() -> None:
    inside = hidden_windows(block(0))
    a, b = block(0).frames
    assert [bool((a[t] == b[t]).all()) for t in range(FRAMES)] == inside.tolist()


def test_things_are_the_squares_in_full_view_with_what_is_true_of_them() -> None:
    frames = np.array([3, 7, 11])
    truths = [square_clip(True, 1)[1], square_clip(False, 2)[1], square_clip(True, 4)[1]]
    truths[2].state["animate"][:] = 1
    truths[2].state["contact"][11, 0] = [1, 0, 1]
    truths[2].state["support"][3, 0] = 0
    things = things_in_view(truths, frames)
    # Hidden at frame 7, and the second clip has no square.
    assert things.clip.tolist() == [0, 0, 2, 2]
    assert things.frame.tolist() == [3, 11, 3, 11]
    assert things.category.tolist() == [1, 1, 0, 0]
    assert things.animate.tolist() == [False, False, True, True]
    assert things.touching.tolist() == [False, False, False, True]
    assert things.supported.tolist() == [True, True, False, True]
    assert np.allclose(things.place[0], truths[0].state["image_position"][3, 0] / SIZE)


def test_the_token_of_a_thing_is_the_one_that_shows_its_centre() -> None:
    place = np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.999, 0.999]])
    flags = np.zeros(4, dtype=bool)
    things = Things(flags.astype(int), flags.astype(int), place, flags, flags, flags, flags)
    assert things.tokens((2, 2)).tolist() == [0, 1, 2, 3]
    assert things.tokens((4, 2)).tolist() == [0, 1, 6, 7]


def test_clips_of_joined_tables_are_numbered_on() -> None:
    frames = np.array([3])
    part = things_in_view([square_clip(True, n)[1] for n in range(2)], frames)
    joined = Things.join([part, part], [2, 2])
    assert joined.clip.tolist() == [0, 1, 2, 3]


def test_camera_velocity_is_along_and_about_its_own_axes() -> None:
    """It looks along the world's x axis, goes forward at 2 m/s, and turns right at 0.4 rad/s."""
    fps, frames = 8.0, 4
    depth = np.zeros((frames, 2, 2), np.float32)
    pose = np.zeros((frames, 3, 4))
    for frame in range(frames):
        angle = 0.4 * frame / fps
        # Columns are right, down and forward; down is the world's -z.
        forward = np.array([np.cos(angle), -np.sin(angle), 0])
        down = np.array([0.0, 0, -1])
        right = np.cross(down, forward)
        pose[frame] = np.stack([right, down, forward, np.zeros(3)], 1)
        if frame:
            pose[frame, :, 3] = pose[frame - 1, :, 3] + 2 / fps * forward
    truth = Truth(depth, depth.astype(np.uint8), {"camera_pose": pose.astype(np.float32)})
    velocity = camera_velocity(truth, np.array([1, 3]), fps)
    assert np.allclose(velocity, [[0, 0, 2, 0, 0.4, 0]] * 2, atol=1e-3)
