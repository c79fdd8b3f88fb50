import dataclasses

import numpy as np
import pytest
import torch

from worldmodel.clips import ClipBatch, Truth


def test_batch__refuses_parts_that_do_not_agree(clip):
    with pytest.raises(ValueError, match=r"uint8 .* got torch.float32"):
        dataclasses.replace(clip, frames=clip.frames.float())
    with pytest.raises(ValueError, match=r"pts_seconds must be \(2, 12\)"):
        dataclasses.replace(clip, pts_seconds=clip.pts_seconds[:, 1:])
    with pytest.raises(ValueError, match="keys must be 2 names"):
        dataclasses.replace(clip, keys=("a",))
    with pytest.raises(ValueError, match=r"actions must start with \(2, 12\)"):
        dataclasses.replace(clip, actions=torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match="is_pad must be 2 flags"):
        dataclasses.replace(clip, is_pad=(True,))


def test_stack__joins_and_keeps_order(clip):
    padded = dataclasses.replace(clip, is_pad=(False, True))
    assert ClipBatch.stack([clip, padded]).to("cpu").counted == [0, 1, 2]
    joined = ClipBatch.stack([clip, clip])
    assert joined.keys == ("a", "b", "a", "b")
    assert torch.equal(joined.frames[2:], clip.frames)


def test_stack__refuses_truth_for_some_only(clip):
    depth = np.zeros((12, 4, 4), np.float32)
    truth = Truth(depth, depth.astype(np.uint8), {})
    with_truth = dataclasses.replace(clip, truth=(truth, truth))
    with pytest.raises(ValueError, match="1 of 2 clips carry truth"):
        ClipBatch.stack([clip, with_truth])
    with pytest.raises(ValueError, match="empty list"):
        ClipBatch.stack([])


def test_to__keeps_everything_else(clip):
    moved = clip.to("cpu", non_blocking=True)
    assert moved.keys == clip.keys and torch.equal(moved.frames, clip.frames)
    assert "truth" not in repr(moved) and "(2, 12, 3, 32, 32)" in repr(moved)


def test_truth__refuses_depth_and_ids_of_other_shapes():
    with pytest.raises(ValueError, match="depth and ids"):
        Truth(np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 5), np.uint8), {})
