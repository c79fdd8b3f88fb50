"""Truth survives the way into a shard and back, and bad members are named."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from worldmodel.clips import Truth
from worldmodel.data.truth import (
    ARRAYS_OVER_TIME,
    MAX_STATE_BYTES,
    decode_truth,
    encode_truth,
    take_frames,
)
from worldmodel.errors import InputError


@pytest.fixture
def truth() -> Truth:
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 12, (6, 8, 8)).astype(np.float32)
    depth[:, 0] = 0
    ids = rng.integers(0, 104, (6, 8, 8)).astype(np.uint8)
    state = {
        "camera_pose": rng.normal(size=(6, 3, 4)).astype(np.float32),
        "distance": rng.normal(size=(6, 5)).astype(np.float32),
        "category": np.arange(5, dtype=np.float32),
        "tracked": np.float32(-1).reshape(()),
    }
    return Truth(depth, ids, state)


def test_round_trip_keeps_all_but_fractions_of_a_millimetre(truth):
    found = decode_truth(encode_truth(truth))
    assert np.abs(found.depth - truth.depth).max() <= 0.00051
    assert (found.depth[truth.depth == 0] == 0).all()
    np.testing.assert_array_equal(found.ids, truth.ids)
    assert found.depth.dtype == np.float32 and found.ids.dtype == np.uint8
    assert found.state.keys() == truth.state.keys()
    for name, array in truth.state.items():
        np.testing.assert_array_equal(found.state[name], array)
        assert found.state[name].shape == array.shape


def test_maps_can_be_left_unread(truth):
    members = encode_truth(truth) | {"ids.png": b"never looked at"}
    found = decode_truth(members, maps=False)
    assert found.depth.shape == found.ids.shape == truth.depth.shape
    assert not found.depth.any() and not found.ids.any()
    np.testing.assert_array_equal(found.state["distance"], truth.state["distance"])


def test_the_same_truth_gives_the_same_bytes_at_any_time(truth, monkeypatch):
    first = encode_truth(truth)
    monkeypatch.setattr("time.localtime", lambda *_: (2031, 1, 1, 1, 1, 1, 0, 1, 0))
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert encode_truth(truth) == first


def test_prefix_chooses_the_world_of_a_block(truth):
    other = Truth(truth.depth + 1, truth.ids, truth.state)
    members = {f"a.{name}": content for name, content in encode_truth(truth).items()}
    members |= {f"b.{name}": content for name, content in encode_truth(other).items()}
    difference = decode_truth(members, "b.").depth - decode_truth(members, "a.").depth
    np.testing.assert_allclose(difference, 1, atol=2e-3)


def test_depth_ends_where_its_format_ends(truth):
    far = Truth(truth.depth + 100, truth.ids, truth.state)
    assert decode_truth(encode_truth(far)).depth.max() == pytest.approx(65.535)


def test_take_frames_takes_time_and_leaves_the_rest(truth):
    taken = take_frames(truth, [4, 0, 2])
    np.testing.assert_array_equal(taken.depth, truth.depth[[4, 0, 2]])
    np.testing.assert_array_equal(taken.ids, truth.ids[[4, 0, 2]])
    for name, array in truth.state.items():
        wanted = array[[4, 0, 2]] if name in ARRAYS_OVER_TIME else array
        np.testing.assert_array_equal(taken.state[name], wanted)


def test_missing_members_are_named(truth):
    members = encode_truth(truth)
    del members["ids.png"]
    with pytest.raises(InputError, match=r"no member ids\.png; it has depth\.png, state\.npz"):
        decode_truth(members)


@pytest.mark.parametrize("name", ["depth.png", "ids.png", "state.npz"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04" + bytes(40)])
def test_garbage_is_named(truth, name, content):
    with pytest.raises(InputError, match=name):
        decode_truth(encode_truth(truth) | {name: content})


def test_members_cut_short_are_named(truth):
    for name, content in encode_truth(truth).items():
        with pytest.raises(InputError, match=name):
            decode_truth(encode_truth(truth) | {name: content[: len(content) // 2]})


def test_pickled_objects_are_refused(truth):
    content = io.BytesIO()
    np.savez(content, camera_pose=np.array([{"not": "an array"}], object))
    with pytest.raises(InputError, match=r"state\.npz"):
        decode_truth(encode_truth(truth) | {"state.npz": content.getvalue()})


def test_archives_that_unpack_to_too_much_are_refused(truth):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("camera_pose.npy", bytes(MAX_STATE_BYTES + 1))
    with pytest.raises(InputError, match="unpacks to"):
        decode_truth(encode_truth(truth) | {"state.npz": content.getvalue()})


def test_strips_that_do_not_fit_the_number_of_frames_are_refused(truth):
    content = io.BytesIO()
    Image.fromarray(np.zeros((47, 8), np.uint8)).save(content, "png")
    with pytest.raises(InputError, match="strip of 6 frames"):
        decode_truth(encode_truth(truth) | {"ids.png": content.getvalue()})
    content = io.BytesIO()
    Image.fromarray(np.zeros((96, 8), np.uint8)).save(content, "png")
    with pytest.raises(InputError, match="has frames of"):
        decode_truth(encode_truth(truth) | {"ids.png": content.getvalue()})
