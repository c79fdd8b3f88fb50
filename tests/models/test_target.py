import copy

import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.models.target import MovingAverage, SameEncoder


def test_same_encoder__with_and_without_gradient(hierarchy, clip):
    tokens = hierarchy.encode(clip.frames)
    assert all(t.requires_grad for t in SameEncoder()(hierarchy, clip.frames, tokens))
    stopped = SameEncoder(stop_gradient=True)(hierarchy, clip.frames, tokens)
    assert not any(t.requires_grad for t in stopped)
    assert all(torch.equal(a, b) for a, b in zip(tokens, stopped, strict=True))


def test_moving_average__gets_no_gradient_and_follows(hierarchy, clip):
    target = MovingAverage(decay=0.75)
    target.attach(hierarchy)
    start = copy.deepcopy(target.encoders)
    with torch.no_grad():
        for parameter in hierarchy.parameters():
            parameter.add_(1.0)
    target.update(hierarchy)
    for old, now in zip(start.parameters(), target.encoders.parameters(), strict=True):
        torch.testing.assert_close(now, old + 0.25)
    tokens = hierarchy.encode(clip.frames)
    targets = target(hierarchy, clip.frames, tokens)
    assert [t.shape for t in targets] == [t.shape for t in tokens]
    assert not any(t.requires_grad for t in targets)
    assert not any(p.requires_grad for p in target.parameters())


def test_moving_average__refuses_a_decay_that_forgets_nothing():
    with pytest.raises(InputError, match=r"in \[0, 1\), got 1"):
        MovingAverage(decay=1.0)
