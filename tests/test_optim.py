from itertools import pairwise

import pytest
import torch

from worldmodel.optim import OptimConfig, build_optimizer, build_schedule, lr_share


def test_lr_share__rises_then_falls_to_the_final_share():
    config = OptimConfig(warmup_steps=100, final_lr_share=0.02)
    shares = [lr_share(step, 1000, config) for step in range(1001)]
    assert shares[0] == pytest.approx(0.01) and shares[99] == 1.0
    assert all(a < b for a, b in pairwise(shares[:100]))
    assert all(a >= b for a, b in pairwise(shares[100:]))
    assert shares[-1] == pytest.approx(0.02) == lr_share(5000, 1000, config)


def test_lr_share__short_runs_warm_up_for_a_tenth():
    config = OptimConfig(warmup_steps=100)
    assert lr_share(1, 20, config) == 1.0


def test_optimizer__no_decay_for_norms_biases_and_embeddings(hierarchy):
    optimizer = build_optimizer(hierarchy, OptimConfig(weight_decay=0.1))
    decayed, rest = (group["params"] for group in optimizer.param_groups)
    named = {id(parameter): name for name, parameter in hierarchy.named_parameters()}
    assert all("position" not in named[id(p)] and p.ndim > 1 for p in decayed)
    assert any("position" in named[id(p)] for p in rest)
    assert len(decayed) + len(rest) == len(named)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_optimizer__leaves_frozen_parameters_out():
    module = torch.nn.Linear(3, 3)
    module.weight.requires_grad_(False)
    optimizer = build_optimizer(module, OptimConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


def test_schedule__sets_the_rate_per_step():
    module = torch.nn.Linear(3, 3)
    config = OptimConfig(lr=0.5, warmup_steps=10)
    optimizer = build_optimizer(module, config)
    schedule = build_schedule(optimizer, config, total_steps=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.05) and max(rates) == 0.5
