"""Blocks are honest: equal to the bit while hidden, different before and after, no clock."""

import json

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score

from worldmodel.data.truth import decode_truth
from worldmodel.data.video import open_video
from worldmodel.evaluation.nulls import clock_features, pixel_surprise
from worldmodel.world.blocks import HIDDEN_KINDS, WorldPair
from worldmodel.world.open_blocks import KINDS, OPEN_KINDS
from worldmodel.world.render import focal_length
from worldmodel.world.samples import RejectedError, Task, hidden_windows, make_sample
from worldmodel.world.scenes import NUM_FRAMES
from worldmodel.world.simulate import UnstableSceneError, simulate
from worldmodel.world.style import Mix, training_style
from worldmodel.world.visibility import covered_frames, project, slab_boxes

SIZE = 32
STYLE = training_style(Mix())


def read_block(kind: str, split: str = "test", index: int = 0):
    """A block of one kind: its metadata, and frames and truth of both worlds."""
    members = make_sample(Task(11, split, kind, index, SIZE))
    frames, truth = {}, {}
    for world in "ab":
        video = open_video(members[f"{world}.mp4"])
        frames[world] = video.get_frames(range(video.num_frames))
        truth[world] = decode_truth(members, f"{world}.")
    return json.loads(members["json"]), frames, truth


@pytest.fixture(
    scope="module",
    params=[(kind, split) for kind in HIDDEN_KINDS for split in ("test", "ood")],
    ids="-".join,
)
def block(request):
    return read_block(*request.param)


@pytest.fixture(scope="module", params=list(OPEN_KINDS))
def open_block(request):
    return read_block(request.param)


