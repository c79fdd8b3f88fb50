"""The attentive probe: its attention is PyTorch's, it reads what its tokens hold, and time too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.attentive import (
    CPU_CONFIG,
    AttentiveConfig,
    AttentiveProbe,
    QueryBlock,
    default_config,
    fit_attentive,
    half_cosine,
)

CPU = torch.device("cpu")
SMALL = AttentiveConfig(
    self_attention_blocks=1,
    max_width=16,
    num_epochs=15,
    batch_size=16,
    learning_rates=(1e-4, 5e-3),
    weight_decays=(0.01,),
)

QUICK = replace(SMALL, num_epochs=2, learning_rates=(1e-2,))


def planted(num: int, seed: int) -> tuple[list[torch.Tensor], np.ndarray]:
    """Two levels of noise; one token of level 1 at one step says which of 4 classes it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.arange(num) % 4
    levels = [
        torch.randn(num, 2, 2, 6, generator=generator).half(),
        torch.randn(num, 2, 1, 8, generator=generator).half(),
    ]
    levels[1][:, 1, 0, :4] += 6 * torch.eye(4)[labels].half()
    return levels, labels


def held(num: int) -> np.ndarray:
    return np.arange(num) % 5 == 0


def test_a_query_is_multi_head_attention_of_one_vector() -> None:
    torch.manual_seed(0)
    block = QueryBlock(8, 2, 2.0)
    nn.init.normal_(block.query)
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        weight, bias = reference.in_proj_weight, reference.in_proj_bias
        weight[:8], bias[:8] = block.to_query.weight, block.to_query.bias
        weight[8:], bias[8:] = block.to_key_value.weight, block.to_key_value.bias
    reference.out_proj.load_state_dict(block.out.state_dict())
    tokens = torch.randn(3, 5, 8)
    normed = block.norm(tokens)
    # The reference normalises nothing itself.
    expected = reference(block.query.expand(3, 1, 8), normed, normed)[0][:, 0] + block.query
    assert torch.allclose(block(tokens), block.feed_forward(expected), atol=1e-6)


def test_one_token_among_many_is_found() -> None:
    levels, labels = planted(320, 0)
    fit = fit_attentive(levels, labels, held(320), 4, SMALL, 0, CPU)
    unseen, expected = planted(40, 1)
    scores = fit.scores(unseen)
    assert (scores.shape, scores.dtype) == ((40, 4), np.float64)
    assert (scores.argmax(1) == expected).mean() > 0.85
    assert fit.held_out_top1 > 0.85
    assert fit.learning_rate == 5e-3


def test_the_order_of_steps_is_read_though_the_set_of_tokens_is_the_same() -> None:
    labels = np.arange(100) % 2
    rising = torch.linspace(-1, 1, 8)
    steps = torch.stack([rising if label else rising.flip(0) for label in labels])
    levels = [steps[:, :, None, None].repeat(1, 1, 2, 8)]
    fit = fit_attentive(levels, labels, held(100), 2, SMALL, 0, CPU)
    assert fit.held_out_top1 == 1


def test_tokens_that_say_nothing_stay_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(200, 2, 2, 8, generator=generator)]
    labels = np.arange(200) % 4
    fit = fit_attentive(levels, labels, held(200), 4, QUICK, 0, CPU)
    unseen = [torch.randn(400, 2, 2, 8, generator=generator)]
    right = (fit.scores(unseen).argmax(1) == np.arange(400) % 4).mean()
    assert 0.15 < right < 0.35


def test_the_grid_is_judged_on_the_videos_held_out_alone() -> None:
    levels, labels = planted(320, 0)
    spoiled = labels.copy()
    spoiled[held(320)] = (labels[held(320)] + 1) % 4
    config = replace(SMALL, learning_rates=(5e-3,))
    fit = fit_attentive(levels, spoiled, held(320), 4, config, 0, CPU)
    assert fit.held_out_top1 < 0.2
    assert (fit.scores(planted(40, 1)[0]).argmax(1) == planted(40, 1)[1]).mean() > 0.8


