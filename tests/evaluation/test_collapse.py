"""Rank and spread of tokens tell a collapsed representation from a healthy one."""

import pytest
import torch

from worldmodel.evaluation.collapse import EffectiveRank


def test_isotropic_tokens_have_full_rank() -> None:
    tokens = torch.linalg.qr(torch.randn(64, 8, generator=torch.manual_seed(0)).double())[0]
    tokens = torch.cat([tokens, -tokens])  # mean zero, equal singular values
    rank = EffectiveRank(8)
    rank.update(tokens)
    assert rank.compute().item() == pytest.approx(8, abs=1e-9)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_constant_tokens_have_rank_one_and_no_spread(noise: float) -> None:
    generator = torch.manual_seed(1)
    tokens = torch.randn(6, generator=generator).expand(50, 6)
    tokens = tokens + noise * torch.randn(50, 6, generator=generator)
    rank = EffectiveRank(6)
    rank.update(tokens)
    assert rank.compute().item() == 1
    assert rank.smallest_deviation().item() == 0


def test_tokens_on_a_line_have_rank_one_and_spread_along_it() -> None:
    line = torch.randn(100, 1, generator=torch.manual_seed(2)) * torch.tensor([[1.0, 2.0, -3.0]])
    rank = EffectiveRank(3)
    rank.update(line + 5)
    assert rank.compute().item() == pytest.approx(1, abs=1e-3)


def test_rank_equals_entropy_of_singular_values() -> None:
    tokens = torch.randn(4, 25, 5, generator=torch.manual_seed(3), dtype=torch.float64)
    tokens = tokens * torch.tensor([1.0, 0.5, 0.2, 0.1, 3.0]) + 7
    flat = tokens.reshape(-1, 5)
    singular = torch.linalg.svdvals(flat - flat.mean(0))
    share = singular / singular.sum()
    expected = torch.exp(-(share * share.log()).sum())
    rank = EffectiveRank(5)
    rank.update(tokens)
    assert rank.compute().item() == pytest.approx(expected.item(), rel=1e-6)


def test_parts_summed_equal_the_whole() -> None:
    """What the metric adds over processes is all it needs."""
    tokens = torch.randn(60, 4, generator=torch.manual_seed(4))
    whole, first, second = EffectiveRank(4), EffectiveRank(4), EffectiveRank(4)
    whole.update(tokens)
    first.update(tokens[:13])
    second.update(tokens[13:])
    for name in ("count", "total", "moment"):
        joined = getattr(first, name) + getattr(second, name)
        assert torch.allclose(joined, getattr(whole, name), rtol=1e-12)
    assert whole.smallest_deviation().item() == pytest.approx(
        tokens.double().std(0, correction=0).min().item(), rel=1e-9
    )


def test_wrong_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(\.\.\., 4\), got \(3, 5\)"):
        EffectiveRank(4).update(torch.zeros(3, 5))
