import copy

import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.losses.prediction import SquaredError
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


@pytest.mark.parametrize(
    ("target", "pulled"),
    [(SameEncoder(), True), (SameEncoder(stop_gradient=True), False), (MovingAverage(0.9), False)],
)
def test_targets__only_the_shared_encoder_is_pulled_towards_what_is_predictable(
    hierarchy, clip, target, pulled
):
    target.attach(hierarchy)
    frames = hierarchy.normalize(clip.frames).requires_grad_()
    tokens = hierarchy.encode(frames)
    targets = target(hierarchy, frames, tokens)
    losses = [
        SquaredError()(prediction.predicted, wanted)
        for prediction, wanted in zip(hierarchy.predict(tokens), targets, strict=True)
    ]
    torch.stack(losses).sum().backward()
    # The last frame is no level's context within the clip: it is a target and nothing else.
    assert bool(frames.grad[:, -1].abs().max() > 0) == pulled
    assert frames.grad[:, :8].abs().max() > 0