def test_a_head_whose_loss_overflows_is_not_chosen() -> None:
    levels, labels = planted(80, 0)
    config = replace(SMALL, num_epochs=4, learning_rates=(1e30, 1e-2))
    assert fit_attentive(levels, labels, held(80), 4, config, 0, CPU).learning_rate == 1e-2
    hopeless = replace(config, learning_rates=(1e30,))
    with pytest.raises(InputError, match="no head of the grid could be trained"):
        fit_attentive(levels, labels, held(80), 4, hopeless, 0, CPU)


def test_the_same_seed_gives_the_same_head_and_leaves_the_global_generator_alone() -> None:
    levels, labels = planted(40, 0)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = fit_attentive(levels, labels, held(40), 4, QUICK, 3, CPU)
    assert torch.equal(torch.rand(1), expected)
    again = fit_attentive(levels, labels, held(40), 4, QUICK, 3, CPU)
    other = fit_attentive(levels, labels, held(40), 4, QUICK, 4, CPU)
    assert np.array_equal(first.scores(levels), again.scores(levels))
    assert not np.array_equal(first.scores(levels), other.scores(levels))


def test_scores_do_not_depend_on_the_videos_scored_together() -> None:
    levels, labels = planted(70, 0)
    fit = fit_attentive(levels, labels, held(70), 4, QUICK, 0, CPU)
    whole = fit.scores(levels)
    assert np.allclose(fit.scores([level[:3] for level in levels]), whole[:3], atol=1e-5)


def test_features_are_standardised_and_constant_ones_left_at_zero() -> None:
    levels = [torch.randn(50, 2, 3, 4) * 10 + 7]
    levels[0][..., 2] = 5.0
    probe = AttentiveProbe(levels, 2, QUICK)
    rows = levels[0].flatten(0, 2)
    assert torch.allclose(probe.mean0, rows.mean(0), atol=1e-4)
    kept = [0, 1, 3]
    assert torch.allclose(probe.spread0[kept], rows.std(0, correction=0)[kept], rtol=1e-4)
    assert probe.spread0[2] == 1
    moved = [(levels[0] - probe.mean0) / probe.spread0]
    assert moved[0][..., 2].abs().max() < 1e-5


def test_defaults_are_the_published_ones_on_a_gpu_and_small_elsewhere() -> None:
    config = default_config(torch.device("cuda"))
    assert config.self_attention_blocks == 3
    assert (config.max_heads, config.mlp_ratio, config.num_epochs) == (16, 4, 20)
    assert len(config.learning_rates) * len(config.weight_decays) == 20
    assert default_config(CPU) is CPU_CONFIG


@pytest.mark.parametrize(
    ("widest", "expected"), [(384, (384, 16)), (128, (128, 16)), (1024, (384, 16)), (20, (20, 2))]
)
def test_heads_are_as_many_as_the_width_allows(widest: int, expected: tuple[int, int]) -> None:
    assert AttentiveConfig().shape(widest) == expected
    width, heads = AttentiveConfig().shape(widest)
    assert width % (2 * heads) == 0


def test_a_learning_rate_falls_as_half_a_cosine() -> None:
    factor = half_cosine(10)
    assert [factor(step) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0], abs=1e-12)


def test_what_cannot_be_fitted_is_refused() -> None:
    levels, labels = planted(20, 0)
    with pytest.raises(ValueError, match="some but not all"):
        fit_attentive(levels, labels, np.zeros(20, bool), 4, QUICK, 0, CPU)
    levels[0][3, 1] = np.nan
    with pytest.raises(InputError, match="tokens are not finite"):
        fit_attentive(levels, labels, held(20), 4, QUICK, 0, CPU)
    with pytest.raises(InputError, match="needs a learning rate and a weight decay"):
        AttentiveConfig(learning_rates=())
    with pytest.raises(InputError, match="at least 0 blocks"):
        AttentiveConfig(num_epochs=0)
