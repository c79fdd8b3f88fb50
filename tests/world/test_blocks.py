"""Blocks are honest: equal to the bit while hidden, different before and after, no clock."""

import json

import numpy as np
import pytest

from worldmodel.data.truth import decode_truth
from worldmodel.data.video import open_video
from worldmodel.world.blocks import HIDDEN_KINDS, WorldPair
from worldmodel.world.render import RayCaster
from worldmodel.world.samples import Task, hidden_windows, make_sample
from worldmodel.world.scenes import NUM_FRAMES, free_scene
from worldmodel.world.simulate import simulate
from worldmodel.world.visibility import covered_frames, project

SIZE = 32


@pytest.fixture(scope="module", params=list(HIDDEN_KINDS))
def block(request):
    """A block of one kind: its metadata, and frames and truth of both worlds."""
    members = make_sample(Task(11, "test", request.param, 0, SIZE))
    frames, truth = {}, {}
    for world in "ab":
        video = open_video(members[f"{world}.mp4"])
        frames[world] = video.get_frames(range(video.num_frames))
        truth[world] = decode_truth(members, f"{world}.")
    return json.loads(members["json"]), frames, truth


def splice(first: np.ndarray, second: np.ndarray, cuts: list[int]) -> np.ndarray:
    """A clip that changes from one world to the other at each cut."""
    worlds, parts = (first, second), []
    for turn, (start, stop) in enumerate(zip([0, *cuts], [*cuts, NUM_FRAMES], strict=True)):
        parts.append(worlds[turn % 2][start:stop])
    return np.concatenate(parts)


def test_hidden_windows_are_bit_equal_after_decoding_and_bounded(block):
    metadata, frames, truth = block
    same = (frames["a"] == frames["b"]).reshape(NUM_FRAMES, -1).all(1)
    same_depth = (truth["a"].depth == truth["b"].depth).reshape(NUM_FRAMES, -1).all(1)
    windows = metadata["hidden_windows"]
    assert len(windows) == (2 if metadata["kind"] == "continuity" else 1)
    assert len(windows) == len(metadata["splice_frames"])
    for (start, stop), cut in zip(windows, metadata["splice_frames"], strict=True):
        assert same[start:stop].all()
        # Just outside the pictures differ, or what they show in the same colour does.
        assert not (same & same_depth)[start - 1] and not (same & same_depth)[stop]
        assert stop - start >= (4 if metadata["kind"] == "continuity" else 6)
        assert start < cut < stop
    assert NUM_FRAMES - windows[-1][1] >= 12


def test_the_difference_is_plain_to_see_outside_of_the_windows(block):
    metadata, frames, _ = block
    largest = np.abs(frames["a"].astype(int) - frames["b"]).max((1, 2, 3))
    edges = [0, *np.ravel(metadata["hidden_windows"]), NUM_FRAMES]
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        assert (largest[start:stop] > 40).sum() >= 3