@pytest.fixture(scope="module")
def many_blocks():
    """Three blocks of every kind."""
    return [read_block(kind, index=index) for kind in KINDS for index in range(1, 4)]


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
    for length in (1, 2, shortest // 2 + 1):
        score = {
            name: terms(clip, length).sum()
            for name, clip in {
                "ab": splice(a, b, cuts), "ba": splice(b, a, cuts), "aa": a, "bb": b,
            }.items()
        }  # fmt: skip
        assert score["ab"] + score["ba"] - score["aa"] - score["bb"] == 0


def test_the_projects_own_short_pixel_null_cannot_tell_either(block):
    """The same sums in another order: of a scorer that is not linear, to rounding."""
    metadata, frames, _ = block
    cuts = metadata["splice_frames"]
    a, b = frames["a"], frames["b"]
    clips = np.stack(
        [splice(a, a, cuts), splice(b, b, cuts), splice(a, b, cuts), splice(b, a, cuts)]
    )
    scores = pixel_surprise(clips.reshape(4, NUM_FRAMES, -1).astype(np.float64), long=False)
    aa, bb, ab, ba = scores.sum(1)
    assert abs(ab + ba - aa - bb) < 1e-12 * scores.sum()


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


def test_in_open_view_nothing_jumps_at_the_change(open_block):
    """The protagonist is at the same place in both worlds; only how it moves differs."""
    metadata, frames, truth = open_block
    (cut,) = metadata["splice_frames"]
    assert metadata["hidden_windows"] == [] and cut % 2 == 0
    assert 16 <= cut <= NUM_FRAMES - 16
    a, b = truth["a"].state, truth["b"].state
    np.testing.assert_allclose(a["pose"][cut, :, :3], b["pose"][cut, :, :3], atol=0.02)
    assert np.abs(a["velocity"][cut, 0, :3] - b["velocity"][cut, 0, :3]).max() > 0.4
    assert a["visible_fraction"][cut, 0] > 0.5 and b["visible_fraction"][cut, 0] > 0.5
    step = np.abs(np.diff(frames["a"].astype(float), axis=0)).mean((1, 2, 3)).max()
    jump = np.abs(frames["a"][cut].astype(float) - frames["b"][cut]).mean()
    assert jump < max(0.6 * step, 1.0)
    different = np.abs(frames["a"].astype(int) - frames["b"]).max((1, 2, 3)) > 40
    assert different[:cut].sum() >= 5 and different[cut:].sum() >= 5


def test_in_open_view_the_motion_is_impossible_at_the_change(open_block):
    """Speed changes by more than gravity or any contact could explain: nothing touches it."""
    metadata, _, truth = open_block
    (cut,) = metadata["splice_frames"]
    for first, second in (("a", "b"), ("b", "a")):
        before = truth[first].state["velocity"][cut - 1, :, :3]
        after = truth[second].state["velocity"][cut + 1, :, :3]
        fall = np.array([0, 0, 2 * 9.81 / 16])
        assert np.abs(before - after).max() - fall.max() * (metadata["kind"] == "gravity") > 0.3
    if metadata["kind"] == "gravity":
        speeds = sorted(truth[world].state["velocity"][cut, 0, 2] for world in "ab")
        assert speeds[0] < -0.8 and speeds[1] > 0.8, "one falls, the other rises"


@pytest.mark.parametrize("cue", ["brightness", "motion energy", "number of things seen", "edges"])
def test_no_simple_cue_tells_possible_from_impossible(many_blocks, cue):
    """Each clip's mean and largest value of a cue: AUROC near one half, over all kinds together."""
    scores, labels, contrasts = [], [], []
    for metadata, frames, truth in many_blocks:
        values = {}
        for world in "ab":
            pixels = frames[world].astype(np.float64)
            values[world] = {
                "brightness": pixels.mean((1, 2, 3)),
                "edges": np.abs(np.diff(pixels, axis=2)).mean((1, 2, 3)),
                "number of things seen": (truth[world].state["visible_fraction"] > 0.1).sum(1),
                "motion energy": pixels,
            }[cue]
        cuts = metadata["splice_frames"]
        a, b = values["a"], values["b"]
        clips = [splice(a, a, cuts), splice(b, b, cuts), splice(a, b, cuts), splice(b, a, cuts)]
        if cue == "motion energy":
            clips = [np.abs(np.diff(clip, axis=0)).mean((1, 2, 3)) for clip in clips]
        means = [float(np.mean(clip)) for clip in clips]
        if metadata["kind"] in HIDDEN_KINDS or cue != "motion energy":
            contrasts.append(means[2] + means[3] - means[0] - means[1])
        scores += [(mean, float(np.max(clip))) for mean, clip in zip(means, clips, strict=True)]
        labels += [False, False, True, True]
    np.testing.assert_allclose(contrasts, 0, atol=1e-9)
    for column in np.array(scores).T:
        assert 0.4 < roc_auc_score(labels, column) < 0.6


def test_windows_must_be_long_and_the_difference_seen():
    scene = KINDS["permanence"](np.random.default_rng(0), STYLE).a
    one = WorldPair(scene, scene, num_windows=1, min_frames=7)
    two = WorldPair(scene, scene, num_windows=2, min_frames=4)

    def same(*runs: tuple[int, int]) -> np.ndarray:
        flags = np.zeros(NUM_FRAMES, bool)
        for start, stop in runs:
            flags[start:stop] = True
        return flags

    assert hidden_windows(same((0, 5), (20, 30)), one) == [(20, 30)]
    assert hidden_windows(same((10, 16), (24, 32)), two) == [(10, 16), (24, 32)]
    for flags, pair, why in (
        (same((20, 26)), one, "too shortly"),
        (same((20, 53)), one, "too little remains"),
        (same((0, 16), (20, 30)), one, "seen too shortly"),
        (same((20, 30), (33, 64)), one, "seen too shortly"),
        (same(), one, "not hidden"),
        (same((10, 16), (18, 24)), two, "seen too shortly"),
    ):
        with pytest.raises(RejectedError, match=why):
            hidden_windows(flags, pair)


@pytest.fixture(scope="module")
def hidden_tracks():
    """Of many scenes in which a body is wholly hidden: when, where, and where the screens are."""
    tracks = []
    for number in range(150):
        kind = list(HIDDEN_KINDS)[number % 5]  # the box of `support` falls out of sight at last
        pair = HIDDEN_KINDS[kind](Task(3, "train", kind, number, 32).generator(0), STYLE)
        try:
            motion = simulate(pair.a)
        except UnstableSceneError:
            continue
        focal = focal_length(32)
        place = project(pair.a, motion.pose[..., :3], focal, 32)[:, 0, :2]
        screens = [slot for slot, slab in enumerate(pair.a.slabs) if slab.screen]
        boxes = slab_boxes(pair.a, motion, 32)[:, screens] / 32
        covered = covered_frames(pair.a, motion, 0, 32)
        tracks.append((kind, covered, place, clock_features(NUM_FRAMES, boxes, 2)))
    return tracks


def test_neither_clock_nor_screens_tell_where_the_hidden_body_is(hidden_tracks):
    """Frame number and the screens' places, with their squares and products, by ridge."""
    folds = []
    for fold in range(3):
        parts = {}
        for held_out in (False, True):
            chosen = [t for n, t in enumerate(hidden_tracks) if (n % 3 == fold) == held_out]
            places = np.concatenate([place[covered] for _, covered, place, _ in chosen])
            features = np.concatenate([clock[covered] for _, covered, _, clock in chosen])
            parts[held_out] = features, places
        probe = RidgeCV(np.logspace(-1, 5, 13)).fit(*parts[False])
        folds.append((probe.predict(parts[True][0]), parts[True][1]))
    guess, true = (np.concatenate(each) for each in zip(*folds, strict=True))
    assert 1 - ((true - guess) ** 2).sum() / ((true - true.mean(0)) ** 2).sum() < 0.3


def test_times_sides_and_speeds_vary():
    pairs = [KINDS["permanence"](np.random.default_rng(seed), STYLE) for seed in range(200)]
    speeds = [pair.a.bodies[0].velocity[0] for pair in pairs]
    assert 0.3 < np.mean(np.array(speeds) > 0) < 0.7
    assert np.abs(speeds).max() / np.abs(speeds).min() > 2.7


def test_half_of_the_hidings_are_long():
    for kind in HIDDEN_KINDS:
        lengths = []
        for index in range(7):
            metadata = json.loads(make_sample(Task(5, "test", kind, index, 16))["json"])
            lengths += [stop - start for start, stop in metadata["hidden_windows"]]
        assert min(lengths) >= (4 if kind == "continuity" else 6)
        if kind != "continuity":
            assert np.median(lengths) >= 15, kind
