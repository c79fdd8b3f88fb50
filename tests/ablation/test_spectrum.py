"""Time constants of tokens: processes of known memory are recognised."""

import numpy as np
import pytest
import torch

from worldmodel.ablation.spectrum import TokenMoments, time_constants


def ar1(rho: list[float], clips: int, steps: int, seed: int = 0) -> torch.Tensor:
    """Stationary AR(1) processes of unit variance, a dimension each; `(clips, steps, 1, D)`."""
    generator = np.random.default_rng(seed)
    memory = np.array(rho)
    values = generator.normal(size=(clips, steps, len(rho)))
    for step in range(1, steps):
        noise = np.sqrt(1 - memory**2) * values[:, step]
        values[:, step] = memory * values[:, step - 1] + noise
    return torch.from_numpy(values)[:, :, None]


def centred_autocorrelation(rho: float, steps: int) -> float:
    """What is expected of an AR(1) process after its mean over `steps` steps was taken away."""
    lags = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    centre = np.eye(steps) - 1 / steps
    covariance = centre @ rho**lags @ centre
    own = (np.trace(covariance[1:, 1:]) + np.trace(covariance[:-1, :-1])) / 2
    return float(np.trace(covariance[:-1, 1:]) / own)


def moments_of(tokens: torch.Tensor, chunk: int = 7) -> TokenMoments:
    moments = TokenMoments.of(tokens.shape[2], tokens.shape[3])
    for start in range(0, len(tokens), chunk):
        moments.add(tokens[start : start + chunk])
    return moments


def test_memories_are_found_through_any_mixture() -> None:
    memory = [0.9, 0.6, 0.2, -0.5]
    tokens = ar1(memory, clips=40, steps=2000)
    mixing = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 4)))
    found = moments_of(100 * tokens @ mixing + 5).autocorrelations()
    assert found == pytest.approx(memory, abs=0.01)


@pytest.mark.parametrize("steps", [8, 32])
def test_short_clips_give_what_centring_leaves(steps: int) -> None:
    memory = [0.95, 0.5, 0.0]
    found = moments_of(ar1(memory, clips=20000, steps=steps), 20000).autocorrelations()
    expected = sorted((centred_autocorrelation(rho, steps) for rho in memory), reverse=True)
    assert found == pytest.approx(expected, abs=0.01)
    assert expected[-1] == pytest.approx(-1 / (steps - 1))


def test_directions_without_variance_are_left_out() -> None:
    tokens = ar1([0.5, 0.5], clips=50, steps=100)
    constant = torch.full_like(tokens[..., :1], 3.0)
    wide = torch.cat([tokens, constant, 2 * tokens[..., :1]], -1)
    assert len(moments_of(wide).autocorrelations()) == 2
    assert len(moments_of(constant).autocorrelations()) == 0
    assert moments_of(constant).section(0.5)["time_constants"] == []


def test_values_stay_within_bounds_even_for_straight_lines() -> None:
    line = torch.arange(6.0)[None, :, None, None] * torch.tensor([1.0, 1.0])
    flip = torch.tensor([1.0, -1.0] * 3)[None, :, None, None]
    found = moments_of(torch.cat([line, flip], -1)).autocorrelations()
    assert found.min() == pytest.approx(-1) and found.max() < 1


def test_time_constants_are_steps_to_one_over_e() -> None:
    rho = np.array([np.exp(-1 / 5), 0.5, 0.0, -0.3])
    assert time_constants(rho) == pytest.approx([5, 1 / np.log(2), 0, 0])


def test_variance_is_shared_out_where_it_was_planted() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = 1.0 * draw(4000, 1, 6, 3) + 2.0 * draw(4000, 5, 6, 3) + 3.0 * draw(1, 1, 6, 3)
    shares = moments_of(tokens, 500).variance_shares()
    total = tokens.var((0, 1, 2), correction=0).sum()
    within = (tokens - tokens.mean(1, keepdim=True)).square().sum(-1).mean()
    means = tokens.mean(1)
    between = (means - means.mean(0)).square().sum(-1).mean()
    assert shares["within_clips"] == pytest.approx(float(within / total))
    assert shares["between_clips"] == pytest.approx(float(between / total))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["within_clips"] > shares["between_clips"] > 0.05


def test_tokens_that_never_vary_have_no_shares() -> None:
    shares = moments_of(torch.ones(3, 4, 1, 2)).variance_shares()
    assert shares == dict.fromkeys(("within_clips", "between_clips", "between_positions"), 0.0)


def test_merged_parts_are_the_whole() -> None:
    tokens = ar1([0.8, 0.3], clips=20, steps=9)
    whole, first, second = moments_of(tokens, 20), moments_of(tokens[:8], 8), moments_of(tokens[8:])
    first.merge(second)
    assert first.autocorrelations() == pytest.approx(whole.autocorrelations())
    assert first.section(0.5)["variance_shares"] == pytest.approx(whole.variance_shares())
    assert (first.num_clips, first.num_steps) == (20, 9)


def test_one_step_per_clip_has_no_memory_to_speak_of() -> None:
    section = moments_of(torch.randn(5, 1, 2, 3)).section(4.0)
    assert section["autocorrelations"] == []
    assert section["variance_shares"]["within_clips"] == 0.0