def test_a_scorer_with_short_windows_cannot_tell_possible_from_impossible(block):
    """Its interaction contrast S(AB) + S(BA) - S(AA) - S(BB) is exactly zero."""
    metadata, frames, _ = block
    cuts = metadata["splice_frames"]
    shortest = min(stop - start for start, stop in metadata["hidden_windows"])

    def terms(clip: np.ndarray, length: int) -> np.ndarray:
        pieces = np.lib.stride_tricks.sliding_window_view(clip.astype(np.int64), length, axis=0)
        return np.abs(pieces - pieces[..., :1]).sum((1, 2, 3, 4))

    a, b = frames["a"], frames["b"]
    for length in (2, shortest // 2 + 1):
        score = {
            name: terms(clip, length).sum()
            for name, clip in {
                "ab": splice(a, b, cuts), "ba": splice(b, a, cuts), "aa": a, "bb": b,
            }.items()
        }  # fmt: skip
        assert score["ab"] + score["ba"] - score["aa"] - score["bb"] == 0


def test_a_scorer_with_long_windows_could_tell(block):
    """The contrast of whole clips is not zero, or there would be nothing to be surprised at."""
    metadata, frames, _ = block
    cut = metadata["splice_frames"][0]
    a, b = frames["a"], frames["b"]

    def score(first: np.ndarray, second: np.ndarray) -> int:
        return (int(first[:cut].sum()) + int(second[cut:].sum())) ** 2

    assert score(a, b) + score(b, a) - score(a, a) - score(b, b) != 0


def test_slots_mean_the_same_in_both_worlds(block):
    metadata, _, truth = block
    a, b = truth["a"].state, truth["b"].state
    for name in ("camera_pose", "intrinsics", "light", "tracked"):
        np.testing.assert_array_equal(a[name], b[name])
    assert a["tracked"] == 0 and a["present"][0] == 1
    np.testing.assert_array_equal(a["present"][1:], b["present"][1:])
    np.testing.assert_array_equal(a["pose"][:, 1:], b["pose"][:, 1:])
    for start, stop in metadata["hidden_windows"]:
        np.testing.assert_array_equal(truth["a"].depth[start:stop], truth["b"].depth[start:stop])
        np.testing.assert_array_equal(truth["a"].ids[start:stop], truth["b"].ids[start:stop])


def test_the_protagonist_is_hidden_at_the_splice_or_its_support_is(block):
    metadata, _, truth = block
    for cut in metadata["splice_frames"]:
        fraction = truth["a"].state["visible_fraction"][cut, 0]
        if metadata["kind"] == "support":
            assert fraction > 0
        elif metadata["kind"] != "solidity":
            assert fraction == 0 and truth["a"].state["amodal_area"][cut, 0] > 0


def test_windows_must_be_long_and_the_difference_seen():
    camera_scene = free_scene(np.random.default_rng(0))
    one = WorldPair(camera_scene, camera_scene, num_windows=1, min_frames=7)
    two = WorldPair(camera_scene, camera_scene, num_windows=2, min_frames=4)

    def same(*runs: tuple[int, int]) -> np.ndarray:
        flags = np.zeros(NUM_FRAMES, bool)
        for start, stop in runs:
            flags[start:stop] = True
        return flags

    assert hidden_windows(same((0, 5), (20, 30)), one) == [(20, 30)]
    assert hidden_windows(same((20, 26)), one) is None, "too short"
    assert hidden_windows(same((20, 53)), one) is None, "too little remains"
    assert hidden_windows(same((0, 16), (20, 30)), one) is None, "not seen before"
    assert hidden_windows(same((20, 30), (33, 64)), one) is None, "not seen after"
    assert hidden_windows(same(), one) is None
    assert hidden_windows(same((10, 16), (24, 32)), two) == [(10, 16), (24, 32)]
    assert hidden_windows(same((10, 16), (18, 24)), two) is None, "not seen between"


def test_no_clock_tells_where_the_hidden_body_is():
    """From the frame's number alone, a polynomial explains next to nothing of its place."""
    frames, places, scenes, first, sides, speeds = [], [], [], [], [], []
    for number in range(48):
        kind = ("permanence", "reveal", "constancy")[number % 3]
        pair = HIDDEN_KINDS[kind](Task(3, "train", kind, number, 32).generator(0))
        caster = RayCaster(pair.a, simulate(pair.a), 32)
        centres = project(pair.a, caster.motion.pose[..., :3], caster.focal, 32)[:, 0, 0]
        hidden = np.flatnonzero(covered_frames(caster, 0))
        assert len(hidden) >= 6
        frames.append(hidden / 32 - 1)
        places.append(centres[hidden])
        scenes.append(np.full(len(hidden), number))
        first.append(hidden[0])
        sides.append(np.sign(pair.a.bodies[0].velocity[0]))
        speeds.append(abs(pair.a.bodies[0].velocity[0]))
    time, place, scene = map(np.concatenate, (frames, places, scenes))
    features = np.stack([time**power for power in range(4)], 1)
    predicted = np.empty_like(place)
    for fold in range(4):
        held_out = scene % 4 == fold
        weights = np.linalg.lstsq(features[~held_out], place[~held_out], rcond=None)[0]
        predicted[held_out] = features[held_out] @ weights
    assert 1 - ((place - predicted) ** 2).sum() / ((place - place.mean()) ** 2).sum() < 0.2
    assert np.ptp(first) > 12
    assert 0.25 < np.mean(np.array(sides) > 0) < 0.75
    assert max(speeds) / min(speeds) > 2
