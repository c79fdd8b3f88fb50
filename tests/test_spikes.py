"""Bad steps are left out, and nothing else changes."""

import math

import pytest
import torch
from torch import nn

from worldmodel.errors import InputError
from worldmodel.optim import OptimConfig, build_optimizer
from worldmodel.spikes import SpikeConfig, SpikeGuard


def usual_guard(steps: int = 40, norm: float = 2.0) -> tuple[SpikeGuard, torch.optim.Optimizer]:
    """A guard that has seen some ordinary gradients."""
    guard = SpikeGuard(SpikeConfig(factor=10.0))
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig())
    for _ in range(steps):
        guard.judge(torch.tensor(norm), optimizer)
    return guard, optimizer


@pytest.mark.parametrize("norm", [math.nan, math.inf, 21.0])
def test_judge__bad_gradients_are_counted_and_change_nothing_usual(norm):
    guard, optimizer = usual_guard()
    usual = float(guard.state[0])
    guard.judge(torch.tensor(norm), optimizer)
    assert float(optimizer.found_inf) == 1 and guard.num_skipped == 1
    assert float(guard.state[0]) == usual == pytest.approx(math.log(2.0))
    guard.judge(torch.tensor(19.0), optimizer)
    assert float(optimizer.found_inf) == 0 and guard.num_skipped == 1


def test_judge__a_gradient_of_nothing_is_no_spike_and_teaches_nothing():
    guard, optimizer = usual_guard()
    guard.judge(torch.tensor(0.0), optimizer)
    assert guard.num_skipped == 0 and float(guard.state[0]) == pytest.approx(math.log(2.0))


def test_judge__the_first_steps_have_no_usual_size():
    guard, optimizer = usual_guard(steps=3)
    guard.judge(torch.tensor(1e6), optimizer)
    assert float(optimizer.found_inf) == 0
    guard.judge(torch.tensor(math.nan), optimizer)
    assert float(optimizer.found_inf) == 1


def test_step__is_left_out_with_all_of_its_state():
    model = nn.Linear(3, 1)
    optimizer = build_optimizer(model, OptimConfig())
    guard = SpikeGuard(SpikeConfig())
    states = []
    for factor in (1.0, math.nan, 1.0):
        optimizer.zero_grad()
        (factor * model(torch.ones(1, 3))).sum().backward()
        guard.judge(model.weight.grad.norm(), optimizer)
        optimizer.step()
        moments = optimizer.state[model.weight]
        states.append([model.weight.clone(), *(moments[name].clone() for name in sorted(moments))])
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert not torch.equal(states[1][0], states[2][0])


def test_step__good_ones_are_those_of_an_optimizer_without_a_guard():
    ends = []
    for guarded in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(16, 16)
        optimizer, guard = build_optimizer(model, OptimConfig()), SpikeGuard(SpikeConfig())
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 16)).square().sum().backward()
            if guarded:
                guard.judge(model.weight.grad.norm(), optimizer)
            optimizer.step()
        ends.append(model.weight.detach().clone())
    assert torch.equal(*ends)


def test_check__stops_a_run_that_diverges():
    guard, optimizer = usual_guard()
    for _ in range(10):
        guard.judge(torch.tensor(math.nan), optimizer)
    guard.check()
    guard.judge(torch.tensor(math.nan), optimizer)
    with pytest.raises(InputError, match=r"diverges: 10% .* \(11 in all\).*Lower model\.optim\.lr"):
        guard.check()


def test_state__goes_on_where_it_was():
    guard, optimizer = usual_guard()
    guard.judge(torch.tensor(math.nan), optimizer)
    other = SpikeGuard(SpikeConfig(factor=10.0))
    other.load_state_dict(guard.state_dict())
    other.judge(torch.tensor(21.0), optimizer)
    assert other.num_skipped == 2 and guard.num_skipped == 1


@pytest.mark.parametrize("bad", [{"factor": 1.0}, {"factor": math.nan}, {"max_share": 0.0}])
def test_config__refuses_what_makes_no_sense(bad):
    with pytest.raises(InputError, match=r"spikes\.factor must be above 1"):
        SpikeConfig(**bad)
