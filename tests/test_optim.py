from itertools import pairwise

import pytest
import torch

from worldmodel.optim import (
    OptimConfig,
    build_optimizer,
    build_schedule,
    lr_share,
    take_effect,
)


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


def resumed(before: OptimConfig, now: OptimConfig, total_steps: int = 100):
    """What is resumed at step 30, its optimizer, and what was said."""
    module = torch.nn.Linear(3, 3)
    old = build_optimizer(module, before)
    schedule = build_schedule(old, before, 100)
    for _ in range(30):
        old.step()
        schedule.step()
    optimizer = build_optimizer(module, now)
    fresh = build_schedule(optimizer, now, total_steps)
    optimizer.load_state_dict(old.state_dict())
    fresh.load_state_dict(schedule.state_dict())
    said = take_effect(optimizer, [fresh], now)
    return old, optimizer, fresh, said


def test_resume__with_the_same_settings_changes_nothing():
    config = OptimConfig(lr=3e-4, warmup_steps=7)
    old, optimizer, _, said = resumed(config, config)
    assert said == [] and optimizer.state_dict() == old.state_dict()


def test_resume__other_settings_hold_from_there_on_and_are_named():
    now = OptimConfig(lr=5e-4, weight_decay=0.1, betas=(0.8, 0.99), warmup_steps=7)
    _, optimizer, schedule, said = resumed(OptimConfig(warmup_steps=7), now, total_steps=200)
    assert said == [
        "model.optim.lr 0.001 -> 0.0005",
        "model.optim.betas (0.9, 0.95) -> (0.8, 0.99)",
        "model.optim.weight_decay 0.02 -> 0.1",
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for step in (30, 31):
        for group in optimizer.param_groups:
            assert group["lr"] == 5e-4 * lr_share(step, 200, now)
            assert group["betas"] == (0.8, 0.99)
        optimizer.step()
        schedule.step()
