"""Attention that is computed again is the model's own, and reading it changes nothing."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from worldmodel.clips import ClipBatch
from worldmodel.errors import InputError
from worldmodel.models.hierarchy import Hierarchy
from worldmodel.models.transformer import SelfAttention
from worldmodel.viewing import attention as view


@pytest.fixture
def found(hierarchy: Hierarchy, clip: ClipBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        return view.attention_over_time(hierarchy.eval(), hierarchy.encode(clip.frames))


@pytest.mark.parametrize("causal", [True, False])
def test_weights_mix_values_into_what_the_model_gives(causal: bool) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16, num_heads=2, causal=causal).eval()
    x = torch.randn(3, 7, 16)
    with torch.no_grad():
        qkv = layer.qkv(layer.norm(x))
        values = qkv.view(3, 7, 3, 2, 8).permute(2, 0, 3, 1, 4)[2]
        mixed = view.attention_weights(layer, qkv) @ values
        mine = x + functional.linear(
            mixed.transpose(1, 2).reshape(3, 7, 16), layer.out.weight, layer.out.bias
        )
        assert torch.allclose(mine, layer(x), atol=1e-5)


def test_rows_sum_to_one_over_the_past(found: list[torch.Tensor]) -> None:
    assert [tuple(each.shape) for each in found] == [(1, 2, 12, 12), (1, 2, 6, 6), (1, 2, 3, 3)]
    for weights in found:
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5)
        assert (weights.triu(1) == 0).all()


def test_a_chunk_counts_by_its_clips(hierarchy: Hierarchy, clip: ClipBatch) -> None:
    """Ten clips run in chunks of eight and two; their mean is that of all ten."""
    frames = torch.cat([clip.frames] * 4 + [clip.frames.flip(1)])
    with torch.no_grad():
        tokens = hierarchy.eval().encode(frames)
    together = view.attention_over_time(hierarchy, tokens)
    singly = [
        view.attention_over_time(hierarchy, [level[n : n + 1] for level in tokens])
        for n in range(10)
    ]
    for level, weights in enumerate(together):
        mean = torch.stack([each[level] for each in singly]).mean(0)
        assert torch.allclose(weights, mean, atol=1e-6)


def test_reading_leaves_the_model_as_it_was(hierarchy: Hierarchy, clip: ClipBatch) -> None:
    hierarchy.eval()
    with torch.no_grad():
        tokens = hierarchy.encode(clip.frames)
        before = hierarchy.predict(tokens)[0].context
        view.attention_over_time(hierarchy, tokens)
        assert torch.equal(before, hierarchy.predict(tokens)[0].context)
    assert not any(module._forward_hooks for module in hierarchy.modules())


def test_other_peoples_predictors_are_refused() -> None:
    class Level:
        predictor = torch.nn.Linear(2, 2)

    class Network:
        levels = (Level(),)

    with pytest.raises(InputError, match="this model has others"):
        view.attention_over_time(Network(), [torch.zeros(1, 2, 1, 2)])


def test_equal_weight_looks_back_half_the_time() -> None:
    equal = torch.full((1, 1, 5, 5), 0.2)
    assert view.looks_back(equal, 0.5) == pytest.approx(np.array([[1.0]]))
    last = torch.zeros(1, 1, 5, 5)
    last[..., 4, 0] = 1  # the last step looks at the first alone
    assert view.weight_by_age(last).tolist() == [[[0, 0, 0, 0, 1]]]
    assert view.looks_back(last, 0.5) == pytest.approx(np.array([[2.0]]))


def test_curves_show_layers_heads_and_nulls(found: list[torch.Tensor]) -> None:
    figure = view.attention_reach(found, found, [0.125, 0.25, 0.5])
    assert len(figure.axes) == 3
    lines = figure.axes[0].lines
    # Two heads, their mean, the untrained network, equal weight.
    assert len(lines) == 5
    assert lines[2].get_ydata() == pytest.approx(view.weight_by_age(found[0])[0].mean(0) * 12)
    assert lines[3].get_label() == "untrained"
    assert figure.axes[1].get_xlabel() == "back in time, s"
    assert "equal weight 0.7 s" in figure.axes[0].get_title()


def test_maps_have_a_row_per_level_and_no_future(found: list[torch.Tensor]) -> None:
    figure = view.attention_maps(found, [0.125, 0.25, 0.5])
    assert len(figure.axes) == 4
    shown = figure.axes[0].images[0].get_array()
    assert np.ma.getmaskarray(shown)[0, 1:].all() and np.isfinite(shown[-1]).all()
    assert figure.axes[0].images[0].get_extent() == [0, 1.5, 1.5, 0]
    assert figure.axes[-1].get_ylabel() == "weight / equal weight"
